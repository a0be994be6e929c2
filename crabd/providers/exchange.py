"""One request that is under way: the seam where foreign errors become ours, and where keys stay behind.

Here is said what a failure means, to the caller and to all who ask the same server. Nothing is sent or read.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

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

    @contextmanager
    def translated(self, late: str) -> Generator[None]:
        """Turn what httpx and the clock raise into our errors; ``late`` says what a deadline means."""
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise self._not_connected(exc) from self._shown(exc)
        except httpx.PoolTimeout as exc:
            problem = "too many requests are going at once: let some of them finish, then send it again"
            raise self.error("unavailable", problem) from exc
        except (trio.TooSlowError, httpx.TimeoutException) as exc:
            advice = "send it again, or give it more time in `deadlines` of config.toml"
            raise self._failed("unavailable", f"the server is too slow: {late}: {advice}") from exc
        except httpx.RemoteProtocolError as exc:
            raise self._lost("bad_reply", f"the answer was cut off: {exc}") from self._shown(exc)
        except httpx.NetworkError as exc:
            raise self._lost("unavailable", "the connection was reset") from self._shown(exc)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self.error("unavailable", f"the request failed: {exc}") from self._shown(exc)

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

    def _shown(self, exc: Exception) -> Exception | None:
        """Give the cause for tracebacks, unless it quotes a key."""
        return None if any(secret in str(exc) for secret in self._secrets) else exc


def _root_of(exc: BaseException) -> BaseException:
    """Find what an error began with; of a group the first."""
    first: BaseException | None = getattr(exc, "exceptions", (None,))[0]
    inner = first or exc.__cause__ or exc.__context__
    return exc if inner is None else _root_of(inner)
