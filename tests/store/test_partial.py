"""The file of a reply that is being streamed."""

from __future__ import annotations

from pathlib import Path

from crabd.messages import AssistantBlock, TextBlock, ThinkingBlock
from crabd.store.base import Partial
from crabd.store.partial import PARTIAL, PartialFile, read_partial


def piece(*content: AssistantBlock, after: int = 3) -> Partial:
    return Partial("r1", after, content)


def test_pieces_are_put_together_and_neighbours_of_a_kind_become_one(tmp_path: Path) -> None:
    file = PartialFile(tmp_path)

    file.write(piece(ThinkingBlock("hm"), TextBlock("a")), is_first=True)
    file.write(piece(TextBlock("b"), after=4), is_first=False)

    assert read_partial(tmp_path) == piece(ThinkingBlock("hm"), TextBlock("ab"))


def test_the_first_piece_of_a_reply_replaces_an_earlier_one(tmp_path: Path) -> None:
    file = PartialFile(tmp_path)
    file.write(piece(TextBlock("a long earlier reply")), is_first=True)

    file.write(piece(TextBlock("new"), after=9), is_first=True)

    assert read_partial(tmp_path) == piece(TextBlock("new"), after=9)


def test_a_torn_piece_is_passed_over(tmp_path: Path) -> None:
    file = PartialFile(tmp_path)
    file.write(piece(TextBlock("whole ")), is_first=True)
    file.write(piece(TextBlock("torn")), is_first=False)
    path = tmp_path / PARTIAL

    path.write_bytes(path.read_bytes()[:-5])

    assert read_partial(tmp_path) == piece(TextBlock("whole "))


def test_there_may_be_nothing(tmp_path: Path) -> None:
    assert read_partial(tmp_path) is None
    (tmp_path / PARTIAL).write_bytes(b"")
    assert read_partial(tmp_path) is None


def test_a_log_that_is_closed_in_order_leaves_none(tmp_path: Path) -> None:
    file = PartialFile(tmp_path)
    file.write(piece(TextBlock("a")), is_first=True)

    file.close()

    assert list(tmp_path.iterdir()) == []
