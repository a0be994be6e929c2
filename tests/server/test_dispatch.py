"""From the wire to a handler and back, without a wire: what is answered, when, and with which error."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec import Raw

from crabd.api.daemon import DaemonStatus, Diagnosis, Reloaded, ShutdownStarted
from crabd.api.sessions import Accepted, RunResult, SessionPage
from crabd.errors import CrabdError, NotFound, ProviderError, SessionBusy
from crabd.providers.base import TextChunk
from crabd.rpc.envelope import RpcError
from crabd.rpc.methods import InvalidParamsError
from crabd.rpc.peer import FollowedBy
from crabd.runtime.agents import DEFAULT_AGENT, Agents
from crabd.runtime.broker import Broker
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.porting import Porting
from crabd.runtime.retention import Limits
from crabd.runtime.runtime import Runtime
from crabd.runtime.sessions import Sessions
from crabd.runtime.trust import Trust
from crabd.server.caller import Caller, Control
from crabd.server.dispatch import answer, to_rpc_error
from crabd.store.inmemory import InMemoryStore
from crabd.store.porting.export import write_page
from crabd.store.porting.sources import read_sources
from tests.fakes import FixedTools, Part, ScriptedModels, ScriptedProvider, guards, says


class Switch(Control):
    """The daemon's side of things: it remembers what it was told, and is too young to have a status."""

    def __init__(self) -> None:
        self.graces: list[float | None] = []
        self.porting = Porting(InMemoryStore(), InMemoryStore(), read_sources, write_page)

    def status(self) -> DaemonStatus:
        raise NotFound("status", "daemon")

    async def reload(self) -> Reloaded:
        await trio.lowlevel.checkpoint()
        return Reloaded(("crab",), ())

    async def doctor(self, *, repair: bool) -> Diagnosis:
        await trio.lowlevel.checkpoint()
        return Diagnosis(findings=(), problems=0, sessions=int(repair), records=0)

    def limits(self) -> Limits:
        return Limits(keep_days=1)

    def shut_down(self, grace: float | None) -> ShutdownStarted:
        self.graces.append(grace)
        return ShutdownStarted(1, 0)


class Client:
    """A caller and what it was sent."""

    def __init__(self, runtime: Runtime, control: Switch) -> None:
        self.caller = Caller(runtime, control, self)
        self.backlog = 0
        self.events: list[dict[str, Any]] = []

    def post(self, payload: bytes) -> None:
        self.events.append(json.loads(payload))

    def post_at_once(self, bundle: Sequence[bytes]) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError("nothing was left unread")

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def ask(self, method: str, **params: object) -> object:
        """Ask, and return the result, or the awaitable of it."""
        return answer(self.caller, method, Raw(msgspec.json.encode(params)))

    async def call(self, method: str, **params: object) -> Any:
        """Ask and wait for the result."""
        result = self.ask(method, **params)
        if not isawaitable(result):
            return result
        with trio.fail_after(10):
            return await result

    async def until(self, type_: str) -> None:
        """Let others work until an event of the type has come."""
        with trio.fail_after(10):
            while type_ not in self.types:
                await trio.lowlevel.checkpoint()


class Desk:
    """Everything that handlers work with, and as many clients as one likes."""

    def __init__(self, runtime: Runtime, nursery: trio.Nursery) -> None:
        self.runtime = runtime
        self.control = Switch()
        self.nursery = nursery

    def client(self) -> Client:
        return Client(self.runtime, self.control)

    def start(self, awaitable: object) -> list[Any]:
        """Wait for a result in a task of its own; it is in the list when it has come."""
        assert isawaitable(awaitable)
        results: list[Any] = []

        async def wait(result: Awaitable[object]) -> None:
            results.append(await result)

        self.nursery.start_soon(wait, awaitable)
        return results


@asynccontextmanager
async def open_desk(*replies: Sequence[Part]) -> AsyncGenerator[Desk]:
    broker = Broker("epoch", lambda payload: payload)
    async with trio.open_nursery() as runs:
        runtime = Runtime(
            runs=runs,
            sessions=Sessions(InMemoryStore(), InMemoryStore(first_number=1_000_000), broker),
            broker=broker,
            agents=Agents({"crab": DEFAULT_AGENT}),
            models=ScriptedModels(ScriptedProvider(*replies)),
            toolmaker=FixedTools(),
            guards=guards(),
            trust=Trust(Path("/nonexistent"), Path("/nonexistent")),
            rulebook=Rulebook(Path("/nonexistent"), "/"),
        )
        yield Desk(runtime, runs)
        runs.cancel_scope.cancel()


async def test_an_unknown_method_is_refused_by_name() -> None:
    async with open_desk() as desk:
        with pytest.raises(RpcError) as refused:
            desk.client().ask("session/explode")

    assert (refused.value.code, refused.value.data) == (
        -32601,
        {"kind": "method_not_found", "method": "session/explode"},
    )


async def test_parameters_that_do_not_fit_never_reach_a_handler() -> None:
    async with open_desk() as desk:
        with pytest.raises(InvalidParamsError) as refused:
            desk.client().ask("daemon/shutdown", grace=-1)

    assert refused.value.path == "$.grace"
    assert desk.control.graces == []


async def test_a_quick_answer_is_a_result_and_a_slow_one_is_awaited() -> None:
    async with open_desk() as desk:
        quick, slow = desk.client().ask("daemon/shutdown", grace=3), desk.client().ask("daemon/reload")

        assert quick == ShutdownStarted(1, 0)
        assert desk.control.graces == [3.0]
        assert isawaitable(slow)
        assert await slow == Reloaded(("crab",), ())


