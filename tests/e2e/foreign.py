"""Model servers that others wrote, as processes: how one is started, waited for and ended."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

# LiteLLM's proxy takes half a minute to load where nothing else runs.
STARTS_WITHIN = 180
STOPS_WITHIN = 20


def free_port() -> int:
    """Find a port on loopback that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def run_server(
    command: Sequence[str], port: int, folder: Path, *, health: str, **variables: str
) -> Generator[str]:
    """Run a server that listens at ``port`` on loopback, and give its URL. It ends with the context.

    It is ready when ``health``, a path, is answered with 200. ``folder`` is its home; what it says is in
    ``server.log`` there. ``variables`` are added to its environment.
    """
    url = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            env={**os.environ, "HOME": str(folder), **variables},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(process, url + health, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN
    with httpx.Client(trust_env=False) as client:
        while not _is_well(client, url):
            said = log.read_text(errors="replace")[-4000:]
            assert process.poll() is None, f"it ended with {process.returncode}: {said}"
            assert time.monotonic() < until, f"it is not ready: {said}"
            time.sleep(0.1)


def _is_well(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
