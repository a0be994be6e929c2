"""What ``crabctl search`` asks for and shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.crabctl.program import at_terminal, crabctl, home
from tests.crabctl.small_daemon import Json, Peer, SmallDaemon, always, small_daemon

HIT = {
    "session": "crab_user_1",
    "title": "Fix the \x1b[31mtests",
    "step": 12,
    "role": "user",
    "at": "2026-01-01T00:00:00Z",
    "snippet": ["please fix the ", "build", " of \x1b[2Jthis ", "build", " now"],
    "score": 2.5,
    "matches": 3,
}


def found(*hits: Json, cursor: str | None = None, waiting: int = 0) -> Json:
    return {"hits": list(hits), "cursor": cursor, "indexing": waiting > 0, "waiting": waiting}


def environment(daemon: SmallDaemon, directory: Path) -> dict[str, str]:
    return home(directory, CRABD_SOCKET=str(daemon.path))


def test_the_match_stands_out_on_a_terminal_and_nothing_commands_it(tmp_path: Path) -> None:
    with (
        small_daemon(tmp_path, session__search=always(found(HIT))) as daemon,
        at_terminal("search", "build", env=environment(daemon, tmp_path)) as terminal,
    ):
        code = terminal.exit_code()

    head, line = terminal.shown.splitlines()
    assert code == 0
    assert head.startswith("crab_user_1  \x1b[1mFix the \\x1b[31mtests\x1b[0m  \x1b[2m")
    assert line.startswith(
        "\x1b[2m    user, step 12: \x1b[0mplease fix the \x1b[1mbuild\x1b[0m of \\x1b[2Jthis"
    )


def test_a_line_fits_a_narrow_terminal(tmp_path: Path) -> None:
    wide = HIT | {"snippet": ["界" * 30, "界界", "x" * 100], "matches": 1}
    with (
        small_daemon(tmp_path, session__search=always(found(wide))) as daemon,
        at_terminal("search", "界", env=environment(daemon, tmp_path) | {"NO_COLOR": "1"}) as terminal,
    ):
        terminal.exit_code()

    _, line = terminal.shown.splitlines()
    assert line == f"    user, step 12: {'界' * 30}…"


def test_into_a_pipe_it_is_plain_and_whole(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__search=always(found(HIT))) as daemon:
        done = crabctl("search", "build", env=environment(daemon, tmp_path))

    assert done.stdout.splitlines()[1] == (
        "    user, step 12: please fix the build of \\x1b[2Jthis build now  (and 2 more)"
    )
    assert done.stderr == ""


def test_words_and_filters_are_passed_on_and_pages_put_together(tmp_path: Path) -> None:
    def search(_peer: Peer, params: Json) -> Any:
        if "cursor" in params:
            return found(*[HIT] * 50, cursor="9.150")
        return found(*[HIT] * 100, cursor="9.100")

    options = ["-a", "crab", "-s", "me", "-t", "x", "-n", "150", "--json", "--", "fix", "-not"]
    with small_daemon(tmp_path, session__search=search) as daemon:
        done = crabctl("search", *options, env=environment(daemon, tmp_path))

    wanted = {"agent": "crab", "sender": "me", "topic": "x", "query": "fix -not"}
    assert daemon.asked == [
        ("session/search", wanted | {"limit": 100}),
        ("session/search", wanted | {"limit": 50, "cursor": "9.100"}),
    ]
    told = json.loads(done.stdout)
    assert (len(told["hits"]), told["cursor"]) == (150, "9.150")


def test_nothing_found_is_no_failure(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__search=always(found())) as daemon:
        done = crabctl("search", "x", env=environment(daemon, tmp_path))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "crabctl: nothing found\n")


def test_that_there_is_more_or_may_be_is_told_beside_it(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__search=always(found(HIT, cursor="1.1", waiting=7))) as daemon:
        done = crabctl("search", "x", env=environment(daemon, tmp_path))

    assert done.stderr.splitlines() == [
        "crabctl: there are more: crabctl search -n N shows so many",
        "crabctl: 7 sessions not indexed yet: search again in a moment",
    ]
