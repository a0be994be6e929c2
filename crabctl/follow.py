"""Follows one session's events without a gap and without a repetition, however slow the reader is.

Knows sequence numbers and subscriptions, not what is drawn.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from crabctl.client import Link


class Follower:
    """A subscription. ``snapshot`` is the picture of the session that the first event continues."""

    def __init__(self, link: Link, session: str) -> None:
        self._link = link
        self.session = session
        subscribed = link.call("session/subscribe", {"session": session})
        self.snapshot: dict[str, Any] = subscribed["snapshot"]
        self._epoch: str = subscribed["epoch"]
        self._seen: int = subscribed["seq"]

    def __repr__(self) -> str:
        return f"<Follower {self.session} at {self._seen}>"

    def events(self) -> Generator[dict[str, Any], None, None]:
        """Yield events in order, each once, until the link ends, which raises NoDaemon.

        What this subscriber was too slow for is asked for again. Where it is lost for good, the event
        ``lagged`` is left in its place.
        """
        self._link.wait_forever()
        while True:
            for event in self._link.notifications():
                if event["type"] == "lagged":
                    yield from self._catch_up(event)
                    break
                yield from self._fresh(event)

    def _catch_up(self, lagged: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        params = {"session": self.session, "after": self._seen, "epoch": self._epoch}
        answer = self._link.follow(self._link.post("session/subscribe", params))
        meanwhile: list[dict[str, Any]] = []
        while True:
            try:
                meanwhile.append(next(answer))
            except StopIteration as end:
                subscribed = end.value
                break
        if subscribed["replay"] == "complete":
            # All that was missed follows now, and with it all that came meanwhile.
            return
        yield lagged
        for event in meanwhile:
            if event["type"] != "lagged":
                yield from self._fresh(event)
        self._seen = max(self._seen, subscribed["seq"])

    def _fresh(self, event: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        if event["session"] == self.session and event["seq"] > self._seen:
            self._seen = event["seq"]
            yield event
