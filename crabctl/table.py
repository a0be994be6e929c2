"""Every command and option, as data: arguments are read, checked and explained from this page alone.

An option means the same wherever it is taken, so that it may stand before or after the command.
"""

from __future__ import annotations


class Option:
    """``value`` names what follows the option; empty for a switch. One that ``repeats`` may come again."""

    def __init__(self, short: str, value: str, summary: str, *, repeats: bool = False) -> None:
        self.short = short
        self.value = value
        self.summary = summary
        self.repeats = repeats


class Command:
    """``target`` is ``module:function``; ``words`` in brackets may be left out, ``…`` repeats."""

    def __init__(self, target: str, words: str, summary: str, options: str = "", details: str = "") -> None:
        self.target = target
        self.words = words
        self.summary = summary
        self.options = (*options.split(), *EVERYWHERE)
        self.details = details


EVERYWHERE = ("json", "socket", "no-start", "help", "version")

OPTIONS = {
    "session": Option("S", "ID", "the session with this id"),
    "agent": Option("a", "AGENT", "the agent (default: $CRABD_AGENT, else crab)"),
    "sender": Option("s", "SENDER", "who talks to the agent (default: user)"),
    "topic": Option("t", "TOPIC", "the session of this topic (default: the active session)"),
    "detach": Option("d", "", "do not wait: print session and run, and leave"),
    "busy": Option("", "queue|steer|reject", "what to do when a run is going (default: queue)"),
    "cwd": Option("", "DIR", "where the agent of a new session works (default: here)"),
    "key": Option("", "KEY", "name this request, so that it can be repeated and is never done twice"),
    "image": Option("", "FILE", "show this picture with the text; may be given again", repeats=True),
    "cancel": Option("", "", "cancel the run that is going first"),
    "yes": Option("y", "", "do not ask"),
    "allow": Option("", "RULE", "allow this for the run, as bash(make *); may be given again", repeats=True),
    "deny": Option("", "REASON", "deny it; the model reads the reason"),
    "for-session": Option("", "", "allow such calls for as long as the session is open"),
    "always": Option("", "", "allow such calls from now on, in every session"),
    "decline": Option("", "", "tell the model that nobody will answer"),
    "follow": Option("f", "", "go on with what happens from now on"),
    "limit": Option("n", "N", "how many at most"),
    "from": Option("", "STEP", "begin at this step"),
    "guest": Option("", "AGENT", "this agent answers once, in place of the session's own"),
    "files": Option("", "", "restore the files, too, that its tools have changed since"),
    "force": Option("", "", "with --files: also those that somebody else has changed meanwhile"),
    "forget": Option("", "", "trust it no more"),
    "at": Option("", "STEP", "up to this step: crabctl log shows their numbers"),
    "reconnect": Option("", "SERVER", "start this server anew"),
    "remove": Option("", "RUN", "take the message of this run out"),
    "all": Option("", "", "all of them"),
    "by": Option("", "agent|day|model", "share it out: by agent, day or model"),
    "state": Option("", "STATE", "only in this state: idle, running, waiting, paused, stored, damaged"),
    "repair": Option("", "", "mend what can be mended; what is damaged is kept in quarantine"),
    "output": Option("o", "FILE", "write to this file"),
    "memory": Option("", "PATH", "crabtalk's memory file, or the tree of its dump"),
    "dry-run": Option("", "", "tell what would be done, and do nothing"),
    "again": Option("", "", "also what was imported before, as one more session"),
    "grace": Option("", "SECONDS", "how long runs may go on (default: as configured)"),
    "types": Option("", "LANGUAGE", "types in place of the document: typescript or lua"),
    "json": Option("", "", "print JSON: one text, or one event a line where it streams"),
    "socket": Option(
        "", "PATH", "the daemon's socket (default: $CRABD_SOCKET, else the runtime directory's)"
    ),
    "no-start": Option("", "", "do not start the daemon when it is not running"),
    "help": Option("h", "", "explain"),
    "version": Option("V", "", "tell the version"),
}

