"""Who and what is in the examples: Ann, her home, her session and how it comes along."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from crabd.api.daemon import DefaultModel
from crabd.api.mcp import McpServer
from crabd.events import Confirmation, ProjectFile, Question, SessionInfo, SessionUsage
from crabd.messages import TextBlock, Usage

SESSION = "crab_user_1"
COPY = "crab_user_2"
HOME = "/home/ann"
PROJECT = f"{HOME}/project"
FILE = f"{PROJECT}/AGENTS.md"
EXPORTED = f"{HOME}/sessions.jsonl"
CONFIG = f"{HOME}/.config/crabd"
STATE = f"{HOME}/.local/state/crabd"
SANDBOX = "bubblewrap: it can write in its directory alone, sees no keys and no other process, has no network"
DEFAULT = DefaultModel("offline/echo", "nothing was found: no `model` in config.toml, no API key …")


class Example(Struct, frozen=True):
    """A request and its answer, with a ``name`` for it.

    If it ``is_cut`` there is more in the answer's lists and objects; a text that ends in ``…`` always is.
    """

    method: str
    name: str
    params: Struct
    result: Any
    is_cut: bool = False


def at(seconds: int) -> datetime:
    """Tell when something happens."""
    return datetime(2026, 11, 20, 9, 0, seconds, tzinfo=UTC)


def text(words: str) -> tuple[TextBlock]:
    """Write content of one block."""
    return (TextBlock(words),)


CREATED = SessionInfo(
    id=SESSION,
    agent="crab",
    sender="user",
    topic=None,
    title="",
    state="idle",
    active=True,
    ephemeral=False,
    cwd=PROJECT,
    model=None,
    created_at=at(0),
    updated_at=at(0),
    last_run_at=None,
    message_count=0,
    steps=1,
    active_seconds=0.0,
    queue=0,
    usage=SessionUsage(),
    seq=0,
)
TALKED = replace(
    CREATED,
    updated_at=at(4),
    last_run_at=at(3),
    message_count=10,
    steps=26,
    active_seconds=1.25,
    usage=SessionUsage(2293, 8192, 5, Usage(2800, 60), 5, 5, 0),
    seq=38,
)
NAMED = replace(TALKED, title="Colours", steps=27, seq=40, mode="accept-edits")
COPIED = replace(
    CREATED,
    id=COPY,
    forked_from=SESSION,
    state="stored",
    active=False,
    updated_at=at(5),
    last_run_at=at(1),
    message_count=2,
    steps=6,
)
PAUSED = replace(
    NAMED,
    state="paused",
    message_count=17,
    steps=53,
    usage=SessionUsage(604, 8192, 8, Usage(4000, 1000), 8, 8, 1),
    seq=1072,
)
RESUMED = replace(PAUSED, state="idle", steps=54, seq=1073)
CLEARED = replace(RESUMED, steps=55, usage=replace(PAUSED.usage, context_tokens=0), seq=1074)
LOADED = replace(CLEARED, active=False, seq=1075)

WRITING = Confirmation(
    id="r2.1",
    session=SESSION,
    run="r2",
    call="call_1",
    tool="write",
    since=at(2),
    title="write AGENTS.md",
    arguments='{"path":"AGENTS.md","content":"Be brief.\\n"}',
    command=None,
    diff=f"--- /dev/null\n+++ {FILE}\n@@ -0,0 +1,1 @@\n+Be brief.\n",
    reads=(),
    writes=(FILE,),
    url=None,
    cwd=PROJECT,
    rule="ask",
    reason=f"{FILE} decides what runs, or what a model is told",
    sandbox=SANDBOX,
    suggestions=(f"edit({FILE})",),
)
COLOUR = Question("Which colour?", ("red", "blue"))
DIGEST = "96fb1c7f068c5ce63e2b45fc4aea602d48d5302be6ca033f3e1f0c7148558a49"
INSTRUCTIONS = ProjectFile(FILE, "instructions", DIGEST, "untrusted", "Be brief.")
TRUSTED = replace(INSTRUCTIONS, state="trusted")
CLOCK = McpServer(None, "clock", "configuration", "stopped", "clock-mcp")