async def test_a_refusal_of_ours_is_translated_whether_it_comes_at_once_or_later() -> None:
    async with open_desk() as desk:
        client = desk.client()

        with pytest.raises(RpcError) as at_once:
            client.ask("session/get", session="crab_user_7")
        later = client.ask("session/load", session="crab_user_7")
        assert isawaitable(later)
        with pytest.raises(RpcError) as awaited:
            await later

    for refused in (at_once.value, awaited.value):
        assert refused.code == -32002
        assert refused.data is not None
        assert (refused.data["kind"], refused.data["name"]) == ("not_found", "crab_user_7")
        assert isinstance(refused.__cause__, NotFound)


@pytest.mark.parametrize(
    "error",
    [
        SessionBusy("a_b_1", "r1", "wait"),
        ProviderError("rate_limited", "slow down", provider="x", retry_after=2.0),
    ],
)
def test_an_error_keeps_its_code_its_sentence_and_its_facts(error: CrabdError) -> None:
    wire = to_rpc_error(error)

    assert (wire.code, wire.message, wire.data) == (error.code, str(error), error.data)


async def test_an_identity_is_given_its_session_and_told_whether_it_is_new() -> None:
    async with open_desk() as desk:
        client = desk.client()

        first = await client.call("session/get_or_create", agent="crab")
        second = client.ask("session/get_or_create", agent="crab")

        # One that is live is found without a task of its own.
        assert not isawaitable(second)
        assert (first.id, first.created, first.active) == ("crab_user_1", True, True)
        assert second == msgspec.structs.replace(first, created=False)


async def test_messages_are_taken_in_the_order_in_which_they_came_before_anything_is_awaited() -> None:
    async with open_desk(says("one"), says("two")) as desk:
        client = desk.client()
        session = (await client.call("session/get_or_create", agent="crab")).id

        asked = [client.ask("session/send", session=session, content=word) for word in ("first", "second")]
        answers = [desk.start(each) for each in asked[::-1]]
        with trio.fail_after(10):
            while not all(answers):
                await trio.lowlevel.checkpoint()

        (second,), (first,) = answers
        assert [(first.run, first.text), (second.run, second.text)] == [("r1", "one"), ("r2", "two")]


async def test_a_sender_gets_the_events_of_its_run_and_then_the_result() -> None:
    async with open_desk(says("hi")) as desk:
        client, stranger = desk.client(), desk.client()
        session = (await client.call("session/get_or_create", agent="crab")).id

        result = await client.call("session/send", session=session, content="hello")

        assert isinstance(result, RunResult)
        assert (result.text, result.stop_reason) == ("hi", "end_turn")
        assert client.types[0] == "run_started"
        assert client.types[-1] == "run_ended"
        assert client.events[-1]["seq"] == result.last_seq
        assert stranger.types == []


async def test_a_sender_that_does_not_wait_is_told_where_its_events_begin() -> None:
    async with open_desk(says("hi")) as desk:
        client = desk.client()
        session = (await client.call("session/get_or_create", agent="crab")).id

        accepted = await client.call("session/send", session=session, content="hello", wait=False)

        assert accepted == Accepted("r1", 1, "started")
        assert client.types == []


async def test_a_steering_that_does_not_wait_leaves_the_events_of_the_run_to_who_does() -> None:
    gate = trio.Event()
    async with open_desk([TextChunk("one"), gate, *says()], says("two")) as desk:
        client = desk.client()
        session = (await client.call("session/get_or_create", agent="crab")).id
        waiting = desk.start(client.ask("session/send", session=session, content="go"))
        await client.until("text_delta")

        steered = await client.call(
            "session/send", session=session, content="also", when_busy="steer", wait=False
        )
        gate.set()
        with trio.fail_after(10):
            while not waiting:
                await trio.lowlevel.checkpoint()

        assert steered.disposition == "steered"
        assert client.types[-1] == "run_ended"


async def test_picture_and_subscription_are_one_step_and_what_was_missed_follows_the_answer() -> None:
    async with open_desk(says("hi")) as desk:
        client, late = desk.client(), desk.client()
        session = (await client.call("session/get_or_create", agent="crab")).id
        result = await client.call("session/send", session=session, content="hello")

        subscribed = late.ask("session/subscribe", session=session, after=0, epoch="epoch")
        elsewhere = late.ask("session/subscribe", session=session, after=0, epoch="another life")

        assert isinstance(subscribed, FollowedBy)
        assert [json.loads(payload)["seq"] for payload in subscribed.payloads] == list(
            range(1, result.last_seq + 1)
        )
        assert msgspec.to_builtins(subscribed.result)["replay"] == "complete"
        assert msgspec.to_builtins(elsewhere)["replay"] == "partial"


@pytest.mark.parametrize("params", [{}, {"session": "crab_user_1", "all": True}])
async def test_a_subscription_is_to_one_session_or_to_all(params: dict[str, object]) -> None:
    async with open_desk() as desk:
        for method in ("session/subscribe", "session/unsubscribe"):
            with pytest.raises(RpcError) as refused:
                desk.client().ask(method, **params)
            assert (refused.value.code, (refused.value.data or {})["path"]) == (-32602, "$.session")


async def test_pages_of_a_list_hold_every_session_once() -> None:
    async with open_desk() as desk:
        client = desk.client()
        for number in range(5):
            await client.call("session/get_or_create", agent="crab", sender=f"s{number}")

        ids: list[str] = []
        cursor = None
        for _ in range(3):
            page = await client.call("session/list", limit=2, cursor=cursor)
            assert isinstance(page, SessionPage)
            ids += [info.id for info in page.sessions]
            cursor = page.cursor

        assert cursor is None
        assert sorted(ids) == [f"crab_s{number}_{number + 1}" for number in range(5)]
        assert ids == [info.id for info in (await client.call("session/list")).sessions]
