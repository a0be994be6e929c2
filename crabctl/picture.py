"""Pictures: a file becomes the block that shows it, and a block a line that tells of it. Knows no daemon."""

from __future__ import annotations

from binascii import b2a_base64

from crabctl.arguments import UsageError

# Bytes of one that crabd takes, and how many such fit in one message.
MAX_BYTES = 3_750_000
MAX_TOGETHER = 3 * MAX_BYTES
BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


def read_pictures(names: list[str]) -> list[dict[str, str]]:
    """Make blocks of pictures' files. What a file is, its first bytes tell, whatever its name.

    Raises:
      UsageError: one cannot be read, is too large, or no picture that models read; or they are too many.
    """
    blocks = [_read(name) for name in names]
    if sum(_size(block) for block in blocks) > MAX_TOGETHER:
        raise UsageError(
            f"--image: together more than {MAX_TOGETHER / 1e6:g} MB; send them one after the other"
        )
    return blocks


def words_for(block: dict[str, str]) -> str:
    """Tell in a line what the picture of a block is."""
    return f"[picture: {block['media_type']}, {max(_size(block) // 1000, 1)} kB]"


def _read(name: str) -> dict[str, str]:
    # Imported here: what only tells of pictures opens no file.
    from pathlib import Path

    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"--image {name}: {exc.strerror or exc}") from exc
    kind = _kind_of(data)
    if kind is None:
        raise UsageError(f"--image {name}: it is no PNG, JPEG, GIF or WebP; convert it to one of these")
    if len(data) > MAX_BYTES:
        raise UsageError(f"--image {name}: more than {MAX_BYTES / 1e6:g} MB; make the picture smaller")
    return {"type": "image", "media_type": kind, "data": b2a_base64(data, newline=False).decode()}


def _size(block: dict[str, str]) -> int:
    data = block["data"]
    return len(data) * 3 // 4 - data[-2:].count("=")


def _kind_of(data: bytes) -> str | None:
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for beginning, kind in BEGINNINGS.items() if data.startswith(beginning)), None)
