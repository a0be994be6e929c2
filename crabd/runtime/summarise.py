"""The driver of compactions: has the summary made, then makes the cut that ``compaction`` has planned.

While the model writes, the session serves everybody else; nothing has changed until the records are durable.
"""

from __future__ import annotations

import structlog
from msgspec import Struct, structs
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import CrabdError, HookBlocked, NothingToCompact, ProviderError
from crabd.events import ErrorInfo
from crabd.messages import Usage, clean_text
from crabd.providers.base import NO_MODEL, ModelChoice
from crabd.runtime.asking import ask_for_text
from crabd.runtime.compaction import (
    USUAL_WINDOW,
    Cut,
    Need,
    extract,
    is_enough,
    make_boundary,
    plan_cut,
    plan_shortening,
    summary_request,
)
from crabd.runtime.hooking import CommandHooks
from crabd.runtime.metering import tell_usage
from crabd.runtime.prompt import BYTES_PER_TOKEN
from crabd.runtime.session import Session
from crabd.runtime.ticket import Compaction
from crabd.store.record import ModelCalled, Shortened

# Of a window, what a transcript takes at first; each further try, after the server found it too long, takes
# half of that.
TRANSCRIPT_PART = 0.6
MAX_TRIES = 3

log: FilteringBoundLogger = structlog.get_logger()


class Wish(Struct, frozen=True, kw_only=True):
    """A compaction as it is asked for. ``overhead`` is what of the context no cut makes smaller, in tokens.

    ``run`` is the open one, empty if there is none, and ``since`` its first step. ``context`` is what hooks
    have said besides the ``instructions``.
    """

    choice: ModelChoice
    overhead: int = 0
    run: str = ""
    since: int | None = None
    instructions: str | None = None
    request_key: str | None = None
    context: str = ""


async def summarise(session: Session, wish: Wish, cut: Cut, hooks: CommandHooks) -> Compaction:
    """Replace the part of the history that ``cut`` names. Cancelled or failed, nothing of it has changed.

    Raises:
      NothingToCompact: the summary is no shorter than that; its cost is in the log.
      HookBlocked, ProviderError, StoreError.
    """
    wish = await _consult(session, wish, hooks)
    summary, called = await _sum_up(session, wish, cut)
    done = await _replace(session, wish, cut, summary, called) if summary else None
    if done is None:
        await session.save(called, is_kept=True)
        _tell_costs(session, wish, called)
        raise NothingToCompact(session.id) if summary else _empty(wish)
    session.gauge.reset()
    return done


async def make_room(session: Session, wish: Wish, need: Need, part: float, hooks: CommandHooks) -> Usage:
    """Make the context smaller before a model is asked; returns what that has cost.

    First long tool results are shortened, which may be enough, then there is a summary. One that fails is
    told, and the run goes on; where the context has to become smaller an extract takes its place. Neither is
    there when a hook forbids it.

    Raises:
      StoreError.
    """
    limit = session.gauge.limit(wish.choice.context_window)
    before = session.context.weight
    older = plan_shortening(session.context, limit=limit, before=before, overhead=wish.overhead)
    if older is not None and is_enough(older.context_tokens, limit, part):
        await _shorten(session, wish, older)
        return Usage()
    spent = Usage()
    problem: CrabdError | None = NothingToCompact(session.id)
    cut = plan_cut(session.context, limit=limit, since=wish.since)
    if cut is not None:
        try:
            spent, problem = await _try(session, await _consult(session, wish, hooks), cut, need)
        except HookBlocked as exc:
            problem = exc
    if need == "forced" and not is_enough(session.context.weight, limit, part):
        problem = None if await _shorten_all(session, wish, limit) else problem
    if problem is None:
        session.gauge.compacted()
    else:
        _tell_failure(session, wish, problem, before)
    return spent


async def _consult(session: Session, wish: Wish, hooks: CommandHooks) -> Wish:
    """Ask the hooks about a summary that is about to be made.

    Raises:
      HookBlocked.
    """
    context = await hooks.before_compact(session, wish.run or None, wish.instructions)
    return structs.replace(wish, context=context)