WHOM = "session agent sender topic"
SENDING = f"{WHOM} image detach busy guest cwd key yes allow"
LS_OPTIONS = "agent sender topic state limit all"
WHICH = "Without an ID: the session of the agent, sender and topic; it is never made anew here."
KEY_DETAILS = """\
With --key a script may repeat the command when it got no answer, also after a restart of the daemon: it is
told what the first has done. Another request with the same key is refused; after a day the key is free."""

SEND_DETAILS = f"""\
The words are joined; "-" stands for what is piped in, and so does no text at all. Text that begins with a
dash goes after "--". Pictures, of PNG, JPEG, GIF or WebP, come before the text:

  crabctl send --image error.png "What is wrong here?"

On a terminal the reply appears as it comes. Into a pipe or a file goes the final reply alone, byte for byte
and once it is whole; thinking, tool calls and notes go to stderr, so x=$(crabctl send …) works.

When the agent wants to do what no rule allows, you are asked here, if you sit at a terminal; others may
answer as well, and the first answer counts. In a script nobody is there to ask, so it is denied, unless --yes
allows everything that would be asked, or --allow RULE this much. A message sent with -d asks nobody: what it
waits for is in crabctl confirm.

Ctrl-C cancels the run and shows how it ends; pressed again it leaves at once. If crabctl dies the run goes
on: crabctl attach.

With --json every event is a line, and the result, the line with "stop_reason", is the last.

Exit code: 0 the agent finished; 1 it did not: the run failed or was refused, or the reply was cut short by
a limit; 130 cancelled.

{KEY_DETAILS}"""

RM_DETAILS = """\
On a terminal it asks first, unless -y. Elsewhere an explicit ID is sure enough; without one it needs -y."""

LS_DETAILS = """\
TEXT is looked for in titles, topics and ids. Without --agent, --sender or --topic: those of everybody.
The active session of an agent and a sender, to which send goes, is marked with *."""

SEARCH_DETAILS = """\
Shows the sessions that have all the words in one message, title or summary, the best first; if none has,
those that have them apart. What came before a compaction counts; case and accents do not. '"a phrase"' is
looked for as it stands, begin* is how a word begins, and -word, after "--", must not be there:

  crabctl search docker compose
  crabctl search -a reviewer -- '"race condition"' 'dead*' -test

With -S ID every message of that session is shown. crabctl log ID --from STEP goes on reading from there.

Exit code: 0 also when nothing is found."""

SET_DETAILS = """\
Keys: title, model, thinking and auto_compact (on or off), system_prompt, cwd, mode (what is done without
asking you: read-only, plan, ask, accept-edits or full), and limits on all that the session uses:
budget.tokens, budget.cost (in USD), budget.rounds (model calls) and budget.seconds (of runs). A run that
comes to a limit is stopped, and the next is refused. KEY= with nothing after it returns the key to the
agent's or the daemon's default, budget= all limits:

  crabctl set title="Fix the tests" model=openai/gpt-5.4-mini
  crabctl set crab_user_1 thinking= budget.cost=2.50"""

USAGE_DETAILS = f"""\
{WHICH}
With --all: of all sessions together.

--by shares it out, without an ID over all sessions; days are those of UTC. --agent, --sender and --topic
choose among them. What deleted sessions have used is not counted.

  crabctl usage --by day
  crabctl usage --by model -a reviewer

What a call costs is known if the server tells it, or the model's price is known; "> 1.20 USD" says that there
were calls besides whose cost nobody knows, and "~" that some servers did not tell the tokens."""

FORK_DETAILS = f"""\
{WHICH}

The copy has all that was said up to --at, or up to now, and the settings; no topic, no costs. It parts no
call from its result, so it may end a little before that step. The original stays as it is.

  crabctl fork crab_user_1 --at 42"""

REWIND_DETAILS = f"""\
{WHICH}

Without --at the last message of a person is taken back, with all that followed; it is shown, so that it can
be sent again in other words. The model sees nothing of it any more; the log keeps it. What a summary has
replaced cannot be taken back: fork it.

Files that tools have changed since are told, and with --files made what they were; what they are now is kept,
so that this can be taken back as well, by --files --at a later step. What commands have changed stays.

  crabctl rewind
  crabctl rewind crab_user_1 --at 42 --files"""

