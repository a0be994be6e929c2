"""Clients that no daemon deserves: too many, too fast, deaf, dead, or more than it has descriptors for."""

from __future__ import annotations

import resource
import socket
from collections.abc import Generator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.e2e.daemon import PATIENCE, WireError
from tests.faults.rude import (
    MIB,
    PING,
    PONG,
    SLACK_BYTES,
    Siege,
    besieged,
    descriptors_of,
    read_lines,
    resident_bytes,
    say,
)

IDLE_LINKS = 1000
# A link that says nothing has no business with a buffer: half of what one read takes is more than enough.
IDLE_BYTES = 32 * 1024
REQUESTS = 20_000
# What waits for one that does not read: a mebibyte of answers, and one of events.
UNREAD_BYTES = 2 * MIB
STORM = 3000
STORM_THREADS = 6
# Open at a time in each thread.
STORM_LINKS = 100
COUNT = 10_000
COUNTED = " ".join(map(str, range(1, COUNT + 1)))


@pytest.fixture(autouse=True)
def _many_descriptors() -> Generator[None]:
    """Raise this process's soft limit, and with it that of the daemons it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * IDLE_LINKS:
        pytest.skip(f"needs {3 * IDLE_LINKS} descriptors, and may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * IDLE_LINKS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def request(id_: int, method: str, **params: object) -> bytes:
    message = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
    return msgspec.json.encode(message) + b"\n"


async def test_a_thousand_idle_links_cost_next_to_nothing_and_are_served_when_they_wake(
    tmp_path: Path,
) -> None:
    async with besieged(tmp_path, memory=IDLE_LINKS * IDLE_BYTES + SLACK_BYTES) as siege:
        links_before, bytes_before = len(descriptors_of(siege.pid)), resident_bytes(siege.pid)
        async with AsyncExitStack() as links:
            streams = [await links.enter_async_context(siege.link()) for _ in range(IDLE_LINKS)]
            await siege.polite.until(lambda: len(descriptors_of(siege.pid)) >= links_before + IDLE_LINKS)
            each = (resident_bytes(siege.pid) - bytes_before) / IDLE_LINKS

            for stream in streams[::100]:
                await stream.send_all(PING + b"\n")
                assert await read_lines(stream, 1) == [PONG]

    print(f"an idle link takes {each / 1024:.1f} KiB")
    assert each < IDLE_BYTES


async def test_one_that_never_reads_delays_nobody_and_is_told_what_it_missed(tmp_path: Path) -> None:
    async with (
        besieged(tmp_path, memory=UNREAD_BYTES + SLACK_BYTES) as siege,
        siege.session("busy") as session,
        siege.link() as deaf,
        trio.open_nursery() as nursery,
    ):
        await deaf.send_all(request(0, "session/subscribe", session=session))
        await read_lines(deaf, 1)
        nursery.start_soon(say, deaf, [request(i, "daemon/status") for i in range(1, REQUESTS + 1)])
        await siege.polite.rounds()

        result = await siege.client.call("session/send", session=session, content=f"count {COUNT}")
        heard = "".join(event["text"] for event in siege.client.events("text_delta"))
        await siege.polite.rounds()
        answers, events = await listen(deaf, REQUESTS)

    assert (heard == COUNTED, result["text"] == COUNTED) == (True, True)
    assert answers == list(range(1, REQUESTS + 1))
    assert accounted(events) == accounted([event for event in siege.client.notifications if "run" in event])
    assert len(events) < len(siege.client.notifications)
    assert events[-1]["type"] == "run_ended"


async def listen(stream: trio.SocketStream, count: int) -> tuple[list[int], list[dict[str, Any]]]:
    """Read until so many answers and the end of a run have come; the ids and the events, as they came."""
    answers: list[int] = []
    events: list[dict[str, Any]] = []
    unread = b""
    with trio.fail_after(PATIENCE):
        while len(answers) < count or not events or events[-1]["type"] != "run_ended":
            *lines, unread = (unread + await stream.receive_some()).split(b"\n")
            for message in map(msgspec.json.decode, lines):
                if "method" in message:
                    events.append(message["params"])
                else:
                    assert "result" in message
                    answers.append(message["id"])
    return answers, events


def accounted(events: list[dict[str, Any]]) -> list[int]:
    """List the numbers that events stand for, also those that were merged, and those told to be missing."""
    numbers: list[int] = []
    for event in events:
        first = event["from"] if event["type"] == "lagged" else event.get("merged_from", event["seq"])
        numbers += range(first, event["seq"] + 1)
    return numbers


@pytest.mark.parametrize("is_live", [True, False], ids=["live", "unloaded"])
@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "end"])
async def test_one_that_dies_as_it_speaks_has_started_a_run_that_ends_well(
    tmp_path: Path, is_live: bool, is_reset: bool
) -> None:
    async with besieged(tmp_path) as siege, siege.session("mortal") as session:
        await siege.client.call("session/subscribe", session=session)
        if not is_live:
            await siege.client.call("session/close", session=session)
        async with siege.link() as stream:
            if is_reset:
                # What is unread when a socket is closed makes a reset of its end.
                await stream.send_all(PING + b"\n")
                await trio.lowlevel.wait_readable(stream.socket)
            await stream.send_all(request(1, "session/send", session=session, content="slow 20 5"))

        ended = await siege.client.event("run_ended")
        history = await siege.client.call("session/history", session=session)

    assert (ended["stop_reason"], ended["persisted"]) == ("end_turn", True)
    assert [text_of(entry) for entry in history["messages"]] == [
        "slow 20 5",
        " ".join(map(str, range(1, 21))),
    ]


def text_of(entry: dict[str, Any]) -> str:
    return "".join(block["text"] for block in entry["message"]["content"])


async def test_twenty_thousand_requests_in_one_go_are_answered_once_each(tmp_path: Path) -> None:
    async with (
        besieged(tmp_path) as siege,
        siege.session("read") as read,
        siege.session("written") as written,
        siege.link() as stream,
        trio.open_nursery() as nursery,
    ):
        kinds: list[tuple[str, dict[str, object]]] = [
            ("daemon/ping", {}),
            ("session/history", {"session": read}),
            ("session/send", {"session": written, "content": "echo hello", "wait": False}),
            ("session/close", {"session": read}),
        ]
        asked = [request(i, method, **params) for i, (method, params) in zip(range(REQUESTS), cycle(kinds))]

        nursery.start_soon(say, stream, [b"".join(asked)])
        answers = await read_lines(stream, REQUESTS)
        await siege.polite.rounds()
        runs = sum("run" in answer.get("result", {}) for answer in answers)
        await settle(siege, written)
        usage = await siege.client.call("session/usage", session=written)

    assert sorted(answer["id"] for answer in answers) == list(range(REQUESTS))
    refusals = [answer["error"] for answer in answers if "error" in answer]
    assert {(error["code"], error["data"]["kind"]) for error in refusals} <= {
        (-32001, "overloaded"),
        (-32005, "queue_full"),
    }
    assert {answer["id"] % len(kinds) for answer in answers if "result" in answer} == set(range(len(kinds)))
    assert usage["runs"] == runs


async def settle(siege: Siege, session: str) -> None:
    """Wait until a session has nothing more to do."""
    with trio.fail_after(PATIENCE):
        while (await siege.client.call("session/get", session=session))["info"]["state"] != "idle":
            await siege.polite.rounds(1)


@contextmanager
def limited(siege: Siege, limit: int) -> Generator[None]:
    """Let the daemon have only so many descriptors."""
    before = resource.prlimit(siege.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(siege.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(siege.pid, resource.RLIMIT_NOFILE, before)


async def test_without_descriptors_those_who_are_in_are_served_and_the_others_later(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege, siege.session("live") as live, siege.session("stored") as stored:
        await siege.client.call("session/close", session=stored)
        async with AsyncExitStack() as links:
            with limited(siege, len(descriptors_of(siege.pid))):
                waiting = [await links.enter_async_context(siege.link()) for _ in range(50)]
                for stream in waiting:
                    await stream.send_all(PING + b"\n")
                await siege.polite.until(lambda: bool(siege.log("accept_paused")))
                await siege.polite.rounds(10)

                result = await siege.client.call("session/send", session=live, content="slow 10 40")
                with pytest.raises(WireError) as refused:
                    await siege.client.call("session/send", session=stored, content="echo lost")
                with pytest.raises(WireError) as not_made:
                    await siege.client.call("session/get_or_create", agent="crab", sender="new")
                assert len(siege.log("accept_paused")) == 1
                assert siege.log("accept_resumed") == []
            answers = [await read_lines(stream, 1) for stream in waiting]
            again = await siege.client.call("session/send", session=stored, content="echo kept")
            history = await siege.client.call("session/history", session=stored)

    assert (result["stop_reason"], result["persisted"]) == ("end_turn", True)
    assert (refused.value.code, not_made.value.code) == (-32020, -32020)
    assert "raise the limit of open files" in refused.value.message
    assert answers == [[PONG]] * 50
    assert again["text"] == "kept"
    assert [text_of(entry) for entry in history["messages"]] == ["echo kept", "kept"]
    assert (len(siege.log("accept_paused")), len(siege.log("accept_resumed"))) == (1, 1)


async def test_a_crowd_leaves_descriptors_for_the_work_of_those_who_are_in(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        with limited(siege, 256):
            async with AsyncExitStack() as crowd:
                for _ in range(300):
                    stream = await crowd.enter_async_context(siege.link())
                    await stream.send_all(PING + b"\n")
                await siege.polite.until(lambda: bool(siege.log("accept_paused")))

                for number in range(10):
                    async with siege.session(f"sender {number}") as session:
                        result = await siege.client.call("session/send", session=session, content="echo well")
                    assert (result["text"], result["persisted"]) == ("well", True)
            assert await siege.exchange(PING) == [PONG]


async def test_a_storm_of_connections_is_weathered_and_all_who_wait_are_answered(tmp_path: Path) -> None:
    memory = STORM_THREADS * STORM_LINKS * IDLE_BYTES + SLACK_BYTES
    answered: list[int] = []
    async with besieged(tmp_path, memory=memory) as siege, trio.open_nursery() as nursery:

        async def storm() -> None:
            answered.append(await trio.to_thread.run_sync(connect_and_ping, siege.daemon.home.socket))

        for _ in range(STORM_THREADS):
            nursery.start_soon(storm)
        await siege.polite.rounds()

    assert sum(answered) == STORM - STORM // 4


def connect_and_ping(path: Path) -> int:
    """Connect again and again as fast as possible; every fourth time do not wait for the answer."""
    answered = 0
    for _ in range(STORM // STORM_THREADS // STORM_LINKS):
        with ExitStack() as links:
            socks = [links.enter_context(connected(path)) for _ in range(STORM_LINKS)]
            for sock in socks:
                sock.sendall(PING + b"\n")
            for sock in socks[::4]:
                sock.close()
            for number, sock in enumerate(socks):
                if number % 4:
                    answered += msgspec.json.decode(sock.recv(4096)) == PONG
    return answered


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(path))
    return sock
