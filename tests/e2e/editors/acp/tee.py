"""Stands between a client and its agent, and writes down every line before it passes it on.

``python tee.py FOLDER COMMAND…`` runs the command. Each run makes a file of its own in the folder, so named
that they sort as they began; a line of it is ``transcript.Line``. An answer never stands before its question,
because what is written down has not arrived yet.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO


class Scribe:
    """Writes down what passes, from either side, in one order."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._turn = threading.Lock()

    def carry(self, sender: str, source: IO[bytes], sink: IO[bytes]) -> None:
        """Pass lines on until the source ends, then end the sink."""
        for line in source:
            with self._turn:
                self._file.write(json.dumps({"sender": sender, "text": line.decode()}) + "\n")
                self._file.flush()
            try:
                sink.write(line)
                sink.flush()
            except BrokenPipeError:
                break
        sink.close()


def main(folder: str, *command: str) -> int:
    """Run the command, and return its exit code."""
    path = Path(folder) / f"{time.time_ns()}.jsonl"
    with path.open("w") as file, subprocess.Popen(command, stdin=-1, stdout=-1, bufsize=0) as agent:
        assert agent.stdin
        assert agent.stdout
        scribe = Scribe(file)
        # A daemon, because a client may leave its end open when the agent is gone.
        threading.Thread(
            target=scribe.carry, args=("client", sys.stdin.buffer, agent.stdin), daemon=True
        ).start()
        scribe.carry("agent", agent.stdout, sys.stdout.buffer)
        return agent.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