DIFF_DETAILS = f"""\
{WHICH}

Shows, file by file, what is different from before the session's tools first changed it, whoever has changed
it since. It is for reading: long lines and long files are cut, and of line endings nothing is shown. What
commands have changed is not known. crabctl rewind --files makes files what they were."""

MCP_DETAILS = """\
Servers that speak MCP give agents more tools; a tool's name is mcp__SERVER__TOOL, which is how rules and
agent files speak of it. Those of every session are in config.toml, those of a project in its .crab/mcp.toml
(as [servers.NAME]) once you trust that, and an editor may give a session its own:

  [mcp.servers.time]
  command = "uvx"
  args = ["mcp-server-time"]

  [mcp.servers.tickets]
  url = "https://example.org/mcp"
  headers = { Authorization = "Bearer …" }

They run confined as commands do, without network and in the session's directory alone. One that needs more
is named in unconfined = ["time"] of [mcp]. A session's servers start with its first run; one that died is
started again when it is needed. Without ID: those of the configuration, and of all live sessions."""

TRUST_DETAILS = """\
An agent is told what AGENTS.md and CRAB.md say: those beside config.toml, then those from the root down to
the directory it works in. What lies in the nearest .crab counts as well: hooks.toml and hooks/, agents/*.md,
skills/, mcp.toml, permissions.toml. All of these may be a stranger's, so they are left out until you trust
them, and again when they have changed. On a terminal it shows what there is and asks first, unless -y;
--dry-run only shows. Without DIR: what is trusted.

Trusted hooks are commands that run as you. What they run besides is not looked at: keep it in .crab/hooks.

  crabctl trust .
  crabctl trust . --forget"""

PERMISSIONS_DETAILS = """\
RULE is tool or tool(pattern), in quotes. deny comes before allow, allow before ask; what no rule speaks of,
the session's mode decides: crabctl set mode=read-only, ask, accept-edits, full or plan.

  crabctl permissions allow 'bash(git commit *)'            # * stands for any further words
  crabctl permissions deny 'edit(~/notes/**)'               # whatever tool, or redirection, would write
  crabctl permissions allow 'read(/usr/include/**)'
  crabctl permissions allow 'web_fetch(domain:docs.python.org)'
  crabctl permissions remove 'bash(git commit *)'

Of a line for bash every command must be allowed, in pipes, loops, substitutions and behind env, xargs or
bash -c; what cannot be understood is asked about. Rules are kept in permissions.toml beside config.toml,
which may have some, too, as allow, deny and ask of [permissions]. With -S: also those of the session and its
agent."""

ATTACH_DETAILS = """\
Shows the reply so far and the rest as it comes, until the run ends; with no run going, the last reply.
Ctrl-C leaves; the run goes on. Exit codes are those of send."""

CONFIRM_DETAILS = """\
Without CALL: shows what waits for you, in all sessions or in that of -S: what would be done, and the rule
that asks. CALL is the id that is shown there. Without an option it is allowed this once:

  crabctl confirm
  crabctl confirm r3.1
  crabctl confirm r3.1 --deny "use the staging server"

Whoever answers first is heard; too late is exit code 1."""

ANSWER_DETAILS = """\
Gives an answer for each question, in their order; the number of an option stands for it, and numbers with
commas for several. crabctl confirm shows the questions that wait.

  crabctl answer r3.2 2 "because it is faster"
  crabctl answer r3.2 --decline"""

LOG_DETAILS = """\
Without --from: the last 50 messages, or N with -n. With --all, or --from 1: everything, also what came
before a compaction. With -f the log goes on until Ctrl-C; with --json every message and event is a line."""

DOCTOR_DETAILS = """\
Checks the sessions from their first record to their last, the store around them, the socket, the daemon and
its service, the configuration, agents and keys, and the room on the disk. It starts no daemon; without one
it looks by itself.

--repair mends what can be mended. It deletes nothing: what is damaged, or does not belong, is in the
directory "quarantine" of the store afterwards, as it was. Of a session that is damaged in the middle, what is
sound before the damage goes on as the session. A session that is in use is left alone: close it first.

Exit code: 0 when all is sound, or mended; 1 when a problem is left. What is only a notice can wait."""

