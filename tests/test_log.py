"""What a line of the log looks like to each reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import structlog
from crabd.log import configure_logging
configure_logging("info")
log = structlog.get_logger()
log.debug("unseen")
log.info("ready", pid=7)
log.warning("odd\\nline")
key = "sk-" + "secret"
try:
    raise ValueError("why")
except ValueError:
    log.exception("failed")
"""

MASKED = """
import structlog
from crabd.log import configure_logging
from crabd.masking import Masker
configure_logging("info", Masker(["canary-of-a-test"]).mask)
log = structlog.get_logger()
log.info("asked", url="https://me:hunter22@example.org", words=["canary-of-a-test"])
try:
    raise ValueError("canary-of-a-test")
except ValueError:
    log.exception("failed")
"""


def lines(log: Path, program: str = PROGRAM, **variables: str) -> list[str]:
    """Log with stderr going to a file."""
    with log.open("ab") as stderr:
        subprocess.run(
            [sys.executable, "-c", program], stderr=stderr, check=True, env={**os.environ, **variables}
        )
    return log.read_text().splitlines()


def test_programs_read_a_json_object_a_line(tmp_path: Path) -> None:
    first, second, third = (json.loads(line) for line in lines(tmp_path / "log"))

    assert (first["event"], first["pid"], first["level"]) == ("ready", 7, "info")
    assert first["timestamp"].endswith("Z")
    assert second["event"] == "odd\nline"
    assert third["exception"][0]["exc_value"] == "why"


def test_a_traceback_tells_where_and_not_what_was_at_hand(tmp_path: Path) -> None:
    (*_, failed) = lines(tmp_path / "log")

    assert json.loads(failed)["exception"][0]["frames"][0]["lineno"] == 11
    assert "sk-secret" not in failed


def test_secrets_are_hidden_in_every_fact_and_traceback(tmp_path: Path) -> None:
    asked, failed = map(json.loads, lines(tmp_path / "log", MASKED))

    assert (asked["url"], asked["words"]) == ("https://me:[secret]@example.org", ["[secret]"])
    assert failed["exception"][0]["exc_value"] == "[secret]"


def test_the_journal_reads_priorities_and_no_times(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    stream = f"{log.stat().st_dev}:{log.stat().st_ino}"

    first, second, third = lines(log, JOURNAL_STREAM=stream)

    assert first == '<6>ready {"pid": 7}'
    assert second == "<4>odd\\nline"
    assert third.startswith('<3>failed {"exception":')


def test_a_journal_that_is_somebody_elses_is_not_written_to(tmp_path: Path) -> None:
    assert lines(tmp_path / "log", JOURNAL_STREAM="8:1")[0].startswith("{")
