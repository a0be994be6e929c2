"""Power cuts at every moment of a store's life: what was acknowledged is there, and what is cut is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
import trio

from tests.faults.backends import BACKENDS
from tests.faults.claims import Claims, hold
from tests.faults.power import FATES, Disk, Tree
from tests.faults.strace import OPTIONS, read_calls

PROJECT = Path(__file__).parents[2]
SECONDS = 120

pytestmark = [
    pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed"),
    pytest.mark.parametrize("backend", BACKENDS),
]


@pytest.fixture(autouse=True)
def can_trace() -> None:
    if subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False).returncode:
        pytest.skip("strace may not trace here")


def plant(tree: Tree, root: Path) -> None:
    """Make a tree of files."""
    root.mkdir()
    for path, data in tree.items():
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)


def harvest(root: Path) -> Tree:
    """Read a tree of files."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")
    }


async def live(root: Path, trace: Path, backend: str, *args: object, faults: Sequence[str] = ()) -> str:
    """Have a crowd live under strace; returns the trace."""
    inject = [word for fault in faults for word in ("-e", f"inject={fault}")]
    crowd = [sys.executable, "-m", "tests.faults.crowd", backend, str(root), *map(str, args)]
    with trio.fail_after(SECONDS):
        await trio.run_process(
            ["strace", "-o", str(trace), *OPTIONS, *inject, *crowd],
            capture_stdout=True,
            capture_stderr=True,
            cwd=PROJECT,
            check=False,
        )
    return trace.read_text()


class Rig:
    """Follows a store's processes, and tries what power cuts in their course would leave."""

    def __init__(self, backend: str, root: Path, scratch: Path) -> None:
        self.claims = Claims()
        self.states = 0
        self._backend = backend
        self._root = root
        self._scratch = scratch
        self._disk = Disk(root)
        self._chance = Random(5)
        self._tried: set[int] = set()

    async def follow(self, trace: str, *, cuts: bool = True) -> None:
        """Follow one process to its end, with a power cut after each of its calls."""
        self._disk.start_process()
        for call in read_calls(trace):
            if call.name == "write" and call.args[0].startswith("1<") and call.result:
                self.claims.take(call.args[1])
                has_changed = True
            else:
                has_changed = self._disk.take(call)
            if has_changed and cuts:
                await self.cut()
        assert self._disk.seen() == harvest(self._root), "the rig has lost track of the store"

    async def cut(self) -> None:
        """Try all that a power cut at this moment may leave."""
        for names, contents in FATES:
            tree = self._disk.after_cut(names, contents, self._chance)
            state = hash((frozenset(tree.items()), repr(self.claims.appends), len(self.claims.deleted)))
            if state in self._tried:
                continue
            self._tried.add(state)
            self.states += 1
            plant(tree, self._scratch)
            try:
                await hold(self._backend, self._scratch, self.claims)
            except Exception as exc:
                exc.add_note(f"after a power cut that left of names {names}, of contents {contents}")
                raise
            shutil.rmtree(self._scratch)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A place where syncing costs nothing, if there is one: these trees are thrown away at once."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        yield Path(place, "state")


@pytest.fixture
def rig(backend: str, tmp_path: Path, scratch: Path) -> Rig:
    (tmp_path / "store").mkdir()
    return Rig(backend, tmp_path / "store", scratch)


async def test_what_was_acknowledged_survives_a_power_cut_at_any_moment(
    rig: Rig, backend: str, tmp_path: Path
) -> None:
    trace = await live(tmp_path / "store", tmp_path / "trace", backend, 2, 6, 700)

    await rig.follow(trace)

    assert rig.claims.appends == {"s0": 6, "s1": 6}
    assert len(rig.claims.deleted) == 2
    assert rig.states > 200


