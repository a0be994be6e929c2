"""The examples of the document: a play for one client and one daemon, with every method in it.

The test suite plays it on a new daemon that has no model, so each example takes up what those before it have
left. Ann's home has an empty directory ``project``; what she exports she keeps as ``sessions.jsonl``; and her
configuration names a server of tools, ``clock``, that is not installed.
"""

from __future__ import annotations

from msgspec.structs import asdict, replace

from crabd.api import daemon as d
from crabd.api import deciding as c
from crabd.api import editing as e
from crabd.api import mcp as m
from crabd.api import permissions as r
from crabd.api import porting as p
from crabd.api import sessions as s
from crabd.api import trust as t
from crabd.api.scenery import (
    CLEARED,
    CLOCK,
    COLOUR,
    CONFIG,
    COPIED,
    COPY,
    CREATED,
    DEFAULT,
    DIGEST,
    EXPORTED,
    FILE,
    INSTRUCTIONS,
    LOADED,
    NAMED,
    PAUSED,
    PROJECT,
    RESUMED,
    SANDBOX,
    SESSION,
    STATE,
    TALKED,
    TRUSTED,
    WRITING,
    Example,
    at,
    text,
)
from crabd.events import Counts, PendingQuestion, QueuedMessage, Snapshot
from crabd.messages import AssistantMessage, Usage, user_text

OF_SESSION = s.OfSession(session=SESSION)
NOTHING = d.NoParams()
GIT_STATUS = r.RuleInForce("bash(git status *)", "allow", f"{CONFIG}/permissions.toml")

ARRIVING = (
    Example("daemon/ping", "see whether the daemon is there", NOTHING, d.Pong(True)),
    Example(
        "initialize",
        "say who is calling",
        d.Initialize(client=d.ClientInfo(name="crab.nvim", version="1.0")),
        d.ServerInfo(
            "crabd", "0.1.0", d.PROTOCOL, d.Capabilities(("initialize", "session/send"), 16_777_216)
        ),
        is_cut=True,
    ),
    Example("rpc.discover", "read this document", NOTHING, {"openrpc": "1.3.2"}, is_cut=True),
    Example(
        "agent/list",
        "list the agents",
        d.AgentFilter(),
        d.AgentList(
            (
                d.AgentInfo(
                    name="crab",
                    description="a general assistant",
                    model=None,
                    tools=None,
                    fallbacks=(),
                    max_rounds=50,
                    source="built-in",
                ),
            ),
            (),
        ),
    ),
    Example(
        "model/list",
        "list the models",
        NOTHING,
        d.ModelList(
            (d.ModelEntry(id="offline/echo", provider="offline", context_window=8192, default=True),),
            DEFAULT,
            (),
        ),
    ),
    Example(
        "tool/list",
        "list the tools",
        c.OfOneOrAll(),
        c.ToolList(
            (
                c.ToolInfo(
                    name="todo",
                    description="Write down the plan …",
                    parameters={"type": "object"},
                    read_only=True,
                    idempotent=True,
                    offered=True,
                ),
            )
        ),
        is_cut=True,
    ),
    Example("mcp/list", "see what servers of tools there are", c.OfOneOrAll(), m.McpServers((CLOCK,))),
    Example(
        "daemon/status",
        "see how the daemon is",
        NOTHING,
        d.DaemonStatus(
            version="0.1.0",
            protocol=d.PROTOCOL,
            pid=4863,
            uptime=0.33,
            epoch="75d5b3b9e25d7749",
            socket=f"{CONFIG}/crabd.sock",
            config=f"{CONFIG}/config.toml",
            sessions=0,
            live=0,
            runs=0,
            clients=1,
            memory=48_893_952,
            model=DEFAULT,
            model_servers=(),
            store=d.StoreHealth("journal", STATE, ()),
            index=d.IndexHealth("ready", 0, None),
            sandbox=d.SandboxHealth("bubblewrap", SANDBOX, ()),
            problems=(),
        ),
        is_cut=True,
    ),
    Example(
        "daemon/subscribe",
        "watch all sessions at a glance",
        d.Watch(),
        d.Watched("75d5b3b9e25d7749", (), Counts(0, 0, 0, 0)),
    ),
    Example("daemon/unsubscribe", "watch them no more", NOTHING, s.Unsubscribed(True)),
)

