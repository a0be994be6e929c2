"""A real model server that says what a test tells it to, and fails the way servers fail.

It speaks OpenAI's two dialects and Anthropic's.

Run it with ``python -m tests.model_server --port 0``: the first line on stdout is its URL, and ``URL/v1`` is
the base_url for a provider. Without a script it echoes the last user text word by word.

    POST /v1/chat/completions   the next scripted reply, streamed or not
    POST /v1/responses, /v1/messages  … always streamed
    GET  /v1/models             the models
    POST /script                queue replies: a JSON array of ``Reply``
    POST /models                replace the models: a JSON array of objects
    POST /gate/NAME             let every reply that stands at this gate pass, now and later
    GET  /requests              what was asked so far: a JSON array of ``Seen``
         ?wait=N                … once there are N of them
         ?settled=N             … once N of them are answered or have hung up

A test takes ``open_model_server`` (in its own process) or ``start_model_server`` (in another one); both give
a ``ModelServer``, which speaks HTTP to it. Best in a fixture: a nursery wraps what is raised inside.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import struct
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from typing import Any, ClassVar, Literal, Protocol, TypeAlias
from urllib.parse import parse_qs, urlsplit

import msgspec
import trio
from msgspec import Struct

# A test that waits for a request that never comes fails with what has come, rather than hang.
WAIT_SECONDS = 8


class Say(Struct, frozen=True, tag="say"):
    text: str


class Think(Struct, frozen=True, tag="think"):
    text: str


class Call(Struct, frozen=True, tag="call"):
    """A tool call, sent in three pieces. An empty ``id`` is left out, as some servers do."""

    name: str
    arguments: str = "{}"
    id: str = "call_1"
    index: int = 0


class Gate(Struct, frozen=True, tag="gate"):
    """Wait here until the test opens the gate of this name."""

    name: str


class At(Struct, frozen=True, tag="at"):
    """Go on no sooner than so many seconds after the reply began: a pace that does not drift."""

    seconds: float


class Raw(Struct, frozen=True, tag="raw"):
    """Bytes sent as they are, in an HTTP chunk of their own, once or many ``times``."""

    data: bytes
    times: int = 1


Item: TypeAlias = dict[str, Any]
Part: TypeAlias = Say | Think | Call | Gate | At | Raw
Ending: TypeAlias = Literal["clean", "cut", "reset", "hang"]


class Reply(Struct, frozen=True, kw_only=True):
    """One answer: the parts, streamed. With a ``body`` it is just that; with a status of 0 there is nothing.

    ``gate`` is waited for before the head. ``finish`` null leaves the finish_reason out, ``done`` false the
    final ``[DONE]``. ``usage`` is prompt and completion tokens. ``ending``: ``clean`` ends the HTTP body,
    ``cut`` closes the connection without that, ``reset`` sends a RST, ``hang`` stays silent for ever.
    """

    parts: tuple[Part, ...] = ()
    status: int = 200
    headers: dict[str, str] = {}
    body: str | None = None
    gate: str | None = None
    finish: str | None = "stop"
    usage: tuple[int, int] | None = (7, 5)
    done: bool = True
    ending: Ending = "clean"


class Seen(Struct, kw_only=True):
    """A request to the model. ``connection`` numbers the sockets; ``settled`` says the reply is over."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int
    settled: bool = False
    hung_up: bool = False


def says(*parts: str | Part) -> Reply:
    """Build a good answer of text and other parts."""
    calls = any(isinstance(part, Call) for part in parts)
    return Reply(
        parts=tuple(Say(part) if isinstance(part, str) else part for part in parts),
        finish="tool_calls" if calls else "stop",
    )


def calls(name: str, arguments: dict[str, Any] | None = None, *, id: str = "call_1") -> Reply:  # noqa: A002
    """Build an answer that calls one tool."""
    return says(Call(name, msgspec.json.encode(arguments or {}).decode(), id))


