"""Deletions that are killed or refused at every system call: gone and remembered, or neither."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio

from tests.faults.backends import BACKENDS
from tests.store.samples import a_turn

PROJECT = Path(__file__).parents[2]
SECONDS = 120
# The calls by which a deletion becomes one, and the one by which the process tells of itself.
CALLS = ("fsync", "rename", "unlink")
TELLING = "write"

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


@pytest.fixture(autouse=True)
def can_trace() -> None:
    if subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False).returncode:
        pytest.skip("strace may not trace here")


async def make_session(backend: str, root: Path) -> None:
    store = BACKENDS[backend].make(root)
    await store.open()
    await (await store.create("a", "b")).log.append(a_turn())
    await store.aclose()


async def delete(backend: str, root: Path, *options: str) -> str:
    """Delete the session in a process under strace; returns what it said."""
    deleter = [sys.executable, "-m", "tests.faults.deleter", backend, str(root)]
    with trio.fail_after(SECONDS):
        done = await trio.run_process(
            ["strace", "-f", "-qq", *options, *deleter],
            capture_stdout=True,
            capture_stderr=True,
            cwd=PROJECT,
            check=False,
        )
    return done.stdout.decode()


def moments_of(trace: str) -> list[tuple[str, int]]:
    """List the calls of the deletion, each with which of its kind it is in its thread, from 1."""
    seen: Counter[tuple[str, str]] = Counter()
    moments: list[tuple[str, int]] = []
    has_begun = False
    for line in trace.splitlines():
        thread, call = line.split(maxsplit=1)
        name = call.partition("(")[0]
        seen[thread, name] += 1
        has_begun = has_begun or '"ready' in call
        if has_begun and name in CALLS:
            moments.append((name, seen[thread, name]))
    return moments


async def find(backend: str, root: Path) -> tuple[str, str]:
    """Look what the next start finds: the ids of sessions, and those of remembered deletions by their key."""
    store = BACKENDS[backend].make(root)
    assert await store.open() == ()
    sessions = [meta.id for meta in store.metas()]
    for session in sessions:
        assert len((await store.load(session)).steps) == 1 + len(a_turn())
    remembered = [f"{deletion.session} by {deletion.request_key}" for deletion in store.deletions()]
    await store.aclose()
    return " ".join(sessions), " ".join(remembered)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fault", ["signal=KILL", "error=EIO"])
async def test_a_deletion_that_is_cut_short_anywhere_is_whole_or_was_not_begun(
    tmp_path: Path, fault: str, backend: str
) -> None:
    there, gone = ("a_b_1", ""), ("", "a_b_1 by k")
    trace = tmp_path / "trace"
    await make_session(backend, tmp_path / "unharmed")
    await delete(backend, tmp_path / "unharmed", "-o", str(trace), "-e", f"trace={','.join(CALLS)},{TELLING}")
    found: list[tuple[str, str]] = []

    for call, number in moments_of(trace.read_text()):
        root = tmp_path / f"{call}-{number}"
        await make_session(backend, root)
        told = await delete(backend, root, "-o", os.devnull, "-e", f"inject={call}:{fault}:when={number}")
        found.append(await find(backend, root))

        assert found[-1] in (there, gone)
        assert found[-1] == gone or "deleted" not in told

    assert set(found) == {there, gone}
