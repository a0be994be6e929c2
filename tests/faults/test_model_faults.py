"""Every way a model server can fail, against the real runtime, journal and HTTP client.

Whatever the server does, a message ends with a typed error or with an answer, a word said to the running run
is kept, a cancel ends it, the history is valid and on the disk, the next run works, nothing is left behind,
and the key is told to nobody.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from crabd.messages import AssistantMessage, Message, TextBlock, text_of
from crabd.providers.circuit import FAILURES
from crabd.providers.http import Call, Http
from crabd.providers.registry import Registry
from crabd.providers.settings import Deadlines, ProviderSettings
from crabd.runtime.agents import DEFAULT_AGENT, Agents
from crabd.runtime.broker import Broker
from crabd.runtime.intake import admit_steer, confirm, confirm_steer
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.router import Identity
from crabd.runtime.runtime import Runtime
from crabd.runtime.session import Session
from crabd.runtime.sessions import Sessions
from crabd.runtime.ticket import Outcome, Ticket
from crabd.runtime.trust import Trust
from crabd.store.inmemory import InMemoryStore
from crabd.store.journal.store import JournalStore
from crabd.store.record import MessageAdded, Step
from tests.fakes import FixedTools, guards
from tests.faults.certificates import make_certificate, make_context
from tests.faults.model_faults import FAULTS, KEY, Fault, refusal
from tests.faults.model_server import PATIENCE, FaultServer, open_fault_server

every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


class Machine:
    """A runtime over a journal and real HTTP, a server that fails, and one that does not."""

    def __init__(
        self, runtime: Runtime, runs: trio.Nursery, models: Registry, ill: FaultServer, well: FaultServer
    ) -> None:
        self.runtime = runtime
        self.runs = runs
        self.models = models
        self.ill = ill
        self.well = well
        self.payloads: list[bytes] = []
        self.backlog = 0
        runtime.broker.watch(self)

    def post(self, payload: bytes) -> None:
        self.payloads.append(payload)

    def post_at_once(self, bundle: Sequence[bytes]) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError("nothing was left unread")

    def use(self, url: str, deadlines: Deadlines) -> None:
        """Ask this server from now on."""
        self.models.configure({"test": settings_of(url, deadlines)}, "test/m")

    async def begin(self, session: Session, text: str) -> Ticket:
        admission = self.runtime.admit(session, (TextBlock(text),), on_ticket=lambda _: None)
        await confirm(session, admission)
        return admission.ticket

    async def ask(self, session: Session, text: str) -> Outcome:
        return await outcome_of(await self.begin(session, text))

    async def left_behind(self) -> tuple[int, int]:
        """Count open sockets and tasks, once nobody is connected any more and no run is left."""
        await self.ill.until_alone()
        await self.well.until_alone()
        await until(lambda: not self.runs.child_tasks)
        await trio.testing.wait_all_tasks_blocked()
        sockets = [file for file in Path("/proc/self/fd").iterdir() if file.is_socket()]
        return len(sockets), trio.lowlevel.current_statistics().tasks_living


def settings_of(url: str, deadlines: Deadlines) -> ProviderSettings:
    return ProviderSettings(base_url=f"{url}/v1", api_key_env="TEST_KEY", deadlines=deadlines)


async def outcome_of(ticket: Ticket) -> Outcome:
    with trio.fail_after(PATIENCE):
        await ticket.settled.wait()
    assert ticket.outcome is not None
    return ticket.outcome


async def until(condition: Callable[[], bool]) -> None:
    """Let others work until something is so."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.lowlevel.checkpoint()


def messages_of(steps: Sequence[Step]) -> list[Message]:
    return [added.message for step in steps if isinstance(added := step.record, MessageAdded)]


@asynccontextmanager
async def open_machine(state: Path, fault: Fault) -> AsyncGenerator[Machine]:
    context = make_context(state.with_name("tls")) if fault.place in ("tls", "tls for plain") else None
    store = JournalStore(state)
    assert await store.open() == ()
    async with (
        open_fault_server() as well,
        open_fault_server(context, is_deaf=fault.place == "deaf") as ill,
        trio.open_nursery() as runs,
    ):
        models = Registry({"test": settings_of(well.url, Deadlines())}, "test/m", {"TEST_KEY": KEY})
        broker = Broker("epoch", lambda payload: payload)
        runtime = Runtime(
            runs=runs,
            sessions=Sessions(store, InMemoryStore(first_number=1_000_000), broker),
            broker=broker,
            agents=Agents({"crab": DEFAULT_AGENT}),
            models=models,
            toolmaker=FixedTools(),
            guards=guards(),
            trust=Trust(state, state),
            rulebook=Rulebook(state, "/"),
        )
        yield Machine(runtime, runs, models, ill, well)
        runs.cancel_scope.cancel()
    await models.aclose()
    await store.aclose()