# Each kind of call is counted in each thread, so these come while the store is opened, and while a session is
# made, appended to, summed up and deleted.
MOMENTS = [
    *(("write", number) for number in (2, 4)),
    *(("fdatasync", number) for number in (1, 4)),
    *(("fsync", number) for number in (4, 5, 9, 11)),
    *(("rename", number) for number in (1, 4)),
    ("unlink", 9),
]
FAILURES = [("fdatasync", 2), ("fsync", 2), ("fsync", 4), ("fsync", 5), ("fsync", 9), ("rename", 4)]
ALL_MOMENTS = [
    (call, number)
    for call in ("write", "pwrite64", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "openat")
    for number in range(1, 16)
]


async def try_kill(rig: Rig, backend: str, tmp_path: Path, call: str, number: int) -> None:
    """A kill between a write and its sync leaves what looks whole and is not safe."""
    fault = f"{call}:signal=KILL:when={number}"
    killed = await live(tmp_path / "store", tmp_path / "trace", backend, 1, 5, 700, faults=[fault])
    await rig.follow(killed, cuts=False)

    await rig.follow(await live(tmp_path / "store", tmp_path / "trace", backend, 1, 2, 700))

    assert rig.claims.appends["s0"] >= 2


async def try_failure(rig: Rig, backend: str, tmp_path: Path, way: str, call: str, number: int) -> None:
    """After a failed sync the system shows bytes that no later sync will write."""
    fault = f"{call}:error=EIO:when={number}"
    failed = await live(tmp_path / "store", tmp_path / "trace", backend, 1, 5, 700, way, faults=[fault])
    await rig.follow(failed, cuts=way == "goes-on")

    await rig.follow(await live(tmp_path / "store", tmp_path / "trace", backend, 1, 2, 700))

    assert rig.claims.appends["s0"] >= 2


@pytest.mark.parametrize(("call", "number"), MOMENTS)
async def test_what_a_restart_after_a_kill_answers_for_survives_a_power_cut(
    rig: Rig, backend: str, tmp_path: Path, call: str, number: int
) -> None:
    await try_kill(rig, backend, tmp_path, call, number)


@pytest.mark.long
@pytest.mark.parametrize(("call", "number"), ALL_MOMENTS)
async def test_what_a_restart_after_a_kill_at_any_call_answers_for_survives_a_power_cut(
    rig: Rig, backend: str, tmp_path: Path, call: str, number: int
) -> None:
    await try_kill(rig, backend, tmp_path, call, number)


@pytest.mark.parametrize("way", ["goes-on", "die"])
@pytest.mark.parametrize(("call", "number"), FAILURES)
async def test_what_a_failing_disk_did_not_take_is_not_answered_for(
    rig: Rig, backend: str, tmp_path: Path, way: str, call: str, number: int
) -> None:
    await try_failure(rig, backend, tmp_path, way, call, number)


@pytest.mark.parametrize(
    "faults",
    [
        ("fdatasync:error=EIO:when=2", "ftruncate:signal=KILL:when=2"),
        ("fsync:error=EIO:when=8", "unlink:signal=KILL:when=3+"),
    ],
)
async def test_what_a_failed_sync_has_left_when_a_kill_comes_is_not_believed(
    rig: Rig, backend: str, tmp_path: Path, faults: tuple[str, ...]
) -> None:
    """The next start finds it whole, and syncing it again would do nothing."""
    trace = await live(tmp_path / "store", tmp_path / "trace", backend, 1, 5, 700, faults=faults)
    await rig.follow(trace, cuts=False)

    await rig.follow(await live(tmp_path / "store", tmp_path / "trace", backend, 1, 2, 700))

    assert rig.claims.appends["s0"] >= 2


@pytest.mark.long
@pytest.mark.parametrize("way", ["goes-on", "die"])
@pytest.mark.parametrize(("call", "number"), ALL_MOMENTS)
async def test_what_a_disk_did_not_take_at_any_call_is_not_answered_for(
    rig: Rig, backend: str, tmp_path: Path, way: str, call: str, number: int
) -> None:
    if call == "openat" or (call, number) == ("pwrite64", 1):
        pytest.skip("that ends the process, and there is nothing to follow")
    await try_failure(rig, backend, tmp_path, way, call, number)
