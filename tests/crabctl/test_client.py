"""A link over a real socket: answers, notifications, and every way it can end."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crabctl.client import Link, NoDaemon, RemoteError, dial
from tests.crabctl.small_daemon import PATIENCE, Failure, Peer, always, small_daemon


@contextmanager
def linked(path: Path) -> Generator[Link]:
    link = dial(str(path))
    assert link is not None
    with link:
        yield link


def test_a_call_returns_the_result_and_drops_notifications(tmp_path: Path) -> None:
    def handler(peer: Peer, params: dict[str, Any]) -> dict[str, Any]:
        peer.tell(type="text_delta", text="x")
        return {"echo": params}

    with small_daemon(tmp_path, a__b=handler) as daemon, linked(daemon.path) as link:
        result = link.call("a/b", {"text": "é\u2028\n"})

        assert result == {"echo": {"text": "é\u2028\n"}}


def test_notifications_come_in_order_before_the_result(tmp_path: Path) -> None:
    def handler(peer: Peer, _: dict[str, Any]) -> str:
        for at in range(1000):
            peer.tell(type="text_delta", text=str(at) * 100)
        return "done"

    with small_daemon(tmp_path, a__b=handler) as daemon, linked(daemon.path) as link:
        events = link.follow(link.post("a/b", {}))
        texts: list[str] = []
        while True:
            try:
                texts.append(next(events)["text"])
            except StopIteration as end:
                result = end.value
                break

        assert texts == [str(at) * 100 for at in range(1000)]
        assert result == "done"


def test_answers_may_come_out_of_order(tmp_path: Path) -> None:
    second_answered = threading.Event()

    def first(_: Peer, __: dict[str, Any]) -> str:
        assert second_answered.wait(PATIENCE)
        return "first"

    with (
        small_daemon(tmp_path, first=first, second=always("second")) as daemon,
        linked(daemon.path) as link,
    ):
        request = link.post("first", {})
        second = link.call("second", {})
        second_answered.set()
        with pytest.raises(StopIteration) as end:
            next(link.follow(request))

    assert (second, end.value.value) == ("second", "first")


def test_an_error_keeps_its_code_and_facts(tmp_path: Path) -> None:
    def handler(_: Peer, __: dict[str, Any]) -> None:
        raise Failure(-32002, "there is no session 'x'", kind="not_found", what="session")

    with (
        small_daemon(tmp_path, a__b=handler) as daemon,
        linked(daemon.path) as link,
        pytest.raises(RemoteError) as raised,
    ):
        link.call("a/b", {})

    assert (raised.value.code, raised.value.message) == (-32002, "there is no session 'x'")
    assert raised.value.data == {"kind": "not_found", "what": "session"}


def test_a_daemon_that_goes_away_is_said_so(tmp_path: Path) -> None:
    def handler(peer: Peer, _: dict[str, Any]) -> None:
        peer.hang_up()

    with (
        small_daemon(tmp_path, a__b=handler) as daemon,
        linked(daemon.path) as link,
        pytest.raises(NoDaemon, match="went away"),
    ):
        link.call("a/b", {})


def test_a_daemon_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    released = threading.Event()

    def handler(_: Peer, __: dict[str, Any]) -> None:
        released.wait(PATIENCE)

    with small_daemon(tmp_path, a__b=handler) as daemon, linked(daemon.path) as link:
        with pytest.raises(NoDaemon, match="does not answer"):
            link.call("a/b", {}, limit=0.05)
        released.set()


def test_the_answer_to_a_request_that_was_cut_off_is_still_read(tmp_path: Path) -> None:
    """A daemon that refuses a message for its size answers and hangs up before it has read it all."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    theirs.sendall(b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "too big"}}\n')
    theirs.close()

    with Link(ours), pytest.raises(RemoteError, match="too big"):
        Link(ours).call("a/b", {})


def test_nobody_there_is_not_an_error(tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stale))

    assert dial(str(stale)) is None
    assert dial(str(tmp_path / "none")) is None


def test_a_path_that_cannot_be_one_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="cannot connect to"):
        dial(str(tmp_path / ("x" * 200)))


def test_whoever_does_not_speak_json_is_recognised(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n")

    with theirs, Link(ours) as link, pytest.raises(NoDaemon, match="does not speak JSON-RPC"):
        link.call("a/b", {})


def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(0)
    first = socket.socket(socket.AF_UNIX)
    first.connect(str(path))
    accepted: list[socket.socket] = []

    def accept_two() -> None:
        accepted.extend(listener.accept()[0] for _ in range(2))

    with listener, first, linked_when(accept_two, path) as link:
        assert repr(link) == "<Link 0 requests, 0 bytes unread>"
    for sock in accepted:
        sock.close()


@contextmanager
def linked_when(accept: Any, path: Path) -> Generator[Link]:
    """Connect while somebody begins to accept only after the first try has found the backlog full."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        with pytest.raises(BlockingIOError):
            probe.connect(str(path))
    thread = threading.Thread(target=accept)
    dialling = threading.Timer(0.1, thread.start)
    dialling.start()
    with linked(path) as link:
        yield link
    dialling.join(PATIENCE)
    thread.join(PATIENCE)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can listen as somebody else")
def test_a_socket_of_another_user_is_not_talked_to(tmp_path: Path) -> None:
    path = tmp_path / "s"
    read, write = os.pipe()
    tmp_path.chmod(0o777)
    child = os.fork()
    if child == 0:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o777)
        os.setresuid(65534, 65534, 65534)
        listener.listen(1)
        os.write(write, b"ready")
        threading.Event().wait(PATIENCE)
        os._exit(0)
    try:
        assert os.read(read, 5) == b"ready"

        with pytest.raises(NoDaemon, match="belongs to another user"):
            dial(str(path))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
