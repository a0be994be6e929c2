"""The driver of a compaction: asks for the summary, then makes the cut that ``compaction`` has planned."""

from __future__ import annotations

from crabd import events
from crabd.errors import ProviderError
from crabd.messages import Usage, clean_text
from crabd.providers.base import Finished, ModelChoice, ModelRequest, TextChunk
from crabd.runtime.compaction import Cut, summary_request, weigh_after
from crabd.runtime.session import Session
from crabd.runtime.ticket import Compaction
from crabd.store.record import Compacted, ModelCalled


async def summarise(
    session: Session,
    choice: ModelChoice,
    cut: Cut,
    instructions: str | None,
    request_key: str | None = None,
) -> Compaction:
    """Replace the part of the history that ``cut`` names. Cancelled or failed, nothing has changed.

    Raises:
      ProviderError, StoreError.
    """
    request = summary_request(choice.model, session.context, cut, instructions)
    summary, usage = await _ask(choice, request)
    before = session.meta.usage.context_tokens
    after = weigh_after(cut, summary)
    archive = f"{session.id}/{session.meta.archives + 1}"
    goal = cut.goal.step if cut.goal else None
    await session.save(
        [
            ModelCalled("", choice.id, "summary", usage, before, choice.context_window),
            Compacted(archive, summary, cut.upto, goal, after, request_key, instructions),
        ]
    )
    session.publish([events.Compacted(archive, summary, before, after)])
    return Compaction(archive, summary, before, after)


async def _ask(choice: ModelChoice, request: ModelRequest) -> tuple[str, Usage]:
    parts: list[str] = []
    usage = Usage()
    async with choice.provider.stream(request) as chunks:
        async for chunk in chunks:
            match chunk:
                case TextChunk(text=text):
                    parts.append(text)
                case Finished(usage=Usage() as told):
                    usage = told
                case _:
                    pass
    summary = clean_text("".join(parts)).strip()
    if not summary:
        raise ProviderError(
            "bad_reply", "the model gave an empty summary: try again", provider=choice.provider.name
        )
    return summary, usage
