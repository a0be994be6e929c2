"""``service install|uninstall|status``: crabd as a service of the user's own systemd."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from crabctl import systemd
from crabctl.arguments import UsageError
from crabctl.client import NoDaemon, RemoteError, dial
from crabctl.commands.daemon import end
from crabctl.commands.target import is_asleep, where
from crabctl.render import as_json, facts, harmless, local_time, plural
from crabctl.spawn import dial_when_free, only_one_starts
from crabctl.units import is_ours, render, unit_folder
from crabd import errors
from crabd.api.address import default_socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args

# Where loginctl notes whose services live on without a login.
LINGERING = Path("/var/lib/systemd/linger")
# How long a daemon that may hang is asked how it is, in seconds.
STATUS_LIMIT = 10.0


def service(args: Args) -> int:
    """Do what the word says."""
    actions = {"install": install, "uninstall": uninstall, "status": status}
    action = actions.get(args.words[0])
    if action is None:
        raise UsageError(f"service {args.words[0]!r}: say install, uninstall or status")
    if not systemd.has_manager():
        raise NoDaemon(
            "no systemd runs your services here, as $XDG_RUNTIME_DIR/systemd/private is not there: log in as "
            "yourself, not by su or sudo; without systemd crabctl starts crabd by itself"
        )
    return action(args)


def install(args: Args) -> int:
    """Write the units, have systemd listen, and tell what that means."""
    path = os.path.abspath(where(args))  # noqa: PTH100  # links stay
    texts = render(_programs(), path, default_socket_path())
    folder = unit_folder()
    _refuse_changed(folder, args, "Move the change into a drop-in (systemctl --user edit {}), then give -y")
    with only_one_starts(path):
        stopped = _make_way(args, path)
        written = [name for name, text in texts.items() if _write(folder / name, text)]
        units = _listen(path, is_new=systemd.SOCKET in written)
    advice = [*_advice_on_restart(written, units), *_advice_on_life(), *_advice_on_keys()]
    if args.has("json"):
        told = {"installed": written, "folder": str(folder), "socket": path, "stopped": stopped}
        print(as_json(told | {"advice": advice}))
        return 0
    if stopped:
        print(f"the crabd that was no service (pid {stopped}) has stopped")
    print(harmless(f"{' and '.join(written) or 'nothing new'} written to {folder}"))
    print(harmless(f"systemd listens at {path} and starts crabd when somebody connects"))
    for each in advice:
        print(harmless(f"  {each}"))
    return 0


def uninstall(args: Args) -> int:
    """Stop crabd, have systemd listen no more, and remove the units."""
    folder = unit_folder()
    _refuse_changed(folder, args, "To lose the change with it give -y")
    files = [folder / name for name in systemd.UNITS if os.path.lexists(folder / name)]
    if files:
        systemd.control("disable", "--now", *systemd.UNITS)
        for file in files:
            file.unlink(missing_ok=True)
        systemd.control("daemon-reload")
        # A failure is remembered even of a unit that is gone; there need not have been one.
        systemd.run("reset-failed", *systemd.UNITS)
    removed = [file.name for file in files]
    left = [str(folder / f"{name}.d") for name in systemd.UNITS if (folder / f"{name}.d").exists()]
    if args.has("json"):
        print(as_json({"removed": removed, "left": left}))
        return 0
    print(f"removed {' and '.join(removed)}" if removed else f"there is no unit of crabd in {folder}")
    if left:
        print(harmless(f"your drop-ins are still there: {' '.join(left)}"))
    return 0


def status(args: Args) -> int:
    """Tell how the units are, which daemon answers, and what to do."""
    path = os.path.abspath(where(args))  # noqa: PTH100  # links stay
    units = systemd.show()
    if units is None:
        raise NoDaemon("the user's systemd does not answer: systemctl --user status")
    daemon = _ask_daemon(path)
    told = {
        "socket": _facts_of(units.socket) | {"path": path},
        "service": _facts_of(units.service)
        | {
            "pid": units.pid or None,
            "exit_status": int(units.service.get("ExecMainStatus", "0")),
            "restarts": int(units.service.get("NRestarts", "0")),
        },
        "daemon": daemon and {"pid": daemon["pid"], "version": daemon["version"]},
        "advice": advice_on_state(units, path, daemon),
    }
    print(as_json(told) if args.has("json") else facts(_rows(told)))
    return 0


def _programs() -> Path:
    """Find where this installation's programs are: beside its interpreter, or where crabctl was called.

    Raises:
      NoDaemon: they are in neither.
    """
    places = [sys.executable, os.path.abspath(sys.argv[0])]  # noqa: PTH100  # links stay
    folders = [Path(place).parent for place in places]
    for folder in folders:
        if all(os.access(folder / name, os.X_OK) for name in ("crabd", "crabctl")):
            if any(char in str(folder) for char in "\"'\\"):
                raise NoDaemon(f"systemd runs no program with quotes or backslashes in its path: {folder}")
            return folder
    raise NoDaemon(
        f"crabd and crabctl are not in {' or '.join(map(str, folders))}: install the package, with pipx or "
        "into a virtual environment, and call the crabctl that comes with it"
    )


def _refuse_changed(folder: Path, args: Args, advice: str) -> None:
    """Refuse to touch what somebody else wrote.

    Raises:
      RemoteError: there is such a unit, and nobody said that it may go.
    """
    for name in systemd.UNITS:
        file = folder / name
        if os.path.lexists(file) and not is_ours(file) and not args.has("yes"):
            raise RemoteError(
                errors.REFUSED,
                f"{file} is not, or no longer, as crabctl wrote it. {advice.format(name)}",
                {"kind": "changed", "file": str(file)},
            )


def _make_way(args: Args, path: str) -> int | None:
    """Stop a daemon that systemd has not started, if no run is going in it; returns its pid.

    Raises:
      RemoteError: runs are going.
    """
    units = systemd.find(path)
    if units is not None and units.is_listening:
        return None
    link = dial_when_free(path)
    if link is None:
        return None
    with link:
        found = link.call("daemon/status", {})
    if found["runs"]:
        raise RemoteError(
            errors.CONFLICT,
            f"a crabd that is no service (pid {found['pid']}) has {plural(found['runs'], 'run')} going: "
            "crabctl stop lets runs finish; install then",
            {"kind": "runs_going", "pid": found["pid"], "runs": found["runs"]},
        )
    return end(args, path)


def _write(file: Path, text: str) -> bool:
    """Put a unit file in its place as a whole; false if it was there just so."""
    if is_ours(file) and file.read_text() == text:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(text)
    fresh.replace(file)
    return True


def _listen(path: str, *, is_new: bool) -> systemd.Units:
    """Have systemd read the units and listen, now and from each login on; returns their state.

    Raises:
      NoDaemon: it does not, or not there.
    """
    systemd.control("daemon-reload")
    systemd.control("enable", systemd.SOCKET)
    # Installing again is a way to say that what failed is mended; there need not have been anything.
    systemd.run("reset-failed", *systemd.UNITS)
    before = systemd.show()
    # A socket takes up what has changed when it is started anew, which a daemon that runs would not survive.
    is_idle = before is not None and not before.pid
    systemd.control("restart" if is_new and is_idle else "start", systemd.SOCKET)
    units = systemd.find(path)
    if units is None:
        raise NoDaemon(f"another unit or a drop-in is in the way: systemctl --user cat {systemd.SOCKET}")
    return units


def _ask_daemon(path: str) -> dict[str, Any] | None:
    """Ask the daemon how it is, if there is one that answers, without starting one."""
    if is_asleep(path):
        return None
    try:
        link = dial(path)
        if link is None:
            return None
        with link:
            told: dict[str, Any] = link.call("daemon/status", {}, limit=STATUS_LIMIT)
    except (NoDaemon, RemoteError):
        return None
    return told


def _facts_of(unit: dict[str, str]) -> dict[str, Any]:
    """Choose what a person or a script wants to know of a unit."""
    file = unit.get("FragmentPath") or None
    return {
        "file": file,
        "as_written": is_ours(Path(file)) if file else None,
        "drop_ins": unit.get("DropInPaths", "").split(),
        "enabled": unit.get("UnitFileState") or None,
        "active": unit.get("ActiveState"),
        "state": unit.get("SubState"),
        "since": _moment(unit.get("StateChangeTimestamp", "")),
        "result": unit.get("Result"),
    }


def _moment(stamp: str) -> str | None:
    """Turn systemd's ``@SECONDS`` into a moment as the wire has it."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(int(stamp[1:]), UTC).isoformat() if stamp[1:].isdigit() else None


