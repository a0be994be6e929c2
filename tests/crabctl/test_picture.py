"""Pictures on the command line: what is taken, what is refused, and how one is told in words."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from crabctl.arguments import UsageError
from crabctl.picture import MAX_BYTES, read_pictures, words_for
from crabd import messages

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("beginning", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "image/webp"),
    ],
)
def test_a_picture_is_what_its_first_bytes_say(tmp_path: Path, beginning: bytes, media_type: str) -> None:
    file = tmp_path / "picture.txt"
    file.write_bytes(beginning + b"rest")

    (block,) = read_pictures([str(file)])

    assert (block["type"], block["media_type"]) == ("image", media_type)
    assert b64decode(block["data"]) == beginning + b"rest"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no PNG"),
        (b"RIFF\x24\x00\x00\x00WAVE", "no PNG"),
        (b"<svg/>", "convert it"),
        (PNG.ljust(MAX_BYTES + 1), "make the picture smaller"),
    ],
)
def test_what_models_do_not_read_is_refused_with_advice(tmp_path: Path, data: bytes, problem: str) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(data)

    with pytest.raises(UsageError, match=problem):
        read_pictures([str(file)])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.png: No such file"):
        read_pictures([str(tmp_path / "nothing.png")])


def test_more_than_fits_in_a_message_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(PNG.ljust(MAX_BYTES))

    assert len(read_pictures([str(file)] * 3)) == 3
    with pytest.raises(UsageError, match="one after the other"):
        read_pictures([str(file)] * 4)


@pytest.mark.parametrize("size", [1, 999, 1999, 2000, 2001, 2002, MAX_BYTES])
def test_crabctl_tells_of_a_picture_as_the_daemon_does(size: int) -> None:
    data = bytes(size)
    block = {"type": "image", "media_type": "image/png", "data": b64encode(data).decode()}

    told = words_for(block)

    assert told == messages.words_for(messages.ImageBlock("image/png", data))
    assert messages.MAX_IMAGE == MAX_BYTES
