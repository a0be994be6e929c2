"""What a failed answer means, and whether to ask again. It neither asks nor waits.

Whoever adds a server: what its statuses and headers mean belongs here, how its bodies are spelled does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from crabd.errors import ProviderError

if TYPE_CHECKING:
    from crabd.errors import ProviderErrorKind

MAX_TRIES = 3
# A longer wait is for a person to decide upon; the error says how long the server asked for.
MAX_WAIT = 30.0
# The first wait, doubled with every try: about the time in which a load balancer finds another machine.
_FIRST_WAIT = 0.5

# 529 is what several servers say when they are overloaded.
_WORTH_RETRYING = frozenset({408, 429, 500, 502, 503, 504, 529})
_KIND_OF_STATUS: dict[int, ProviderErrorKind] = {
    401: "auth",
    403: "auth",
    408: "unavailable",
    429: "rate_limited",
}
# The statuses with which servers refuse a conversation for its length; llama.cpp has used 500 for it.
_MAY_BE_TOO_LONG = frozenset({400, 413, 422, 500})
# What they say then. Each has been said by a server; a limit of tokens a minute must not match.
_TOO_LONG = re.compile(
    # OpenAI and whoever copies it, llama.cpp, Ollama, OpenRouter, Mistral, LM Studio, MiniMax, Z.ai
    r"context.?(length|window|size|limit|overflow)|maximum context|exceed_context_size"
    # Anthropic, Bedrock, xAI, vLLM, GitHub
    r"|(prompt|input) is too long|maximum (prompt|model) length"
    r"|prompt token count of \d+ exceeds|too many (input |total |prompt )?tokens"
    # Gemini, Groq, Cerebras, Together, Kimi
    r"|reduce the length|exceeds the (maximum|max) (number of )?(allowed )?(input )?tokens"
    r"|`?inputs`? tokens \+ `?max_new_tokens`?|exceeded model token limit",
    re.IGNORECASE,
)
# Gemini, xAI and LiteLLM without a database refuse a key they do not know with a 400, in these words.
_BAD_KEY = re.compile(
    r"api key (not valid|not found)|(incorrect|invalid) api key|no_db_connection", re.IGNORECASE
)
# With these a server, or what stands before it, is not there for anybody; a 500 is about one request.
_DOWN = frozenset({502, 503, 504, 529})


class ConnectionLost(ProviderError):
    """The server hung up before its answer was complete. Before the first word it is worth another try."""


def kind_of(status: int, text: str) -> ProviderErrorKind:
    """Say what a status means, by the server's own words where the status alone does not tell."""
    if status in _MAY_BE_TOO_LONG and _TOO_LONG.search(text):
        return "context_too_long"
    if status == 400 and _BAD_KEY.search(text):
        return "auth"
    if status >= 500:
        return "unavailable"
    return _KIND_OF_STATUS.get(status, "bad_reply")


def is_down(status: int) -> bool:
    """Tell whether a status speaks of the server rather than of what it was asked."""
    return status in _DOWN


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read for how many seconds a server wants to be left alone; nonsense counts as not said.

    ``headers`` are looked up in lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    return _seconds_until(text, now) if seconds is None else seconds


def wait_before_retry(error: ProviderError, tries: int, jitter: float) -> float | None:
    """Say how many seconds to wait before asking again; null is: do not.

    ``tries`` counts the attempts made so far. ``jitter`` is a random number in [0, 1): it keeps the sessions
    that failed together from coming back together.
    """
    if tries >= MAX_TRIES:
        return None
    if error.status not in _WORTH_RETRYING and not isinstance(error, ConnectionLost):
        return None
    if error.kind == "context_too_long":
        return None
    if error.retry_after is None:
        return _FIRST_WAIT * 2.0 ** (tries - 1) * (0.5 + jitter)
    if error.retry_after > MAX_WAIT:
        return None
    # Never earlier than asked for.
    return error.retry_after + _FIRST_WAIT * jitter


def _number(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"\s*\d{1,12}(\.\d{1,6})?\s*", text):
        return None
    return float(text)


def _seconds_until(text: str | None, now: datetime) -> float | None:
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    # "-0000" makes a time without a zone; an HTTP date is always UTC.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
