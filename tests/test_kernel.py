"""What the kernel does for us: in processes of their own, as it lasts for their lives."""

from __future__ import annotations

import subprocess
import sys

from tests.crabctl.program import PATIENCE, ROOT

# An ordinary user's process, which like any other can be read by that user until it closes its memory.
GUARDED = """
import ctypes, os, resource, subprocess
from crabd.kernel import close_memory

if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    # Changing the user has closed the memory by itself.
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)

def can_open(name):
    command = ["sh", "-c", ': <"$0"', f"/proc/{os.getpid()}/{name}"]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

before = can_open("environ")
_, most = resource.getrlimit(resource.RLIMIT_CORE)
close_memory()
after = [can_open(name) for name in ("environ", "mem", "maps")]
ours = open("/proc/self/statm").read() != "" and os.listdir("/proc/self/fd") != []
print(before, after, ours, resource.getrlimit(resource.RLIMIT_CORE) == (0, most))
"""
# A subreaper with a child that nobody has waited for yet, and an orphan that says who it is and waits.
PARENT = """
import os, subprocess, trio
from pathlib import Path
from crabd.kernel import adopt_orphans, bury_orphans

async def gone(pid):
    while Path(f"/proc/{pid}").exists():
        await trio.sleep(0.01)

async def main():
    adopt_orphans()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bury_orphans)
        ours = await trio.lowlevel.open_process(["sh", "-c", "exit 7"])
        reader, writer = os.pipe()
        # The shell ends at once; the one it has started lives until the pipe is closed.
        told = await trio.run_process(
            ["sh", "-c", "exec 3<&0; setsid cat <&3 >/dev/null & echo $!"], capture_stdout=True, stdin=reader,
        )
        orphan = int(told.stdout)
        parent = Path(f"/proc/{orphan}/stat").read_text().split()[3]
        os.close(reader)
        os.close(writer)
        await gone(orphan)
        print(parent == str(os.getpid()), await ours.wait())
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_in_our_memory_is_not_for_a_child_of_the_same_user() -> None:
    assert run(GUARDED) == "True [False, False, False] True True"


def test_an_orphan_becomes_our_child_and_is_buried_and_a_child_of_ours_is_left_to_who_waits() -> None:
    assert run(PARENT) == "True 7"
