"""In which order messages may come on a link: the rules that no schema can state. Pure.

Only what the agent does is judged, and what it must do for the client that began it. It must not know which
client it was, nor what was said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct, field

from tests.e2e.editors.acp.transcript import Json, Message

# What a turn consists of; other updates may come at any time.
OF_A_TURN = {
    "user_message_chunk",
    "agent_message_chunk",
    "agent_thought_chunk",
    "tool_call",
    "tool_call_update",
    "plan",
}
OVER = {"completed", "failed"}
OPENING = ("session/new", "session/fork")
FIRST_AGENT_ID = 1 << 30


class _Session(Struct):
    """What a client knows of a session: which turns and replays go on, by the ids of their requests."""

    prompts: set[object] = field(default_factory=set[object])
    loads: set[object] = field(default_factory=set[object])
    resumes: set[object] = field(default_factory=set[object])
    # Its run may have been going when it was loaded, and then goes on.
    is_joined: bool = False
    is_cancelled: bool = False
    # Tool calls by their status.
    calls: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def may_tell(self) -> bool:
        """Tell whether a turn, or a part of one, may be told now."""
        return bool(self.prompts or self.loads or self.is_joined)


def faults_of(messages: list[Message]) -> list[str]:
    """List the agent's breaches of the order on one link; what is unanswered at its end is none."""
    referee = Referee()
    return [f"{place}: {fault}" for place, each in enumerate(messages) for fault in referee.judge(each)]


def unanswered(messages: list[Message]) -> list[str]:
    """List the methods of the client's requests that got no answer."""
    answered = {each.body["id"] for each in messages if each.sender == "agent" and each.method is None}
    asked = [each for each in messages if each.sender == "client" and each.is_request]
    return [str(each.method) for each in asked if each.body["id"] not in answered]


class Referee:
    """Watches the messages of one link as they come.

    A client that is not ``alone`` in its sessions is told of turns that are not its own.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._is_alone = alone
        self._sessions: dict[str, _Session] = {}
        # Requests without an answer yet, by sender and id.
        self._open: dict[tuple[str, object], Json] = {}
        self._is_initialized = False

    def judge(self, message: Message) -> Iterator[str]:
        """Take the next message, and say what is wrong with its coming now."""
        if message.sender == "client":
            self._take_from_client(message)
        elif message.method is None:
            yield from self._judge_answer(message.body)
        elif not self._is_initialized:
            yield f"{message.method} before initialize was answered"
        elif message.is_request:
            yield from self._judge_request(message.body)
        elif message.method == "session/update":
            yield from self._judge_update(message.body["params"])

    def _take_from_client(self, message: Message) -> None:
        body = message.body
        if message.method is None:
            self._open.pop(("agent", body.get("id")), None)
            return
        if message.is_request:
            self._open["client", body["id"]] = body
        elif message.method != "session/cancel":
            return
        params: Json = body.get("params") or {}
        if "sessionId" not in params:
            return
        session = self._sessions.setdefault(params["sessionId"], _Session())
        match message.method:
            case "session/prompt":
                session.prompts.add(body["id"])
                session.is_cancelled = False
            case "session/load":
                session.loads.add(body["id"])
                session.calls.clear()
            case "session/resume":
                session.resumes.add(body["id"])
            case "session/cancel":
                session.is_cancelled = True
            case _:
                pass

    def _judge_answer(self, body: Json) -> Iterator[str]:
        request = self._open.pop(("client", body.get("id")), None)
        if request is None:
            yield f"an answer to nothing: {body}"
            return
        method, is_done = request["method"], "error" not in body
        if is_done and not isinstance(body.get("result"), dict):
            yield f"the result of {method} is not an object: {body}"
            return
        self._is_initialized |= method == "initialize"
        if method in OPENING and is_done:
            self._sessions.setdefault(body["result"]["sessionId"], _Session())
        settle = _SETTLING.get(method)
        if settle is not None:
            yield from settle(self._sessions[request["params"]["sessionId"]], body)

    def _judge_request(self, body: Json) -> Iterator[str]:
        number = body["id"]
        if not (isinstance(number, int) and number >= FIRST_AGENT_ID):
            yield f"a request's id is {number!r}"
        if ("agent", number) in self._open:
            yield f"a request's id is taken: {number}"
        self._open["agent", number] = body
        if body["method"] == "session/request_permission":
            call, name = body["params"]["toolCall"]["toolCallId"], body["params"]["sessionId"]
            session = self._sessions.get(name)
            if session is None or call not in session.calls:
                yield f"permission for a tool call that was never told: {call}"
            elif session.calls[call] in OVER:
                yield f"permission for a tool call that is over: {call}"

    def _judge_update(self, params: Json) -> Iterator[str]:
        session, update = self._sessions.get(params["sessionId"]), params["update"]
        kind = update["sessionUpdate"]
        if session is None:
            yield f"{kind} of a session that the client does not know yet"
            return
        if session.resumes:
            yield f"{kind} before session/resume was answered"
        elif self._is_alone and kind in OF_A_TURN and not session.may_tell:
            yield f"{kind} outside of a turn"
        if kind == "tool_call":
            if update["toolCallId"] in session.calls:
                yield f"tool call {update['toolCallId']} begins twice"
            session.calls[update["toolCallId"]] = update.get("status", "pending")
        elif kind == "tool_call_update":
            yield from _judge_progress(session, update)


def _judge_progress(session: _Session, update: Json) -> Iterator[str]:
    call = update["toolCallId"]
    before = session.calls.get(call)
    if before is None:
        yield f"an update of tool call {call}, which never began"
    elif before in OVER:
        yield f"an update of tool call {call}, which is over"
    session.calls[call] = update.get("status") or before or "pending"


def _settle_prompt(session: _Session, body: Json) -> Iterator[str]:
    session.prompts.discard(body["id"])
    session.is_joined = False
    if session.is_cancelled and "error" in body:
        yield f"a prompt that was cancelled ends with an error: {body['error']}"
    going = [call for call, status in session.calls.items() if status not in OVER]
    if going and not session.prompts:
        yield f"the turn is over and these tool calls are not: {', '.join(going)}"


def _settle_load(session: _Session, body: Json) -> Iterator[str]:
    session.loads.discard(body["id"])
    session.is_joined = True
    yield from ()


def _settle_resume(session: _Session, body: Json) -> Iterator[str]:
    session.resumes.discard(body["id"])
    session.is_joined = True
    yield from ()


_SETTLING: dict[str, Callable[[_Session, Json], Iterator[str]]] = {
    "session/prompt": _settle_prompt,
    "session/load": _settle_load,
    "session/resume": _settle_resume,
}
