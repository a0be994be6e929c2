"""Handlers of what a person is asked, and of the tools that ask."""

from __future__ import annotations

from crabd.api import deciding as api
from crabd.runtime.session import Session
from crabd.server.caller import Caller


def list_confirmations(caller: Caller, params: api.OfOneOrAll) -> api.Confirmations:
    desks = [session.desk for session in _sessions(caller, params.session)]
    return api.Confirmations(tuple(each for desk in desks for each in desk.confirmations))


async def reply(caller: Caller, params: api.Reply) -> api.Replied:
    session = await caller.runtime.sessions.load(params.session)
    confirmation = session.desk.find_confirmation(params.call, params.id)
    verdict = await caller.runtime.decide(
        session, confirmation, params.decision, by=caller.name, reason=params.reason
    )
    return api.Replied(confirmation.id, confirmation.call, verdict.decision, verdict.rules)


def list_questions(caller: Caller, params: api.OfOneOrAll) -> api.Questions:
    desks = [session.desk for session in _sessions(caller, params.session)]
    return api.Questions(tuple(each for desk in desks for each in desk.questions))


async def answer(caller: Caller, params: api.AnswerQuestion) -> api.Answered:
    session = await caller.runtime.sessions.load(params.session)
    question = session.desk.find_question(params.call, params.id)
    given = None if params.answers is None else tuple(map(_text, params.answers))
    answers = session.desk.answer(question.id, given, by=caller.name)
    return api.Answered(question.id, question.call, answers.texts)


async def list_tools(caller: Caller, params: api.OfOneOrAll) -> api.ToolList:
    runtime = caller.runtime
    session = await runtime.sessions.load(params.session) if params.session is not None else None
    tools = await runtime.equipper.list_tools(session)
    return api.ToolList(
        tuple(
            api.ToolInfo(
                name=spec.name,
                description=spec.description,
                parameters=spec.parameters,
                read_only=spec.is_read_only,
                idempotent=spec.is_idempotent,
                offered=is_offered,
            )
            for spec, is_offered in tools
        )
    )


def _sessions(caller: Caller, session: str | None) -> tuple[Session, ...]:
    if session is None:
        return caller.runtime.sessions.live()
    # One that is not live waits for nobody, but it has to be there.
    caller.runtime.sessions.meta(session)
    found = caller.runtime.sessions.find_live(session)
    return (found,) if found is not None else ()


def _text(answer: str | tuple[str, ...]) -> str:
    return answer if isinstance(answer, str) else "\n".join(answer)
