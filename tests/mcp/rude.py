"""A server of tools that does what its command line says, and answers in between like any other.

    python rude.py [HABIT…]

Without the SDK, so that it can be wrong, and starts fast. Each of its tools is named for what it does. What
it is sent goes into the file ``$RUDE_LOG``, a line each, as does ``start`` with each start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HABITS = frozenset(sys.argv[1:])
OBJECT = {"type": "object", "properties": {"text": {"type": "string"}}}
TOOLS = ["echo", "hang", "die", "babble", "grow", "huge", "nonsense", "refuse", "crabd", "write", "variable"]
tools = list(TOOLS)


def main() -> None:
    note("start")
    if "stay" in HABITS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # A child that has left the group and the session, as daemons do.
        subprocess.Popen(["sleep", os.environ["RUDE_SLEEP"]], start_new_session=True)
    if "greet" in HABITS:
        print("Welcome to the rude server!\n\nlistening on stdio", flush=True)
    if "flood" in HABITS:
        for _ in range(20_000):
            print("all work and no play", file=sys.stderr)
    if "exit" in HABITS:
        print(f"this key is no good: {os.environ.get('RUDE_KEY')}", file=sys.stderr)
        sys.exit(3)
    if "babble" in HABITS:
        babble()
    for line in sys.stdin:
        note(line.strip())
        message = json.loads(line)
        if "id" in message and "method" in message and "mute" not in HABITS:
            answer(message)
    if "stay" in HABITS:
        time.sleep(3600)


def note(text: str) -> None:
    if path := os.environ.get("RUDE_LOG"):
        with Path(path).open("a") as file:
            file.write(text + "\n")


def answer(message: dict[str, Any]) -> None:
    match message["method"]:
        case "initialize":
            version = message["params"]["protocolVersion"]
            info = {"name": "rude", "version": "1"}
            capabilities = {"tools": {"listChanged": True}}
            reply(message, {"protocolVersion": version, "serverInfo": info, "capabilities": capabilities})
        case "tools/list":
            reply(message, {"tools": [describe(name) for name in tools]})
        case "tools/call":
            call(message, message["params"]["name"], message["params"].get("arguments") or {})
        case method:
            send({"id": message["id"], "error": {"code": -32601, "message": f"no method {method}"}})


def describe(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = OBJECT
    if name == "huge":
        schema = {
            "type": "object",
            "properties": {f"p{number}": {"type": "string"} for number in range(10_000)},
        }
    return {"name": name, "description": f"To {name}.", "inputSchema": schema}


def call(message: dict[str, Any], name: str, arguments: dict[str, Any]) -> None:
    match name:
        case "echo":
            tell(message, arguments.get("text", ""))
        case "write":
            tell(message, write(arguments["text"]))
        case "variable":
            tell(message, os.environ.get(arguments["text"], "(not set)"))
        case "hang":
            pass
        case "die":
            print("killed by its own tool", file=sys.stderr, flush=True)
            os._exit(7)
        case "babble":
            babble()
        case "grow":
            tools.append("grown")
            send({"method": "notifications/tools/list_changed"})
            tell(message, "done")
        case "nonsense":
            reply(message, {"content": "this is no list"})
        case "refuse":
            send({"id": message["id"], "error": {"code": -32000, "message": "not today"}})
        case "crabd":
            # As any program of the user's could, if it were not for whose child it is.
            done = subprocess.run(arguments["text"], shell=True, capture_output=True, text=True)
            tell(message, done.stdout + done.stderr)
        case _:
            tell(message, f"called {name}")


def write(path: str) -> str:
    try:
        Path(path).write_text("written")
    except OSError as exc:
        return f"failed: {exc.strerror}"
    return "done"


def tell(message: dict[str, Any], text: str) -> None:
    reply(message, {"content": [{"type": "text", "text": text}]})


def reply(message: dict[str, Any], result: dict[str, Any]) -> None:
    send({"id": message["id"], "result": result})


def send(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def babble() -> None:
    """Write without an end, and without a line's end either."""
    while True:
        sys.stdout.write("blah " * 20_000)


if __name__ == "__main__":
    main()
