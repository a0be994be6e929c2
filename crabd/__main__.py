"""The command ``crabd``: flags, then the daemon, then an exit code that a service manager understands."""

from __future__ import annotations

import argparse
import faulthandler
import sys
from collections.abc import Sequence
from functools import partial

import msgspec
import trio

from crabd import __version__
from crabd.app import serve
from crabd.config import Places, find_places
from crabd.doctor import examine
from crabd.errors import NOT_STARTED, ConfigError, CrabdError, StoreError
from crabd.kernel import adopt_orphans, close_memory
from crabd.rpc.envelope import RpcError
from crabd.server.listener import AlreadyRunning, is_ours, turn_away
from crabd.service import ServiceManager, raise_descriptor_limit

# sysexits.h: a temporary failure, and a configuration error, which starting again does not mend.
EXIT_TEMPORARY = 75
EXIT_CONFIG = 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground until it is told to stop; returns the exit code."""
    flags = parse_flags(arguments)
    places = find_places(flags.socket)
    if flags.doctor:
        return look_around(places, repair=flags.repair)
    manager = ServiceManager.from_environment()
    raise_descriptor_limit()
    close_memory()
    adopt_orphans()
    # A watchdog ends a daemon that hangs with SIGABRT: what it hung in belongs in the log.
    faulthandler.enable()
    try:
        trio.run(serve, places, manager, flags.ready_fd)
    except CrabdError as exc:
        return give_up(str(exc), exit_code(exc), manager)
    except OSError as exc:
        return give_up(f"{places.socket}: {exc}", 1, manager)
    return 0


def look_around(places: Places, *, repair: bool) -> int:
    """Print what the doctor finds where no daemon runs, as JSON; returns 1 if there are problems."""
    diagnosis = trio.run(partial(examine, places, repair=repair))
    sys.stdout.buffer.write(msgspec.json.encode(diagnosis) + b"\n")
    return 1 if diagnosis.problems else 0


def give_up(why: str, code: int, manager: ServiceManager) -> int:
    """Tell the log, and whoever waits at a socket that was handed over, why there is no daemon."""
    print(f"crabd: {why}", file=sys.stderr)  # noqa: T201  for the person at the terminal
    error = RpcError(NOT_STARTED, f"crabd did not start: {why}", {"kind": "not_started"})
    for client in manager.waiting():
        with client:
            if is_ours(client):
                turn_away(client, error)
    return code


def exit_code(exc: CrabdError) -> int:
    """Choose the exit code for a daemon that could not start."""
    if isinstance(exc, ConfigError):
        return EXIT_CONFIG
    is_held = isinstance(exc, AlreadyRunning) or (isinstance(exc, StoreError) and exc.kind == "locked")
    return EXIT_TEMPORARY if is_held else 1


def parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; ``--help`` and mistakes end the process as usual."""
    parser = argparse.ArgumentParser(
        prog="crabd",
        description="The agent daemon. It stays in the foreground, logs to stderr, and stops on SIGTERM.",
        epilog="crabctl starts it when needed. Exit codes: 0 stopped, 1 failed, 75 already running, "
        "78 wrong configuration.",
    )
    parser.add_argument(
        "--socket", metavar="PATH", help="listen there instead of the user's runtime directory"
    )
    parser.add_argument(
        "--ready-fd", type=int, metavar="FD", help="write READY to this descriptor when serving"
    )
    parser.add_argument(
        "--doctor", action="store_true", help="check the store and all around it, print JSON, and end"
    )
    parser.add_argument("--repair", action="store_true", help="with --doctor: mend what can be mended")
    parser.add_argument("--version", action="version", version=f"crabd {__version__}")
    flags = parser.parse_args(arguments)
    if flags.repair and not flags.doctor:
        parser.error("--repair goes with --doctor")
    return flags


if __name__ == "__main__":
    sys.exit(main())
