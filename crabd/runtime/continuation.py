"""An answer that may be given in pieces: what to ask for when a stream breaks off in its middle. Pure.

A stream that breaks before its first chunk is the provider's to ask for again; from then on only somebody who
has the partial answer can. Nothing of this enters the history: there the pieces are one reply.
"""

from __future__ import annotations

from msgspec import structs

from crabd.errors import ProviderError
from crabd.messages import AssistantMessage, TextBlock, user_text
from crabd.providers.base import Chunk, Finished, ModelRequest, TextChunk, ToolCallChunk

# A server that breaks off more often in one answer will not finish it.
MAX_CONTINUATIONS = 3
GO_ON = (
    "[Your answer was cut off by a fault of the connection. Go on exactly where it ends: repeat nothing, "
    "explain nothing, begin in mid-sentence if it ends there.]"
)
# More of the same would not help.
_FINAL = ("auth", "context_too_long", "left_alone")


class Continuation:
    """One answer, over as many streams as it takes. ``request`` is the one to ask next."""

    def __init__(self, request: ModelRequest) -> None:
        self.request = request
        self._first = request
        self._text: list[str] = []
        self._calls: list[Chunk] = []
        self._has_begun = False
        self._continued = 0

    def take(self, chunk: Chunk) -> list[Chunk]:
        """Take the next chunk, and give those that hold whatever comes.

        A tool call that is not whole cannot be gone on with, so calls are held back until the end: nobody is
        told of them before it anyway.
        """
        self._has_begun = True
        match chunk:
            case ToolCallChunk():
                self._calls.append(chunk)
                return []
            case Finished():
                return [*self._calls, chunk]
            case TextChunk(text=text):
                self._text.append(text)
                return [chunk]
            case _:
                return [chunk]

    def go_on_after(self, error: ProviderError) -> bool:
        """Make the request for the rest of the answer; false when there is no sense in asking.

        A stream has to bring something each time. Without any text the whole answer is asked for again.
        """
        if not self._has_begun or error.kind in _FINAL or self._continued >= MAX_CONTINUATIONS:
            return False
        self._continued += 1
        self._has_begun = False
        self._calls.clear()
        text = "".join(self._text)
        if text.strip():
            so_far = AssistantMessage((TextBlock(text),), partial=True)
            messages = (*self._first.messages, so_far, user_text(GO_ON))
            self.request = structs.replace(self._first, messages=messages)
        return True
