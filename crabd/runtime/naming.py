"""The driver of titles: asks for one beside the session's runs, and keeps it if nobody has set one meanwhile.

A title is never worth a run: what goes wrong here is in the log, and the session goes without.
"""

from __future__ import annotations

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import CrabdError, StoreError
from crabd.messages import UserMessage, words_of
from crabd.providers.base import ModelChoice
from crabd.runtime.asking import ask_for_text
from crabd.runtime.metering import tell_usage
from crabd.runtime.session import Session
from crabd.runtime.titles import MAX_TRIES, clean_title, title_request
from crabd.store.record import Configured

# Nobody waits for a title, but a session that is being named stays in memory.
NAMING_SECONDS = 60.0

log: FilteringBoundLogger = structlog.get_logger()


def lacks_title(session: Session) -> bool:
    """Tell whether a title is to be asked for: once at a time, and not for what is never listed again."""
    is_wanted = not session.meta.title and not session.is_ephemeral and session.end is None
    return is_wanted and not session.is_being_named and session.naming_failures < MAX_TRIES


async def give_title(session: Session, choice: ModelChoice, answer: str) -> bool:
    """Ask for a title and keep it, and count its cost; tells whether there is one now.

    Takes ``NAMING_SECONDS`` at most. Never raises but ``Cancelled``.
    """
    session.is_being_named = True
    session.naming_failures += 1
    try:
        with trio.move_on_after(NAMING_SECONDS):
            return await _give_title(session, choice, answer)
    except StoreError as exc:
        # It may have been closed or deleted meanwhile.
        log.info("title_not_kept", session=session.id, problem=str(exc))
    except CrabdError as exc:
        log.warning("title_not_given", session=session.id, problem=str(exc))
    finally:
        session.is_being_named = False
    return False


async def _give_title(session: Session, choice: ModelChoice, answer: str) -> bool:
    request = title_request(choice.model, _first_question(session), answer)
    weight = session.context.weight
    answer, call = await ask_for_text(choice, request, run="", purpose="title", weight=weight)
    await session.save([call], is_kept=True)
    session.publish([tell_usage(call, session.meta.usage)])
    title = clean_title(answer)
    if not title:
        log.warning("title_not_given", session=session.id, problem="the model wrote nothing that is one")
        return False
    session.naming_failures = 0
    if not await session.save_while(lambda: not session.meta.title, Configured(title=title)):
        return False
    session.publish([events.TitleChanged(title)])
    return True


def _first_question(session: Session) -> str:
    first = session.context.goal or next(
        (entry for entry in session.context.entries if isinstance(entry.message, UserMessage)), None
    )
    return words_of(first.message) if first else ""
