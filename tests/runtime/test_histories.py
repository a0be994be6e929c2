"""Any interleaving of what a model, its tools and people do leaves a history that is whole, and stays so.

The runtime is the real one, over a store in memory and over journals. The model is a puppet: what it says
next, and when, is chosen here, as are the moments at which tools finish, people speak, cancel and compact,
and the session is unloaded.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from crabd.errors import CrabdError, ProviderError
from crabd.events import Budget, Question
from crabd.messages import TextBlock, UserMessage, text_of
from crabd.providers.anthropic_wire import to_wire as to_anthropic
from crabd.providers.base import (
    Chunk,
    Finished,
    ModelRequest,
    OnRetry,
    TextChunk,
    ThinkingChunk,
    ToolCallChunk,
    unheard,
)
from crabd.providers.openai_wire import to_wire as to_openai
from crabd.providers.responses_wire import to_wire as to_responses
from crabd.runtime.agents import DEFAULT_AGENT, Agents
from crabd.runtime.broker import Broker
from crabd.runtime.intake import admit_steer, confirm, confirm_steer
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.prompt import History
from crabd.runtime.router import Identity
from crabd.runtime.runtime import Runtime
from crabd.runtime.session import Session
from crabd.runtime.sessions import Sessions
from crabd.runtime.trust import Trust
from crabd.store.base import Store
from crabd.store.doctor.flaws import find_flaws
from crabd.store.inmemory import InMemoryStore
from crabd.store.journal.store import JournalStore
from crabd.store.record import MessageAdded
from crabd.tools.base import Intent, Tool, ToolContext, ToolOutcome, ToolSpec
from crabd.tools.typed import Call
from tests.fakes import FixedTools, ScriptedModels, ScriptedProvider, guards
from tests.runtime.test_runtime import NOWHERE

Move: TypeAlias = tuple[str, Any]
ARGUMENTS = ('{"n": 1}', '{"n": 2}', "", "{oops", "[]")
SEND: Move = ("send", "queue")
SAY: Move = ("say", None)
TOOL: Move = ("tool", None)
calls = st.tuples(
    st.just("call"),
    st.lists(st.tuples(st.sampled_from("wxyz"), st.sampled_from(ARGUMENTS)), min_size=1, max_size=3),
)
decisions = st.tuples(st.just("decide"), st.sampled_from(["allow", "allow_session", "deny"]))
move: st.SearchStrategy[Move] = st.one_of(
    calls,
    st.tuples(st.just("send"), st.sampled_from(["queue", "steer"])),
    st.tuples(st.just("piece"), st.sampled_from([TextChunk("word "), TextChunk(" "), ThinkingChunk("hm")])),
    st.tuples(st.just("finish"), st.sampled_from(["end", "max_tokens", "refused"])),
    st.tuples(st.just("budget"), st.sampled_from([None, 1, 3])),
    decisions,
    st.tuples(st.sampled_from(["say", "steer", "tool", "cancel", "compact", "fail", "unload"]), st.none()),
)
# What goes on for longer would hardly ever come of single moves.
phrase = st.one_of(
    st.lists(move, max_size=4),
    st.just([SEND, SAY]),
    st.just([("compact", None), SAY]),
    st.just([SEND, ("steer", None), SAY]),
    st.just([SEND, SEND, ("cancel", None)]),
    st.tuples(st.just(SEND), calls, *[st.just(TOOL) | decisions for _ in range(6)]).map(list[Move]),
    st.tuples(st.just(SEND), calls, st.sampled_from([("cancel", None), ("steer", None)])).map(list[Move]),
    st.tuples(calls, decisions).map(lambda both: [*both, TOOL] * 6),
)
moves = st.lists(phrase, max_size=12).map(lambda phrases: [each for phrase in phrases for each in phrase])


class Puppet(ScriptedProvider):
    """Says what it is given to say, when it is given it. What nobody listens to is lost."""

    def __init__(self) -> None:
        super().__init__()
        self._listener: trio.MemorySendChannel[Chunk | ProviderError] | None = None

    @asynccontextmanager
    async def stream(
        self, request: ModelRequest, on_retry: OnRetry = unheard
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        self.requests.append(request)
        self._listener, pieces = trio.open_memory_channel[Chunk | ProviderError](inf)
        try:
            yield self._pieces(pieces)
        finally:
            self._listener = None

    def say(self, *pieces: Chunk | ProviderError) -> None:
        for piece in pieces:
            if self._listener is not None:
                self._listener.send_nowait(piece)

    async def _pieces(self, pieces: trio.MemoryReceiveChannel[Chunk | ProviderError]) -> AsyncIterator[Chunk]:
        async for piece in pieces:
            if isinstance(piece, ProviderError):
                raise piece
            yield piece
            if isinstance(piece, Finished):
                return


class SlowTool(Tool):
    """Finishes when it is told to, the call that waits longest first."""

    def __init__(self, name: str, waiting: list[trio.Event]) -> None:
        self._name = name
        self._waiting = waiting

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(self._name, "a tool of a test", {"type": "object"})

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> Call:
        if self._name == "w":
            return Call(Intent(title="ask"), lambda: self._ask(context))
        # What it changes has to be allowed.
        writes = ("/wall",) if self._name == "x" else ()
        return Call(Intent(title="be slow", writes=writes), lambda: self._run(arguments))

    async def _ask(self, context: ToolContext) -> ToolOutcome:
        return ToolOutcome(repr(await context.ask([Question("Which?")])))

    async def _run(self, arguments: dict[str, Any]) -> ToolOutcome:
        done = trio.Event()
        self._waiting.append(done)
        try:
            await done.wait()
        finally:
            self._waiting.remove(done)
        return ToolOutcome(f"{self._name} is done", is_error=arguments.get("n") == 2)


class Play:
    """A session, all that is done to it, and all that was said to it and accepted."""

    def __init__(
        self, runtime: Runtime, nursery: trio.Nursery, puppet: Puppet, tools: list[trio.Event]
    ) -> None:
        self.runtime = runtime
        self.session = ""
        self.said: list[str] = []
        self._nursery = nursery
        self._puppet = puppet
        self._tools = tools
        self._words = 0

    async def live(self) -> Session:
        return await self.runtime.sessions.load(self.session)

    async def make(self, move: Move) -> None:
        """Do it, or nothing where it does not go together with what is going; then let everybody work."""
        session = await self.live()
        match move:
            case "send", when_busy:
                self._nursery.start_soon(self._accept, session, when_busy)
            case "steer", _:
                self._nursery.start_soon(self._steer, session)
            case "piece", piece:
                self._puppet.say(piece)
            case "call", calls:
                chunks = [ToolCallChunk(i, f"c{i}", name, text) for i, (name, text) in enumerate(calls)]
                self._puppet.say(*chunks, Finished("tool_calls"))
            case "finish", reason:
                self._puppet.say(Finished(reason))
            case "say", _:
                self._puppet.say(TextChunk("all of it"), Finished("end"))
            case "fail", _:
                self._puppet.say(ProviderError("unavailable", "the server hung up", provider="puppet"))
            case "tool", _ if self._tools:
                self._tools[0].set()
            case "decide", decision if session.desk.confirmations:
                (confirmation, *_) = session.desk.confirmations
                await self.runtime.decide(session, confirmation, decision, by="a person")
            case "decide", decision if session.desk.questions:
                texts = None if decision == "deny" else ("blue",)
                session.desk.answer(session.desk.questions[0].id, texts, by="a person")
            case "cancel", _ if session.job is not None:
                await self.runtime.cancel(session, None)
            case "compact", _:
                self._nursery.start_soon(self._compact, session)
            case "budget", rounds:
                spent = session.meta.usage.rounds
                budget = Budget(rounds=spent + rounds) if rounds else Budget()
                await self.runtime.configure(session, budget=budget)
            case "unload", _ if session.is_at_rest:
                await self.runtime.close(self.session, cancel=False)
            case _:
                pass
        # The rules are asked in a thread, which nobody sees being busy.
        await wait_all_tasks_blocked(0.001)

    async def end(self) -> None:
        """Cancel whatever is going until nothing is left."""
        session = await self.live()
        await wait_all_tasks_blocked()
        while not session.is_at_rest:
            if session.job is not None:
                await self.runtime.cancel(session, None)
            await wait_all_tasks_blocked()

    async def _accept(self, session: Session, when_busy: Any) -> None:
        text = self._next_text()
        try:
            admission = self.runtime.admit(
                session, (TextBlock(text),), when_busy=when_busy, on_ticket=lambda _: None
            )
            self.said.append(text)
            await confirm(session, admission)
        except CrabdError:
            return

    async def _steer(self, session: Session) -> None:
        text = self._next_text()
        try:
            steering = admit_steer(session, (TextBlock(text),))
            self.said.append(text)
            await confirm_steer(session, steering)
        except CrabdError:
            return

    async def _compact(self, session: Session) -> None:
        try:
            await self.runtime.edits.compact(session, None)
        except CrabdError:
            return

    def _next_text(self) -> str:
        self._words += 1
        return f"word {self._words} of a person"


def check_openai(request: ModelRequest) -> None:
    """Hold a request against what OpenAI's server demands of one."""
    messages: list[dict[str, Any]] = json.loads(to_openai(request))["messages"]
    unanswered: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            unanswered.remove(message["tool_call_id"])
            continue
        assert unanswered == []
        calls = message.get("tool_calls", [])
        assert message["content"] or calls
        unanswered = [call["id"] for call in calls]
        assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)
    assert unanswered == []
    assert messages[-1]["role"] in ("user", "tool")