def _rows(told: dict[str, Any]) -> list[tuple[str, object]]:
    socket, unit, daemon = told["socket"], told["service"], told["daemon"]
    who = "the service" if daemon and daemon["pid"] == unit["pid"] else "not the service"
    return [
        (systemd.SOCKET, f"{socket['enabled'] or 'not installed'}, {_state(socket)}"),
        (systemd.SERVICE, _state(unit)),
        ("daemon", f"{daemon['version']}, pid {daemon['pid']}, {who}" if daemon else "none answers"),
        ("listens", socket["path"]),
        ("units", "\n".join(file for file in (socket["file"], unit["file"]) if file)),
        ("drop-ins", "\n".join([*socket["drop_ins"], *unit["drop_ins"]])),
        ("next", "\n".join(told["advice"])),
    ]


def _state(unit: dict[str, Any]) -> str:
    since = f" since {local_time(unit['since'])}" if unit["since"] else ""
    failed = "" if unit["result"] in (None, "success") else f"; last result: {unit['result']}"
    code = f" {unit['exit_status']}" if unit["result"] == "exit-code" else ""
    restarts = f"; restarted {plural(unit['restarts'], 'time')}" if unit.get("restarts") else ""
    return f"{unit['active']} ({unit['state']}){since}{failed}{code}{restarts}"