async def fall_ill(machine: Machine, fault: Fault) -> None:
    """Have the next message meet the fault."""
    ill = machine.ill
    ill.break_down(fault.script)
    if fault.place == "refusing":
        ill.close_door()
        await trio.testing.wait_all_tasks_blocked()
    url = ill.url
    if fault.place == "plain for tls":
        url = url.replace("http:", "https:")
    if fault.place == "tls for plain":
        url = url.replace("https:", "http:")
    machine.use(url, fault.deadlines)


async def get_well(machine: Machine, fault: Fault) -> None:
    """Have the next message be answered; by the same server, if it can be had to."""
    machine.ill.let_go()
    if fault.place == "refusing":
        await machine.ill.open_door()
    if fault.place in ("open", "refusing"):
        machine.ill.mend()
    else:
        machine.use(machine.well.url, Deadlines())


async def begin_ill(machine: Machine, session: Session, fault: Fault) -> Ticket:
    """Send the message that meets the fault; returns when the server is in the middle of it."""
    await fall_ill(machine, fault)
    ticket = await machine.begin(session, fault.said)
    if "hold" in fault.script:
        await machine.ill.until_holding()
    if fault.is_in_mid_text:
        await until(lambda: session.run is not None and text_so_far(session) == fault.text)
    return ticket


def text_so_far(session: Session) -> str:
    assert session.run is not None
    return text_of(session.run.reply.message("", with_calls=False))


@asynccontextmanager
async def proven(
    state: Path, fault: Fault, capfd: pytest.CaptureFixture[str], *texts: str
) -> AsyncGenerator[tuple[Machine, Session]]:
    """Prove, after the block, that everything is as if nothing had happened, but for these ``texts``."""
    async with open_machine(state, fault) as machine:
        identity = Identity("crab", "user")
        session, _ = await machine.runtime.get_or_create(identity, topic=None, description=None, cwd=None)
        assert (await machine.ask(session, "hello")).text == "fine"
        before = await machine.left_behind()

        yield machine, session

        await get_well(machine, fault)
        outcome = await machine.ask(session, "again")
        after = await machine.left_behind()
        in_memory = messages_of(session.steps)
        asked = (machine.ill.asked or machine.well.asked)[-1] or machine.well.asked[-1]
    store = JournalStore(state)
    damage = await store.open()
    on_disk = messages_of(await store.read(session.id))
    await store.aclose()

    expected = ["hello", "fine", *(text for text in texts if text), "again", "fine"]
    assert (outcome.stop_reason, outcome.text, outcome.persisted) == ("end_turn", "fine", True)
    assert [text_of(message) for message in in_memory] == expected
    assert (on_disk, damage) == (in_memory, ())
    assert [(m["role"], m["content"]) for m in asked["messages"][1:]] == [
        ("assistant" if isinstance(m, AssistantMessage) else "user", text_of(m)) for m in in_memory[:-1]
    ]
    assert after == before
    told = [*machine.payloads, *(path.read_bytes() for path in state.rglob("*") if path.is_file())]
    assert not any(KEY.encode() in each for each in told)
    assert KEY not in "".join(capfd.readouterr())


def check_outcome(outcome: Outcome, fault: Fault) -> None:
    assert outcome.persisted
    if fault.kind is None:
        assert (outcome.stop_reason, outcome.text, outcome.error) == ("end_turn", fault.text, None)
    else:
        assert outcome.error is not None, outcome
        assert (outcome.stop_reason, outcome.error.kind) == ("error", fault.kind), outcome.error
        assert (outcome.error.code, outcome.text) == (-32010, fault.text)
        assert fault.words in outcome.error.message, outcome.error.message


