"""What a client of the Agent Client Protocol does with ``crabctl acp``, and what has to come of it.

A visit is a program in ``visits/`` around a library that others wrote. It runs in a folder of its own, where
its sessions work, and starts the agent with the words of the JSON array in $AGENT. It prints one JSON object,
``Told``, and does this:

 1. Initialize, make a session, and prompt ``echo Grüße, 🦀``.
 2. Prompt for a command three times: allow it, reject it, and at the third question cancel the turn.
 3. ``slow 600 50``; at its first chunk cancel the turn.
 4. Set the last mode and the first one again; set each option to its last value and back.
 5. ``slow 40 50``; at its third chunk kill the agent.
 6. On a second link load the session, wait for the rest of that, and prompt ``echo again``. Kill the agent.
 7. On a third link resume the session, and prompt ``echo resumed``.
 8. List sessions; close it and list; load it, delete it and list; load it. End the agent's input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.e2e.daemon import Home
from tests.e2e.editors.acp.order import OVER, faults_of, unanswered
from tests.e2e.editors.acp.transcript import Json, Message, read_transcripts
from tests.e2e.editors.acp.validity import flaws_of
from tests.e2e.editors.visiting import run_client

HERE = Path(__file__).parent
VISITS = HERE / "visits"
COUNTED = " ".join(map(str, range(1, 41)))
TOUCH = 'call bash {"command": "touch %s"}'
# Who said what, or which tool call ended how.
Said = tuple[str, str]


class Told(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client's library has given it.

    ``updates`` has the kind and text of each, link by link; ``options`` the id of each that was set, to what,
    and what it is then; ``listed`` whether the session was in each list; ``gone`` the code of the last error,
    and ``exit`` that of the agent's end.
    """

    protocol: int
    agent: str
    session: str
    stops: tuple[str, ...]
    modes: tuple[str, ...]
    options: tuple[tuple[str, str, str], ...]
    listed: tuple[bool, ...]
    gone: int
    exit: int
    updates: tuple[tuple[Said, ...], ...]


async def visit(home: Home, *command: str) -> tuple[Told, list[list[Message]]]:
    """Run a visitor; returns what it tells, and the transcripts of its links."""
    project, folder = home.directory / "project", home.directory / "transcripts"
    project.mkdir()
    folder.mkdir()
    agent = [sys.executable, str(HERE / "tee.py"), str(folder), sys.executable, "-m", "crabctl", "acp"]
    printed = await run_client(home, *command, cwd=project, AGENT=json.dumps(agent))
    return msgspec.json.decode(printed, type=Told), read_transcripts(folder)


def check_visit(home: Home, told: Told, links: list[list[Message]]) -> None:
    """Check that a visitor was told the truth, in the protocol's own words and order."""
    assert [flaws_of(link) for link in links] == [[], [], []]
    assert [faults_of(link) for link in links] == [[], [], []]
    assert unanswered(links[2]) == []
    _check_told(told, links)
    _check_story(links, home.directory / "project")


def _check_told(told: Told, links: list[list[Message]]) -> None:
    assert (told.protocol, told.agent) == (1, "crabd")
    assert told.stops == (*["end_turn"] * 3, *["cancelled"] * 2, *["end_turn"] * 2)
    assert len(told.modes) > 1
    assert {name for name, _, _ in told.options} >= {"mode", "model"}
    assert [now for _, _, now in told.options] == [value for _, value, _ in told.options]
    assert (told.listed, told.gone, told.exit) == ((True, True, False), -32002, 0)
    # What was on its way when a client killed its agent, it has not seen.
    for seen, link in zip(told.updates, links, strict=True):
        sent = tuple(map(_brief_update, updates_of(link)))
        assert seen == sent[: len(seen)]
    assert len(told.updates[2]) == len(updates_of(links[2]))


def _check_story(links: list[list[Message]], project: Path) -> None:
    first, second = story(links[0]), story(links[1])
    load = next(at for at, each in enumerate(links[2]) if each.method == "session/load")
    resumed, last = story(links[2][:load]), story(links[2][load:])
    assert first[:2] == [("user", "echo Grüße, 🦀"), ("agent", "Grüße, 🦀")]
    assert [status for who, status in first if who == "tool"] == ["completed", "failed", "failed"]
    assert [path.name for path in project.iterdir()] == ["allowed"]
    # A replay has all that was told live, and the whole of what was going on when the link was lost.
    assert first[-2:] == [("user", "slow 40 50"), ("agent", first[-1][1])]
    assert COUNTED.startswith(first[-1][1])
    assert second == [*first[:-1], ("agent", COUNTED), ("user", "echo again"), ("agent", "again")]
    assert resumed == [("user", "echo resumed"), ("agent", "resumed")]
    assert last == second + resumed


def story(link: list[Message]) -> list[Said]:
    """Tell in short what a client shows of a link: who said what, and how each tool call ended."""
    told: list[Said] = []
    places: dict[str, int] = {}
    for message in link:
        if message.method == "session/prompt" and message.sender == "client":
            told.append(("user", message.body["params"]["prompt"][0]["text"]))
        elif message.method == "session/update":
            _add(told, places, message.body["params"]["update"])
    return told


def _add(told: list[Said], places: dict[str, int], update: Json) -> None:
    kind, text = _brief_update(update)
    who = kind.partition("_")[0]
    if kind == "tool_call":
        places[update["toolCallId"]] = len(told)
        told.append(("tool", update.get("status", "pending")))
    elif kind == "tool_call_update" and update.get("status") in OVER:
        told[places[update["toolCallId"]]] = ("tool", update["status"])
    elif not kind.endswith("_chunk"):
        return
    elif told and told[-1][0] == who:
        told[-1] = (who, told[-1][1] + text)
    else:
        told.append((who, text))


def updates_of(link: list[Message]) -> list[Json]:
    """List the updates that were sent on a link."""
    return [each.body["params"]["update"] for each in link if each.method == "session/update"]


def _brief_update(update: Json) -> Said:
    text: str = update["content"].get("text", "") if update["sessionUpdate"].endswith("_chunk") else ""
    return update["sessionUpdate"], text
