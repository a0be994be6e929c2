"""The daemon: the only module that names concrete classes. It builds every part and nests their lifetimes.

Three nurseries, from the outside: runs, clients, the listener. Runs outlive clients, clients outlive the
listener; stopping goes from the inside out.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio
from msgspec import Raw, structs
from structlog.typing import FilteringBoundLogger

from crabd import __version__
from crabd.api import daemon as api
from crabd.api.table import CHANGES_NOTIFICATION, EVENT_NOTIFICATION
from crabd.config import Places, Settings, StoreName, read_settings
from crabd.doctor import diagnose
from crabd.errors import ConfigError, StoreError
from crabd.kernel import bury_orphans
from crabd.log import configure_logging
from crabd.masking import Masker, secrets_of
from crabd.mcp.connecting import Connector
from crabd.mcp.servers import ToolServers
from crabd.messages import utc_now
from crabd.providers.circuit import Trouble
from crabd.providers.registry import Registry
from crabd.rpc.envelope import encode_notification
from crabd.rpc.framing import Bundle
from crabd.rpc.reactor import Reactor
from crabd.runtime.agents import Agents, load_agents
from crabd.runtime.broker import Broker
from crabd.runtime.files import Files
from crabd.runtime.guards import Guards
from crabd.runtime.hooking import CommandHooks
from crabd.runtime.loop import shielded
from crabd.runtime.overview import Overview
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.porting import Porting
from crabd.runtime.retention import Limits
from crabd.runtime.runtime import Runtime
from crabd.runtime.sessions import Sessions
from crabd.runtime.trust import Trust
from crabd.server.caller import Control
from crabd.server.clients import Clients
from crabd.server.listener import Listener, open_listener
from crabd.service import ServiceManager
from crabd.store.base import Store
from crabd.store.inmemory import InMemoryStore
from crabd.store.journal.store import JournalStore
from crabd.store.ondisk import DiskStore
from crabd.store.porting.export import write_page
from crabd.store.porting.sources import read_sources
from crabd.store.stepfiles.store import StepStore
from crabd.tools.artifacts import Artifacts
from crabd.tools.box import Toolboxes
from crabd.tools.files.checkpoints import Checkpoints
from crabd.tools.files.searching import Searcher
from crabd.tools.settings import SandboxSettings
from crabd.tools.shell.choosing import choose_sandbox
from crabd.tools.shell.process import open_command, run_command
from crabd.tools.shell.sandbox import Sandbox, Walls

if TYPE_CHECKING:
    from crabd.store.search.index import StoreIndex

# How much of what changed a start after a kill looks into anew.
CATALOGUE_SECONDS = 600.0
# How often it is told what has changed at a glance: for an eye that is often enough.
CHANGES_SECONDS = 0.1
# Limits on what is kept are in days, so an hour more or less is all the same.
PRUNE_SECONDS = 3600.0
# How long the store and the connections to models may take to close when the daemon stops.
CLOSING_SECONDS = 10.0
# Where tools keep files for a session, besides its log.
KEPT_BESIDE = ("artifacts", "checkpoints")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# What the configuration says of these is in force from the start to the end.
AT_START = ("store", "sandbox", "web")
STORES: dict[StoreName, Callable[[Path], DiskStore]] = {"journal": JournalStore, "stepfiles": StepStore}
# What goes round every event, which is the same each time.
BEFORE_EVENT, AFTER_EVENT = encode_notification(EVENT_NOTIFICATION, Raw(b"{}")).split(b"{}")
BEFORE_CHANGES, AFTER_CHANGES = encode_notification(CHANGES_NOTIFICATION, Raw(b"{}")).split(b"{}")
NO_INDEX = api.IndexHealth("off", 0, "this Python has no SQLite: install one that has")

log: FilteringBoundLogger = structlog.get_logger()


async def serve(places: Places, manager: ServiceManager, ready_fd: int | None) -> None:
    """Be the daemon, until a signal or a client ends it.

    ``ready_fd`` gets the line ``READY`` once clients are served and recovery is done.

    Raises:
      ConfigError: ``config.toml`` or ``permissions.toml`` is wrong.
      AlreadyRunning, UnsafeSocket: the socket cannot be ours.
      StoreError: the store cannot be opened, or another process has it.
    """
    settings = read_settings(places.config)
    masker = Masker(secrets_of(os.environ))
    configure_logging(settings.log_level, masker.mask)
    async with (
        open_listener_of(places, manager) as listener,
        open_store(places, settings.store) as store,
        open_models(settings, masker) as models,
    ):
        reactor = Reactor()
        broker = Broker(secrets.token_hex(8), wrap_event, Bundle, reactor.gather)
        # Numbers by the clock, so that no ephemeral session ever has the id of an earlier one.
        scratch = InMemoryStore(first_number=time.time_ns() // 1_000_000)
        index = make_index(places, store)
        trust = Trust(places.config, places.state)
        sessions = Sessions(store, scratch, broker, index, trust)
        agents = await load_agents_of(places)
        rulebook = make_rulebook(places)
        await load_rules(rulebook, places, settings)
        artifacts = Artifacts(places.state / "artifacts", masker)
        sandbox = await make_sandbox(places, settings)
        recovered = await sessions.recover()
        async with trio.open_nursery() as runs:
            hooks = CommandHooks(run_command, sessions.find_loaded, runs, settings.hooks)
            files = Files(Checkpoints(places.state / "checkpoints"), sessions.find_loaded)

            async def discard(session: str) -> None:
                await files.drop(session)
                await artifacts.drop(session)

            sessions.discard = discard
            leftovers = await trio.to_thread.run_sync(find_leftovers, places, store)
            connector = Connector(open_command, sandbox, places.state / "mcp", masker)
            servers = ToolServers(runs, connector, settings.mcp)
            runtime = Runtime(
                runs=runs,
                sessions=sessions,
                broker=broker,
                agents=agents,
                models=models,
                toolmaker=Toolboxes(
                    runs, Searcher(shutil.which("rg")), artifacts, allow_private=settings.web.allow_private
                ),
                guards=make_guards(sandbox, artifacts, files, hooks, masker),
                trust=trust,
                rulebook=rulebook,
                hooks=hooks,
                files=files,
                servers=servers,
                titles=settings.titles,
            )
            porting = Porting(store, scratch, read_sources, write_page)
            daemon = Daemon(
                places, settings, runtime, store, models, manager, porting, masker, sandbox, servers
            )
            # From READY on a signal means an orderly stop, so somebody listens before that is said.
            await runs.start(daemon.watch_signals)
            runs.start_soon(reactor.run)
            runs.start_soon(bury_orphans)
            runs.start_soon(daemon.feed_watchdog)
            runs.start_soon(sessions.tidy_up)
            runs.start_soon(tell_changes, runtime.overview)
            runs.start_soon(keep_catalogue, store)
            runs.start_soon(discard_leftovers, leftovers, store, discard)
            runs.start_soon(daemon.keep_within_limits)
            if index is not None:
                runs.start_soon(index.run)
            await daemon.serve_clients(listener, reactor, lambda: say_ready(manager, ready_fd, recovered))
            runs.cancel_scope.cancel()


@asynccontextmanager
async def open_listener_of(places: Places, manager: ServiceManager) -> AsyncGenerator[Listener]:
    """Take the socket over from the service manager, or bind our own."""
    inherited = manager.inherited_listener()
    listener = Listener(inherited, places.socket, None) if inherited else open_listener(places.socket)
    try:
        yield listener
    finally:
        listener.close()


@asynccontextmanager
async def open_store(places: Places, name: StoreName) -> AsyncGenerator[DiskStore]:
    """Take the store of that name, and say in the log what was found broken."""
    store = STORES[name](places.state)
    for damage in await store.open():
        log.warning("damage_found", session=damage.session, problem=damage.problem)
    try:
        yield store
    finally:
        with shielded(CLOSING_SECONDS):
            await store.aclose()


def make_index(places: Places, store: Store) -> StoreIndex | None:
    """Make the index of a store; null where this Python has no SQLite."""
    try:
        # Imported here: a daemon without search is better than none.
        from crabd.store.search.index import StoreIndex
    except ImportError:
        return None
    return StoreIndex(places.state / "index", store)


async def tell_changes(overview: Overview) -> None:
    """Tell what has changed in sessions, at once and then not again for a while; runs until cancelled."""
    overview.wrap = wrap_changes
    while True:
        news = trio.Event()
        overview.on_news = news.set
        if not overview.has_news:
            await news.wait()
        overview.tell()
        await trio.sleep(CHANGES_SECONDS)


async def keep_catalogue(store: Store) -> None:
    """Spare the next start some work, also after a kill; runs until cancelled."""
    while True:
        try:
            await store.save_catalogue()
        except StoreError as exc:
            log.warning("catalogue_not_saved", problem=str(exc))
        await trio.sleep(CATALOGUE_SECONDS)


def find_leftovers(places: Places, store: Store) -> list[str]:
    """List the sessions that are gone and have left files of their tools, as after a kill in a deletion."""
    known = {meta.id for meta in store.metas()} | {damage.session for damage in store.damage()}
    folders = (places.state / name for name in KEPT_BESIDE)
    return sorted({place.name for folder in folders if folder.is_dir() for place in folder.iterdir()} - known)


async def discard_leftovers(
    leftovers: Sequence[str], store: Store, discard: Callable[[str], Awaitable[None]]
) -> None:
    """Remove what such sessions have left, one after the other, beside all else."""
    for session in leftovers:
        # An import may have brought one back.
        if store.meta(session) is None:
            await discard(session)
            log.info("leftovers_discarded", session=session)


@asynccontextmanager
async def open_models(settings: Settings, masker: Masker) -> AsyncGenerator[Registry]:
    """Find out which models there are to ask."""
    models = Registry(settings.providers, settings.model, os.environ, settings.models, masker.learn)
    try:
        await models.detect()
        yield models
    finally:
        with shielded(CLOSING_SECONDS):
            await models.aclose()


async def load_agents_of(places: Places, previous: Agents | None = None) -> Agents:
    """Read the agent files, off the event loop, and say in the log which could not be taken."""
    agents = await trio.to_thread.run_sync(load_agents, places.config / "agents", previous)
    for problem in agents.problems:
        log.warning("agent_left_out", problem=problem)
    return agents


async def make_sandbox(places: Places, settings: Settings) -> Sandbox:
    """Find out how commands can be confined here."""
    said = settings.sandbox
    walls = Walls(
        settings=said if isinstance(said, SandboxSettings) else SandboxSettings(mode=said),
        home=os.path.realpath(Path.home()),
        hidden=tuple(map(str, (places.config, places.state, places.socket.parent))),
        temporary=str(places.state / "tmp"),
        environment=os.environ,
    )
    sandbox = await choose_sandbox(walls)
    log.info("sandbox_chosen", sandbox=sandbox.describe(), problems=sandbox.problems)
    return sandbox


def make_guards(
    sandbox: Sandbox,
    artifacts: Artifacts,
    files: Files,
    hooks: CommandHooks,
    masker: Masker,
) -> Guards:
    """Put together what every call of a tool passes."""
    return Guards(
        confinement=sandbox,
        preserver=files.preserver,
        artifacts=artifacts,
        hooks=hooks,
        masker=masker,
    )


def make_rulebook(places: Places) -> Rulebook:
    """Make the book of a person's rules, which has none yet."""
    private = [os.path.realpath(each) for each in (places.config, places.state, places.socket)]
    return Rulebook(places.config, os.path.realpath(Path.home()), private, places.state / "artifacts")


