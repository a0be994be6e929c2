"""Every command and option, as data: arguments are read, checked and explained from this page alone.

An option means the same wherever it is taken, so that it may stand before or after the command.
"""

from __future__ import annotations


class Option:
    """``value`` names what follows the option; empty for a switch."""

    def __init__(self, short: str, value: str, summary: str) -> None:
        self.short = short
        self.value = value
        self.summary = summary


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
    "cancel": Option("", "", "cancel the run that is going first"),
    "yes": Option("y", "", "do not ask"),
    "follow": Option("f", "", "go on with what happens from now on"),
    "limit": Option("n", "N", "how many at most"),
    "from": Option("", "STEP", "begin at this step"),
    "all": Option("", "", "all of them"),
    "state": Option("", "STATE", "only in this state: idle, running, waiting, paused, stored, damaged"),
    "grace": Option("", "SECONDS", "how long runs may go on (default: as configured)"),
    "json": Option("", "", "print JSON: one text, or one event a line where it streams"),
    "socket": Option(
        "", "PATH", "the daemon's socket (default: $CRABD_SOCKET, else the runtime directory's)"
    ),
    "no-start": Option("", "", "do not start the daemon when it is not running"),
    "help": Option("h", "", "explain"),
    "version": Option("V", "", "tell the version"),
}

WHOM = "session agent sender topic"
SENDING = f"{WHOM} detach busy cwd key"
LS_OPTIONS = "agent sender topic state limit all"
WHICH = "Without an ID: the session of the agent, sender and topic; it is never made anew here."
KEY_DETAILS = """\
With --key a script may repeat the command when it got no answer, also after a restart of the daemon: it is
told what the first has done. Another request with the same key is refused; after a day the key is free."""

SEND_DETAILS = f"""\
The words are joined; "-" stands for what is piped in, and so does no text at all. Text that begins with a
dash goes after "--".

On a terminal the reply appears as it comes. Into a pipe or a file goes the final reply alone, byte for byte
and once it is whole; thinking, tool calls and notes go to stderr, so x=$(crabctl send …) works.

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

SET_DETAILS = """\
Keys: title, model, thinking (on or off), system_prompt, cwd. KEY= with nothing after it returns the key to
the agent's or the daemon's default:

  crabctl set title="Fix the tests" model=openai/gpt-5-mini
  crabctl set crab_user_1 thinking="""

ATTACH_DETAILS = """\
Shows the reply so far and the rest as it comes, until the run ends; with no run going, the last reply.
Ctrl-C leaves; the run goes on. Exit codes are those of send."""

LOG_DETAILS = """\
Without --from: the last 50 messages, or N with -n. With --all, or --from 1: everything, also what came
before a compaction. With -f the log goes on until Ctrl-C; with --json every message and event is a line."""

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

CALL_DETAILS = """\
JSON is the parameters, "-" reads them from stdin. crabctl call rpc.discover lists the methods.

  crabctl call session/get '{"session": "crab_user_1"}'"""


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
    "steer": _repeatable("talk:steer", "[TEXT…]", "say something to the run that is going"),
    "cancel": _of_session("sessions:cancel", "", "stop the run that is going"),
    "attach": _of_session("watching:attach", "", "watch the run that is going", "", ATTACH_DETAILS),
    "ls": Command("reading:ls", "[TEXT]", "list sessions, the last used first", LS_OPTIONS, LS_DETAILS),
    "show": _of_session("reading:show", "", "tell everything about one session"),
    "log": _of_session("reading:log", "", "read the conversation", "limit from all follow", LOG_DETAILS),
    "usage": _of_session("reading:usage", "", "tell what a session has used"),
    "compact": _repeatable("sessions:compact", "[INSTRUCTIONS…]", "replace old history by a summary"),
    "clear": _of_session("sessions:clear", "", "start over; the log keeps the old history"),
    "pause": _of_session("sessions:pause", "", "keep a session from starting runs"),
    "resume": _of_session("sessions:resume", "", "let a paused session start runs again"),
    "set": _of_session("sessions:configure", "KEY=VALUE…", "change a session's settings", "", SET_DETAILS),
    "close": _of_session("sessions:close", "", "unload a session; it stays stored", "cancel"),
    "rm": _repeatable("sessions:rm", "", "remove a session for good", "yes", f"{WHICH}\n\n{RM_DETAILS}"),
    "agents": Command("registry:agents", "", "list the agents"),
    "models": Command("registry:models", "", "list the models"),
    "status": Command("daemon:status", "", "tell how the daemon is"),
    "start": Command("daemon:start", "", "start the daemon"),
    "stop": Command("daemon:stop", "", "let runs finish, then stop the daemon", "grace"),
    "restart": Command("daemon:restart", "", "stop the daemon and start it again", "grace"),
    "reload": Command("daemon:reload", "", "read configuration and agents again; runs go on"),
    "service": Command(
        "service:service", "install|uninstall|status", "have systemd start crabd", "yes", SERVICE_DETAILS
    ),
    "call": Command("registry:call", "METHOD [JSON]", "call any method", "", CALL_DETAILS),
}  # fmt: skip
