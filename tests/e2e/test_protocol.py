"""What the real daemon answers on its real socket, in both framings."""

from __future__ import annotations

import signal
import stat
from typing import Any, get_args, get_origin

import msgspec
import pytest
import trio
from msgspec import Struct

from crabd.api.openrpc import describe_api
from crabd.api.table import METHODS
from crabd.rpc.methods import Method
from tests.e2e.daemon import PATIENCE, Daemon, WireError, start_daemon
from tests.rpc.cases import FRAMINGS, GENERAL, TABLE, Case, Framing, assert_same, brief, read_texts

# The specification's examples whose answers are errors or nothing hold for any set of methods; those that
# want its ``subtract`` are played against the peer itself.
EXAMPLES = [
    case
    for case in TABLE
    if case.name
    in {
        "a notification with params",
        "a method that does not exist",
        "invalid JSON",
        "an invalid request object",
        "a batch with invalid JSON",
    }
]
# One value for every parameter that is required somewhere.
VALID: dict[str, object] = {
    "agent": "crab",
    "call": "call_1",
    "client": {"name": "test"},
    "content": "hello",
    "decision": "deny",
    "files": {"/nowhere": "0"},
    "path": "/nowhere",
    "query": "word",
    "rule": "read",
    "run": "r1",
    "server": "clock",
    "session": "crab_user_1",
}


async def exchange(daemon: Daemon, case: Case, framing: Framing) -> bytes:
    """Write a case, half-close, and read to the end of the link."""
    stream = await trio.open_unix_socket(str(daemon.home.socket))
    received: list[bytes] = []

    async def write() -> None:
        try:
            await stream.send_all(case.stream(framing))
            await stream.send_eof()
        except trio.BrokenResourceError:
            assert case.is_fatal

    with trio.fail_after(PATIENCE):
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while data := await stream.receive_some():
                received.append(data)
    return b"".join(received)


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_the_daemon_conforms_to_json_rpc(daemon: Daemon, framing: Framing) -> None:
    for case in [*GENERAL, *EXAMPLES]:
        answers = await exchange(daemon, case, framing)

        assert_same(map(brief, read_texts(answers, framing)), case.expect)


def wrong_params(method: Method[Any, Any]) -> list[tuple[dict[str, object], str]]:
    """Break a method's parameters in every way, each with the path that must be blamed."""
    fields = msgspec.structs.fields(method.params)
    valid = {field.encode_name: VALID[field.encode_name] for field in fields if field.required}
    broken: list[tuple[dict[str, object], str]] = [({**valid, "bogus": 1}, "$.bogus")]
    for field in fields:
        name = field.encode_name
        types = get_args(field.type) or (field.type,)
        is_object = any(
            get_origin(each) is dict or (isinstance(each, type) and issubclass(each, Struct))
            for each in types
        )
        broken.append(({**valid, name: 7.5 if is_object else {"wrong": True}}, f"$.{name}"))
        if field.required:
            broken.append(({key: value for key, value in valid.items() if key != name}, f"$.{name}"))
    return broken


async def test_every_wrong_parameter_of_every_method_is_refused_with_its_path(daemon: Daemon) -> None:
    client = await daemon.connect()

    for method in METHODS:
        for params, path in wrong_params(method):
            with pytest.raises(WireError) as refused:
                await client.call(method.name, **params)

            assert (refused.value.code, refused.value.data["path"]) == (-32602, path), (method.name, params)
            assert refused.value.data["kind"] == "invalid_params"


async def test_an_id_outside_the_grammar_is_refused_at_the_door(daemon: Daemon) -> None:
    client = await daemon.connect()
    hostile = [
        "",
        "../x_y_1",
        "/etc_a_1",
        "a_b_0",
        "a_b_01",
        "a_b",
        "A_b_1",
        "a_b_1\n",
        "a_b_1\0",
        "ä_b_1",
        "a" * 300,
    ]

    for session in hostile:
        with pytest.raises(WireError) as refused:
            await client.call("session/get", session=session)
        assert (refused.value.code, refused.value.data["path"]) == (-32602, "$.session")


async def test_an_unknown_session_is_not_found_by_every_method_that_takes_one(daemon: Daemon) -> None:
    client = await daemon.connect()
    taking_one = [
        method
        for method in METHODS
        if any(field.name == "session" and field.required for field in msgspec.structs.fields(method.params))
    ]
    assert len(taking_one) > 10

    for method in taking_one:
        fields = msgspec.structs.fields(method.params)
        needed = {field.name: VALID[field.name] for field in fields if field.required}
        with pytest.raises(WireError) as refused:
            await client.call(method.name, **needed | {"session": "crab_nobody_9"})
        assert refused.value.code == -32002, method.name
        assert refused.value.data["kind"] == "not_found"
        assert refused.value.data["name"] == "crab_nobody_9"


async def test_discover_gives_the_openrpc_document_of_the_types(daemon: Daemon) -> None:
    client = await daemon.connect()

    document = await client.call("rpc.discover")

    assert document == msgspec.json.decode(msgspec.json.encode(describe_api("0.1.0")))
    assert [method["name"] for method in document["methods"]] == [method.name for method in METHODS]


async def test_initialize_answers_with_the_protocol_we_speak(daemon: Daemon) -> None:
    client = await daemon.connect()

    server = await client.call("initialize", client={"name": "test", "version": "9"}, protocol=65535)

    assert (server["name"], server["protocol"]) == ("crabd", 1)
    assert "session/send" in server["capabilities"]["methods"]


async def test_a_request_that_waits_is_given_up_and_its_run_goes_on(daemon: Daemon) -> None:
    client = await daemon.connect()
    session = (await client.call("session/get_or_create", agent="crab"))["id"]
    await client.call("session/subscribe", session=session)
    for spelling, field in (("$/cancelRequest", "id"), ("$/cancel_request", "requestId")):
        request = await client.ask("session/send", session=session, content="slow 20 20")
        await client.event("text_delta")

        await client.notify(spelling, **{field: request})
        with pytest.raises(WireError) as given_up:
            await client.answer(request)
        state = (await client.call("session/get", session=session))["info"]["state"]
        await client.call("session/cancel", session=session)
        client.notifications.clear()

        assert (given_up.value.code, state) == (-32800, "running")


async def test_a_notification_is_done_and_not_answered(daemon: Daemon) -> None:
    client = await daemon.connect()
    session = (await client.call("session/get_or_create", agent="crab"))["id"]
    await client.call("session/subscribe", session=session)

    await client.notify("session/send", session=session, content="echo hello")
    ended = await client.event("run_ended")

    assert ended["stop_reason"] == "end_turn"
    assert "answer" not in client.order[client.order.index("run_started") :]


async def test_the_socket_is_ours_alone(daemon: Daemon) -> None:
    path = daemon.home.socket

    modes = [stat.S_IMODE(place.lstat().st_mode) for place in (path.parent, path, daemon.home.state)]

    assert modes == [0o700, 0o600, 0o700]


async def test_a_daemon_that_was_killed_leaves_a_socket_that_the_next_one_replaces(daemon: Daemon) -> None:
    await daemon.stop(signal.SIGKILL)
    assert daemon.home.socket.exists()

    async with start_daemon(daemon.home) as again:
        assert await (await again.connect()).call("daemon/ping") == {"pong": True}
