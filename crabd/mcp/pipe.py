"""A server's streams as the SDK wants them: a message a line on stdin and stdout, and stderr for the log.

Whose process it is, and how it is confined and ended, is not known here. Both directions are without a queue,
so that who does not read is not read either.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio
import structlog
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from structlog.typing import FilteringBoundLogger

from crabd.mcp.witness import Witness

# As much as a message of a client of ours may have.
MAX_MESSAGE = 16 << 20
# How long a server may take to end by itself once its stdin is closed, before it is told to.
GRACE_SECONDS = 1.0
# Of lines that are no messages: some programs greet on stdout, and one that goes on and on is none.
MAX_GARBAGE = 1000

Inbox: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]
Messages: TypeAlias = tuple[
    MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]
]

log: FilteringBoundLogger = structlog.get_logger()


@asynccontextmanager
async def open_pipe(process: trio.Process, witness: Witness) -> AsyncGenerator[Messages]:
    """Talk with a server through its three streams. The ``witness`` is told what it writes on stderr, and
    when it has stopped to talk.

    With the block its stdin is closed, which tells it to end; that it does is waited for, but not long.
    """
    inbox, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, outbox = anyio.create_memory_object_stream[SessionMessage](0)
    with inbox, incoming, outgoing, outbox:
        async with trio.open_nursery() as streams:
            streams.start_soon(_receive, process, inbox, witness)
            streams.start_soon(_send, process, outbox, witness)
            streams.start_soon(_hear_errors, process, witness)
            try:
                yield incoming, outgoing
            finally:
                has_ended = witness.ended.is_set()
                # In this order: a server that is busy writing reads its stdin only if somebody reads.
                incoming.close()
                outgoing.close()
                with trio.move_on_after(GRACE_SECONDS, shield=True):
                    await process.wait()
                if has_ended:
                    witness.exit_code = process.returncode
                streams.cancel_scope.cancel()


async def _receive(process: trio.Process, inbox: Inbox, witness: Witness) -> None:
    garbage = 0

    async def take(line: bytes) -> None:
        nonlocal garbage
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            garbage += bool(line.strip())
            if garbage == 1:
                log.warning("tool_server_wrote_garbage", server=witness.server, line=repr(line[:100]))
            if garbage > MAX_GARBAGE:
                raise _Nonsense(
                    f"it wrote more than {MAX_GARBAGE} lines on stdout that are no messages"
                ) from None
            return
        await inbox.send(SessionMessage(message))

    assert process.stdout is not None
    try:
        await _each_line(process.stdout, take)
        witness.end()
    except _Nonsense as exc:
        witness.end(str(exc))
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        # Nobody listens any more. What it still has to write must not keep it from ending.
        async for _ in process.stdout:
            pass
    except OSError as exc:
        witness.end(str(exc))
    finally:
        inbox.close()


async def _each_line(stream: trio.abc.ReceiveStream, take: Callable[[bytes], Awaitable[None]]) -> None:
    """Give every line to ``take``, which the next one waits for.

    Raises:
      _Nonsense: a line is longer than any message may be.
    """
    buffer = bytearray()
    async for data in stream:
        seen = len(buffer)
        buffer += data
        end = buffer.rfind(b"\n", seen)
        if end >= 0:
            lines = bytes(buffer[:end]).split(b"\n")
            del buffer[: end + 1]
            for line in lines:
                await take(line)
        if len(buffer) > MAX_MESSAGE:
            raise _Nonsense(f"it sent a message of more than {MAX_MESSAGE >> 20} MiB")


async def _send(
    process: trio.Process, outbox: MemoryObjectReceiveStream[SessionMessage], witness: Witness
) -> None:
    assert process.stdin is not None
    try:
        async with process.stdin:
            async for each in outbox:
                text = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                await process.stdin.send_all(text.encode("utf-8", "replace") + b"\n")
    except (trio.BrokenResourceError, OSError):
        # It reads no more: either it ends, or it is no use.
        witness.end()


async def _hear_errors(process: trio.Process, witness: Witness) -> None:
    assert process.stderr is not None
    async for data in process.stderr:
        witness.hear(bytes(data))


class _Nonsense(Exception):
    """What it writes is none of the protocol; the text says in how far."""
