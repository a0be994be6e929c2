"""What a daemon needs besides its store: configuration, agents, keys, the socket's place, room on the disk.

Looks, and changes nothing. Nothing here talks to a model server, and no key is told.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from pathlib import Path
from typing import Literal, TypeAlias

import trio
from msgspec import structs

from crabd.api.address import UnsafeDirectory, check_directory
from crabd.api.daemon import Finding
from crabd.config import Places, Settings, read_settings
from crabd.errors import ConfigError, ProviderError
from crabd.messages import clean_text
from crabd.providers.keys import ApiKey
from crabd.providers.registry import Registry
from crabd.runtime.agents import load_agents
from crabd.runtime.permissions.rulebook import FILE as PERMISSIONS
from crabd.runtime.permissions.rulebook import Rulebook

# A day of hard work with an agent takes some megabytes; below the second figure the next run may fail.
LITTLE_SPACE = 256 << 20
NO_SPACE = 16 << 20
# What fits into a socket's address, its final zero left out: unix(7).
MAX_SOCKET_PATH = 107

Area: TypeAlias = Literal["store", "index", "socket", "configuration", "agents", "keys", "disk"]
# How a parser tells the line, and how a check tells the name of what is wrong.
_LINE = re.compile(r"line (\d+)")
_NAME = re.compile(r"`\$[^`]*\.(\w+)`|unknown field `([^`]+)`")


async def check_surroundings(places: Places) -> list[Finding]:
    """Look at what a daemon needs besides its store."""
    settings, configuration = await _check_configuration(places.config)
    return [
        *configuration,
        *await trio.to_thread.run_sync(_check_agents, places.config / "agents"),
        *await _check_keys(settings),
        *await trio.to_thread.run_sync(_check_socket, places.socket),
        *await trio.to_thread.run_sync(_check_space, places.state),
    ]


async def _check_configuration(folder: Path) -> tuple[Settings, list[Finding]]:
    """Read the configuration as a start would; what cannot be read counts as not there."""
    file = folder / "config.toml"
    findings = [
        wrong(
            "configuration", "mode", path, "others can change what crabd runs for you", f"chmod go-w {path}"
        )
        for path in (folder, file, folder / PERMISSIONS, folder / "agents")
        if path.exists() and path.stat().st_mode & 0o022
    ]
    try:
        settings = await trio.to_thread.run_sync(read_settings, folder)
        await Registry(settings.providers, settings.model, os.environ).aclose()
        said = settings.permissions
        await Rulebook(folder, "/").load(said, str(file), said.mode, said.default)
    except ConfigError as exc:
        advice = "mend it; the daemon does not start with it, and a reload leaves it out"
        place = _with_line(folder / exc.file, exc.problem)
        return Settings(), [*findings, wrong("configuration", "invalid", place, exc.problem, advice)]
    told = "it says what it can mean" if file.exists() else "there is none, so everything is as it comes"
    return settings, findings or [sound("configuration", file, told)]


def _check_agents(folder: Path) -> list[Finding]:
    agents = load_agents(folder)
    findings: list[Finding] = []
    for problem in agents.problems:
        file, _, told = problem.partition(".md: ")
        place = _with_line(Path(f"{file}.md"), told, before=1)
        findings.append(wrong("agents", "invalid", place, told, "mend it, then crabctl reload"))
    return findings or [sound("agents", folder, f"{', '.join(sorted(agents.by_name))} can be talked to")]


async def _check_keys(settings: Settings) -> list[Finding]:
    """Read the keys that lie in files and variables; a command might ask a person for a passphrase."""
    findings: list[Finding] = []
    for name, given in settings.providers.items():
        command = given.api_key_command if not given.api_key_file else None
        where = f"[providers.{name}]"
        key = ApiKey(name, file=given.api_key_file, variable=given.api_key_env, env=os.environ)
        if command is not None:
            if not _can_run(command):
                told = "there is no such program as the one of api_key_command"
                findings.append(wrong("keys", "command", where, told, "run it by hand to see why"))
            continue
        try:
            await key.read()
        except ProviderError as exc:
            advice = "requests to this server are refused until that is mended"
            findings.append(wrong("keys", "auth", where, exc.problem, advice))
    names = ", ".join(settings.providers)
    return findings or [
        sound("keys", "config.toml", f"{names} can be had" if names else "none is configured")
    ]


def _can_run(command: str) -> bool:
    try:
        return shutil.which(shlex.split(command)[0]) is not None
    except (ValueError, IndexError):
        return False


def _check_socket(path: Path) -> list[Finding]:
    advice = "mend that, or choose another place with $CRABD_SOCKET"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        told = f"its path has more than the {MAX_SOCKET_PATH} bytes that a socket's may have"
        return [wrong("socket", "path", path, told, "choose a shorter one with $CRABD_SOCKET")]
    try:
        check_directory(str(path.parent))
        status = path.lstat()
    except UnsafeDirectory as exc:
        return [wrong("socket", "directory", exc.path, exc.problem, advice)]
    except FileNotFoundError:
        return [sound("socket", path, "it is not there; the next start makes it")]
    if not stat.S_ISSOCK(status.st_mode):
        return [wrong("socket", "foreign", path, "it is not a socket", f"move it elsewhere, or {advice}")]
    if status.st_uid != os.getuid():
        return [wrong("socket", "owner", path, f"it belongs to another user (uid {status.st_uid})", advice)]
    if status.st_mode & 0o077:
        mode = f"it is open to others (mode {stat.S_IMODE(status.st_mode):04o})"
        return [wrong("socket", "mode", path, mode, f"chmod 600 {path}")]
    return [sound("socket", path, "it is yours alone")]


def _check_space(state: Path) -> list[Finding]:
    place = next(each for each in (state, *state.parents) if each.exists())
    free = shutil.disk_usage(place).free
    told = f"{free >> 20} MiB are free"
    if free >= LITTLE_SPACE:
        return [sound("disk", place, told)]
    advice = "free some: without room nothing can be saved, and no run goes on"
    if free < NO_SPACE:
        return [wrong("disk", "full", place, f"only {told}", advice)]
    return [notice("disk", "full", place, f"only {told}", advice)]


def _with_line(file: Path, problem: str, before: int = 0) -> str:
    """Add to a file's path the line that a problem is about, where that can be known.

    ``before`` is how many lines of the file stand before what the problem counts.
    """
    told = _LINE.search(problem)
    if told:
        return f"{file}:{int(told[1]) + before}"
    names = _NAME.findall(problem)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return str(file)
    name = re.escape("".join(names[-1])) if names else "$^"
    found = [n for n, line in enumerate(lines, 1) if re.match(rf"\s*[\"']?{name}[\"']?\s*[=:]", line)]
    return f"{file}:{found[0]}" if len(found) == 1 else str(file)


def wrong(area: Area, kind: str, where: object, told: str, advice: str) -> Finding:
    """Make a finding of what cannot wait."""
    return structs.replace(notice(area, kind, where, told, advice), grade="problem")


def notice(area: Area, kind: str, where: object, told: str, advice: str) -> Finding:
    """Make a finding of what can wait."""
    return Finding(
        area=area,
        grade="notice",
        kind=kind,
        where=clean_text(str(where)),
        told=clean_text(told),
        advice=clean_text(advice),
    )


def sound(area: Area, where: object, told: str) -> Finding:
    """Make a finding of what is in order."""
    return Finding(area=area, grade="ok", kind="ok", where=clean_text(str(where)), told=told)
