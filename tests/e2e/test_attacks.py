"""The attacks, on a real daemon with real tools: whatever is tried, nothing of it comes true."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.e2e.attacks import ATTACKS, Attack
from tests.e2e.daemon import PATIENCE, ROOT, Client, Daemon, Home, WireError, start_daemon

# A key as they look, in the daemon's environment and in files that are nobody's business.
CANARY = "sk-canary0123456789abcdefghijklmnopqrstuvwxyz"
VICTIM = "VICTIM-words-of-another-session"
# What a daemon may need at most, in MB; an output that is kept in memory would be a gigabyte.
MOST_MEMORY = 500
# One attack, with what it makes the daemon do: less than a client of a test waits.
ATTACK_SECONDS = 0.8 * PATIENCE


class World:
    """What an attack could do harm to. Everything is looked at after each."""

    def __init__(self, daemon: Daemon, number: int, victim: str, port: int) -> None:
        home = daemon.home
        self.directory = home.directory / f"attack-{number}"
        self.cwd, self.outside = self.directory / "cwd", self.directory / "outside"
        self.mark = f"7{number:04d}.4242"
        crabctl = f"PYTHONPATH={ROOT} {sys.executable} -m crabctl --no-start --socket {home.socket}"
        self._rules = home.config / "permissions.toml"
        self._words = {
            "<cwd>": str(self.cwd),
            "<outside>": str(self.outside),
            "<home>": str(home.directory),
            "<state>": str(home.state),
            "<socket>": str(home.socket),
            "<pid>": str(daemon.process.pid),
            "<victim>": victim,
            "<port>": str(port),
            "<crabctl>": crabctl,
            "<mark>": self.mark,
        }

    def build(self) -> None:
        for directory in (".git/hooks", ".crab", "bin"):
            (self.cwd / directory).mkdir(parents=True)
        (self.cwd / ".git/config").write_text("[core]\n")
        (self.cwd / ".git/HEAD").write_text("ref: refs/heads/main\n")
        (self.cwd / "AGENTS.md").write_text("Use tabs.\n")
        (self.cwd / "na\u00efve.txt").write_text(CANARY)
        (self.directory / "cwd-outside").mkdir()
        self.outside.mkdir()
        (self.outside / "canary.txt").write_text(f"secret: {CANARY}\n")
        (self.outside / "precious.txt").write_text("precious\n")
        (self.cwd / "hard.txt").hardlink_to(self.outside / "precious.txt")
        (self.cwd / "way-out").symlink_to(self.outside)
        (self.cwd / "dangling").symlink_to(self.outside / "mark")
        program = self.cwd / "bin" / "git"
        program.write_text(f"#!/bin/sh\n/usr/bin/touch {self.outside}/mark\n")
        program.chmod(0o755)

    def fill_in(self, value: object) -> object:
        """Put the places of this world into an argument."""
        if isinstance(value, str):
            for word, meaning in self._words.items():
                value = value.replace(word, meaning)
        return value

    def harm(self) -> list[str]:
        """List what is not as it was."""
        found = {path.name: path.read_text() for path in self.outside.iterdir()}
        wanted = {"canary.txt": f"secret: {CANARY}\n", "precious.txt": "precious\n"}
        guarded = {".git/config": "[core]\n", "AGENTS.md": "Use tabs.\n"}
        harm = ["the files outside are changed"] if found != wanted else []
        harm += [
            f"{name} is changed" for name, text in guarded.items() if (self.cwd / name).read_text() != text
        ]
        new = [".git/hooks/post-checkout", ".crab/hooks.toml"]
        harm += [f"{name} is new" for name in new if (self.cwd / name).exists()]
        harm += ["it has rules of its own"] if self._rules.exists() else []
        return harm + [f"{pid} is left: {command}" for pid, command in processes() if self.mark in command]


def processes() -> list[tuple[str, str]]:
    """List all processes with their command lines."""
    found: list[tuple[str, str]] = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            found.append((directory.name, (directory / "cmdline").read_text(errors="replace")))
        except OSError:
            continue
    return found


class Person:
    """Somebody at another client, who never allows anything. What all sessions do is told here."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen = 0
        self.asked: set[str] = set()

    async def watch(self) -> None:
        """Answer whoever asks, until cancelled."""
        await self._client.call("session/subscribe", all=True)
        while True:
            events = self._client.events("confirmation_requested")
            for event in events[self._seen :]:
                await self._deny(event)
            self._seen = len(events)
            # Nobody may ask for longer than a client of a test waits.
            with suppress(trio.TooSlowError):
                await self._client.until(self._is_asked)

    def _is_asked(self) -> bool:
        return len(self._client.events("confirmation_requested")) > self._seen

    async def _deny(self, event: dict[str, Any]) -> None:
        if VICTIM_SENDER in event["session"]:
            return
        self.asked.add(event["session"])
        call = event["confirmation"]["call"]
        await self._client.call("confirmation/reply", session=event["session"], call=call, decision="deny")


VICTIM_SENDER = "victim"


async def make_victim(client: Client, home: Home) -> tuple[str, str]:
    """Have another session with words of its own, and with a call that waits for a person.

    Returns its id, and what the person is told to confine the call.
    """
    session: str = (await client.call("session/get_or_create", agent="crab", sender=VICTIM_SENDER))["id"]
    await client.call("session/configure", session=session, cwd=str(home.directory))
    await client.call("session/send", session=session, content=f"echo {VICTIM}", events=False)
    call = call_of("bash", {"command": f"touch {home.directory}/approved"})
    await client.call("session/subscribe", session=session)
    await client.call("session/send", session=session, content=call, wait=False, events=False)
    asked = await client.event("confirmation_requested")
    return session, asked["confirmation"]["sandbox"]