def refuses(status: int, message: str = "no", **headers: str) -> Reply:
    """Build a refusal. A header's underscores are dashes: ``retry_after="3"``."""
    body = msgspec.json.encode({"error": {"message": message}}).decode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers={"content-type": "application/json", **named}, body=body)


class ModelServer:
    """A test's hand on a running server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.base_url = f"{url}/v1"

    async def script(self, *replies: Reply) -> None:
        """Queue replies for the requests to come."""
        await self._ask("POST", "/script", msgspec.json.encode(replies))

    async def set_models(self, *models: dict[str, Any]) -> None:
        await self._ask("POST", "/models", msgspec.json.encode(models))

    async def open_gate(self, name: str) -> None:
        """Let replies pass that stand at the gate, and those that come to it later."""
        await self._ask("POST", f"/gate/{name}", b"")

    async def requests(self, *, wait: int = 0, settled: int = 0) -> list[Seen]:
        """List what was asked, once ``wait`` requests have come and ``settled`` of them are over.

        Raises:
          AssertionError: they have not within ``WAIT_SECONDS``.
        """
        seen = msgspec.json.decode(
            await self._ask("GET", f"/requests?wait={wait}&settled={settled}", b""), type=list[Seen]
        )
        assert len(seen) >= wait, f"waited for {wait} requests, saw {seen}"
        assert sum(one.settled for one in seen) >= settled, f"waited for {settled} settled, saw {seen}"
        return seen

    async def _ask(self, method: str, target: str, body: bytes) -> bytes:
        place = urlsplit(self.url)
        head = f"{method} {target} HTTP/1.1\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        async with await trio.open_tcp_stream(str(place.hostname), place.port or 0) as stream:
            await stream.send_all(head.encode() + body)
            answer = b"".join([piece async for piece in stream])
        answer_head, _, answer_body = answer.partition(b"\r\n\r\n")
        assert answer_head.startswith(b"HTTP/1.1 200 "), answer
        return answer_body


@asynccontextmanager
async def open_model_server() -> AsyncGenerator[ModelServer]:
    """Run a server on a loopback port of its own, in this process. It ends with the context."""
    async with trio.open_nursery() as nursery:
        yield ModelServer(await nursery.start(_Server().serve, 0))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def start_model_server() -> AsyncGenerator[ModelServer]:
    """Run a server as a process of its own. It ends with the context, and with this process."""
    command = [sys.executable, "-m", "tests.model_server", "--port", "0", "--with-parent"]
    async with trio.open_nursery() as nursery:
        # The server lives as long as its standard input is open, so that it cannot outlive a killed test.
        start = partial(trio.run_process, command, stdin=-1, stdout=-1, check=False)
        process: trio.Process = await nursery.start(start)
        assert process.stdin
        assert process.stdout
        line = b""
        with trio.fail_after(WAIT_SECONDS):
            while not line.endswith(b"\n"):
                piece = await process.stdout.receive_some()
                assert piece, "the model server died at its start"
                line += piece
        yield ModelServer(line.decode().strip())
        nursery.cancel_scope.cancel()


class _HungUp(Exception):
    """The client went away in the middle of its reply."""


class _Server:
    def __init__(self) -> None:
        self._replies: deque[Reply] = deque()
        self._models: list[dict[str, Any]] = [{"id": "test-model", "context_length": 32768}]
        self._gates: dict[str, trio.Event] = {}
        self._seen: list[Seen] = []
        self._changed = trio.Event()
        self._connections = 0

    async def serve(self, port: int, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, self._serve_connection, port, host="127.0.0.1")
            )
            task_status.started(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        link = _Link(stream, self._connections)
        try:
            while request := await link.receive():
                if not await self._answer(link, request) or request.headers.get("connection") == "close":
                    break
        except (_HungUp, trio.BrokenResourceError):
            pass
        finally:
            await stream.aclose()

    async def _answer(self, link: _Link, request: _Request) -> bool:
        """Answer one request; false when the connection is of no more use."""
        place = urlsplit(request.target)
        match request.method, place.path.split("/")[1:]:
            case "POST", ["v1", "chat", "completions"]:
                return await self._chat(link, request, _Chat())
            case "POST", ["v1", "responses"]:
                return await self._chat(link, request, _Responses())
            case "POST", ["v1", "messages"]:
                return await self._chat(link, request, _Messages())
            case "GET", ["v1", "models"]:
                await link.send_json({"object": "list", "data": self._models})
            case "POST", ["script"]:
                self._replies.extend(msgspec.json.decode(request.body, type=list[Reply]))
                await link.send_json({})
            case "POST", ["models"]:
                self._models = msgspec.json.decode(request.body)
                await link.send_json({})
            case "POST", ["gate", name]:
                self._gate(name).set()
                await link.send_json({})
            case "GET", ["requests"]:
                await self._wait_for_requests(parse_qs(place.query))
                await link.send_json(self._seen)
            case _:
                await link.send(_head(404, {}, b""))
        return True

    async def _chat(self, link: _Link, request: _Request, dialect: _Dialect) -> bool:
        seen = Seen(
            path=request.target,
            headers=request.headers,
            body=msgspec.json.decode(request.body),
            connection=link.number,
        )
        self._seen.append(seen)
        self._tell_change()
        reply = self._replies.popleft() if self._replies else _echo(seen.body)
        try:
            async with link.watched():
                return await self._reply(link, seen.body, reply, dialect)
        except _HungUp:
            seen.hung_up = True
            raise
        finally:
            seen.settled = True
            self._tell_change()

    async def _reply(self, link: _Link, body: dict[str, Any], reply: Reply, dialect: _Dialect) -> bool:
        if reply.gate:
            await self._gate(reply.gate).wait()
        if reply.status == 0:
            return await _end(link, reply.ending)
        if reply.body is not None:
            await link.send(_head(reply.status, reply.headers, reply.body.encode()) + reply.body.encode())
        elif body.get("stream"):
            await link.send(_head(reply.status, {"content-type": "text/event-stream", **reply.headers}, None))
            began = trio.current_time()
            for piece in _pieces(reply, dialect):
                match piece:
                    case Gate(name=name):
                        await self._gate(name).wait()
                    case At(seconds=seconds):
                        await trio.sleep_until(began + seconds)
                    case _:
                        await link.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            if reply.ending == "clean":
                await link.send(b"0\r\n\r\n")
        else:
            await link.send_json(_whole(reply))
        return await _end(link, reply.ending)

    def _gate(self, name: str) -> trio.Event:
        return self._gates.setdefault(name, trio.Event())

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _wait_for_requests(self, query: dict[str, list[str]]) -> None:
        wait, settled = (int(query.get(name, ["0"])[0]) for name in ("wait", "settled"))
        with trio.move_on_after(WAIT_SECONDS):
            while len(self._seen) < wait or sum(one.settled for one in self._seen) < settled:
                await self._changed.wait()


class _Request(Struct):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class _Link:
    """One connection: requests in, bytes out, and an eye on whether the client is still there."""

    def __init__(self, stream: trio.SocketStream, number: int) -> None:
        self.number = number
        self._stream = stream
        self._buffer = b""

    async def receive(self) -> _Request | None:
        """Read a request; null when the client is done."""
        while b"\r\n\r\n" not in self._buffer:
            if not await self._fill():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        while len(self._buffer) < size:
            if not await self._fill():
                return None
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return _Request(method, target, headers, body)

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_json(self, value: object) -> None:
        body = msgspec.json.encode(value)
        await self.send(_head(200, {"content-type": "application/json"}, body) + body)

    def reset(self) -> None:
        """Have the close send a RST, as a crashed server's kernel does."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        """Raise ``_HungUp`` in the block when the client goes away."""
        has_hung_up = False

        async def watch() -> None:
            nonlocal has_hung_up
            while await self._fill():
                pass
            has_hung_up = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                yield
            except trio.BrokenResourceError:
                has_hung_up = True
            nursery.cancel_scope.cancel()
        if has_hung_up:
            raise _HungUp

    async def _fill(self) -> bool:
        try:
            piece = await self._stream.receive_some()
        except trio.BrokenResourceError:
            return False
        self._buffer += piece
        return bool(piece)


