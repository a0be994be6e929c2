"""A follower sees every event once and in order, whatever the link lost on the way."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from crabctl.client import NoDaemon, dial
from crabctl.follow import Follower
from tests.crabctl.small_daemon import Peer, small_daemon

SNAPSHOT: dict[str, Any] = {"info": {"id": "crab_user_1"}, "run": None, "queue": []}


def subscribed(seq: int, replay: str = "complete") -> dict[str, Any]:
    return {"snapshot": SNAPSHOT, "sessions": [], "epoch": "e", "seq": seq, "replay": replay}


def deltas(peer: Peer, *numbers: int) -> None:
    for number in numbers:
        peer.tell(type="text_delta", text=str(number), seq=number)


def follow(path: Path, count: int) -> list[int | str]:
    """Follow for ``count`` events, and name each by its number, a gap that stays by its type."""
    link = dial(str(path))
    assert link is not None
    with link:
        events = Follower(link, "crab_user_1").events()
        return [event["seq"] if event["type"] != "lagged" else "gap" for event in islice(events, count)]


def test_what_the_picture_has_is_not_told_again(tmp_path: Path) -> None:
    def subscribe(peer: Peer, _: dict[str, Any]) -> dict[str, Any]:
        peer.write({"jsonrpc": "2.0", "id": 1, "result": subscribed(4)})
        deltas(peer, 3, 4, 5, 6)
        return {}

    with small_daemon(tmp_path, session__subscribe=subscribe) as daemon:
        assert follow(daemon.path, 2) == [5, 6]


def test_what_was_missed_is_asked_for_again_and_comes_once(tmp_path: Path) -> None:
    def subscribe(peer: Peer, params: dict[str, Any]) -> dict[str, Any]:
        if "after" not in params:
            peer.write({"jsonrpc": "2.0", "id": 1, "result": subscribed(0)})
            deltas(peer, 1)
            peer.tell(type="lagged", seq=3, **{"from": 2, "to": 3})
            deltas(peer, 4)
        else:
            peer.write({"jsonrpc": "2.0", "id": 2, "result": subscribed(4)})
            deltas(peer, 2, 3, 4, 5)
        return {}

    with small_daemon(tmp_path, session__subscribe=subscribe) as daemon:
        assert follow(daemon.path, 5) == [1, 2, 3, 4, 5]
        assert daemon.asked_for("session/subscribe")[1] == {
            "session": "crab_user_1",
            "after": 1,
            "epoch": "e",
        }


def test_what_is_lost_for_good_leaves_a_gap_and_nothing_after_it_is_lost(tmp_path: Path) -> None:
    def subscribe(peer: Peer, params: dict[str, Any]) -> dict[str, Any]:
        if "after" not in params:
            peer.write({"jsonrpc": "2.0", "id": 1, "result": subscribed(0)})
            peer.tell(type="lagged", seq=3, **{"from": 1, "to": 3})
            deltas(peer, 4)
        else:
            peer.write({"jsonrpc": "2.0", "id": 2, "result": subscribed(4, "partial")})
            deltas(peer, 5)
        return {}

    with small_daemon(tmp_path, session__subscribe=subscribe) as daemon:
        assert follow(daemon.path, 3) == ["gap", 4, 5]


def test_the_end_of_the_daemon_ends_it(tmp_path: Path) -> None:
    def subscribe(peer: Peer, _: dict[str, Any]) -> dict[str, Any]:
        peer.write({"jsonrpc": "2.0", "id": 1, "result": subscribed(0)})
        peer.hang_up()
        return {}

    with (
        small_daemon(tmp_path, session__subscribe=subscribe) as daemon,
        pytest.raises(NoDaemon, match="went away"),
    ):
        follow(daemon.path, 1)
