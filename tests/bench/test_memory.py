"""What the daemon holds in memory, against the same Python that has loaded its modules and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.links import bench_at, resident, results, sends
from tests.bench.measure import Report
from tests.e2e.daemon import ROOT, Home
from tests.model_server import says

SESSIONS, CHUNKS = 64, 50
# In MB: what is aimed at. Another Python or another C library may take somewhat more.
TARGET_IDLE, TARGET_BUSY = 40, 80
SLACK = 1.25


def resident_with(code: str) -> float:
    """Measure a Python that has run some code, in MB."""
    command = [sys.executable, "-c", f"{code}\nprint(flush=True); input()"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        size = resident(process.pid)
        process.stdin.write(b"\n")
    return size


@pytest.mark.bench
async def test_a_daemon_is_small_and_stays_so(tmp_path: Path, report: Report) -> None:
    words = [f"word{n} " for n in range(CHUNKS)]
    python = resident_with("pass")
    loaded = resident_with("import crabd.__main__")
    with_http = resident_with("import crabd.__main__, httpx; httpx.AsyncClient()")
    async with bench_at(Home(tmp_path)) as bench:
        bench.link.call("daemon/ping")
        idle = resident(bench.pid)
        sessions = bench.open_sessions(SESSIONS)
        await bench.models.script(*[says(*words)] * SESSIONS)
        answers = results(bench.link.exchange(sends(sessions, "go", events=True)))
        busy = resident(bench.pid)

    assert [one["text"] for one in answers] == ["".join(words)] * SESSIONS
    rows = {
        "python -c pass": (python, ""),
        "… with crabd's modules": (loaded, ""),
        "… and an HTTP client": (with_http, ""),
        "crabd, idle": (idle, f"≤ {TARGET_IDLE}"),
        f"crabd, after {SESSIONS} sessions × {CHUNKS} chunks": (busy, f"≤ {TARGET_BUSY}"),
    }
    report(
        "resident memory",
        ("process", "MB", "target", "× python"),
        [(name, f"{size:.1f}", target, f"{size / python:.2f}") for name, (size, target) in rows.items()],
    )
    assert idle <= TARGET_IDLE * SLACK
    assert busy <= TARGET_BUSY * SLACK