TALKING = (
    Example(
        "session/get_or_create",
        "open a session",
        s.GetOrCreate(agent="crab", cwd=PROJECT),
        s.GotOrCreated(**asdict(CREATED), created=True),
    ),
    Example(
        "session/subscribe",
        "watch a session",
        s.Subscribe(session=SESSION),
        s.Subscribed(Snapshot(CREATED, None, ()), (), "75d5b3b9e25d7749", 0, "complete"),
    ),
    Example(
        "session/send",
        "say something and wait for the answer",
        s.Send(session=SESSION, content="echo Hello, Ann."),
        s.RunResult(
            run="r1",
            stop_reason="end_turn",
            text="Hello, Ann.",
            usage=Usage(63, 3),
            persisted=True,
            first_seq=1,
            last_seq=7,
        ),
    ),
    Example(
        "session/send",
        "say something and go on",
        s.Send(
            session=SESSION,
            content='call write {"path": "AGENTS.md", "content": "Be brief.\\n"}',
            request_key="write-1",
            wait=False,
        ),
        s.Accepted("r2", 8, "started"),
    ),
    Example("confirmation/list", "see what waits to be allowed", c.OfOneOrAll(), c.Confirmations((WRITING,))),
    Example(
        "confirmation/reply",
        "allow it",
        c.Reply(session=SESSION, call="call_1", decision="allow_session"),
        c.Replied("r2.1", "call_1", "allow_session", (f"edit({FILE})",)),
    ),
    Example(
        "session/send",
        "have the agent ask",
        s.Send(
            session=SESSION,
            content='call ask_user {"questions": [{"text": "Which colour?", "options": ["red", "blue"]}]}',
            wait=False,
        ),
        s.Accepted("r3", 25, "started"),
    ),
    Example(
        "question/list",
        "see what is asked",
        c.OfOneOrAll(session=SESSION),
        c.Questions(
            (
                PendingQuestion(
                    id="r3.2",
                    session=SESSION,
                    run="r3",
                    call="call_2",
                    tool="ask_user",
                    since=at(3),
                    questions=(COLOUR,),
                ),
            )
        ),
    ),
    Example(
        "question/reply",
        "answer",
        c.AnswerQuestion(session=SESSION, call="call_2", answers=("blue",)),
        c.Answered("r3.2", "call_2", ("blue",)),
    ),
)

READING = (
    Example("session/get", "see a session as it is", OF_SESSION, Snapshot(TALKED, None, ())),
    Example(
        "session/history",
        "read the beginning",
        s.History(session=SESSION, from_=1, limit=2),
        s.HistoryPage(
            (
                s.HistoryEntry(3, "r1", at(1), user_text("echo Hello, Ann.")),
                s.HistoryEntry(4, "r1", at(1), AssistantMessage(text("Hello, Ann."), "offline/echo")),
            ),
            8,
        ),
    ),
    Example("session/list", "list an agent's sessions", s.List(agent="crab"), s.SessionPage((TALKED,), None)),
    Example(
        "session/search",
        "find what was said",
        s.Search(query="hello"),
        s.Hits(
            (
                s.Hit(
                    session=SESSION,
                    title="",
                    step=3,
                    role="user",
                    at=at(1),
                    snippet=("echo ", "Hello", ", Ann."),
                    score=2.43,
                    matches=2,
                ),
            ),
            None,
            False,
            0,
        ),
    ),
    Example(
        "session/usage",
        "see what a session has used",
        s.UsageOf(session=SESSION),
        s.UsageResult(SESSION, TALKED.usage, 3, 1.25, 1, ()),
    ),
    Example(
        "session/diff",
        "see what has changed in files",
        OF_SESSION,
        e.Diffs(SESSION, (e.DiffFile(FILE, "added", WRITING.diff, ""),), False),
    ),
    Example(
        "trust/list",
        "see what a directory brings along",
        t.TrustList(path=PROJECT),
        t.TrustFiles((INSTRUCTIONS,)),
    ),
    Example(
        "trust/add",
        "trust it as it was shown",
        t.TrustAdd(files={FILE: DIGEST}),
        t.TrustFiles((TRUSTED,)),
    ),
    Example("trust/remove", "trust it no more", t.TrustRemove(path=PROJECT), t.TrustFiles((INSTRUCTIONS,))),
)

