"""What the answers of all servers have in common: events that hold JSON, errors among them, refusals. Pure.

How a dialect spells its text, its calls and its end is known to its own decoder alone.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TypeVar

import msgspec
from msgspec import Struct

from crabd.errors import ProviderError
from crabd.messages import clean_text
from crabd.providers.base import Chunk, Finished
from crabd.providers.retry import ConnectionLost, kind_of, retry_after
from crabd.providers.sse import EventParser, EventTooLong

T = TypeVar("T")

# What a server says about itself is shown to a person: a sentence or two, not its whole page.
_MAX_PROBLEM_LENGTH = 400
_WORDS_FOR_THE_SILENT = {404: "there is no such page: does base_url end where the API begins (often /v1)?"}
# The statuses that errors inside a stream would have had; other servers send the number itself.
_STATUS_OF_CODE = {
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "server_error": 500,
    "internal_server_error": 500,
    "api_error": 500,
    "service_unavailable": 503,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class Fault(Struct, frozen=True):
    """An error as a server tells it, inside a stream or instead of one."""

    message: str | None = None
    code: int | str | None = None
    type: str | None = None


class _Refusal(Struct):
    error: Fault | str | None = None
    message: str | None = None


class Decoder(ABC):
    """Turn the bytes of an answer into chunks.

    One that is not streamed is for ``whole``. Else call ``feed`` until ``is_finished``, and ``end`` if the
    stream ends before. ``hide`` takes out of an event what nobody may read.
    """

    def __init__(self, provider: str, hide: Callable[[bytes], bytes]) -> None:
        self.provider = provider
        self.is_finished = False
        self._hide = hide
        self._parser = EventParser()

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether the answer is whole, though the server may yet tell the usage."""

    @abstractmethod
    def take(self, payload: bytes) -> Iterable[Chunk]:
        """Give the chunks of one event, and ``Finished`` with the last.

        Raises:
          ProviderError: as ``feed``.
        """

    @abstractmethod
    def finish(self) -> Finished:
        """Make the last chunk of an answer that is complete."""

    @abstractmethod
    def take_whole(self, payload: bytes) -> Iterable[Chunk]:
        """Give the chunks of an answer that comes as one JSON text, all but ``Finished``.

        Raises:
          ProviderError: as ``feed``.
        """

    def whole(self, payload: bytes) -> Iterator[Chunk]:
        """Take an answer that is not streamed and give its chunks, ``Finished`` last.

        Raises:
          ProviderError: the server reports an error, or what it sends makes no sense.
        """
        yield from self.take_whole(self._hide(payload))
        if not self.is_complete:
            problem = "the answer makes no sense: it is JSON, and does not say why it stopped"
            raise ProviderError("bad_reply", problem, provider=self.provider)
        yield self.end()

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Take bytes and give the chunks they complete, ``Finished`` last. To be iterated to its end.

        Raises:
          ProviderError: the server reports an error, or what it sends makes no sense. The chunks before that
            have been given.
        """
        try:
            payloads = self._parser.feed(data)
        except EventTooLong as exc:
            raise ProviderError("bad_reply", str(exc), provider=self.provider) from exc
        for payload in payloads:
            if self.is_finished:
                return
            if payload.strip() == b"[DONE]":
                yield self.end()
            else:
                yield from self.take(self._hide(payload))

    def end(self) -> Finished:
        """Finish with what there is, when the stream ends without saying so.

        Raises:
          ConnectionLost: ``bad_reply``, the answer is not whole.
        """
        if not self.is_complete:
            problem = "the answer was cut off: the stream ended without saying why it stopped"
            raise ConnectionLost("bad_reply", problem, provider=self.provider)
        self.is_finished = True
        return self.finish()


def decode(decoder: msgspec.json.Decoder[T], payload: bytes, provider: str) -> T:
    """Read JSON, also where a character was cut in half.

    Raises:
      ProviderError: ``bad_reply``.
    """
    try:
        return decoder.decode(payload)
    except (ValueError, RecursionError) as exc:
        problem = str(exc)
    # Half a surrogate pair, or half a character, is no reason to lose an answer; the standard library reads
    # both, and what is left to mend is mended in the text.
    try:
        lenient = json.dumps(json.loads(payload.decode(errors="replace")), ensure_ascii=False)
        return decoder.decode(clean_text(lenient).encode())
    except (ValueError, RecursionError) as exc:
        raise ProviderError("bad_reply", f"the answer makes no sense: {problem}", provider=provider) from exc


def error_in_stream(provider: str, error: Fault | str) -> ProviderError:
    """An error that came after the 200 counts as the status it would have had."""
    fault = Fault(message=error) if isinstance(error, str) else error
    code = fault.code or fault.type
    status = _STATUS_OF_CODE.get(str(code)) or _http_status(code)
    words = _cut(fault.message or f"error {code}")
    # Without a status the words decide, as they do with a plain 400.
    return ProviderError(kind_of(status or 400, f"{code} {words}"), words, provider=provider, status=status)


def read_refusal(
    provider: str, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime, key_origin: str
) -> ProviderError:
    """Say what a status other than 200 means, in the server's own words. ``headers`` are in lower case."""
    words = _words(body) or _WORDS_FOR_THE_SILENT.get(status, "the server does not say why")
    kind = kind_of(status, body.decode(errors="replace"))
    if kind == "auth":
        words += f" (the API key is from {key_origin})"
    return ProviderError(
        kind,
        f"{status}: {words}",
        provider=provider,
        status=status,
        retry_after=retry_after(headers, now),
    )


def _http_status(code: int | str | None) -> int | None:
    text = str(code)
    return int(text) if len(text) == 3 and text.isdecimal() else None


def _words(body: bytes) -> str:
    """Find the sentence in the body of a refusal; a page of HTML has none."""
    text = body.decode(errors="replace").strip()
    try:
        found = msgspec.json.decode(body, type=_Refusal)
    except (ValueError, RecursionError):
        return "" if text.startswith("<") else _cut(text)
    fault = found.error
    words = fault.message if isinstance(fault, Fault) else fault
    return _cut(words or found.message or text)


def _cut(text: str) -> str:
    text = clean_text(" ".join(text.split()))
    return text if len(text) <= _MAX_PROBLEM_LENGTH else f"{text[:_MAX_PROBLEM_LENGTH]}…"
