"""Events for tests that do not mind what is in them."""

from __future__ import annotations

from crabd.events import Confirmation, ConfirmationRequested
from crabd.messages import utc_now


def ask(id_: str, session: str) -> ConfirmationRequested:
    """Make the event of a call that waits for a person, whose own id is the waiting's too."""
    return ConfirmationRequested(
        Confirmation(
            id=id_,
            session=session,
            run="r1",
            call=id_,
            tool="bash",
            since=utc_now(),
            title="",
            arguments="{}",
            command=None,
            diff="",
            reads=(),
            writes=(),
            url=None,
            cwd=None,
            rule="",
            reason="",
            sandbox="",
            suggestions=(),
        )
    )
