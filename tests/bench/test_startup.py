"""How soon crabctl answers, against the same Python doing nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest

from tests.bench.measure import Report, Samples, turns
from tests.e2e.daemon import PATIENCE, Home, start_daemon

ROUNDS = 40
MOST = 2.5
SCRIPT = Path(sys.executable).with_name("crabctl")


def seconds(home: Home, *arguments: str | Path) -> float:
    """Measure one life of a Python process."""
    start = perf_counter()
    subprocess.run(
        [sys.executable, *arguments], env=home.env, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE
    )
    return perf_counter() - start


@pytest.mark.bench
@pytest.mark.skipif(not SCRIPT.exists(), reason="crabctl is not installed beside this Python")
async def test_a_plain_call_takes_little_more_than_python_itself(tmp_path: Path, report: Report) -> None:
    commands: dict[str, tuple[str | Path, ...]] = {
        "python -c pass": ("-c", "pass"),
        "crabctl status": (SCRIPT, "status"),
    }
    samples = Samples()
    async with start_daemon(Home(tmp_path)) as daemon:
        for name in turns(list(commands), ROUNDS):
            samples.add(name, seconds(daemon.home, *commands[name]))

    ratio = samples.ratio("crabctl status", "python -c pass")
    report(
        "start-up, installed console script",
        ("command", "ms", "× python"),
        [
            (name, f"{samples.median(name) * 1e3:.1f}", samples.ratio(name, "python -c pass"))
            for name in commands
        ],
    )
    assert ratio.middle <= MOST