@every_fault
async def test_a_message_ends_as_it_should_and_the_next_one_is_answered(
    fault: Fault, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with proven(tmp_path / "state", fault, capfd, fault.said, fault.text) as (machine, session):
        await fall_ill(machine, fault)
        if not fault.hangs:
            machine.ill.let_go()

        outcome = await machine.ask(session, fault.said)

        check_outcome(outcome, fault)
        assert len(machine.ill.asked) == fault.tries


@every_fault
async def test_a_word_said_meanwhile_is_kept_and_read_next(
    fault: Fault, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # What ends well goes on with the word at once; what fails leaves it to the next run.
    answered = ("fine",) if fault.kind is None else ()
    texts = (fault.said, fault.text, "faster", *answered)
    async with proven(tmp_path / "state", fault, capfd, *texts) as (machine, session):
        ticket = await begin_ill(machine, session, fault)

        steering = admit_steer(session, (TextBlock("faster"),))
        if fault.kind is None:
            machine.ill.mend()
        if not fault.hangs:
            machine.ill.let_go()
        await confirm_steer(session, steering)
        outcome = await outcome_of(ticket)

        if fault.kind is None:
            assert (outcome.stop_reason, outcome.text) == ("end_turn", "fine")
        else:
            check_outcome(outcome, fault)


@every_fault
async def test_a_cancel_ends_it_at_once_and_keeps_what_was_heard(
    fault: Fault, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard = fault.text if fault.is_in_mid_text else ""
    async with proven(tmp_path / "state", fault, capfd, fault.said, heard) as (machine, session):
        ticket = await begin_ill(machine, session, fault)

        with trio.fail_after(PATIENCE):
            _, reason = await machine.runtime.cancel(session, None)
        outcome = await outcome_of(ticket)

        assert (reason, outcome.stop_reason, outcome.text) == ("cancelled", "cancelled", heard)
        if fault.place != "deaf":
            await machine.ill.until_alone()


async def test_a_cancel_between_two_tries_ends_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Longer than this test may take, and not too long to be waited for.
    fault = Fault(script=refusal(503, b"busy", retry_after="25")[1:], kind="unavailable")
    async with proven(tmp_path / "state", fault, capfd, "go") as (machine, session):
        await fall_ill(machine, fault)
        ticket = await machine.begin(session, "go")
        await machine.ill.until_asked(1)
        await machine.ill.until_alone()

        with trio.fail_after(PATIENCE):
            await machine.runtime.cancel(session, None)
        outcome = await outcome_of(ticket)

        assert (outcome.stop_reason, len(machine.ill.asked)) == ("cancelled", 1)


async def test_fifty_sessions_leave_a_dead_server_alone_and_go_on_once_it_is_mended(tmp_path: Path) -> None:
    fault = Fault(script=("close",), kind="unavailable")
    async with open_machine(tmp_path, fault) as machine:
        sessions: list[Session] = []
        for n in range(50):
            who = Identity("crab", f"cron:{n}")
            session, _ = await machine.runtime.get_or_create(who, topic=None, description=None, cwd=None)
            sessions.append(session)
        await fall_ill(machine, fault)
        first = [await machine.ask(session, "hello") for session in sessions[:2]]

        tickets = [await machine.begin(session, "go") for session in sessions]
        outcomes = [await outcome_of(ticket) for ticket in tickets]
        asked = len(machine.ill.asked)
        machine.ill.mend()
        machine.use(machine.ill.url, Deadlines())
        mended = [await machine.ask(session, "again") for session in sessions]

        assert [outcome.error and outcome.error.kind for outcome in first] == ["bad_reply", "left_alone"]
        assert {outcome.error and outcome.error.kind for outcome in outcomes} == {"left_alone"}
        assert asked == FAILURES
        assert {outcome.text for outcome in mended} == {"fine"}


async def test_cancelling_an_upload_that_nobody_reads_hangs_up_at_once_over_tls_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, _ = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    http = Http()
    headers = {"authorization": f"Bearer {KEY}"}
    async with open_fault_server(make_context(tmp_path), is_deaf=True) as server:
        server.break_down(("hold",))
        call = Call("test", "POST", f"{server.url}/v1", headers, ("text/event-stream",), b"x" * 6_000_000)

        async def ask() -> None:
            async with http.open(call):
                pass

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await server.until_holding()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        server.let_go()
        await server.until_alone()
    await http.aclose()
