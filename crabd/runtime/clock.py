"""The clock of a run: it measures how long a run works, and stands still while a person is waited for."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from math import inf

import trio


class RunClock:
    """Runs from the start. Once a ``limit`` is set its ``scope`` ends when the run has worked for so long."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()  # pyright: ignore[reportCallIssue]  # it misreads trio's attrs
        self._began = trio.current_time()
        self._paused_at = 0.0
        self._waiting = 0
        self._waited = 0.0
        self._limit = inf

    def __repr__(self) -> str:
        return f"<RunClock {self.seconds:.1f} s{', standing still' if self._waiting else ''}>"

    @property
    def seconds(self) -> float:
        """How long the run has worked."""
        now = self._paused_at if self._waiting else trio.current_time()
        return now - self._began - self._waited

    def limit(self, seconds: float) -> trio.CancelScope:
        """Set how long the run may go on from now, and give the scope that ends it then."""
        self._limit = self.seconds + seconds
        self._set_deadline()
        return self.scope

    @contextmanager
    def paused(self) -> Generator[None]:
        """Stand still; several may be waited for at once."""
        if not self._waiting:
            self._paused_at = trio.current_time()
        self._waiting += 1
        self._set_deadline()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._waited += trio.current_time() - self._paused_at
            self._set_deadline()

    def _set_deadline(self) -> None:
        self.scope.deadline = inf if self._waiting else self._began + self._waited + self._limit
