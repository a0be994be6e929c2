"""The program as people and scripts use it, against a small daemon: what it prints, and how it exits."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from subprocess import PIPE, run
from typing import Any

import pytest

from tests.crabctl.program import PATIENCE, at_terminal, crabctl, home
from tests.crabctl.small_daemon import Failure, Handler, Peer, SmallDaemon, always, small_daemon

SESSION = "crab_user_1"
USAGE_TOTAL = {
    "input_tokens": 2400,
    "output_tokens": 30,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "reasoning_tokens": 0,
    "cost": None,
}
USAGE = {"context_tokens": 1200, "context_window": 8192, "calls": 2, "total": USAGE_TOTAL}
INFO = {
    "id": SESSION,
    "agent": "crab",
    "sender": "user",
    "topic": None,
    "title": "Fix the \x1b[31mtests",
    "state": "idle",
    "active": True,
    "ephemeral": False,
    "cwd": "/src",
    "model": None,
    "parent": None,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "last_run_at": None,
    "message_count": 4,
    "steps": 9,
    "active_seconds": 12.5,
    "queue": 0,
    "usage": USAGE,
    "seq": 0,
}
RESULT = {
    "run": "r1",
    "stop_reason": "end_turn",
    "text": "It is \x1b[1mfine\x1b[0m.",
    "usage": USAGE_TOTAL,
    "persisted": True,
    "first_seq": 1,
    "last_seq": 4,
}
got: Handler = always(INFO | {"created": False})
one_session: Handler = always({"sessions": [INFO], "cursor": None})


def environment(daemon: SmallDaemon, tmp_path: Path) -> dict[str, str]:
    return home(tmp_path, CRABD_SOCKET=str(daemon.path))


def talk(peer: Peer, params: dict[str, Any]) -> dict[str, Any]:
    """Answer a message as an agent does that looks something up first."""
    peer.tell(type="run_started", run="r1", content=[], step=1)
    peer.tell(type="text_start", run="r1")
    peer.tell(type="text_delta", run="r1", text="Let me look.")
    peer.tell(type="text_end", run="r1")
    peer.tell(type="tool_call", run="r1", call="c", name="shell", arguments="{}")
    peer.tell(type="tool_result", run="r1", call="c", name="shell", status="ok", output="x", duration_ms=10)
    peer.tell(type="text_delta", run="r1", text="It is \x1b[1mfine")
    peer.tell(type="text_delta", run="r1", text="\x1b[0m.")
    peer.tell(type="text_end", run="r1")
    return RESULT


def test_a_script_gets_the_final_reply_exactly_and_alone(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__get_or_create=got, session__send=talk) as daemon:
        done = crabctl("send", "how", "is it?", env=environment(daemon, tmp_path))

        assert (done.returncode, done.stdout) == (0, "It is \x1b[1mfine\x1b[0m.\n")
        assert done.stderr == "→ shell {}\n← shell: ok in 0.0 s: x\n"
        assert daemon.asked_for("session/get_or_create") == [
            {"agent": "crab", "sender": "user", "cwd": str(Path.cwd())}
        ]
        assert daemon.asked_for("session/send") == [{"content": "how is it?", "session": SESSION}]


def test_a_person_sees_everything_as_it_comes_and_nothing_dangerous(tmp_path: Path) -> None:
    with (
        small_daemon(tmp_path, session__get_or_create=got, session__send=talk) as daemon,
        at_terminal("send", "hi", env=environment(daemon, tmp_path) | {"NO_COLOR": "1"}) as terminal,
    ):
        code = terminal.exit_code()

    assert code == 0
    assert terminal.shown == (
        "Let me look.\n→ shell {}\n← shell: ok in 0.0 s: x\nIt is \\x1b[1mfine\\x1b[0m.\n"
    )


def test_a_new_session_is_introduced_by_the_model_that_answers(tmp_path: Path) -> None:
    status: Handler = always({"model": {"id": "offline/echo", "why": "no model was found"}})
    created = always(INFO | {"created": True})
    handlers: dict[str, Handler] = {
        "session__get_or_create": created,
        "session__send": talk,
        "daemon__status": status,
        "agent__list": always({"agents": [{"name": "crab", "model": None}], "problems": []}),
    }

    with (
        small_daemon(tmp_path, **handlers) as daemon,
        at_terminal("send", "hi", env=environment(daemon, tmp_path)) as terminal,
    ):
        terminal.exit_code()

    assert terminal.shown.startswith("crabctl: offline/echo answers (no model was found)\n")


def test_json_streams_events_and_ends_with_the_result(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__get_or_create=got, session__send=talk) as daemon:
        done = crabctl("--json", "send", "hi", env=environment(daemon, tmp_path))

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("type") for line in lines[:2]] == ["run_started", "text_start"]
    assert lines[-1] == {"session": SESSION, **RESULT}
    assert done.stdout.isascii()
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "piped", "content"),
    [
        ([], b"from a file\n", "from a file"),
        (["-"], "é\n".encode(), "é"),
        (["explain", "-"], b"x = 1\n", "explain\n\nx = 1"),
        (["--", "-5"], None, "-5"),
    ],
)
def test_text_comes_from_words_and_from_pipes(
    tmp_path: Path, words: list[str], piped: bytes | None, content: str
) -> None:
    with small_daemon(tmp_path, session__get_or_create=got, session__send=talk) as daemon:
        crabctl("send", *words, env=environment(daemon, tmp_path), text=piped)

        assert daemon.asked_for("session/send")[0]["content"] == content


def test_detached_it_prints_session_and_run_and_leaves(tmp_path: Path) -> None:
    accepted = always({"run": "r7", "first_seq": 3, "disposition": "started"})
    with small_daemon(tmp_path, session__send=accepted) as daemon:
        done = crabctl(
            "send",
            "hi",
            "-S",
            SESSION,
            "--detach",
            "--busy",
            "reject",
            "--key",
            "k",
            env=environment(daemon, tmp_path),
        )

        assert (done.returncode, done.stdout) == (0, f"{SESSION} r7\n")
        assert daemon.asked == [
            (
                "session/send",
                {
                    "content": "hi",
                    "when_busy": "reject",
                    "request_key": "k",
                    "session": SESSION,
                    "wait": False,
                },
            )
        ]


@pytest.mark.parametrize(
    ("stop_reason", "code", "said"),
    [("max_tokens", 1, "length limit"), ("error", 1, "the run failed"), ("cancelled", 130, "cancelled")],
)
def test_a_run_that_did_not_finish_is_no_success(
    tmp_path: Path, stop_reason: str, code: int, said: str
) -> None:
    result = always(RESULT | {"stop_reason": stop_reason})
    with small_daemon(tmp_path, session__get_or_create=got, session__send=result) as daemon:
        done = crabctl("send", "hi", env=environment(daemon, tmp_path))

    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == f"{RESULT['text']}\n"


def test_ctrl_c_cancels_the_run_and_shows_how_it_ends(tmp_path: Path) -> None:
    cancelled = threading.Event()

    def send(peer: Peer, _: dict[str, Any]) -> dict[str, Any]:
        peer.tell(type="run_started", run="r1", content=[], step=1)
        peer.tell(type="text_delta", run="r1", text="one two")
        assert cancelled.wait(PATIENCE)
        peer.tell(type="text_delta", run="r1", text=" three")
        return RESULT | {"stop_reason": "cancelled", "text": "one two three"}

    def cancel(_: Peer, params: dict[str, Any]) -> dict[str, Any]:
        cancelled.set()
        return {"run": params["run"], "stop_reason": "cancelled"}

    with (
        small_daemon(
            tmp_path, session__get_or_create=got, session__send=send, session__cancel=cancel
        ) as daemon,
        at_terminal("send", "count", env=environment(daemon, tmp_path)) as terminal,
    ):
        terminal.wait_for("one two")
        terminal.interrupt()
        code = terminal.exit_code()

        assert daemon.asked_for("session/cancel") == [{"session": SESSION, "run": "r1"}]
    assert code == 130
    assert terminal.shown == "one two three\ncrabctl: the run was cancelled\n"


def test_ctrl_c_twice_leaves_at_once(tmp_path: Path) -> None:
    asked, released = threading.Event(), threading.Event()

    def send(peer: Peer, _: dict[str, Any]) -> dict[str, Any]:
        peer.tell(type="run_started", run="r1", content=[], step=1)
        peer.tell(type="text_delta", run="r1", text="one two")
        released.wait(PATIENCE)
        return RESULT

    def cancel(_: Peer, __: dict[str, Any]) -> dict[str, Any]:
        asked.set()
        released.wait(PATIENCE)
        return {}

    with (
        small_daemon(
            tmp_path, session__get_or_create=got, session__send=send, session__cancel=cancel
        ) as daemon,
        at_terminal("send", "count", env=environment(daemon, tmp_path)) as terminal,
    ):
        terminal.wait_for("one two")
        terminal.interrupt()
        assert asked.wait(PATIENCE)
        terminal.interrupt()
        code = terminal.exit_code()
        released.set()

    assert code == 130


def test_a_reply_with_gaps_is_shown_again_in_full(tmp_path: Path) -> None:
    def send(peer: Peer, _: dict[str, Any]) -> dict[str, Any]:
        peer.tell(type="text_delta", run="r1", text="It ")
        peer.tell(type="lagged", **{"from": 2, "to": 3})
        return RESULT | {"text": "It is fine."}

    with (
        small_daemon(tmp_path, session__get_or_create=got, session__send=send) as daemon,
        at_terminal("send", "hi", env=environment(daemon, tmp_path)) as terminal,
    ):
        terminal.exit_code()

    assert terminal.shown.endswith("in full:\nIt is fine.\n")


def test_attach_goes_on_from_the_reply_so_far_to_the_end(tmp_path: Path) -> None:
    reply = {"role": "assistant", "content": [{"type": "text", "text": "one "}], "partial": True}
    picture: dict[str, Any] = {"run": "r1", "round": 1, "reply": reply, "open_calls": []}
    snapshot: dict[str, Any] = {"info": INFO, "run": picture, "queue": []}

    def subscribe(peer: Peer, _: dict[str, Any]) -> dict[str, Any]:
        subscribed: dict[str, Any] = {
            "snapshot": snapshot,
            "sessions": [],
            "epoch": "e",
            "seq": 5,
            "replay": "complete",
        }
        peer.write({"jsonrpc": "2.0", "id": 1, "result": subscribed})
        peer.tell(type="run_ended", run="r2", seq=6, stop_reason="cancelled", usage={}, persisted=True)
        peer.tell(type="text_delta", run="r1", seq=7, text="two")
        peer.tell(type="run_ended", run="r1", seq=8, stop_reason="end_turn", usage={}, persisted=True)
        return {}

    with small_daemon(tmp_path, session__subscribe=subscribe) as daemon:
        done = crabctl("attach", SESSION, env=environment(daemon, tmp_path))

    assert (done.returncode, done.stdout, done.stderr) == (0, "one two\n", "")


def test_attach_with_no_run_going_shows_the_last_reply(tmp_path: Path) -> None:
    snapshot: dict[str, Any] = {"info": INFO, "run": None, "queue": []}
    subscribed: dict[str, Any] = {
        "snapshot": snapshot,
        "sessions": [],
        "epoch": "e",
        "seq": 5,
        "replay": "complete",
    }
    message = {"role": "assistant", "content": [{"type": "text", "text": "It was fine."}]}
    page = {
        "messages": [{"step": 2, "run": "r1", "at": "2026-01-01T00:00:00Z", "message": message}],
        "next": None,
    }

    with small_daemon(
        tmp_path, session__subscribe=always(subscribed), session__history=always(page)
    ) as daemon:
        done = crabctl("attach", SESSION, env=environment(daemon, tmp_path))

    assert (done.returncode, done.stdout) == (0, "It was fine.\n")
    assert "no run is going" in done.stderr


def test_a_followed_log_goes_from_the_past_to_the_events_without_a_repetition(tmp_path: Path) -> None:
    at = {"run": "r1", "at": "2026-01-01T00:00:00Z"}
    user = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    reply = {"role": "assistant", "content": [{"type": "text", "text": "one "}], "partial": True}
    newer = {"role": "assistant", "content": [{"type": "text", "text": "one two"}]}
    picture: dict[str, Any] = {"run": "r1", "round": 1, "reply": reply, "open_calls": []}
    page = {
        "messages": [at | {"step": 9, "message": user}, at | {"step": 10, "message": newer}],
        "next": None,
    }

    def subscribe(peer: Peer, _: dict[str, Any]) -> dict[str, Any]:
        subscribed: dict[str, Any] = {
            "snapshot": {"info": INFO, "run": picture, "queue": []},
            "sessions": [],
            "epoch": "e",
            "seq": 5,
            "replay": "complete",
        }
        peer.write({"jsonrpc": "2.0", "id": 1, "result": subscribed})
        peer.tell(type="text_delta", run="r1", seq=6, text="two")
        peer.tell(type="run_ended", run="r1", seq=7, stop_reason="cancelled", usage={}, persisted=True)
        peer.tell(type="run_started", run="r2", seq=8, step=11, content=[{"type": "text", "text": "more"}])
        peer.tell(type="session_closed", seq=9, reason="deleted")
        return {}

    with small_daemon(tmp_path, session__subscribe=subscribe, session__history=always(page)) as daemon:
        done = crabctl("log", "-f", SESSION, env=environment(daemon, tmp_path) | {"TZ": "UTC"})

    assert done.returncode == 0
    assert done.stdout == (
        "── user  2026-01-01 00:00:00  #9\nhi\n\none two\nthe run was cancelled\n"
        "── user  2026-01-01 00:00:00  #11\nmore\n\nthe session was deleted\n"
    )


def test_ls_behind_a_pipe_is_whole_and_harmless(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__list=one_session) as daemon:
        done = crabctl("ls", env=environment(daemon, tmp_path))

    header, line = done.stdout.splitlines()
    assert header.split() == ["ID", "STATE", "TITLE", "MESSAGES", "LAST", "USED"]
    assert line.startswith("crab_user_1  idle*  Fix the \\x1b[31mtests  4 ")


def test_ls_all_goes_through_every_page(tmp_path: Path) -> None:
    def page(_: Peer, params: dict[str, Any]) -> dict[str, Any]:
        last = params.get("cursor") == "2"
        return {"sessions": [INFO], "cursor": None if last else "2"}

    with small_daemon(tmp_path, session__list=page) as daemon:
        some = crabctl("ls", "--json", "-n", "1", env=environment(daemon, tmp_path))
        every = crabctl("ls", "--json", "--all", env=environment(daemon, tmp_path))

    assert json.loads(some.stdout) == {"sessions": [INFO], "cursor": "2"}
    assert json.loads(every.stdout) == {"sessions": [INFO, INFO], "cursor": None}


def test_pictures_are_sent_before_the_text_that_is_piped_in_or_alone(tmp_path: Path) -> None:
    for name, data in (("a.png", b"\x89PNG\r\n\x1a\n"), ("b.gif", b"GIF89a")):
        (tmp_path / name).write_bytes(data)
    first = ("--image", str(tmp_path / "a.png"))
    second = ("--image", str(tmp_path / "b.gif"))
    queued = always({"steer": "r1.s1", "run": "r1", "status": "queued", "position": 1})
    blocks = [
        {"type": "image", "media_type": "image/png", "data": "iVBORw0KGgo="},
        {"type": "image", "media_type": "image/gif", "data": "R0lGODlh"},
        {"type": "text", "text": "what is it?"},
    ]
    with small_daemon(
        tmp_path, session__get_or_create=got, session__send=talk, session__steer=queued
    ) as daemon:
        env = environment(daemon, tmp_path)

        sent = crabctl("send", *first, *second, env=env, text=b"what is it?\n")
        steered = crabctl("steer", SESSION, *first, env=env)
        refused = crabctl("send", "--image", __file__, "what is it?", env=env)

        assert daemon.asked_for("session/send") == [{"content": blocks, "session": SESSION}]
        assert daemon.asked_for("session/steer") == [{"content": blocks[:1], "session": SESSION}]
    assert (sent.returncode, steered.returncode, refused.returncode) == (0, 0, 2)
    assert "convert it" in refused.stderr


def test_the_log_is_readable_and_harmless(tmp_path: Path) -> None:
    at = {"step": 1, "run": "r1", "at": "2026-01-01T00:00:00Z"}
    call = {"type": "tool_call", "id": "c", "name": "shell", "arguments": "{}"}
    picture = {"type": "image", "media_type": "image/png", "data": "AAAA" * 1000}
    page = {
        "messages": [
            at | {"message": {"role": "user", "content": [picture, {"type": "text", "text": "hi"}]}},
            at | {"message": {"role": "assistant", "content": [{"type": "text", "text": "\x07ok"}, call]}},
            at
            | {"message": {"role": "tool", "call": "c", "name": "shell", "output": "a\nb", "status": "ok"}},
        ],
        "next": None,
    }
    with small_daemon(tmp_path, session__history=always(page)) as daemon:
        done = crabctl("log", SESSION, "-n", "3", env=environment(daemon, tmp_path) | {"TZ": "UTC"})

        assert daemon.asked_for("session/history") == [{"session": SESSION, "limit": 3}]
    assert done.stdout == (
        "── user  2026-01-01 00:00:00  #1\n[picture: image/png, 3 kB]\nhi\n\n"
        "── assistant  2026-01-01 00:00:00  #1\n\\x07ok\n  → shell {}\n\n"
        "  ← shell: ok\n  a\n  b\n\n"
    )


def test_a_session_is_found_by_its_identity_and_never_made_by_looking(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__list=always({"sessions": [], "cursor": None})) as daemon:
        done = crabctl("show", "-a", "scout", "-s", "cron", env=environment(daemon, tmp_path))

        assert daemon.asked == [("session/list", {"agent": "scout", "sender": "cron", "limit": 200})]
    assert done.returncode == 4
    assert done.stderr == "crabctl: cron has no session with scout\n  next: crabctl ls\n"


def test_the_active_session_is_the_identitys(tmp_path: Path) -> None:
    sessions = [INFO | {"id": "crab_user_9", "active": False}, INFO]
    handlers: dict[str, Handler] = {
        "session__list": always({"sessions": sessions, "cursor": None}),
        "session__pause": always(INFO | {"state": "paused"}),
    }
    with small_daemon(tmp_path, **handlers) as daemon:
        done = crabctl("pause", env=environment(daemon, tmp_path))

        assert daemon.asked_for("session/pause") == [{"session": SESSION}]
    assert done.returncode == 0


def test_settings_are_given_as_key_and_value(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__configure=always(INFO)) as daemon:
        done = crabctl(
            "set", SESSION, "title=a = b", "thinking=on", "model=", env=environment(daemon, tmp_path)
        )

        assert daemon.asked_for("session/configure") == [
            {"session": SESSION, "title": "a = b", "thinking": True, "model": None}
        ]
    assert done.returncode == 0


def test_limits_of_a_budget_are_set_one_by_one(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__configure=always(INFO)) as daemon:
        env = environment(daemon, tmp_path)
        done = crabctl("set", SESSION, "budget.cost=2.5", "budget.tokens=1_000", "budget.rounds=", env=env)
        crabctl("set", SESSION, "budget=", env=env)
        wrong = [
            crabctl("set", SESSION, word, env=env) for word in ("budget.cost=-1", "budget=5", "budget.x=1")
        ]

        assert daemon.asked_for("session/configure") == [
            {"session": SESSION, "budget": {"cost": 2.5, "tokens": 1000, "rounds": None}},
            {"session": SESSION, "budget": None},
        ]
    assert (done.returncode, done.stdout) == (
        0,
        f"{SESSION}: set budget.cost, budget.tokens, budget.rounds\n",
    )
    assert [each.returncode for each in wrong] == [2, 2, 2]


def test_usage_of_a_session_tells_what_is_not_known_and_what_is_left(tmp_path: Path) -> None:
    limits = {
        "limits": {"tokens": 2000, "cost": 2.5},
        "tokens": 1250,
        "cost": None,
        "rounds": 2,
        "seconds": 3.0,
        "unpriced": 2,
    }
    usage = USAGE | {"unpriced": 1, "estimated": 1}
    used: dict[str, Any] = {
        "session": SESSION,
        "usage": usage,
        "runs": 2,
        "active_seconds": 3.0,
        "sessions": 1,
        "shares": [],
        "budget": limits,
    }
    with small_daemon(tmp_path, session__usage=always(used)) as daemon:
        done = crabctl("usage", SESSION, env=environment(daemon, tmp_path))

        assert daemon.asked_for("session/usage") == [{"session": SESSION}]
    assert "the tokens of 1 call: nobody told them" in done.stdout
    assert "budget       tokens: 1 250 of 2 000\n" in done.stdout
    assert "cost: unknown of 2.5000 USD\n" in done.stdout
    assert "the 2 calls of unknown price" in done.stdout


def test_usage_of_all_sessions_is_shared_out_with_a_line_for_all(tmp_path: Path) -> None:
    total: dict[str, Any] = {**USAGE_TOTAL}
    shares = [
        {"key": "m/a", "usage": total | {"cost": 0.5}, "calls": 3, "unpriced": 1, "estimated": 0},
        {"key": "m/b", "usage": total, "calls": 1, "unpriced": 1, "estimated": 1},
    ]
    used: dict[str, Any] = {
        "session": None,
        "usage": USAGE | {"total": total | {"cost": 0.5}, "unpriced": 2, "estimated": 1},
        "runs": 2,
        "active_seconds": 3.0,
        "sessions": 2,
        "shares": [share | {"sessions": 2, "duration_ms": 9} for share in shares],
    }
    with small_daemon(tmp_path, session__usage=always(used)) as daemon:
        env = environment(daemon, tmp_path)
        done = crabctl("usage", "--by", "model", "-a", "crab", env=env)
        wrong = crabctl("usage", "--by", "week", env=env)

        assert daemon.asked_for("session/usage") == [{"agent": "crab", "by": "model"}]
    header, dear, unknown, all_ = done.stdout.splitlines()
    assert header.split()[0] == "MODEL"
    assert dear.endswith("> 0.5000 USD")
    assert (unknown.split()[0], unknown.endswith("unknown")) == ("m/b", True)
    assert all_.split()[:2] == ["all", "2"]
    assert "the tokens are estimated" in done.stderr
    assert wrong.returncode == 2


@pytest.mark.parametrize(("typed", "is_removed"), [("y\n", True), ("\n", False)])
def test_rm_asks_a_person_first(tmp_path: Path, typed: str, is_removed: bool) -> None:
    handlers: dict[str, Handler] = {
        "session__get": always({"info": INFO, "run": None, "queue": []}),
        "session__delete": always({"deleted": True}),
    }
    with (
        small_daemon(tmp_path, **handlers) as daemon,
        at_terminal("rm", SESSION, env=environment(daemon, tmp_path)) as terminal,
    ):
        terminal.wait_for("[y/N]")
        terminal.type(typed)
        code = terminal.exit_code()

        assert bool(daemon.asked_for("session/delete")) is is_removed
    assert code == (0 if is_removed else 1)


def test_rm_asks_nothing_about_a_session_that_may_be_gone_by_the_same_command(tmp_path: Path) -> None:
    def gone(_: Peer, __: dict[str, Any]) -> None:
        raise Failure(-32002, "there is no session", kind="not_found", what="session", name=SESSION)

    handlers: dict[str, Handler] = {"session__get": gone, "session__delete": always({"deleted": True})}
    with small_daemon(tmp_path, **handlers) as daemon:
        with at_terminal("rm", SESSION, "--key", "k", env=environment(daemon, tmp_path)) as terminal:
            with_key = terminal.exit_code()
        with at_terminal("rm", SESSION, env=environment(daemon, tmp_path)) as terminal:
            without = terminal.exit_code()

        assert daemon.asked_for("session/delete") == [{"session": SESSION, "request_key": "k"}]
    assert (with_key, without) == (0, 4)


COMPACTED = {"archive": "a", "summary": "s", "usage_before": 2, "usage_after": 1, "stop_reason": "end_turn"}


def test_a_compaction_that_somebody_cancels_is_no_success(tmp_path: Path) -> None:
    cancelled = {
        "archive": "",
        "summary": "",
        "usage_before": 2,
        "usage_after": 2,
        "stop_reason": "cancelled",
    }
    with small_daemon(tmp_path, session__compact=always(cancelled)) as daemon:
        done = crabctl("compact", SESSION, env=environment(daemon, tmp_path))

    assert (done.returncode, done.stdout) == (130, "")
    assert "nothing was changed" in done.stderr


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["steer", SESSION, "faster"], "session/steer"),
        (["compact", SESSION], "session/compact"),
        (["rm", SESSION], "session/delete"),
    ],
)
def test_a_command_that_may_be_repeated_has_a_key_and_names_its_session(
    tmp_path: Path, words: list[str], method: str
) -> None:
    handlers: dict[str, Handler] = {
        "session__steer": always({"steer": "r1.s1", "run": "r1", "status": "queued", "position": 1}),
        "session__compact": always(COMPACTED),
        "session__delete": always({"deleted": True}),
    }
    with small_daemon(tmp_path, session__list=one_session, **handlers) as daemon:
        done = crabctl(*words, "--key", "k", env=environment(daemon, tmp_path))
        unnamed = [word for word in words if word != SESSION] + ["-y"] * (words[0] == "rm")
        vague = crabctl(*unnamed, "--key", "k", env=environment(daemon, tmp_path))

        assert [params["request_key"] for params in daemon.asked_for(method)] == ["k"]
    assert done.returncode == 0
    assert (vague.returncode, "--key needs the session's ID" in vague.stderr) == (2, True)


def test_a_message_that_is_repeated_goes_to_the_session_of_the_first(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__get_or_create=got, session__send=talk) as daemon:
        crabctl("send", "hi", "--key", "k", env=environment(daemon, tmp_path))

        assert [params["request_key"] for _, params in daemon.asked] == ["k (session)", "k"]


def test_rm_in_a_script_needs_an_id_or_y(tmp_path: Path) -> None:
    with small_daemon(
        tmp_path, session__list=one_session, session__delete=always({"deleted": True})
    ) as daemon:
        vague = crabctl("rm", env=environment(daemon, tmp_path))
        sure = crabctl("rm", "-y", env=environment(daemon, tmp_path))
        exact = crabctl("rm", SESSION, env=environment(daemon, tmp_path))

        assert len(daemon.asked_for("session/delete")) == 2
    assert (vague.returncode, sure.returncode, exact.returncode) == (2, 0, 0)


@pytest.mark.parametrize(
    ("code", "kind", "exit_code", "step"),
    [
        (-32602, "invalid_params", 2, ""),
        (-32601, "method_not_found", 2, ""),
        (-32002, "not_found", 4, "crabctl ls"),
        (-32003, "paused", 5, "crabctl resume crab_user_1"),
        (-32005, "busy", 1, "crabctl attach crab_user_1"),
        (-32001, "overloaded", 1, ""),
    ],
)
def test_an_error_is_a_sentence_a_next_step_and_an_exit_code(
    tmp_path: Path, code: int, kind: str, exit_code: int, step: str
) -> None:
    def refuse(_: Peer, __: dict[str, Any]) -> None:
        raise Failure(code, "it \x1b did not work", kind=kind, what="session", session=SESSION)

    with small_daemon(tmp_path, session__get=refuse) as daemon:
        told = crabctl("show", SESSION, env=environment(daemon, tmp_path))
        wire = crabctl("show", SESSION, "--json", env=environment(daemon, tmp_path))

    first, *rest = told.stderr.splitlines()
    assert (told.returncode, told.stdout, first) == (exit_code, "", "crabctl: it \\x1b did not work")
    assert step in "".join(rest)
    assert (wire.returncode, wire.stderr) == (exit_code, "")
    assert json.loads(wire.stdout) == {
        "error": {
            "code": code,
            "message": "it \x1b did not work",
            "data": {"kind": kind, "what": "session", "session": SESSION},
        }
    }


def test_any_method_can_be_called(tmp_path: Path) -> None:
    echo: Handler = lambda _, params: {"got": params}  # noqa: E731  # a name for the table
    with small_daemon(tmp_path, a__b=echo) as daemon:
        given = crabctl("call", "a/b", '{"x": "é"}', env=environment(daemon, tmp_path))
        piped = crabctl("call", "a/b", "-", env=environment(daemon, tmp_path), text=b'{"y": 2}')
        wrong = crabctl("call", "a/b", "{x}", env=environment(daemon, tmp_path))

    assert given.stdout == '{"got":{"x":"\\u00e9"}}\n'
    assert piped.stdout == '{"got":{"y":2}}\n'
    assert (wrong.returncode, wrong.stderr.split(":")[1]) == (2, " the parameters are not JSON")


@pytest.mark.parametrize("words", [[], ["help"], ["help", "send"], ["send", "--help"], ["--version"]])
def test_help_and_version_need_no_daemon(tmp_path: Path, words: list[str]) -> None:
    done = crabctl(*words, env=home(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    assert "crabctl" in done.stdout


def test_without_a_daemon_and_without_starting_one_the_exit_code_tells(tmp_path: Path) -> None:
    told = crabctl("status", "--no-start", env=home(tmp_path))
    wire = crabctl("status", "--no-start", "--json", env=home(tmp_path))
    stop = crabctl("stop", env=home(tmp_path))

    assert (told.returncode, told.stderr) == (3, "crabctl: crabd is not running: crabctl start\n")
    assert (wire.returncode, json.loads(wire.stdout)["error"]["data"]) == (3, {"kind": "no_daemon"})
    assert (stop.returncode, stop.stdout) == (0, "crabd is not running\n")


def test_a_reader_that_leaves_early_ends_it_quietly(tmp_path: Path) -> None:
    many = always({"sessions": [INFO | {"title": "x" * 1000}] * 500, "cursor": None})
    with small_daemon(tmp_path, session__list=many) as daemon:
        done = run(
            ["bash", "-c", f"{sys.executable} -m crabctl ls | head -n 1; echo ${{PIPESTATUS[0]}}"],
            env=environment(daemon, tmp_path),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    assert done.stdout.splitlines()[1] == "141"
    assert done.stderr == ""


def test_output_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    with small_daemon(tmp_path, session__list=one_session) as daemon, Path("/dev/full").open("wb") as full:
        done = run(
            [sys.executable, "-m", "crabctl", "ls"],
            env=environment(daemon, tmp_path),
            stdout=full,
            stderr=PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    assert (done.returncode, done.stderr) == (1, "crabctl: [Errno 28] No space left on device\n")


def test_a_locale_without_the_letters_does_not_cost_the_reply(tmp_path: Path) -> None:
    with small_daemon(
        tmp_path, session__get_or_create=got, session__send=always(RESULT | {"text": "naïve 漢"})
    ) as daemon:
        done = crabctl("send", "hi", env=environment(daemon, tmp_path) | {"PYTHONIOENCODING": "ascii"})

    assert (done.returncode, done.stdout) == (0, "na\\xefve \\u6f22\n")


def test_a_plain_call_imports_nothing_that_is_slow(tmp_path: Path) -> None:
    slow = (
        "msgspec trio httpx sqlite3 structlog typing platformdirs argparse subprocess datetime pathlib socket"
    )
    script = (
        "import sys; from crabctl.__main__ import main; main(['ls', '--json']); "
        f"print(*sorted(set({slow!r}.split()) & set(sys.modules)), file=sys.stderr)"
    )
    with small_daemon(tmp_path, session__list=one_session) as daemon:
        done = run(
            [sys.executable, "-c", script],
            env=environment(daemon, tmp_path),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )

    assert done.stderr == "\n"
