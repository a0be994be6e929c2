"""The whole way: crabctl or a client, the daemon, and a real OpenAI-compatible server on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest
import trio
from msgspec import structs

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home, start_daemon
from tests.model_server import Gate, ModelServer, Seen, Think, refuses, says


async def crabctl(home: Home, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run one command line as a script would."""
    with trio.fail_after(PATIENCE):
        return await trio.run_process(
            [sys.executable, "-m", "crabctl", *words],
            env=home.env,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


def turns(request: Seen) -> list[tuple[str, str]]:
    """Reduce a request's history to who said what, without the system prompt."""
    messages: list[dict[str, Any]] = request.body["messages"]
    assert messages[0]["role"] == "system"
    return [(message["role"], message["content"]) for message in messages[1:]]


async def refused(daemon: Daemon) -> None:
    """Wait until the daemon takes no newcomers any more."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                await daemon.connect()
            except OSError:
                return


async def begin(daemon: Daemon) -> tuple[Client, str]:
    client = await daemon.connect()
    session = (await client.call("session/get_or_create", agent="crab"))["id"]
    await client.call("session/subscribe", session=session)
    return client, session


async def test_a_retry_is_told_to_whoever_waits(home: Home, models: ModelServer) -> None:
    home.use_model_server(models.base_url)
    await models.script(refuses(503, "busy", retry_after_ms="5"), says("Hello"))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)

        result = await client.call("session/send", session=session, content="hi")

        assert result["text"] == "Hello"
        told = await client.event("retrying")
        assert "503: busy" in told["problem"]
        assert 0 < told["seconds"] < 1


async def test_a_message_is_answered_and_the_next_request_holds_the_history(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("Hello", " there"), says("Fine"))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)

        first = await client.call("session/send", session=session, content="Hi")
        second = await client.call("session/send", session=session, content="How are you?")

        requests = await models.requests(wait=2)
        assert (first["text"], first["stop_reason"], first["persisted"]) == ("Hello there", "end_turn", True)
        assert second["text"] == "Fine"
        assert [event["text"] for event in client.events("text_delta")] == ["Hello", " there", "Fine"]
        assert turns(requests[0]) == [("user", "Hi")]
        assert turns(requests[1]) == [("user", "Hi"), ("assistant", "Hello there"), ("user", "How are you?")]


async def test_a_burst_of_steers_joins_in_order_and_one_during_the_final_text_gives_a_round(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("thinking", Gate("a")), says("almost", Gate("b")), says("done"))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)
        running = await client.ask("session/send", session=session, content="go")
        await client.event("text_delta")

        asked = [await client.ask("session/steer", session=session, content=f"s{i}") for i in range(5)]
        acknowledged = [await client.answer(request) for request in asked]
        await models.open_gate("a")
        await client.event("text_delta", 2)
        await client.call("session/steer", session=session, content="wait")
        await models.open_gate("b")
        result = await client.answer(running)

        requests = await models.requests(wait=3)
        assert [steer["position"] for steer in acknowledged] == [1, 2, 3, 4, 5]
        assert [e["steer"] for e in client.events("steered")][:5] == [s["steer"] for s in acknowledged]
        steered = [("user", "go"), ("assistant", "thinking"), *(("user", f"s{i}") for i in range(5))]
        assert turns(requests[1]) == steered
        assert turns(requests[2]) == [*steered, ("assistant", "almost"), ("user", "wait")]
        assert result["text"] == "done"


async def test_a_cancel_in_mid_stream_hangs_up_and_keeps_the_partial_text(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("half an", Gate("never")), says("fine"))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)
        running = await client.ask("session/send", session=session, content="go")
        await client.event("text_delta")

        cancelled = await client.call("session/cancel", session=session)
        result = await client.answer(running)
        after = await client.call("session/send", session=session, content="again")

        requests = await models.requests(wait=2, settled=2)
        history = (await client.call("session/history", session=session))["messages"]
        assert cancelled["stop_reason"] == result["stop_reason"] == "cancelled"
        assert result["text"] == "half an"
        assert requests[0].hung_up
        assert history[1]["message"]["partial"] is True
        assert after["text"] == "fine"
        assert turns(requests[1]) == [("user", "go"), ("assistant", "half an"), ("user", "again")]


async def test_a_compacted_session_is_closed_and_goes_on_after_a_restart(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    big = (1000, 50)
    words = ("one" + " and so on" * 30, "two", "They counted.", "three")
    replies = [structs.replace(says(word), usage=big) for word in words]
    await models.script(*replies)
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)
        for word in ("first", "second"):
            await client.call("session/send", session=session, content=word)
        compacted = await client.call("session/compact", session=session, instructions="keep the numbers")
        closed = await client.call("session/close", session=session)
        exit_code = await daemon.stop()

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        before = (await client.call("session/list"))["sessions"][0]
        loaded = await client.call("session/load", session=session)
        result = await client.call("session/send", session=session, content="third")

        requests = await models.requests(wait=4)
        history = (await client.call("session/history", session=session))["messages"]
        assert (closed, exit_code) == ({"closed": True}, 0)
        assert compacted["archive"] == f"{session}/1"
        assert compacted["usage_after"] < compacted["usage_before"]
        assert (before["id"], before["state"], loaded["state"]) == (session, "stored", "idle")
        assert "keep the numbers" in turns(requests[2])[0][1]
        assert "person: first\nagent: one" in turns(requests[2])[0][1]
        (role, head), *rest = turns(requests[3])
        assert role == "user"
        assert head.startswith("first\n\n<summary>")
        assert "They counted." in head
        assert rest == [("user", "second"), ("assistant", "two"), ("user", "third")]
        assert result["text"] == "three"
        assert [entry["message"]["content"][0]["text"] for entry in history] == [
            "first",
            words[0],
            "second",
            "two",
            "third",
            "three",
        ]


async def test_crabctl_streams_steers_and_cancels_through_the_daemon(home: Home, models: ModelServer) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("thinking", Gate("a")), says("done"), says("half", Gate("never")))
    async with start_daemon(home) as daemon:
        client, _ = await begin(daemon)
        detached = await crabctl(home, "send", "--detach", "go")
        await client.event("text_delta")

        steered = await crabctl(home, "steer", "faster")
        await models.open_gate("a")
        await client.event("run_ended")
        await crabctl(home, "send", "--detach", "again")
        await client.event("text_delta", 3)
        cancelled = await crabctl(home, "cancel")
        shown = await crabctl(home, "log", "--json")

        requests = await models.requests(wait=3)
        assert [done.returncode for done in (detached, steered, cancelled, shown)] == [0, 0, 0, 0]
        assert turns(requests[1]) == [("user", "go"), ("assistant", "thinking"), ("user", "faster")]
        messages = [json.loads(line) for line in shown.stdout.splitlines()]
        assert "half" in json.dumps(messages[-1])


async def test_a_run_that_was_killed_is_closed_and_its_session_goes_on(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("one"), says("half", Gate("never")), says("fine"))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)
        await client.call("session/send", session=session, content="first")
        await client.ask("session/send", session=session, content="second")
        waiting = await client.call("session/send", session=session, content="third", wait=False)
        await client.event("text_delta", 2)
        await daemon.stop(signal.SIGKILL)

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        info = (await client.call("session/get", session=session))["info"]
        result = await client.call("session/send", session=session, content="fourth")

        requests = await models.requests(wait=3)
        assert waiting["disposition"] == "queued"
        assert (info["state"], info["queue"]) == ("stored", 0)
        assert [text for role, text in turns(requests[2]) if role == "user"] == [
            "first",
            "second",
            "third",
            "fourth",
        ]
        assert result["text"] == "fine"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_lets_the_run_finish_and_every_client_sees_it_end(
    home: Home, models: ModelServer, number: signal.Signals
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("almost", Gate("a"), " done"))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)
        other, _ = await begin(daemon)
        running = await client.ask("session/send", session=session, content="go")
        await other.event("text_delta")

        daemon.process.send_signal(number)
        await refused(daemon)
        await models.open_gate("a")
        result = await client.answer(running)
        ended = await other.event("run_ended")
        with trio.fail_after(PATIENCE):
            exit_code = await daemon.process.wait()

        assert (result["text"], result["stop_reason"]) == ("almost done", "end_turn")
        assert (ended["stop_reason"], ended["persisted"]) == ("end_turn", True)
        assert exit_code == 0
        assert not home.socket.exists()


async def test_a_second_signal_cancels_what_is_still_going(home: Home, models: ModelServer) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("half", Gate("never")))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)
        running = await client.ask("session/send", session=session, content="go")
        await client.event("text_delta")
        daemon.process.send_signal(signal.SIGTERM)
        await refused(daemon)

        exit_code = await daemon.stop(signal.SIGTERM)
        result = await client.answer(running)

        assert (result["text"], result["stop_reason"]) == ("half", "cancelled")
        assert result["error"]["kind"] == "shutting_down"
        assert exit_code == 0


async def test_a_command_that_meets_a_stopping_daemon_is_answered_by_the_next(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("almost", Gate("a"), " done"), says("fine"))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)
        running = await client.ask("session/send", session=session, content="go")
        await client.event("text_delta")
        daemon.process.send_signal(signal.SIGTERM)
        await refused(daemon)

        answers: list[subprocess.CompletedProcess[bytes]] = []

        async def ask() -> None:
            answers.append(await crabctl(home, "send", "again"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await models.open_gate("a")
            await client.answer(running)
        stopped = await crabctl(home, "stop")

        assert answers[0].stdout == b"fine\n"
        assert stopped.returncode == 0
        assert turns((await models.requests(wait=2))[1]) == [
            ("user", "go"),
            ("assistant", "almost done"),
            ("user", "again"),
        ]


async def test_the_partial_answer_of_a_killed_run_is_there_and_marked(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("half ", "an ", "answer", Gate("never")), says("fine"))
    partial = home.state / "sessions" / "crab_user_1" / "partial.jsonl"
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)
        await client.ask("session/send", session=session, content="go")
        await client.event("text_delta", 3)
        with trio.fail_after(PATIENCE):
            while not partial.exists() or b"answer" not in partial.read_bytes():
                await client.call("daemon/ping")
        await daemon.stop(signal.SIGKILL)

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        history = (await client.call("session/history", session=session))["messages"]
        result = await client.call("session/send", session=session, content="again")

        assert [(entry["message"]["role"], entry["message"]["content"][0]["text"]) for entry in history] == [
            ("user", "go"),
            ("assistant", "half an answer"),
        ]
        assert history[1]["message"]["partial"] is True
        assert result["text"] == "fine"
        assert turns((await models.requests(wait=2))[1]) == [
            ("user", "go"),
            ("assistant", "half an answer"),
            ("user", "again"),
        ]


@pytest.mark.parametrize("kind", ["openai", "openai-responses", "anthropic"])
async def test_every_dialect_answers_through_the_daemon_and_what_it_cost_is_told(
    home: Home, models: ModelServer, kind: str
) -> None:
    home.configure(
        'model = "here/m"\ntitles = false\n'
        f'[providers.here]\nkind = "{kind}"\nbase_url = "{models.base_url}"\n'
        '[models."here/m"]\ncontext_window = 1000\nprices = { input = 1000, output = 2000 }\n'
    )
    await models.script(says(Think("hm"), "Hello"), says("again"))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)

        first = await client.call("session/send", session=session, content="Hi")
        second = await client.call("session/send", session=session, content="And?")

        told = await client.call("session/usage", session=session)
        assert (first["text"], second["text"]) == ("Hello", "again")
        assert first["usage"]["cost"] == pytest.approx(0.007 + 0.010)
        assert told["usage"]["context_window"] == 1000
        body = json.dumps((await models.requests(wait=2))[1].body)
        assert ("hm" in body) is (kind != "openai")


async def test_a_fallback_answers_and_is_named(home: Home, models: ModelServer) -> None:
    home.configure(
        '[providers.gone]\nbase_url = "http://127.0.0.1:9/v1"\n'
        f'[providers.here]\nkind = "anthropic"\nbase_url = "{models.base_url}"\n'
    )
    agents = home.config / "agents"
    agents.mkdir(parents=True, exist_ok=True)
    (agents / "crab.md").write_text("---\nmodel: gone/a\nfallbacks: [here/b]\n---\nBe brief.")
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)

        result = await client.call("session/send", session=session, content="Hi")

        history = await client.call("session/history", session=session)
        assert result["text"] == "Hi"
        assert [m["message"].get("model") for m in history["messages"]] == [None, "here/b"]


async def test_models_are_told_with_what_is_known_and_what_is_not(home: Home, models: ModelServer) -> None:
    home.configure(
        f'[providers.here]\nbase_url = "{models.base_url}"\n'
        '[models."here/b"]\nprices = { input = 1, output = 2.5 }\n'
    )
    await models.set_models({"id": "a", "max_model_len": 4096}, {"id": "b"})
    async with start_daemon(home):
        listed = await crabctl(home, "models")

    rows = [line.split() for line in listed.stdout.decode().splitlines()]
    assert ["here/a", "4", "096", "unknown", "unknown"] in rows
    assert ["here/b", "unknown", "1", "2.5"] in rows


async def test_a_session_is_named_by_its_model_and_the_name_is_listed(
    home: Home, models: ModelServer
) -> None:
    home.configure(f'model = "test/m"\n[providers.test]\nbase_url = "{models.base_url}"\n')
    await models.script(says("Crabs are decapods."), says('"About Crabs."'))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)
        await client.call("session/subscribe", session=session)

        await client.call("session/send", session=session, content="What are crabs?", events=False)
        named = await client.event("title_changed")
        (listed,) = (await client.call("session/list"))["sessions"]

        assert named["title"] == listed["title"] == "About Crabs"
        assert listed["usage"]["calls"] == 2
        assert len(await models.requests()) == 2
