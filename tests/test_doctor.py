"""What the doctor looks at besides the sessions: configuration, agents, keys, the socket, the lock."""

from __future__ import annotations

import os
from pathlib import Path
from socket import AF_UNIX, socket

import pytest
import trio

from crabd.api.daemon import Diagnosis, Finding
from crabd.config import Places
from crabd.doctor import close_log, diagnose, examine, open_closed_store
from crabd.store.doctor.doctor import Doctor
from crabd.store.journal.store import JournalStore
from crabd.store.stepfiles.store import StepStore
from tests.store.samples import a_turn

TOML = """\
log_level = "info"

[providers.test]
base_url = "https://example.org/v1"
api_key_file = "KEY"
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """The places of a user whose things are all in order."""
    places = Places(tmp_path / "config", tmp_path / "state", tmp_path / "run" / "crabd" / "crabd.sock")
    (places.config / "agents").mkdir(parents=True)
    for folder in (tmp_path / "run", places.socket.parent):
        folder.mkdir(mode=0o700)
    key = places.config / "key"
    key.write_text("sk-1")
    key.chmod(0o600)
    configure(places, TOML.replace("KEY", str(key)))
    return places


def configure(places: Places, text: str) -> None:
    (places.config / "config.toml").write_text(text)


def write_agent(places: Places, text: str) -> None:
    (places.config / "agents" / "tester.md").write_text(text)


async def look(places: Places, *, repair: bool = False) -> Diagnosis:
    with trio.fail_after(60):
        return await examine(places, repair=repair)


async def only_problem(places: Places) -> Finding:
    diagnosis = await look(places)
    (problem,) = [finding for finding in diagnosis.findings if finding.grade == "problem"]
    assert diagnosis.problems == 1
    assert diagnosis.findings[0] == problem, "the worst comes first"
    return problem


async def test_where_all_is_in_order_every_area_says_so(places: Places) -> None:
    diagnosis = await look(places)

    assert [(finding.area, finding.grade) for finding in diagnosis.findings] == [
        (area, "ok") for area in ("store", "index", "configuration", "agents", "keys", "socket", "disk")
    ]
    assert diagnosis.problems == 0
    assert not places.state.exists(), "looking makes nothing"


async def test_a_new_user_has_no_problems(tmp_path: Path) -> None:
    diagnosis = await look(Places(tmp_path / "c", tmp_path / "s", tmp_path / "r" / "crabd" / "crabd.sock"))

    assert diagnosis.problems == 0


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("model = 3\n", 1, "Expected `str | null`"),
        ('log_level = "info"\n\ngrace = "long"\n', 3, "Expected `float`"),
        ('\n[providers.test]\nbase_ur = "x"\n', 3, "unknown field `base_ur`"),
        ("grace = 1\nmodel =\n", 2, "Invalid value"),
    ],
)
async def test_a_wrong_configuration_is_told_with_its_line(
    places: Places, text: str, line: int, told: str
) -> None:
    configure(places, text)

    problem = await only_problem(places)

    assert (problem.area, problem.where) == ("configuration", f"{places.config / 'config.toml'}:{line}")
    assert told in problem.told


async def test_a_wrong_rule_is_told_with_its_file(places: Places) -> None:
    (places.config / "permissions.toml").write_text('deny = ["bsh(rm *)"]\n')

    problem = await only_problem(places)

    assert (problem.area, problem.kind) == ("configuration", "invalid")
    assert problem.where == str(places.config / "permissions.toml")
    assert "did you mean bash" in problem.told


async def test_a_model_of_a_server_that_is_not_configured_is_a_wrong_configuration(places: Places) -> None:
    configure(places, 'model = "nobody/knows"\n')

    problem = await only_problem(places)

    assert problem.area == "configuration"
    assert problem.where.endswith("config.toml")
    assert "nobody" in problem.told


async def test_what_others_may_change_is_told(places: Places) -> None:
    (places.config / "config.toml").chmod(0o666)

    problem = await only_problem(places)

    assert (problem.area, problem.kind) == ("configuration", "mode")
    assert problem.advice == f"chmod go-w {places.config / 'config.toml'}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("---\ndescription: tests\nmodel: 3\n---\n", ":3"),
        ("---\nmodel: [\n---\n", ":3"),
        ("---\nmodl: x\n---\n", ":2"),
        ("---\nmodel: x\n", ""),
    ],
)
async def test_a_wrong_agent_is_told_with_its_line(places: Places, text: str, line: str) -> None:
    write_agent(places, text)

    problem = await only_problem(places)

    assert (problem.area, problem.where) == ("agents", f"{places.config / 'agents' / 'tester.md'}{line}")


async def test_a_key_that_others_can_read_is_told_and_not_shown(places: Places) -> None:
    (places.config / "key").chmod(0o644)

    problem = await only_problem(places)

    assert (problem.area, problem.where) == ("keys", "[providers.test]")
    assert f"chmod 600 {places.config / 'key'}" in problem.told
    assert "sk-1" not in repr(await look(places))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ('api_key_file = "/nowhere/key"', "/nowhere/key cannot be read"),
        ('api_key_env = "NO_SUCH_KEY_HERE"', "set NO_SUCH_KEY_HERE"),
        ('api_key_command = "no-such-program --of mine"', "there is no such program"),
    ],
)
async def test_a_key_that_cannot_be_had_is_told(places: Places, setting: str, told: str) -> None:
    configure(places, f'[providers.test]\nbase_url = "https://example.org/v1"\n{setting}\n')

    problem = await only_problem(places)

    assert problem.area == "keys"
    assert told in problem.told


async def test_a_program_that_fetches_a_key_is_not_run(places: Places, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    configure(
        places,
        f'[providers.test]\nbase_url = "https://example.org/v1"\napi_key_command = "touch {trace}"\n',
    )

    assert (await look(places)).problems == 0
    assert not trace.exists()


async def test_a_directory_of_the_socket_that_others_can_enter_is_told(places: Places) -> None:
    places.socket.parent.chmod(0o755)

    problem = await only_problem(places)

    assert (problem.area, problem.kind, problem.where) == ("socket", "directory", str(places.socket.parent))


async def test_what_is_no_socket_in_its_place_is_told(places: Places) -> None:
    places.socket.write_text("")

    assert (await only_problem(places)).kind == "foreign"


async def test_a_socket_that_others_can_write_to_is_told(places: Places) -> None:
    with socket(AF_UNIX) as listener:
        listener.bind(os.fspath(places.socket))
        places.socket.chmod(0o666)

        assert (await only_problem(places)).kind == "mode"


async def test_an_index_that_cannot_be_read_is_told_and_is_no_problem(places: Places) -> None:
    file = places.state / "index" / "index.db"
    file.parent.mkdir(mode=0o700, parents=True)
    places.state.chmod(0o700)
    file.write_bytes(b"rubbish" * 1000)

    diagnosis = await look(places)

    (told,) = [finding for finding in diagnosis.findings if finding.grade != "ok"]
    assert (told.area, told.grade, told.kind) == ("index", "notice", "damaged")
    assert diagnosis.problems == 0


async def test_a_store_that_somebody_has_is_left_alone(places: Places) -> None:
    store = JournalStore(places.state)
    await store.open()

    problem = await only_problem(places)

    assert (problem.area, problem.kind) == ("store", "locked")
    assert f"process {os.getpid()}" in problem.told
    await store.aclose()


async def test_a_store_that_was_not_written_as_it_is_configured_is_told_once(places: Places) -> None:
    store = StepStore(places.state)
    await store.open()
    for sender in ("b", "c"):
        await (await store.create("a", sender)).log.append(a_turn())
    await store.aclose()

    problem = await only_problem(places)

    assert (problem.kind, problem.where) == ("other_store", str(places.state))
    assert "'stepfiles'" in str(problem.advice)
    configure(places, 'store = "stepfiles"\n')
    assert (await look(places)).problems == 0


async def test_nobody_takes_a_store_that_is_looked_at(places: Places) -> None:
    places.state.mkdir(mode=0o700)

    async with open_closed_store(places.state):
        assert (await only_problem(places)).kind == "locked"

    assert (await look(places)).problems == 0


async def test_a_store_in_use_is_repaired_where_nobody_works(places: Places) -> None:
    store = JournalStore(places.state)
    await store.open()
    for sender in ("b", "c"):
        log = (await store.create("a", sender)).log
        await log.append(a_turn())
    await log.aclose()
    for session in ("a_b_1", "a_c_1"):
        (places.state / "sessions" / session / "notes.txt").write_text("mine")
        (places.state / "sessions" / session / "notes.txt").chmod(0o600)

    diagnosis = await diagnose(places, store, repair=True)

    told = {
        finding.where: finding.mended is not None for finding in diagnosis.findings if finding.kind != "ok"
    }
    assert told == {"a_b_1": False, "a_c_1": True}
    assert (diagnosis.sessions, diagnosis.records) == (2, 12)
    await store.aclose()


async def test_two_doctors_at_once_do_each_repair_once(places: Places) -> None:
    store = JournalStore(places.state)
    await store.open()
    (places.state / "sessions" / "notes.txt").write_text("mine")
    found: list[Diagnosis] = []

    async def repair() -> None:
        found.append(await diagnose(places, store, repair=True))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repair)
            nursery.start_soon(repair)

    assert sum(finding.mended is not None for each in found for finding in each.findings) == 1
    assert len(list((places.state / "quarantine").iterdir())) == 1
    await store.aclose()


def test_a_doctor_tells_what_it_has_found_so_far(tmp_path: Path) -> None:
    assert (
        repr(Doctor(tmp_path, close_log, repairs=False))
        == f"<Doctor of {tmp_path}, <Chart 0 flaws, 0 records>>"
    )
