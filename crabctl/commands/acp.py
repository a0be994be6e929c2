"""``acp``: what an editor runs as its agent. The daemon speaks the Agent Client Protocol; this carries it."""

from __future__ import annotations

import os
import signal

from crabctl.client import NoDaemon
from crabctl.commands.target import reach
from crabctl.pump import Silence, pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from crabctl.arguments import Args

INTERRUPTED = 130
STDIN, STDOUT = 0, 1
# Those with which an editor, a person and a terminal that closes end a program.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def acp(args: Args) -> int:
    """Carry what an editor and the daemon say to each other, until either of them ends."""
    with reach(args) as link, _Telling() as telling:
        try:
            has_left = pump(link.socket, STDIN, STDOUT, telling.told)
        except Silence as exc:
            problem = "nothing has come for too long: a run that is going goes on, and crabctl ls shows it"
            raise NoDaemon(problem) from exc
        if not has_left:
            raise NoDaemon(
                "crabd has ended the link: it has stopped, or was sent what it cannot take. "
                "Sessions are kept; crabctl status tells more"
            )
        return INTERRUPTED if telling.number == signal.SIGINT else 0


class _Telling:
    """While it is entered, signals that would end us make the descriptor ``told`` readable instead."""

    def __init__(self) -> None:
        self.number = 0
        self.told, self._told_by = os.pipe()

    def __enter__(self) -> _Telling:
        self._before = [(number, signal.signal(number, self._tell)) for number in ENDING]
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)
        os.close(self.told)
        os.close(self._told_by)

    def _tell(self, number: int, _frame: FrameType | None) -> None:
        # One is enough, and a second must not wait for room.
        if not self.number:
            self.number = number
            os.write(self._told_by, b"!")
