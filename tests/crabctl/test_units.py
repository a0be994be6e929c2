"""The unit files: what they say for an installation, whose they are, and that a wheel has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from crabctl.systemd import Units
from crabctl.units import is_ours, quote, render
from tests.crabctl.program import PATIENCE, ROOT, crabctl, home

PROGRAMS = Path("/opt/crab d/bin")
DEFAULT = "/run/user/7/crabd/crabd.sock"
SHOWN = """\
Id=crabd.socket
LoadState=loaded
ActiveState=active
Listen=/run/a (Stream)
Listen=/run/b (Stream)

Id=crabd.service
ActiveState={service}
MainPID={pid}
Result={result}
"""


@pytest.fixture(autouse=True)
def _usual_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CRABD_CONFIG_DIR", "CRABD_STATE_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


def lines_of(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"{name}=")]


def test_the_units_name_the_programs_of_this_installation() -> None:
    texts = render(PROGRAMS, DEFAULT, DEFAULT)

    assert lines_of(texts["crabd.service"], "ExecStart") == ['ExecStart="/opt/crab d/bin/crabd"']
    assert lines_of(texts["crabd.service"], "ExecReload") == ['ExecReload="/opt/crab d/bin/crabctl" reload']
    assert lines_of(texts["crabd.service"], "Environment") == []
    assert lines_of(texts["crabd.socket"], "ListenStream") == ["ListenStream=%t/crabd/crabd.sock"]


def test_the_units_name_the_places_that_are_not_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRABD_STATE_DIR", '/my "state"')

    texts = render(PROGRAMS, "/tmp/100%/s", DEFAULT)

    assert lines_of(texts["crabd.socket"], "ListenStream") == ["ListenStream=/tmp/100%%/s"]
    assert lines_of(texts["crabd.service"], "Environment") == [
        'Environment="CRABD_STATE_DIR=/my \\"state\\""',
        'Environment="CRABD_SOCKET=/tmp/100%%/s"',
    ]


def test_a_word_is_quoted_as_systemd_reads_it() -> None:
    assert quote('a "b" \\ 100%') == '"a \\"b\\" \\\\ 100%%"'


def test_a_unit_is_ours_until_somebody_changes_it(tmp_path: Path) -> None:
    file = tmp_path / "crabd.socket"
    link = tmp_path / "link" / "crabd.socket"
    text = render(PROGRAMS, DEFAULT, DEFAULT)[file.name]
    file.write_text(text)
    link.parent.mkdir()
    link.symlink_to(file)

    untouched = is_ours(file)
    file.write_text(text.replace("4096", "1"))

    assert (untouched, is_ours(file), is_ours(link), is_ours(tmp_path / "none")) == (
        True,
        False,
        False,
        False,
    )


@pytest.mark.parametrize(
    ("service", "pid", "result", "is_asleep", "is_given_up"),
    [
        ("inactive", 0, "success", True, False),
        ("active", 5, "success", False, False),
        ("reloading", 5, "success", False, False),
        ("activating", 5, "success", False, False),
        ("failed", 0, "exit-code", True, False),
        ("failed", 0, "start-limit-hit", True, True),
    ],
)
def test_the_state_of_the_units_is_read_from_what_systemd_shows(
    service: str, pid: int, result: str, is_asleep: bool, is_given_up: bool
) -> None:
    units = Units(SHOWN.format(service=service, pid=pid, result=result))

    assert (units.pid, units.is_asleep, units.is_given_up) == (pid, is_asleep, is_given_up)
    assert (units.listen_at("/run/a"), units.listen_at("/run/b"), units.listen_at("/run")) == (
        True,
        True,
        False,
    )


@pytest.mark.parametrize("word", ["install", "uninstall", "status"])
def test_without_a_manager_it_is_said_so_and_nothing_is_written(tmp_path: Path, word: str) -> None:
    done = crabctl("service", word, env=home(tmp_path))

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("crabctl: no systemd runs your services here")
    assert not (tmp_path / ".config").exists()


def test_an_unknown_action_is_told_the_known_ones(tmp_path: Path) -> None:
    done = crabctl("service", "remove", env=home(tmp_path))

    assert (done.returncode, done.stderr) == (
        2,
        "crabctl: service 'remove': say install, uninstall or status\n",
    )


def test_a_wheel_has_the_units(tmp_path: Path) -> None:
    build = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    with ZipFile(tmp_path / made.stdout.strip()) as wheel:
        wheel.extractall(tmp_path / "site")

    script = "from crabctl import units; print(units.__file__, units.template_folder())"
    found = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    site = tmp_path / "site"
    assert found.stdout == f"{site}/crabctl/units.py {site}/crabd/systemd\n"
    for name in ("crabd.socket", "crabd.service"):
        assert (site / "crabd/systemd" / name).read_bytes() == (ROOT / "systemd" / name).read_bytes()
