"""How soon crabctl answers, as a ratio to bare Python measured in the same run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest

from tests.crabctl.program import PATIENCE, crabctl, home

ROUNDS = 40
LIMIT = 2.5
# What an installed console script holds.
SCRIPT = "import sys; from crabctl.__main__ import main; sys.exit(main())"


@pytest.mark.bench
def test_a_plain_call_takes_little_more_than_python_itself(tmp_path: Path) -> None:
    env = home(tmp_path)
    crabctl("start", env=env)
    script = tmp_path / "crabctl"
    script.write_text(SCRIPT)

    # Turn by turn, and the best of each, so that a busy machine slows both or neither.
    turns = [(_seconds(["-c", "pass"], env), _seconds([str(script), "status"], env)) for _ in range(ROUNDS)]
    crabctl("stop", env=env)

    bare, status = (min(side) for side in zip(*turns, strict=True))
    print(f"bare {bare * 1e3:.1f} ms, status {status * 1e3:.1f} ms: {status / bare:.2f} times")
    assert status / bare <= LIMIT


def _seconds(arguments: list[str], env: dict[str, str]) -> float:
    start = perf_counter()
    subprocess.run(
        [sys.executable, *arguments], env=env, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE
    )
    return perf_counter() - start