def check_responses(request: ModelRequest) -> None:
    """Hold a request against what the Responses API demands of one: an output for each call, behind it."""
    items: list[dict[str, Any]] = json.loads(to_responses(request))["input"]
    called = [item["call_id"] for item in items if item["type"] == "function_call"]
    answered = [item["call_id"] for item in items if item["type"] == "function_call_output"]
    unanswered: list[str] = []
    for item in items:
        match item["type"]:
            case "function_call":
                assert isinstance(json.loads(item["arguments"]), dict)
                unanswered.append(item["call_id"])
            case "function_call_output":
                unanswered.remove(item["call_id"])
            case _:
                assert unanswered == []
    assert sorted(called) == sorted(answered)


def check_anthropic(request: ModelRequest) -> None:
    """Hold a request against what Anthropic's server demands: turns, and each call's result in the next."""
    turns: list[dict[str, Any]] = json.loads(to_anthropic(request))["messages"]
    roles = [turn["role"] for turn in turns]
    assert roles == [("user", "assistant")[at % 2] for at in range(len(turns))]
    assert roles[-1] == "user"
    unanswered: list[str] = []
    for turn in turns:
        assert turn["content"]
        results = [block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"]
        assert results == unanswered
        # They stand before anything else that the turn says.
        assert all(block["type"] == "tool_result" for block in turn["content"][: len(results)])
        assert all(block["text"].strip() for block in turn["content"] if block["type"] == "text")
        unanswered = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
    assert unanswered == []


# How each provider spells a request, and what its server demands.
CHECKS: tuple[Callable[[ModelRequest], None], ...] = (check_openai, check_responses, check_anthropic)


@asynccontextmanager
async def open_play(store: Store) -> AsyncGenerator[tuple[Play, Puppet]]:
    puppet, waiting = Puppet(), list[trio.Event]()
    broker = Broker("epoch", lambda payload: payload)
    async with trio.open_nursery() as nursery:
        sessions = Sessions(store, InMemoryStore(first_number=1_000_000), broker)
        runtime = Runtime(
            runs=nursery,
            sessions=sessions,
            broker=broker,
            agents=Agents({"crab": DEFAULT_AGENT}),
            models=ScriptedModels(puppet),
            toolmaker=FixedTools(*(SlowTool(name, waiting) for name in "wxy")),
            guards=guards(),
            trust=Trust(NOWHERE, NOWHERE),
            rulebook=Rulebook(NOWHERE, "/"),
        )
        play = Play(runtime, nursery, puppet, waiting)
        session, _ = await runtime.get_or_create(
            Identity("crab", "user"), topic=None, description=None, cwd=None
        )
        play.session = session.id
        yield play, puppet
        nursery.cancel_scope.cancel()


async def check_play(store: Store, script: list[Move]) -> None:
    """Play it to its end, and hold what is left against all that is promised."""
    with trio.fail_after(60):
        async with open_play(store) as (play, puppet):
            for move in script:
                await play.make(move)
            await play.end()
            before = await play.live()
            steps, seen = await store.read(play.session), before.context.messages()
            await play.runtime.close(play.session, cancel=False)
            after = await play.live()

            messages = [step.record.message for step in steps if isinstance(step.record, MessageAdded)]
            users = [text_of(message) for message in messages if isinstance(message, UserMessage)]
            assert sorted(users) == sorted(play.said)
            assert History(messages).messages() == messages
            assert before.steps == list(steps[before.first - 1 :])
            assert after.context.messages() == seen
            assert after.meta == before.meta
            assert (after.meta.open_run, after.meta.queued) == (None, ())
            assert list(find_flaws(play.session, steps, is_live=False)) == []
            assert before.desk.is_empty
            for request in puppet.requests:
                for check in CHECKS:
                    check(request)


@given(script=moves)
@settings(max_examples=150, deadline=None)
async def test_any_interleaving_leaves_a_whole_history(script: list[Move]) -> None:
    await check_play(InMemoryStore(), script)


@given(script=moves)
@settings(max_examples=20, deadline=None)
async def test_any_interleaving_leaves_a_whole_history_on_the_disk(script: list[Move]) -> None:
    with TemporaryDirectory() as directory:
        store = JournalStore(Path(directory))
        await store.open()
        try:
            await check_play(store, script)
        finally:
            await store.aclose()