async def _try(session: Session, wish: Wish, cut: Cut, need: Need) -> tuple[Usage, CrabdError | None]:
    """Have a summary, or an extract if there has to be one; returns the cost, and what went wrong."""
    called: tuple[ModelCalled, ...] = ()
    problem: CrabdError | None = None
    summary = ""
    # Where summaries have not helped, no more is paid for the next one that is as bad.
    if need == "wanted" or not session.gauge.has_given_up:
        try:
            summary, called = await _sum_up(session, wish, cut)
            problem = None if summary else _empty(wish)
        except ProviderError as exc:
            problem = exc
    spent = sum((call.usage for call in called), Usage())
    if summary and await _replace(session, wish, cut, summary, called) is not None:
        return spent, None
    if need == "forced" and await _replace(session, wish, cut, extract(session.context, cut), called):
        return spent, None
    await session.save(called, is_kept=True)
    _tell_costs(session, wish, called)
    return spent, problem or NothingToCompact(session.id)


async def _replace(
    session: Session, wish: Wish, cut: Cut, summary: str, called: tuple[ModelCalled, ...]
) -> Compaction | None:
    """Make the cut; null if the history would not become smaller by it."""
    before = session.context.weight
    archive = f"{session.id}/{session.meta.archives + 1}"
    boundary = make_boundary(
        session.context,
        cut,
        archive,
        summary,
        before=before,
        overhead=wish.overhead,
        plan=session.meta.plan,
    )
    if boundary is None:
        return None
    boundary = structs.replace(boundary, request_key=wish.request_key, instructions=wish.instructions)
    await session.save([*called, boundary], is_kept=bool(wish.run))
    _tell_costs(session, wish, called)
    done = Compaction(archive, boundary.summary, before, boundary.context_tokens)
    session.publish([events.Compacted(archive, done.summary, before, done.usage_after)], wish.run or None)
    return done


async def _shorten_all(session: Session, wish: Wish, limit: int | None) -> bool:
    """Shorten even what the model has not seen yet, lest it see none of it; tell whether that helps."""
    all_ = plan_shortening(
        session.context, limit=limit, before=session.context.weight, overhead=wish.overhead, is_forced=True
    )
    if all_ is not None:
        await _shorten(session, wish, all_)
    return all_ is not None


async def _shorten(session: Session, wish: Wish, shortened: Shortened) -> None:
    before = session.context.weight
    await session.save([shortened], is_kept=True)
    session.publish([events.ResultsShortened(before, shortened.context_tokens)], wish.run or None)


def _tell_failure(session: Session, wish: Wish, problem: CrabdError, weight: int) -> None:
    session.gauge.failed(weight)
    gives_up = session.gauge.has_given_up
    error = ErrorInfo(problem.code, problem.kind, clean_text(str(problem)))
    log.warning("compaction_failed", session=session.id, problem=error.message, gives_up=gives_up)
    session.publish([events.CompactionFailed(error, gives_up)], wish.run or None)


def _tell_costs(session: Session, wish: Wish, called: tuple[ModelCalled, ...]) -> None:
    for call in called:
        session.publish([tell_usage(call, session.meta.usage)], wish.run or None)


def _empty(wish: Wish) -> ProviderError:
    problem = "the model gave an empty summary: try again"
    return ProviderError("bad_reply", problem, provider=wish.choice.provider.name)


async def _sum_up(session: Session, wish: Wish, cut: Cut) -> tuple[str, tuple[ModelCalled, ...]]:
    """Have the summary made, of a smaller transcript each time the server finds it too long.

    It may be empty. It comes with the record of its call, if a model was asked.

    Raises:
      ProviderError.
    """
    choice, context = wish.choice, session.context
    if choice.provider.name == NO_MODEL:
        return extract(context, cut), ()
    window = session.gauge.limit(choice.context_window) or USUAL_WINDOW
    size = int(window * BYTES_PER_TOKEN * TRANSCRIPT_PART)
    for tries_left in reversed(range(MAX_TRIES)):
        try:
            instructions = "\n".join(filter(None, (wish.instructions, wish.context)))
            request = summary_request(choice.model, context, cut, instructions, size)
            summary, call = await ask_for_text(
                choice, request, run=wish.run, purpose="summary", weight=context.weight
            )
            return summary, (call,)
        except ProviderError as exc:
            if exc.kind != "context_too_long" or not tries_left:
                raise
            size //= 2
    raise AssertionError("the last try returns or raises")