PRUNE_DETAILS = """\
Without limits nothing ever goes. They are in config.toml, and the daemon keeps to them by itself:

  [retention]
  keep_days = 365              # days after the last use
  max_bytes = 10_000_000_000   # of all sessions; the longest unused go first

prune shows what is over a limit and, when you say so, removes it at once. Sessions that are open, paused or
damaged, or have messages waiting, are never touched. --dry-run only shows; -y does not ask."""

EXPORT_DETAILS = f"""\
{WHICH}

Writes lines of JSON with all there is of a session: messages with their times, usage, settings, summaries.
crabctl import brings it back, here or elsewhere, as it was; only its id is a new one if that was ever used.
Several sessions may be in one file. What was cut off or changed on its way is noticed.

  crabctl export --all -o sessions.jsonl
  crabctl export crab_user_1 | ssh elsewhere crabctl import -"""

IMPORT_DETAILS = """\
PATH is what crabctl export wrote, "-" for what is piped in; or what crabtalk has left: a session's directory,
a JSONL file of its first versions, or all of ~/.crabtalk at once. Nothing there is changed.

Each session comes whole or not at all. What was imported before is told and left as it is, unless --again.
With --agent or --sender the sessions become those of another agent or sender. The summaries of compacted
sessions are in crabtalk's memory, which is looked for beside the sessions; --memory names another one.

Exit code: 1 if a session was refused."""

SERVICE_DETAILS = """\
install has systemd, as your user's manager, listen at the socket from your login on, and start crabd when
somebody connects. It writes crabd.socket and crabd.service for this installation, this socket and the
directories that $CRABD_CONFIG_DIR, $CRABD_STATE_DIR, $XDG_CONFIG_HOME and $XDG_STATE_HOME name. Units that
were changed by hand are left alone without -y; changes belong into a drop-in: systemctl --user edit
crabd.service.

uninstall stops crabd and removes what install wrote; sessions and configuration stay. status tells how the
units and the daemon are, and what to do about it.

Exit code: 3 without a manager to ask, 5 if a unit was changed, 1 if runs are going in a crabd that has to
make way."""

ACP_DETAILS = """\
For editors, which start it as their agent and speak the Agent Client Protocol over its stdin and stdout:
Zed, JetBrains, Neovim, Emacs and others. For Zed, in settings.json:

  "agent_servers": {"crabd": {"type": "custom", "command": "crabctl", "args": ["acp"], "env": {}}}

The sessions are those of crabctl ls: they outlive the editor, and crabctl attach watches them meanwhile.

Exit code: 0 when the editor has ended; 3 when crabd has."""

CALL_DETAILS = """\
JSON is the parameters, "-" reads them from stdin. crabctl call rpc.discover lists the methods.

  crabctl call session/get '{"session": "crab_user_1"}'"""


SCHEMA_DETAILS = """\
Prints the OpenRPC document of the daemon that runs: its methods with their parameters, results, errors and
examples, and its events. --types prints what an editor checks a plugin by, made of this document:

  crabctl schema --types typescript > crabd.ts
  crabctl schema --types lua > crabd.lua"""


def _of_session(target: str, words: str, summary: str, options: str = "", details: str = WHICH) -> Command:
    """Describe a command on a session that is there already."""
    return Command(target, f"[ID] {words}".rstrip(), summary, f"{WHOM} {options}", details)


def _repeatable(target: str, words: str, summary: str, options: str = "", details: str = WHICH) -> Command:
    """Describe such a command that may be given a key, and then an ID, lest a repeated one mean another."""
    return _of_session(
        target, words, summary, f"{options} key", f"{details}\n\n{KEY_DETAILS}\nIt needs an ID."
    )


