"""One request that is under way: the seam where foreign errors become ours, and where keys stay behind.

Here is said what a failure means, to the caller and to all who ask the same server. Nothing is sent or read.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import trio

from crabd.errors import ProviderError
from crabd.messages import clean_text
from crabd.providers.circuit import Attempt
from crabd.providers.retry import ConnectionLost, is_down

if TYPE_CHECKING:
    import httpx

    from crabd.errors import ProviderErrorKind

# The headers a key travels in.
_SECRET_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})
# What comes from outside is told to a person: a sentence, not a flood.
_MAX_WORDS = 300


class Exchange:
    """A call that is under way: what its failures mean, to the caller and to all who ask the same server."""

    def __init__(self, provider: str, headers: Mapping[str, str], attempt: Attempt) -> None:
        """Take the headers of the request: a key among them is told to nobody."""
        self._provider = provider
        self._attempt = attempt
        values = [value for name, value in headers.items() if name.lower() in _SECRET_HEADERS]
        self._secrets = [value.removeprefix("Bearer ") for value in values if value]

    def heard(self, status: int) -> None:
        """An answer has begun to come."""
        if is_down(status):
            self._attempt.failed(f"status {status}", trio.current_time())
        else:
            self._attempt.answered()

    def end(self) -> None:
        """Nobody waits any more. A second call does nothing."""
        self._attempt.end()

    def error(self, kind: ProviderErrorKind, problem: str, status: int | None = None) -> ProviderError:
        """Make an error; ``problem`` may quote what came from outside."""
        return ProviderError(kind, self._told(problem), provider=self._provider, status=status)

    def too_slow(self, late: str) -> ProviderError:
        """Make the error of a deadline that has passed; ``late`` says what it means."""
        advice = "send it again, or give it more time in `deadlines` of config.toml"
        return self._failed("unavailable", f"the server is too slow: {late}: {advice}")

    def raise_translated(self, exc: Exception) -> NoReturn:
        """Raise ours in place of one of httpx's.

        Raises:
          ProviderError.
        """
        import httpx

        match exc:
            case httpx.ConnectError() | httpx.ConnectTimeout():
                error = self._not_connected(exc)
            case httpx.PoolTimeout():
                problem = "too many requests are going at once: let some of them finish, then send it again"
                error = self.error("unavailable", problem)
            case httpx.RemoteProtocolError():
                error = self._lost("bad_reply", f"the answer was cut off: {exc}")
            case httpx.NetworkError():
                error = self._lost("unavailable", "the connection was reset")
            case _:
                error = self.error("unavailable", f"the request failed: {exc}")
        # The cause is for tracebacks, unless it quotes a key.
        raise error from None if any(secret in str(exc) for secret in self._secrets) else exc

    def _not_connected(self, exc: httpx.TransportError) -> ProviderError:
        """Say why there is no connection; what may pass by itself is worth another try."""
        root = _root_of(exc)
        reason = str(exc) or "no answer in time"
        if isinstance(root, ssl.SSLCertVerificationError):
            reason = f"{root.verify_message}: if you trust this server, name its authority in SSL_CERT_FILE"
        elif isinstance(root, ssl.SSLError) and not isinstance(root, ssl.SSLEOFError):
            reason = f"it does not speak TLS as we do ({root.reason}): is https right in base_url?"
        elif isinstance(root, OSError) and root.errno == errno.ECONNREFUSED:
            reason = "nobody listens there: is the server running, and base_url right?"
        elif isinstance(root, OSError) and root.strerror:
            return self._lost("unavailable", f"cannot connect: {root.strerror}")
        return self._failed("unavailable", f"cannot connect: {reason}")

    def _failed(self, kind: ProviderErrorKind, problem: str) -> ProviderError:
        error = self.error(kind, problem)
        self._attempt.failed(error.problem, trio.current_time())
        return error

    def _lost(self, kind: ProviderErrorKind, problem: str) -> ConnectionLost:
        problem = self._failed(kind, problem).problem
        return ConnectionLost(kind, problem, provider=self._provider)

    def _told(self, words: str) -> str:
        for secret in self._secrets:
            words = words.replace(secret, "[key]")
        words = clean_text(words)
        return words if len(words) <= _MAX_WORDS else f"{words[:_MAX_WORDS]}…"


def _root_of(exc: BaseException) -> BaseException:
    """Find what an error began with; of a group the first."""
    first: BaseException | None = getattr(exc, "exceptions", (None,))[0]
    inner = first or exc.__cause__ or exc.__context__
    return exc if inner is None else _root_of(inner)
