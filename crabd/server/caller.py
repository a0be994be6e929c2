"""Who is asking, and what is at hand to answer with: all that a handler gets besides its parameters."""

from __future__ import annotations

from typing import Protocol

from crabd.api.daemon import DaemonStatus, Diagnosis, Reloaded, ShutdownStarted
from crabd.runtime.pace import Subscriber
from crabd.runtime.porting import Porting
from crabd.runtime.retention import Limits
from crabd.runtime.runtime import Runtime
from crabd.server.line import Line


class Control(Protocol):
    """The daemon itself, as far as a client may steer it."""

    porting: Porting

    def status(self) -> DaemonStatus:
        """Tell how the daemon is."""
        ...

    async def reload(self) -> Reloaded:
        """Read configuration and agents again; what cannot be taken stays as it was."""
        ...

    async def doctor(self, *, repair: bool) -> Diagnosis:
        """Check the store and all around it; ``repair`` mends what can be mended with sessions in use."""
        ...

    def limits(self) -> Limits:
        """Tell for how long, and how many, stored sessions are kept."""
        ...

    def shut_down(self, grace: float | None) -> ShutdownStarted:
        """Begin to stop; ``grace`` in seconds is the configured one when null."""
        ...


class Caller:
    """One client. Its subscriptions end with it; the runs it started do not."""

    def __init__(self, runtime: Runtime, control: Control, subscriber: Subscriber) -> None:
        self.runtime = runtime
        self.control = control
        self.subscriber = subscriber
        # What it calls itself, for people who are told what it did.
        self.name = "a client"
        # Messages to sessions that have to be loaded first.
        self.line = Line()
