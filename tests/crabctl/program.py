"""Runs crabctl as people do: as a process, behind pipes or on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[2]
# For a process that hangs; the machine may be slow.
PATIENCE = 60.0


def home(directory: Path, **more: str) -> dict[str, str]:
    """Make the environment of a new user whose everything is in ``directory``."""
    runtime = directory / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return {
        "HOME": str(directory),
        "PATH": os.environ["PATH"],
        "XDG_RUNTIME_DIR": str(runtime),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        **more,
    }


def crabctl(*words: str, env: dict[str, str], text: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command line; without ``text`` nothing is piped in."""
    done = subprocess.run(
        [sys.executable, "-m", "crabctl", *words],
        env=env,
        input=text or b"",
        capture_output=True,
        timeout=PATIENCE,
    )
    return subprocess.CompletedProcess(
        words, done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode()
    )


class Terminal:
    """A person at a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self._process = process
        self._screen = screen
        self.shown = ""

    def type(self, text: str) -> None:
        """Type."""
        os.write(self._screen, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, text: str) -> None:
        """Watch until the text is shown."""
        deadline = monotonic() + PATIENCE
        while text not in self.shown:
            assert self._read(deadline), f"{text!r} was never shown, but: {self.shown!r}"

    def exit_code(self) -> int:
        """Watch to the end."""
        deadline = monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self._process.wait(PATIENCE)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._screen], [], [], max(deadline - monotonic(), 0))
        assert ready, f"nothing more is shown after: {self.shown!r}"
        try:
            chunk = os.read(self._screen, 4096)
        except OSError:
            # How Linux tells that nobody has the terminal open any more.
            return False
        self.shown += chunk.decode().replace("\r\n", "\n")
        return bool(chunk)


@contextmanager
def at_terminal(*words: str, env: dict[str, str]) -> Generator[Terminal]:
    """Run crabctl on a terminal; it is killed at the end if it is still there."""
    screen, tty = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "crabctl", *words],
        env={"TERM": "xterm", **env},
        stdin=tty,
        stdout=tty,
        stderr=tty,
        start_new_session=True,
    )
    os.close(tty)
    try:
        yield Terminal(process, screen)
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(screen)