def _head(status: int, headers: dict[str, str], body: bytes | None) -> bytes:
    """Write a response head; a body of null is sent in HTTP chunks."""
    framing = {"transfer-encoding": "chunked"} if body is None else {"content-length": str(len(body))}
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in {**framing, **headers}.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def _end(link: _Link, ending: Ending) -> bool:
    """End a reply; false when the connection goes with it."""
    match ending:
        case "clean":
            return True
        case "hang":
            await trio.sleep_forever()
        case "reset":
            link.reset()
        case "cut":
            pass
    return False


def _echo(body: dict[str, Any]) -> Reply:
    turns: list[dict[str, Any]] = body.get("messages") or body["input"]
    texts = [_text(turn["content"]) for turn in turns if turn.get("role") == "user"]
    return says(*re.findall(r"\s*\S+\s*", texts[-1] if texts else ""))


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


class _Dialect(Protocol):
    """How the parts of a reply are spelled as server-sent events."""

    def begin(self, reply: Reply) -> Iterator[bytes]: ...
    def say(self, text: str) -> Iterator[bytes]: ...
    def think(self, text: str) -> Iterator[bytes]: ...
    def call(self, call: Call) -> Iterator[bytes]: ...
    def end(self, reply: Reply) -> Iterator[bytes]: ...