def call_of(tool: str, arguments: dict[str, object]) -> str:
    """Have the offline model call a tool."""
    return f"call {tool} {msgspec.json.encode(arguments).decode()}"


async def attempt(attack: Attack, world: World, daemon: Daemon, victim: str, person: Person) -> list[str]:
    """Do one attack; lists what it has come to, which should be nothing."""
    await trio.to_thread.run_sync(world.build)
    client = await daemon.connect()
    session = (await client.call("session/get_or_create", agent="crab", sender=world.mark))["id"]
    rules = {"allow": attack.allow, "ask": (), "deny": attack.deny}
    await client.call(
        "session/configure", session=session, cwd=str(world.cwd), mode=attack.mode, permissions=rules
    )
    await client.call("session/subscribe", session=session)
    arguments = {name: world.fill_in(value) for name, value in attack.arguments.items()}
    with trio.move_on_after(ATTACK_SECONDS) as limit:
        await client.call("session/send", session=session, content=call_of(attack.tool, arguments))
    harm = ["it does not come to an end"] if limit.cancelled_caught else []
    harm += await trio.to_thread.run_sync(world.harm)
    if attack.asks is not None and attack.asks != (session in person.asked):
        harm.append("a person is asked" if session in person.asked else "nobody is asked")
    told = "".join(event.get("output", "") + event.get("text", "") for event in client.notifications)
    harm += [f"told: {what}" for what in (CANARY, VICTIM, "\x1b", "\x9b") if what in told]
    waiting = await client.call("confirmation/list", session=victim)
    harm += [] if len(waiting["confirmations"]) == 1 else ["the victim's call waits no more"]
    return harm


async def check_daemon(daemon: Daemon) -> list[str]:
    """Tell what is wrong with a daemon after all that."""
    client = await daemon.connect()
    status = await client.call("daemon/status")
    # The memory it has taken at most, of which /proc tells everybody.
    lines = Path(f"/proc/{status['pid']}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    harm = [f"it has taken {peak:.0f} MB"] if peak > MOST_MEMORY else []
    log = (daemon.home.directory / "crabd.log").read_text(errors="replace")
    files = [path.read_bytes() for path in daemon.home.state.rglob("*") if path.is_file()]
    harm += ["the key is in the log"] if CANARY in log else []
    harm += ["the key is in the store"] if any(CANARY.encode() in data for data in files) else []
    return harm


async def is_confined(daemon: Daemon) -> bool:
    """Find out whether commands are confined here, by what one can do."""
    client = await daemon.connect()
    probe = daemon.home.directory / "probe"
    cwd = daemon.home.directory / "harmless"
    cwd.mkdir()
    session = (await client.call("session/get_or_create", agent="crab", sender="probe"))["id"]
    await client.call("session/configure", session=session, cwd=str(cwd), mode="full")
    call = call_of("bash", {"command": f"touch {probe}"})
    await client.call("session/send", session=session, content=call, events=False)
    return not probe.exists()


def hide_bubblewrap(home: Home) -> None:
    """Have the daemon find all programs but this one."""
    programs = home.directory / "programs"
    programs.mkdir()
    places = [place for place in home.env["PATH"].split(":") if os.access(place, os.R_OK | os.X_OK)]
    for directory in reversed(places):
        for program in Path(directory).iterdir():
            (programs / program.name).unlink(missing_ok=True)
            (programs / program.name).symlink_to(program)
    (programs / "bwrap").unlink(missing_ok=True)
    home.env["PATH"] = str(programs)


@asynccontextmanager
async def lonely_server() -> AsyncGenerator[tuple[int, list[str]]]:
    """Run a web server that nobody should come to; gives its port and who has come."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    visits: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            visits.append(repr(await stream.receive_some()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, serve, [listener]))
        yield listener.socket.getsockname()[1], visits
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sandbox", ["bubblewrap", "Landlock", "no sandbox"])
async def test_whatever_is_tried_nothing_of_it_comes_true(tmp_path: Path, sandbox: str) -> None:
    home = Home(tmp_path, CANARY_SERVICE_TOKEN=CANARY)
    mode = "off" if sandbox == "no sandbox" else "auto"
    home.configure(f'titles = false\n[sandbox]\nmode = "{mode}"\n')
    if sandbox == "Landlock":
        hide_bubblewrap(home)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    (tmp_path / ".ssh" / "id_ed25519").write_text(CANARY)
    came_true: dict[str, list[str]] = {}
    async with start_daemon(home) as daemon, lonely_server() as (port, visits):
        victim, said = await make_victim(await daemon.connect(), home)
        confined = await is_confined(daemon)
        assert confined == (not said.startswith("no sandbox"))
        if not said.startswith(sandbox):
            pytest.skip(f"this machine has no {sandbox}: {said}")
        person = Person(await daemon.connect())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(person.watch)
            for number, attack in enumerate(ATTACKS):
                if attack.needs_sandbox and not confined:
                    continue
                world = World(daemon, number, victim, port)
                try:
                    harm = await attempt(attack, world, daemon, victim, person)
                except WireError as exc:
                    harm = [f"the daemon says {exc}"]
                if harm or visits:
                    came_true[attack.name] = harm + visits
                visits.clear()
            nursery.cancel_scope.cancel()
        came_true["the daemon"] = await check_daemon(daemon)

    assert came_true == {"the daemon": []}
