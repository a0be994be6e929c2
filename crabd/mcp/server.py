"""One server of one session: started, watched, and started anew when it died and is needed again.

A task of its own opens and closes each connection, and so each life of the server; calls come from runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd.mcp.base import Connect, Connection, Offer, ServerLost, Wanted
from crabd.mcp.tool import RemoteTool
from crabd.mcp.witness import Witness
from crabd.messages import clean_text
from crabd.tools.base import ToolOutcome
from crabd.tools.servers import State

# As long as programs that fetch themselves first may take, and no longer than a person waits.
START_SECONDS = 30.0
# How long to wait after so many failures in a row; after the last, a person has to look at it.
DELAYS = (0.0, 1.0, 5.0, 30.0)
# Who has lived for so long did not fail at the start.
STABLE_SECONDS = 60.0
# Whoever changes its tools all the time is asked for them no more often than this.
REFRESH_SECONDS = 0.5
MAX_PROBLEM = 1000

log: FilteringBoundLogger = structlog.get_logger()


class Server:
    """A server; ``run`` is its life, and ``stop`` the end of that."""

    def __init__(self, wanted: Wanted, session: str, connect: Connect, mask: Callable[[str], str]) -> None:
        self.wanted = wanted
        self.state: State = "starting"
        self.problem: str | None = None
        self.tools: tuple[RemoteTool, ...] = ()
        self.ended = trio.Event()
        self._session = session
        self._connect = connect
        self._mask = mask
        self._link: Connection | None = None
        self._scope = trio.CancelScope()
        self._life = trio.CancelScope()
        # Set when it is neither starting nor about to.
        self._settled = trio.Event()
        # Set when this life is over, and when it is to have another one.
        self._over = trio.Event()
        self._needed = trio.Event()
        self._failures = 0
        self._rests_until = -math.inf

    def __repr__(self) -> str:
        return f"<Server {self.wanted.name} of {self._session}, {self.state}>"

    async def run(self) -> None:
        """Live until stopped. Never raises but ``Cancelled``."""
        try:
            with self._scope:
                while True:
                    began = trio.current_time()
                    self._needed, self._over = trio.Event(), trio.Event()
                    problem = await self._live()
                    if not self._needed.is_set():
                        self._fail(problem, trio.current_time() - began)
                    self._over.set()
                    await self._needed.wait()
        finally:
            self._become("stopped", None)
            self._over.set()
            self.ended.set()

    def need(self) -> None:
        """Have it start again if it died, unless it did that too often, or just now."""
        may_begin = self._failures <= len(DELAYS) and trio.current_time() >= self._rests_until
        if self.state == "failed" and may_begin:
            self._begin()

    def reconnect(self) -> None:
        """Have it start again, whatever it is doing and however often it died."""
        self._failures = 0
        self._begin()
        self._life.cancel()

    def stop(self) -> None:
        """Begin to end it for good; ``ended`` is set when nothing of it is left."""
        self._scope.cancel()

    async def settle(self) -> None:
        """Wait until it is ready or is not going to be. Bounded in time."""
        await self._settled.wait()

    async def call(self, tool: str, arguments: dict[str, Any]) -> ToolOutcome:
        """Call a tool of it, once; a server that died is started first."""
        self.need()
        await self.settle()
        link, over = self._link, self._over
        if link is None:
            return ToolOutcome(self._tell_absence(), is_error=True)
        try:
            return await link.call(tool, arguments, self.wanted.server.timeout)
        except ServerLost:
            # Its task closes the connection, which is bounded in time, and finds out why it was lost.
            await over.wait()
        return ToolOutcome(
            f"the server {self.wanted.name} was lost during the call ({self.problem or self.state}), which "
            "may have had its effect: find out before you repeat it",
            is_error=True,
        )

    async def _live(self) -> str:
        """Live once; gives what ended it."""
        witness = Witness(self.wanted.name)
        problem: str | None = None
        with trio.move_on_after(START_SECONDS) as self._life:
            try:
                async with self._connect(self.wanted, witness) as link:
                    self._offer(await link.list_tools())
                    self._life.deadline = math.inf
                    self._link = link
                    self._become("ready", None)
                    log.info("tool_server_ready", session=self._session, server=self.wanted.name)
                    await self._follow(link, witness)
            except Exception as exc:
                problem = _explain(exc)
                log.debug("tool_server_broke", server=self.wanted.name, exc_info=exc)
            finally:
                self._link = None
        was_ready = self._life.deadline == math.inf
        if self._life.cancelled_caught:
            problem = f"it was not ready within {START_SECONDS:g} s"
        return self._mask(clean_text(witness.tell(problem, was_ready=was_ready)))[:MAX_PROBLEM]

    async def _follow(self, link: Connection, witness: Witness) -> None:
        """Keep its list of tools up to date, until it is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._refresh, link)
            await witness.ended.wait()
            nursery.cancel_scope.cancel()

    async def _refresh(self, link: Connection) -> None:
        while True:
            await link.changed.wait()
            await trio.sleep(REFRESH_SECONDS)
            with trio.fail_after(START_SECONDS):
                self._offer(await link.list_tools())
            log.info("tool_server_changed", session=self._session, server=self.wanted.name)

    def _offer(self, offers: Sequence[Offer]) -> None:
        self.tools = tuple(RemoteTool(self.wanted, offer, self.call) for offer in offers)

    def _fail(self, problem: str, lived: float) -> None:
        self._failures = 1 if lived >= STABLE_SECONDS else self._failures + 1
        rest = DELAYS[min(self._failures, len(DELAYS)) - 1]
        self._rests_until = trio.current_time() + rest
        self._become("failed", problem)
        log.warning("tool_server_failed", session=self._session, server=self.wanted.name, problem=problem)

    def _begin(self) -> None:
        self._become("starting", None)
        self._needed.set()

    def _become(self, state: State, problem: str | None) -> None:
        self.state, self.problem = state, problem
        if state != "ready":
            self.tools = ()
        if state != "starting":
            self._settled.set()
        elif self._settled.is_set():
            self._settled = trio.Event()

    def _tell_absence(self) -> str:
        if self.state == "stopped":
            return f"the server {self.wanted.name} is stopped, and its tools are gone"
        advice = "it is started again when it is called a little later"
        if self._failures > len(DELAYS):
            advice = "that was once too often: the person has to mend it, then crabctl mcp --reconnect"
        return f"the server {self.wanted.name} is not there: {self.problem}; {advice}"


def _explain(exc: Exception) -> str:
    """Find the first cause in what nurseries have wrapped up."""
    cause: BaseException = exc
    while isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
    if isinstance(cause, trio.TooSlowError):
        return f"it did not answer within {START_SECONDS:g} s"
    return str(cause) or type(cause).__name__