def _pieces(reply: Reply, dialect: _Dialect) -> Iterator[bytes | Gate | At]:
    yield from dialect.begin(reply)
    for part in reply.parts:
        match part:
            case Gate() | At():
                yield part
            case Raw(data=data, times=times):
                yield from repeat(data, times)
            case Say(text=text):
                yield from dialect.say(text)
            case Think(text=text):
                yield from dialect.think(text)
            case Call():
                yield from dialect.call(part)
    yield from dialect.end(reply)


class _Chat(_Dialect):
    def begin(self, reply: Reply) -> Iterator[bytes]:
        yield from ()

    def say(self, text: str) -> Iterator[bytes]:
        yield _event({"content": text})

    def think(self, text: str) -> Iterator[bytes]:
        yield _event({"reasoning_content": text})

    def call(self, call: Call) -> Iterator[bytes]:
        first: dict[str, Any] = {"index": call.index, "type": "function", "function": {"name": call.name}}
        yield _event({"tool_calls": [{**first, "id": call.id} if call.id else first]})
        for piece in _halves(call.arguments):
            yield _event({"tool_calls": [{"index": call.index, "function": {"arguments": piece}}]})

    def end(self, reply: Reply) -> Iterator[bytes]:
        if reply.finish:
            yield _event({}, reply.finish)
        if reply.usage:
            yield _data({"choices": [], "usage": _usage(reply.usage)})
        if reply.done:
            yield b"data: [DONE]\n\n"


class _Responses(_Dialect):
    """Every part is an item of its own. What was thought comes back as ``encrypted TEXT``."""

    def __init__(self) -> None:
        self._index = -1

    def begin(self, reply: Reply) -> Iterator[bytes]:
        yield _data({"type": "response.created", "response": {"id": "resp_1", "output": []}})

    def say(self, text: str) -> Iterator[bytes]:
        content = [{"type": "output_text", "text": text}]
        item = {"type": "message", "id": "msg_1", "role": "assistant", "content": content}
        yield from self._item({**item, "content": []}, "response.output_text.delta", [text], item)

    def think(self, text: str) -> Iterator[bytes]:
        item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": text}]}
        done = {**item, "encrypted_content": f"encrypted {text}"}
        begin = {**item, "summary": []}
        yield from self._item(begin, "response.reasoning_summary_text.delta", [text], done)

    def call(self, call: Call) -> Iterator[bytes]:
        item = {"type": "function_call", "id": "fc_1", "call_id": call.id, "name": call.name}
        begin, done = {**item, "arguments": ""}, {**item, "arguments": call.arguments}
        yield from self._item(begin, "response.function_call_arguments.delta", _halves(call.arguments), done)

    def end(self, reply: Reply) -> Iterator[bytes]:
        tokens = reply.usage
        usage = tokens and {"input_tokens": tokens[0], "output_tokens": tokens[1]}
        if reply.finish == "length":
            reason = {"reason": "max_output_tokens"}
            yield _data(
                {"type": "response.incomplete", "response": {"incomplete_details": reason, "usage": usage}}
            )
        elif reply.finish:
            yield _data({"type": "response.completed", "response": {"id": "resp_1", "usage": usage}})

    def _item(self, begin: Item, kind: str, pieces: Sequence[str], done: Item) -> Iterator[bytes]:
        self._index += 1
        place = {"output_index": self._index}
        yield _data({"type": "response.output_item.added", **place, "item": begin})
        for piece in pieces:
            yield _data({"type": kind, **place, "delta": piece})
        yield _data({"type": "response.output_item.done", **place, "item": done})