COMMANDS = {
    "send": Command("talk:send", "[TEXT…]", "send a message, show the reply", SENDING, SEND_DETAILS),
    "steer": _repeatable("talk:steer", "[TEXT…]", "say something to the run that is going", "image"),
    "cancel": _of_session("sessions:cancel", "", "stop the run that is going"),
    "confirm": Command(
        "deciding:confirm",
        "[CALL]",
        "show what waits for you, and allow or deny it",
        "session deny for-session always",
        CONFIRM_DETAILS,
    ),
    "answer": Command(
        "deciding:answer", "CALL [ANSWER…]", "answer a question", "session decline", ANSWER_DETAILS
    ),
    "attach": _of_session("watching:attach", "", "watch the run that is going", "", ATTACH_DETAILS),
    "ls": Command("reading:ls", "[TEXT]", "list sessions, the last used first", LS_OPTIONS, LS_DETAILS),
    "search": Command(
        "finding:search", "QUERY…", "look for text in all that was said", f"{WHOM} limit", SEARCH_DETAILS
    ),
    "show": _of_session("reading:show", "", "tell everything about one session"),
    "log": _of_session("reading:log", "", "read the conversation", "limit from all follow", LOG_DETAILS),
    "usage": _of_session("spending:usage", "", "tell what was used", "by all", USAGE_DETAILS),
    "compact": _repeatable("sessions:compact", "[INSTRUCTIONS…]", "replace old history by a summary"),
    "queue": _of_session("editing:queue", "", "show the messages that wait for a busy session", "remove"),
    "fork": _of_session("editing:fork", "", "copy a session, to go on another way", "at", FORK_DETAILS),
    "rewind": _of_session(
        "editing:rewind", "", "take the last messages back", "at files force", REWIND_DETAILS
    ),
    "diff": _of_session("editing:diff", "", "show what a session has changed in files", "", DIFF_DETAILS),
    "clear": _of_session("sessions:clear", "", "start over; the log keeps the old history"),
    "pause": _of_session("sessions:pause", "", "keep a session from starting runs"),
    "resume": _of_session("sessions:resume", "", "let a paused session start runs again"),
    "set": _of_session("sessions:configure", "KEY=VALUE…", "change a session's settings", "", SET_DETAILS),
    "close": _of_session("sessions:close", "", "unload a session; it stays stored", "cancel"),
    "rm": _repeatable("sessions:rm", "", "remove a session for good", "yes", f"{WHICH}\n\n{RM_DETAILS}"),
    "export": Command("porting:export", "[ID…]", "write sessions out", f"{WHOM} all output", EXPORT_DETAILS),
    "import": Command(
        "porting:import_", "PATH…", "bring sessions in", "agent sender memory dry-run again", IMPORT_DETAILS
    ),
    "trust": Command(
        "trust:trust", "[DIR]", "trust what a directory brings along", "forget yes dry-run", TRUST_DETAILS
    ),
    "permissions": Command(
        "permissions:permissions", "[allow|deny|ask|remove] [RULE]", "tell, or set, what agents may do",
        "session", PERMISSIONS_DETAILS,
    ),
    "agents": Command("registry:agents", "", "list the agents, with those of this directory"),
    "tools": Command(
        "registry:tools", "[ID]", "list the tools that agents, or a session's agent, may use", "session"
    ),
    "mcp": Command(
        "registry:mcp", "[ID]", "list the servers of tools, and how they are", "session reconnect",
        MCP_DETAILS,
    ),
    "models": Command("registry:models", "", "list the models"),
    "status": Command("daemon:status", "", "tell how the daemon is"),
    "start": Command("daemon:start", "", "start the daemon"),
    "stop": Command("daemon:stop", "", "let runs finish, then stop the daemon", "grace"),
    "restart": Command("daemon:restart", "", "stop the daemon and start it again", "grace"),
    "reload": Command("daemon:reload", "", "read configuration and agents again; runs go on"),
    "prune": Command("prune:prune", "", "remove what is over a limit", "yes dry-run", PRUNE_DETAILS),
    "doctor": Command("doctor:doctor", "", "check everything, and say what to do", "repair", DOCTOR_DETAILS),
    "service": Command(
        "service:service", "install|uninstall|status", "have systemd start crabd", "yes", SERVICE_DETAILS
    ),
    "acp": Command("acp:acp", "", "be the agent of an editor that speaks ACP", "", ACP_DETAILS),
    "schema": Command("schema:schema", "", "tell what can be asked, for plugins", "types", SCHEMA_DETAILS),
    "call": Command("registry:call", "METHOD [JSON]", "call any method", "", CALL_DETAILS),
}  # fmt: skip