CHANGING = (
    Example(
        "permission/set",
        "allow a command",
        r.SetRule(rule=GIT_STATUS.rule, decision="allow"),
        r.RulesInForce("ask", "ask", (GIT_STATUS,)),
    ),
    Example(
        "permission/get",
        "see the rules of a session",
        r.GetRules(session=SESSION),
        r.RulesInForce(
            "ask", "ask", (GIT_STATUS, r.RuleInForce(f"edit({FILE})", "allow", f"session {SESSION}"))
        ),
    ),
    Example(
        "mcp/reconnect",
        "try again to start one, which is not installed",
        m.McpReconnect(session=SESSION, server="clock"),
        m.McpServers((replace(CLOCK, session=SESSION, state="failed", problem="…"),)),
    ),
    Example(
        "session/configure",
        "change the title, and ask less",
        s.Configure(session=SESSION, title="Colours", mode="accept-edits"),
        NAMED,
    ),
    Example(
        "session/send",
        "start something long",
        s.Send(session=SESSION, content="slow 1000 20", wait=False),
        s.Accepted("r4", 41, "started"),
    ),
    Example(
        "session/steer",
        "say something to it",
        s.Steer(session=SESSION, content="Be quick."),
        s.SteerQueued("r4.s1", "r4", "queued", 1),
    ),
    Example(
        "session/send",
        "say what comes next",
        s.Send(session=SESSION, content="echo Later.", wait=False),
        s.Accepted("r5", 44, "queued"),
    ),
    Example(
        "queue/list",
        "see what waits for the run",
        OF_SESSION,
        e.Queue(SESSION, (QueuedMessage("r5", text("echo Later.")),)),
    ),
    Example("queue/remove", "take it back", e.Remove(session=SESSION, run="r5"), e.Removed("r5")),
    Example("session/cancel", "stop the run", s.Cancel(session=SESSION), s.Cancelled("r4", "cancelled")),
    Example(
        "session/fork",
        "go on another way",
        e.Fork(session=SESSION, at=4),
        e.Forked(**asdict(COPIED), at=4),
    ),
    Example(
        "session/rewind",
        "take everything back but the beginning",
        e.Rewind(session=SESSION, step=4, restore_files=True),
        e.Rewound(
            4,
            11,
            'call write {"path": "AGENTS.md", "content": "Be brief.\\n"}',
            (e.RewoundFile(FILE, "remove", True, ""),),
        ),
    ),
)

TIDYING = (
    Example(
        "session/send",
        "fill the history",
        s.Send(session=SESSION, content="count 500", events=False),
        s.RunResult(
            run="r6",
            stop_reason="end_turn",
            text="1 2 3 …",
            usage=Usage(68, 473),
            persisted=True,
            first_seq=50,
            last_seq=560,
        ),
    ),
    Example(
        "session/send",
        "fill it once more",
        s.Send(session=SESSION, content="count 500", events=False),
        s.RunResult(
            run="r7",
            stop_reason="end_turn",
            text="1 2 3 …",
            usage=Usage(544, 473),
            persisted=True,
            first_seq=561,
            last_seq=1070,
        ),
    ),
    Example(
        "session/compact",
        "make it shorter",
        s.Compact(session=SESSION, instructions="Keep the numbers."),
        s.CompactResult("crab_user_1/1", "(An extract: no model has summarised this.)\n…", 1017, 604),
    ),
    Example("session/unsubscribe", "watch no more", s.Unsubscribe(session=SESSION), s.Unsubscribed(True)),
    Example("session/pause", "let nothing start", OF_SESSION, PAUSED),
    Example("session/resume", "go on", OF_SESSION, RESUMED),
    Example("session/clear", "start over", OF_SESSION, CLEARED),
    Example("session/close", "unload it", s.Close(session=SESSION), s.Closed(True)),
    Example("session/load", "load it", OF_SESSION, LOADED),
    Example(
        "session/export",
        "write a session out",
        p.Export(session=COPY),
        p.ExportPage('{"format":"crabd-session","v":1,"session":"crab_user_2",…', None),
    ),
    Example(
        "session/import",
        "see what a file would bring in",
        p.Import(path=EXPORTED, dry_run=True),
        p.Imported(
            sessions=(
                p.ImportedSession(
                    place=EXPORTED,
                    status="there",
                    session=COPY,
                    agent="crab",
                    sender="user",
                    title="",
                    messages=2,
                    problem=None,
                    notes=(),
                    skipped=(),
                ),
            ),
            imported=0,
            found=0,
            there=1,
            refused=0,
        ),
    ),
    Example(
        "session/delete",
        "remove a session, once",
        s.Delete(session=COPY, request_key="delete-1"),
        s.Deleted(True),
    ),
    Example("daemon/prune", "see what is too old", d.Prune(dry_run=True), d.Pruned((), 0, None, None)),
    Example(
        "daemon/doctor",
        "check everything",
        d.Doctor(),
        d.Diagnosis(
            findings=(
                d.Finding(area="agents", grade="ok", kind="ok", where=f"{CONFIG}/agents", told="crab …"),
            ),
            problems=0,
            sessions=1,
            records=55,
        ),
        is_cut=True,
    ),
    Example("daemon/reload", "read the configuration again", NOTHING, d.Reloaded(("crab",), ())),
    Example("daemon/shutdown", "stop", d.Shutdown(), d.ShutdownStarted(4863, 0)),
)

EXAMPLES = (*ARRIVING, *TALKING, *READING, *CHANGING, *TIDYING)