class _Messages(_Dialect):
    """Every part is a block of its own. What was thought is signed ``signed TEXT``."""

    _STOPS: ClassVar = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}

    def __init__(self) -> None:
        self._index = -1

    def begin(self, reply: Reply) -> Iterator[bytes]:
        usage = {"input_tokens": reply.usage[0], "output_tokens": 1} if reply.usage else None
        yield _data({"type": "message_start", "message": {"id": "msg_1", "content": [], "usage": usage}})

    def say(self, text: str) -> Iterator[bytes]:
        yield from self._block({"type": "text", "text": ""}, {"type": "text_delta", "text": text})

    def think(self, text: str) -> Iterator[bytes]:
        deltas = (
            {"type": "thinking_delta", "thinking": text},
            {"type": "signature_delta", "signature": f"signed {text}"},
        )
        yield from self._block({"type": "thinking", "thinking": "", "signature": ""}, *deltas)

    def call(self, call: Call) -> Iterator[bytes]:
        block: Item = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _halves(call.arguments)]
        yield from self._block(block, *deltas)

    def end(self, reply: Reply) -> Iterator[bytes]:
        if reply.finish:
            usage = {"output_tokens": reply.usage[1]} if reply.usage else None
            stop = self._STOPS.get(reply.finish, reply.finish)
            yield _data({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": usage})
            yield _data({"type": "message_stop"})

    def _block(self, block: Item, *deltas: Item) -> Iterator[bytes]:
        self._index += 1
        yield _data({"type": "content_block_start", "index": self._index, "content_block": block})
        for delta in deltas:
            yield _data({"type": "content_block_delta", "index": self._index, "delta": delta})
        yield _data({"type": "content_block_stop", "index": self._index})


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    return text[:middle], text[middle:]


def _event(delta: Item, finish: str | None = None) -> bytes:
    return _data(
        {
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
    )


def _data(value: Item) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)


def _whole(reply: Reply) -> dict[str, Any]:
    """Spell a reply as one JSON object, for a request without ``stream``."""
    text = "".join(part.text for part in reply.parts if isinstance(part, Say))
    tool_calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in reply.parts
        if isinstance(part, Call)
    ]
    message = {"role": "assistant", "content": text, **({"tool_calls": tool_calls} if tool_calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish}
    # LiteLLM's proxy wants to be told the tier.
    names = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "service_tier": "default"}
    return {**names, "choices": [choice], "usage": _usage(reply.usage or (0, 0))}


def _usage(tokens: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}


async def _main(port: int, *, with_parent: bool) -> None:
    async with trio.open_nursery() as nursery:
        print(await nursery.start(_Server().serve, port), flush=True)
        if with_parent:
            async with trio.lowlevel.FdStream(os.dup(0)) as parent:
                async for _ in parent:
                    pass
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description="A scriptable OpenAI-compatible model server.")
    _parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    _parser.add_argument("--with-parent", action="store_true", help="end when standard input is closed")
    _options = _parser.parse_args()
    trio.run(partial(_main, _options.port, with_parent=_options.with_parent))