def advice_on_state(units: systemd.Units, path: str, daemon: dict[str, Any] | None) -> list[str]:
    """Say what to do about the state the units are in, given what the daemon tells, if one answers."""
    if not units.listen_at(path):
        return [f"crabctl service install, so that systemd listens at {path}"]
    advice: list[str] = []
    if units.is_given_up:
        advice.append(systemd.GIVEN_UP_ADVICE)
    elif units.service.get("Result") != "success":
        advice.append(
            f"journalctl --user --unit {systemd.SERVICE} --lines 30 tells why the last crabd failed"
        )
    if not units.is_listening or units.socket.get("UnitFileState") != "enabled":
        advice.append("crabctl service install, so that systemd listens, now and from each login on")
    if daemon and daemon["pid"] != units.pid:
        advice.append("crabctl stop ends a crabd that is no service; the next command starts the service")
    if "yes" in (units.socket.get("NeedDaemonReload"), units.service.get("NeedDaemonReload")):
        advice.append("systemctl --user daemon-reload, as a unit has changed on the disk")
    return advice


def _advice_on_restart(written: list[str], units: systemd.Units) -> list[str]:
    if not (written and units.pid):
        return []
    command = f"systemctl --user restart {systemd.SOCKET}" if systemd.SOCKET in written else "crabctl restart"
    return [f"the crabd that runs goes on as it was: {command}"]


def _advice_on_life() -> list[str]:
    # Imported here: only this advice needs it.
    from pwd import getpwuid

    advice = [f"its log: journalctl --user --unit {systemd.SERVICE}"]
    if not (LINGERING / getpwuid(os.getuid()).pw_name).exists():
        advice.append("it ends when you log out: loginctl enable-linger keeps it")
    return advice


def _advice_on_keys() -> list[str]:
    """Warn of what a shell's environment gives to a daemon it starts, and not to a service."""
    keys = sorted(name for name in os.environ if name.endswith("_API_KEY"))
    return [f"it does not see {', '.join(keys)} of this shell: name the key in config.toml"] if keys else []