async def load_rules(rulebook: Rulebook, places: Places, settings: Settings) -> None:
    """Read a person's rules.

    Raises:
      ConfigError.
    """
    said = settings.permissions
    await rulebook.load(said, str(places.config / "config.toml"), said.mode, said.default)
    rulebook.answer_within = said.answer_within


def wrap_event(event: bytes) -> bytes:
    """Make the notification of an encoded event."""
    return BEFORE_EVENT + event + AFTER_EVENT


def wrap_changes(changes: bytes) -> bytes:
    """Make the notification of encoded changes."""
    return BEFORE_CHANGES + changes + AFTER_CHANGES


def say_ready(manager: ServiceManager, ready_fd: int | None, recovered: int) -> None:
    """Tell whoever started us that clients are served from now on."""
    manager.notify("READY=1", "STATUS=serving")
    if ready_fd is not None:
        os.write(ready_fd, b"READY\n")
        os.close(ready_fd)
    log.info("ready", version=__version__, pid=os.getpid(), recovered=recovered)


class Daemon(Control):
    """The daemon as its clients and its service manager see it."""

    def __init__(
        self,
        places: Places,
        settings: Settings,
        runtime: Runtime,
        store: DiskStore,
        models: Registry,
        manager: ServiceManager,
        porting: Porting,
        masker: Masker,
        sandbox: Sandbox,
        servers: ToolServers,
    ) -> None:
        self.porting = porting
        self._places = places
        self._settings = settings
        self._runtime = runtime
        self._store = store
        self._models = models
        self._manager = manager
        self._masker = masker
        self._sandbox = sandbox
        self._servers = servers
        self._at_start = settings
        self._started = time.monotonic()
        self._stopping = trio.Event()
        self._grace = trio.CancelScope()
        self._clients: Clients | None = None
        self._reloading = trio.Lock()

    async def serve_clients(self, listener: Listener, reactor: Reactor, on_open: Callable[[], None]) -> None:
        """Serve until told to stop, then stop in order: the door, the runs, the clients."""
        async with trio.open_nursery() as clients:
            self._clients = Clients(clients, reactor, self._runtime, self)
            async with trio.open_nursery() as door:
                door.start_soon(listener.serve, self._clients.welcome)
                on_open()
                await self._stopping.wait()
                door.cancel_scope.cancel()
            listener.stop()
            status = f"STATUS=letting {self._runtime.running} runs finish"
            # The grace may be longer than the manager's patience with a service that stops.
            patience = self._grace.deadline - trio.current_time() + 2 * CLOSING_SECONDS
            self._manager.notify("STOPPING=1", status, f"EXTEND_TIMEOUT_USEC={round(patience * 1e6)}")
            log.info("stopping", runs=self._runtime.running, clients=len(self._clients))
            await self._runtime.drain(self._grace)
            await self._clients.aclose()
            clients.cancel_scope.cancel()
        log.info("stopped")

    async def watch_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stop on SIGTERM and SIGINT, at once on a second one; reload on SIGHUP. Runs until cancelled."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    await self._reload_quietly()
                elif self._stopping.is_set():
                    self._grace.cancel()
                else:
                    self.shut_down(None)

    async def feed_watchdog(self) -> None:
        """Prove to the service manager that the event loop turns, at half its patience."""
        while self._manager.watchdog_seconds:
            self._manager.notify("WATCHDOG=1")
            await trio.sleep(self._manager.watchdog_seconds / 2)

    def shut_down(self, grace: float | None) -> api.ShutdownStarted:
        seconds = self._settings.grace if grace is None else grace
        self._grace.deadline = min(self._grace.deadline, trio.current_time() + seconds)
        self._stopping.set()
        return api.ShutdownStarted(os.getpid(), self._runtime.running)

    async def reload(self) -> api.Reloaded:
        async with self._reloading:
            self._manager.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                return await self._read_again()
            finally:
                self._manager.notify("READY=1")

    async def _read_again(self) -> api.Reloaded:
        problems: list[str] = []
        try:
            settings = await trio.to_thread.run_sync(read_settings, self._places.config)
            self._models.configure(settings.providers, settings.model, settings.models)
            await self._models.detect()
            await load_rules(self._runtime.rulebook, self._places, settings)
            configure_logging(settings.log_level, self._masker.mask)
            self._settings = settings
            self._runtime.titles = settings.titles
            self._runtime.hooks.own = settings.hooks
            self._servers.settings = settings.mcp
            problems += (
                f"the new {name} takes effect at the next start: crabctl restart"
                for name in AT_START
                if getattr(settings, name) != getattr(self._at_start, name)
            )
        except ConfigError as exc:
            problems.append(str(exc))
            log.warning("configuration_left_out", problem=str(exc))
        agents = await load_agents_of(self._places, self._runtime.agents)
        self._runtime.equipper.agents = agents
        log.info("reloaded", agents=len(agents.by_name))
        return api.Reloaded(tuple(sorted(agents.by_name)), (*problems, *agents.problems))

    def limits(self) -> Limits:
        return Limits(self._settings.retention.keep_days, self._settings.retention.max_bytes)

    async def keep_within_limits(self) -> None:
        """Remove sessions as the configuration says, if it does, every so often; runs until cancelled."""
        while True:
            # Not at once: whoever has just set a limit may want to see what it will do.
            await trio.sleep(PRUNE_SECONDS)
            if self.limits().is_set:
                try:
                    await self._runtime.sessions.prune(self.limits(), is_dry=False)
                except StoreError as exc:
                    log.warning("sessions_not_pruned", problem=str(exc))

    async def doctor(self, *, repair: bool) -> api.Diagnosis:
        diagnosis = await diagnose(self._places, self._store, repair=repair, index=self._index_health())
        log.info("doctor_was_here", repair=repair, problems=diagnosis.problems, sessions=diagnosis.sessions)
        return diagnosis

    async def _reload_quietly(self) -> None:
        """Reload for somebody who gets no answer: what is wrong is in the log."""
        try:
            await self.reload()
        except Exception:
            log.exception("reload_failed")

    def status(self) -> api.DaemonStatus:
        runtime, sessions = self._runtime, self._runtime.sessions
        default = self._models.resolve(None)
        return api.DaemonStatus(
            version=__version__,
            protocol=api.PROTOCOL,
            pid=os.getpid(),
            uptime=round(time.monotonic() - self._started, 3),
            epoch=runtime.broker.epoch,
            socket=str(self._places.socket),
            config=str(self._places.config / "config.toml"),
            sessions=sessions.stored,
            live=len(sessions.live()),
            runs=runtime.running,
            clients=len(self._clients) if self._clients else 0,
            memory=resident_bytes(),
            model=api.DefaultModel(default.id, default.why),
            model_servers=tuple(tell_trouble(trouble) for trouble in self._models.troubles()),
            store=api.StoreHealth(
                self._store.name,
                str(self._places.state),
                tuple(f"{d.session}: {d.problem}" for d in self._store.damage()),
            ),
            index=self._index_health(),
            sandbox=api.SandboxHealth(self._sandbox.kind, self._sandbox.describe(), self._sandbox.problems),
            problems=runtime.agents.problems,
        )

    def _index_health(self) -> api.IndexHealth:
        index = self._runtime.sessions.index
        return api.IndexHealth(**structs.asdict(index.health())) if index else NO_INDEX


def tell_trouble(trouble: Trouble) -> api.ServerTrouble:
    """Tell a client what is wrong with a model server."""
    until = utc_now() + timedelta(seconds=trouble.seconds) if trouble.state == "open" else None
    return api.ServerTrouble(
        server=trouble.server,
        state=trouble.state,
        failures=trouble.failures,
        problem=trouble.problem,
        until=until,
    )


def resident_bytes() -> int:
    """Measure the memory this process holds, as the kernel counts it."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_BYTES
