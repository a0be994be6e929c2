"""A visit with python-lsp-jsonrpc, as a plugin written in Python makes it; ../visiting.py tells the story."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from typing import Any

# It has no types, and nothing that the type checkers could know of it.
endpoint: Any = import_module("pylsp_jsonrpc.endpoint")
streams: Any = import_module("pylsp_jsonrpc.streams")

SOCKET = f"{os.environ['XDG_RUNTIME_DIR']}/crabd/crabd.sock"
PATIENCE = 20.0

Json = dict[str, Any]
Method = Callable[[Json], object]


class Link:
    """A connection. Closing it leaves what was asked without an answer."""

    def __init__(self, methods: dict[str, Method]) -> None:
        self.last_id = ""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(SOCKET)
        self._stream = self._socket.makefile("rwb")
        write = streams.JsonRpcStreamWriter(self._stream).write
        self._endpoint = endpoint.Endpoint(methods, write, self._make_id)
        listen = streams.JsonRpcStreamReader(self._stream).listen
        self._reading = threading.Thread(target=listen, args=[self._endpoint.consume], daemon=True)
        self._reading.start()

    def ask(self, method: str, **params: object) -> Future[Any]:
        future: Future[Any] = self._endpoint.request(method, params)
        return future

    def call(self, method: str, **params: object) -> Any:
        return self.ask(method, **params).result(PATIENCE)

    def abandon(self, request: str) -> None:
        # The library's own way, to cancel the future, kills the thread that reads.
        self._endpoint.notify("$/cancelRequest", {"id": request})

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reading.join(PATIENCE)
        self._endpoint.shutdown()

    def _make_id(self) -> str:
        self.last_id = str(uuid.uuid4())
        return self.last_id


class Events:
    """All events, in the order they came."""

    def __init__(self) -> None:
        self.all: list[Json] = []
        self._news = threading.Condition()

    def take(self, event: Json) -> None:
        with self._news:
            self.all.append(event)
            self._news.notify_all()

    def wait(self, type_: str, count: int, since: int) -> None:
        def is_there() -> bool:
            return [event["type"] for event in self.all[since:]].count(type_) >= count

        with self._news:
            if not self._news.wait_for(is_there, PATIENCE):
                raise TimeoutError(type_)


def main() -> None:
    events = Events()
    methods: dict[str, Method] = {"session/event": events.take}
    link = Link(methods)
    server = link.call("initialize", client={"name": "pylsp"}, protocol=1)
    session = link.call("session/get_or_create", agent="crab", sender="pylsp")["id"]
    epoch = link.call("session/subscribe", session=session)["epoch"]
    text = link.call("session/send", session=session, content="echo Grüße, 🦀")["text"]

    since = len(events.all)
    long = link.ask("session/send", session=session, content="slow 600 50")
    events.wait("text_delta", 1, since)
    cancelled = link.call("session/cancel", session=session)["stop_reason"]
    ended = long.result(PATIENCE)["stop_reason"]

    since = len(events.all)
    given_up = link.ask("session/send", session=session, content="slow 600 50")
    events.wait("text_delta", 1, since)
    link.abandon(link.last_id)
    problem: Any = given_up.exception(PATIENCE)
    link.call("session/cancel", session=session)

    since = len(events.all)
    link.call("session/send", session=session, content="slow 40 20", wait=False)
    events.wait("text_delta", 3, since)
    link.close()
    link = Link(methods)
    after = events.all[-1]["seq"]
    replay = link.call("session/subscribe", session=session, after=after, epoch=epoch)["replay"]
    events.wait("run_ended", 1, since)
    link.close()

    told: Json = {
        "server": server["name"],
        "session": session,
        "text": text,
        "cancelled": cancelled,
        "ended": ended,
        "abandoned": problem.code,
        "replay": replay,
        "events": [(event["seq"], event["type"], event.get("text", "")) for event in events.all],
        "prompted": prompt(),
    }
    print(json.dumps(told))


def prompt() -> str:
    """Have a command run over ACP, and allow it when the daemon asks."""
    acp = Link({"session/request_permission": allow, "session/update": lambda _: None})
    acp.call("initialize", protocolVersion=1, clientCapabilities={})
    session = acp.call("session/new", cwd=str(Path.cwd()), mcpServers=[])["sessionId"]
    text = 'call bash {"command": "touch allowed"}'
    result: Json = acp.call("session/prompt", sessionId=session, prompt=[{"type": "text", "text": text}])
    acp.close()
    return str(result["stopReason"])


def allow(question: Json) -> Json:
    (option,) = (option for option in question["options"] if option["kind"] == "allow_once")
    return {"outcome": {"outcome": "selected", "optionId": option["optionId"]}}


if __name__ == "__main__":
    main()
