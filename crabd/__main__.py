"""The command ``crabd``: flags, then the daemon, then an exit code that a service manager understands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import trio

from crabd import __version__
from crabd.app import serve
from crabd.config import find_places
from crabd.errors import ConfigError, CrabdError, StoreError
from crabd.server.listener import AlreadyRunning
from crabd.service import ServiceManager

# sysexits.h: a temporary failure, and a configuration error, which starting again does not mend.
EXIT_TEMPORARY = 75
EXIT_CONFIG = 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground until it is told to stop; returns the exit code."""
    flags = parse_flags(arguments)
    places = find_places(flags.socket)
    manager = ServiceManager.from_environment()
    try:
        trio.run(serve, places, manager, flags.ready_fd)
    except CrabdError as exc:
        print(f"crabd: {exc}", file=sys.stderr)  # noqa: T201  for the person at the terminal
        return exit_code(exc)
    except OSError as exc:
        print(f"crabd: {places.socket}: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


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
    parser.add_argument("--version", action="version", version=f"crabd {__version__}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
