"""What passed between a client and its agent on one link, as ``tee`` has written it down."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

Json = dict[str, Any]
Sender = Literal["client", "agent"]


class Line(Struct, frozen=True):
    """A line as it was on the wire."""

    sender: Sender
    text: str


class Message(Struct, frozen=True):
    """A JSON-RPC message."""

    sender: Sender
    body: Json

    @property
    def method(self) -> str | None:
        """The method of a request or notification; null for an answer."""
        return self.body.get("method")

    @property
    def is_request(self) -> bool:
        """Tell whether it wants an answer."""
        return "method" in self.body and "id" in self.body


def read_transcripts(folder: Path) -> list[list[Message]]:
    """Read the links' transcripts, in the order in which the links began.

    A line is one JSON object, or it is an error here: the protocol knows no arrays and no empty lines.
    """
    decode = msgspec.json.Decoder(Line).decode
    return [
        [_read(decode(line)) for line in file.read_bytes().splitlines()] for file in sorted(folder.iterdir())
    ]


def _read(line: Line) -> Message:
    assert line.text.endswith("\n"), f"half a line: {line.text!r}"
    return Message(line.sender, msgspec.json.decode(line.text, type=Json))
