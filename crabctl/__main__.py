"""The command line: finds the command, runs it, and turns what went wrong into an exit code."""

from __future__ import annotations

import os
import sys

from crabctl.arguments import UsageError, find_command, resolve, split
from crabctl.client import NoDaemon, RemoteError

DONE = 0
FAILED = 1
INTERRUPTED = 130
# What a shell reports for a program that SIGPIPE ended, as it ends every other tool whose reader has left.
READER_GONE = 141


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    # A locale without the reply's letters must not cost the reply.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a text file is one
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except OSError as exc:
        # What is still buffered cannot be written: the interpreter would try once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(exc, BrokenPipeError):
            return READER_GONE
        print(f"crabctl: {exc}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        # The terminal has written ^C into the line that was going on.
        if sys.stderr.isatty():
            print(file=sys.stderr)
        return INTERRUPTED
    except (UsageError, NoDaemon, RemoteError) as exc:
        return _report(exc, is_json="--json" in words)


def _run(argv: list[str]) -> int:
    options, words = split(argv)
    if "version" in options:
        from crabd import __version__

        print(f"crabctl {__version__}")
        return DONE
    if "help" in options or not words or words[0] == "help":
        print(_help([word for word in words if word != "help"]))
        return DONE
    command, args = resolve(options, words)
    module, _, function = command.target.partition(":")
    run = getattr(__import__(f"crabctl.commands.{module}", fromlist=[function]), function)
    code: int = run(args)
    return code


def _help(words: list[str]) -> str:
    # Imported here, because only a reader needs it.
    from crabctl.explain import manual, overview

    if not words:
        return overview()
    find_command(words[0])
    return manual(words[0])


def _report(exc: UsageError | NoDaemon | RemoteError, *, is_json: bool) -> int:
    from crabctl.failure import describe

    code, wire, sentence = describe(exc)
    if is_json:
        from crabctl.render import as_json

        print(as_json({"error": wire}))
    else:
        print(f"crabctl: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
