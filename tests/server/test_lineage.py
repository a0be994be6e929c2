"""Whose child a client is: real processes at a real door, below the process that has it and beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from crabd.server.lineage import MAX_DEPTH, ancestors, descends
from tests.crabctl.program import PATIENCE, ROOT

SENTENCE = (
    "a tool may not drive the daemon that runs it, nor may a hook, or what either has started: "
    "ask the person to do it"
)
REFUSAL = {
    "jsonrpc": "2.0",
    "id": None,
    "error": {
        "code": -32003,
        "message": SENTENCE,
        "data": {"kind": "called_from_a_tool"},
    },
}
# A daemon's door. It runs a command, as a tool would be run, and notes whom it welcomes: by name, which is
# what they say first. With "late" it opens only when the command has ended; otherwise it stays open.
DOOR = """
import os, structlog, sys, trio
from functools import partial
from pathlib import Path
from crabd.kernel import adopt_orphans
from crabd.server.listener import open_listener

async def main():
    adopt_orphans()
    listener = open_listener(Path(sys.argv[1]))
    welcomed = []
    async def greet(sock):
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
            async for request in stream:
                welcomed.append(request)
                await stream.send_all(b'{"jsonrpc":"2.0","id":1,"result":{"welcome":true}}\\n')
    async with trio.open_nursery() as nursery:
        serve = partial(nursery.start_soon, listener.serve, lambda sock: nursery.start_soon(greet, sock))
        if sys.argv[2] == "early":
            serve()
        print("OPEN", flush=True)
        if sys.argv[3:]:
            await trio.run_process(sys.argv[3:], check=False, stdin=None)
        if sys.argv[2] == "late":
            serve()
        # Whoever came is seen before this one is.
        async with await trio.open_unix_socket(sys.argv[1]) as witness:
            await witness.send_all(b"witness")
            await witness.receive_some()
        print(*(each.decode() for each in welcomed), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
trio.run(main)
"""
# What a tool's program may do to be taken for a person's. Each connects, says "tool" and prints the answer.
ASK = """
import os, socket, sys
def ask(path, first=b"tool"):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(path)
    try:
        sock.sendall(first)
    except BrokenPipeError:
        pass
    return sock
def answer(sock):
    told = b""
    try:
        while chunk := sock.recv(4096):
            told += chunk
    except ConnectionResetError:
        pass
    return told.decode().strip()
"""
PLAIN = ASK + "print(answer(ask(sys.argv[1])), flush=True)"
FIRST_LINE = ASK + "print(ask(sys.argv[1]).recv(4096).decode(), flush=True)"
# It leaves its session, its group and its parent, and comes when nothing of its birth is left.
DAEMONISED = (
    ASK
    + """
reader, writer = os.pipe()
if os.fork():
    os.close(writer)
    os.read(reader, 1)
    os._exit(0)
os.setsid()
middle = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == middle:
    pass
print(answer(ask(sys.argv[1])), flush=True)
"""
)
# What it has to say waits at the door when it is gone already.
LAST_WORDS = ASK + "ask(sys.argv[1])"
# So many generations, and the last says who it is.
DEEP = """
import os, sys
for _ in range(int(sys.argv[1])):
    if child := os.fork():
        os.waitpid(child, 0)
        os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "crabd" / "s"


@contextmanager
def python(script: str, *arguments: str | Path) -> Generator[subprocess.Popen[str]]:
    """Run a script until the block ends, which ends its standard input."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it has ended"
    return line.strip()


def told_by(door: subprocess.Popen[str]) -> list[str]:
    """Read what a door's command and then the door itself have to say."""
    lines = [line_of(door)]
    while not lines[-1].endswith("witness"):
        lines.append(line_of(door))
    return lines[1:]


@pytest.mark.parametrize("script", [PLAIN, DAEMONISED], ids=["plainly", "daemonised"])
def test_what_a_tool_has_started_is_refused_and_told_why(path: Path, script: str) -> None:
    with python(DOOR, path, "early", sys.executable, "-c", script, path) as door:
        refusal, welcomed = told_by(door)

        assert (msgspec.json.decode(refusal), welcomed) == (REFUSAL, "witness")


def test_last_words_of_a_tool_that_has_ended_are_not_listened_to(path: Path) -> None:
    with python(DOOR, path, "late", sys.executable, "-c", LAST_WORDS, path) as door:
        assert told_by(door) == ["witness"]


def test_a_person_is_welcome_while_a_tool_is_at_work(path: Path) -> None:
    with python(DOOR, path, "early", "sh", "-c", "read line") as door:
        line_of(door)

        with python(FIRST_LINE, path) as person:
            told = line_of(person)

        assert msgspec.json.decode(told)["result"] == {"welcome": True}


def test_crabctl_in_a_tool_says_so_and_ends_with_5(tmp_path: Path) -> None:
    script = f"{sys.executable} -m crabctl --socket $0 call daemon/ping 2>&1; echo $?"
    path = tmp_path / "run" / "s"
    with python(DOOR, path, "early", "sh", "-c", script, path) as door:
        assert told_by(door) == [f"crabctl: {SENTENCE}", "5", "witness"]


def test_a_line_of_ancestors_goes_up_to_the_first() -> None:
    line = ancestors(os.getpid())

    assert line[:2] == [os.getpid(), os.getppid()]
    assert descends(os.getpid(), os.getppid())
    assert not descends(os.getppid(), os.getpid())


def test_a_line_too_long_to_follow_counts_as_one_of_ours() -> None:
    with python(DEEP, str(MAX_DEPTH)) as first:
        last = int(line_of(first))

        # No process has this number.
        assert descends(last, -1)
        assert not descends(first.pid, -1)
