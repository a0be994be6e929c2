"""A visit with the protocol's Python SDK, under asyncio; ../visiting.py tells the story."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import Callable
from typing import Any, cast

import acp
from acp import schema
from acp.client.connection import ClientSideConnection

COMMAND: list[str] = json.loads(os.environ["AGENT"])
CWD = os.getcwd()  # noqa: PTH109


class Visitor:
    """The part of a client that crabd calls. Every update of every link is kept."""

    def __init__(self) -> None:
        self.links: list[list[tuple[str, str]]] = []
        # How the next question is answered: the kind of an option, or ``cancelled``.
        self.decision = "allow_once"
        self.link: ClientSideConnection
        self._news = asyncio.Condition()

    async def request_permission(
        self,
        session_id: str,
        tool_call: schema.ToolCallUpdate,
        options: list[schema.PermissionOption],
        **_: Any,
    ) -> acp.RequestPermissionResponse:
        if self.decision == "cancelled":
            await self.link.cancel(session_id)
            return acp.RequestPermissionResponse(outcome=schema.DeniedOutcome(outcome="cancelled"))
        chosen = next(option.option_id for option in options if option.kind == self.decision)
        return acp.RequestPermissionResponse(
            outcome=schema.AllowedOutcome(outcome="selected", option_id=chosen)
        )

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        text: str = getattr(getattr(update, "content", None), "text", "")
        async with self._news:
            self.links[-1].append((update.session_update, text))
            self._news.notify_all()

    async def until(self, condition: Callable[[list[tuple[str, str]]], bool]) -> None:
        """Wait until this is so of what has come on the link."""
        async with self._news:
            await self._news.wait_for(lambda: condition(self.links[-1]))

    async def chunks(self, count: int) -> None:
        """Wait for so many more chunks of a reply."""
        before = _count(self.links[-1])
        await self.until(lambda seen: _count(seen) >= before + count)


def _count(seen: list[tuple[str, str]]) -> int:
    return sum(kind == "agent_message_chunk" for kind, _ in seen)


async def connect(visitor: Visitor) -> tuple[Process, ClientSideConnection, acp.InitializeResponse]:
    """Start the agent and make ourselves known."""
    process = await create_subprocess_exec(*COMMAND, stdin=PIPE, stdout=PIPE)
    visitor.links.append([])
    link = visitor.link = acp.connect_to_agent(cast("acp.Client", visitor), process.stdin, process.stdout)
    opened = await link.initialize(
        protocol_version=acp.PROTOCOL_VERSION,
        client_info=schema.Implementation(name="python", version="1"),
    )
    return process, link, opened


async def kill(process: Process, link: ClientSideConnection) -> None:
    """End a link as a crash does."""
    process.kill()
    await process.wait()
    await link.close()


async def visit() -> dict[str, Any]:
    """Live the story; returns what is to be told."""
    visitor = Visitor()
    stops: list[str] = []
    options: list[tuple[str, Any, Any]] = []
    listed: list[bool] = []
    process, link, opened = await connect(visitor)
    made = await link.new_session(cwd=CWD)
    session = made.session_id

    async def prompt(text: str) -> None:
        stops.append((await link.prompt(session_id=session, prompt=[acp.text_block(text)])).stop_reason)

    async def see_list() -> None:
        listed.append(session in [each.session_id for each in (await link.list_sessions(cwd=CWD)).sessions])

    await prompt("echo Grüße, 🦀")
    await prompt('call bash {"command": "touch allowed"}')
    visitor.decision = "reject_once"
    await prompt('call bash {"command": "touch rejected"}')
    visitor.decision = "cancelled"
    await prompt('call bash {"command": "touch never"}')
    cancelled = asyncio.create_task(prompt("slow 600 50"))
    await visitor.chunks(1)
    await link.cancel(session)
    await cancelled

    assert made.modes
    modes = [mode.id for mode in made.modes.available_modes]
    for mode in (modes[-1], made.modes.current_mode_id):
        await link.set_session_mode(session_id=session, mode_id=mode)
    for option in made.config_options or []:
        assert isinstance(option, schema.SessionConfigOptionSelect)
        last = option.options[-1]
        value = last.value if isinstance(last, schema.SessionConfigSelectOption) else last.options[-1].value
        for each in (value, option.current_value):
            answer = await link.set_config_option(config_id=option.id, session_id=session, value=each)
            (now,) = [other.current_value for other in answer.config_options if other.id == option.id]
            options.append((option.id, each, now))

    lost = asyncio.create_task(prompt("slow 40 50"))
    await visitor.chunks(3)
    await kill(process, link)
    await asyncio.wait([lost])
    lost.exception()

    process, link, _ = await connect(visitor)
    await link.load_session(cwd=CWD, session_id=session)
    await visitor.until(lambda seen: "".join(text for _, text in seen).endswith(" 40"))
    await prompt("echo again")
    await kill(process, link)

    process, link, _ = await connect(visitor)
    await link.resume_session(cwd=CWD, session_id=session)
    await prompt("echo resumed")
    await see_list()
    await link.close_session(session)
    await see_list()
    await link.load_session(cwd=CWD, session_id=session)
    # The SDK has no method of its own for it yet.
    await link._conn.send_request("session/delete", {"sessionId": session})  # pyright: ignore[reportPrivateUsage]
    await see_list()
    gone = 0
    try:
        await link.load_session(cwd=CWD, session_id=session)
    except acp.RequestError as error:
        gone = error.code
    assert process.stdin
    process.stdin.close()
    code = await process.wait()
    return {
        "protocol": opened.protocol_version,
        "agent": opened.agent_info.name if opened.agent_info else "",
        "session": session,
        "stops": stops,
        "modes": modes,
        "options": options,
        "listed": listed,
        "gone": gone,
        "exit": code,
        "updates": visitor.links,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(visit())))
