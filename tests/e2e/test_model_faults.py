"""A daemon whose model server fails: what its clients are told, what it keeps to itself, how it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import trio

from crabd.providers.circuit import FAILURES
from tests.e2e.daemon import PATIENCE, Daemon, Home, start_daemon
from tests.faults.certificates import make_certificate, make_context
from tests.faults.model_faults import FAULTS, KEY
from tests.faults.model_server import END, Bytes, FaultServer, Script, head, open_fault_server, say

HALF: Script = (Bytes(head() + say("half ")), "hold", "reset")
REST: Script = (Bytes(head() + say("an answer") + END), "close")
DOWN: Script = (Bytes(head(503, "text/html", retry_after_ms="1")), "close")
# What a server gets to quote the key in, and one that says nothing.
TOLD = (
    "does not know the key",
    "reports an error in its answer",
    "sends garbage for a chunk",
    "sends a type that quotes the key",
    "redirects in a loop",
    "hangs after some chunks",
)


def configure(home: Home, server: FaultServer) -> None:
    home.env["TEST_KEY"] = KEY
    home.configure(
        f'model = "test/m"\nlog_level = "debug"\n'
        f'[providers.test]\nbase_url = "{server.url}/v1"\napi_key_env = "TEST_KEY"\n'
        f"[providers.test.deadlines]\nidle = 0.5\n"
    )


async def crabctl(home: Home, *words: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(PATIENCE):
        return await trio.run_process(
            [sys.executable, "-m", "crabctl", *words], env=home.env, capture_stdout=True, check=False
        )


def sockets_of(daemon: Daemon) -> int:
    return sum(file.is_socket() for file in Path(f"/proc/{daemon.process.pid}/fd").iterdir())


async def test_every_failure_is_told_the_next_message_is_answered_and_nobody_learns_the_key(
    home: Home,
) -> None:
    results: list[object] = []
    async with open_fault_server() as server:
        configure(home, server)
        async with start_daemon(home) as daemon:
            client = await daemon.connect()
            session = (await client.call("session/get_or_create", agent="crab"))["id"]
            await client.call("session/subscribe", session=session)
            await client.call("session/send", session=session, content="hello")
            await server.until_alone()
            before = sockets_of(daemon)
            for name in TOLD:
                server.break_down(FAULTS[name].script)
                if not FAULTS[name].hangs:
                    server.let_go()
                failed = await client.call("session/send", session=session, content=name)
                server.let_go()
                server.mend()
                answered = await client.call("session/send", session=session, content="again")
                results += [failed, answered]

                assert (failed["stop_reason"], failed["error"]["kind"]) == ("error", FAULTS[name].kind)
                assert FAULTS[name].words in failed["error"]["message"]
                assert answered["text"] == "fine"
            await server.until_alone()
            after = sockets_of(daemon)
            results += [await client.call("session/history", session=session), client.notifications]
            shown = [
                (await crabctl(home, command, *words)).stdout for command, *words in (["log"], ["status"])
            ]
            await daemon.stop()

    kept = [path.read_bytes() for path in home.directory.rglob("*") if path.is_file()]
    assert after == before
    assert any(b"half" in each for each in kept)
    assert not any(KEY.encode() in each for each in (*kept, *shown, json.dumps(results).encode()))


async def test_a_server_left_alone_is_told_in_the_status_and_asked_at_once_after_a_reload(home: Home) -> None:
    async with open_fault_server() as server:
        configure(home, server)
        async with start_daemon(home) as daemon:
            client = await daemon.connect()
            session = (await client.call("session/get_or_create", agent="crab"))["id"]
            server.break_down(DOWN)
            results = [await client.call("session/send", session=session, content="go") for _ in range(3)]
            told = (await client.call("daemon/status"))["model_servers"]
            shown = await crabctl(home, "status")
            server.mend()
            reloaded = await crabctl(home, "reload")
            answered = await client.call("session/send", session=session, content="again")
            cured = (await client.call("daemon/status"))["model_servers"]

    assert [result["error"]["kind"] for result in results] == ["unavailable", "left_alone", "left_alone"]
    assert [(one["server"], one["state"], one["failures"]) for one in told] == [
        (server.url, "open", FAILURES)
    ]
    assert f"{server.url}: {FAILURES} failures in a row, left alone until".encode() in shown.stdout
    assert (reloaded.returncode, answered["text"], cured) == (0, "fine", [])


async def test_an_agent_that_may_goes_on_from_a_partial_answer(home: Home) -> None:
    async with open_fault_server() as server:
        configure(home, server)
        (home.config / "agents").mkdir()
        (home.config / "agents" / "patient.md").write_text("---\ncontinue_partial: true\n---\nBe brief.\n")
        async with start_daemon(home) as daemon:
            client = await daemon.connect()
            session = (await client.call("session/get_or_create", agent="patient"))["id"]
            await client.call("session/subscribe", session=session)
            server.break_down(HALF)

            running = await client.ask("session/send", session=session, content="go")
            await client.event("text_delta")
            server.fault = REST
            server.let_go()
            result = await client.answer(running)

    assert (result["stop_reason"], result["text"]) == ("end_turn", "half an answer")
    assert [event["text"] for event in client.events("text_delta")] == ["half ", "an answer"]
    assert [m["content"] for m in server.asked[1]["messages"][1:3]] == ["go", "half "]


async def test_a_server_whose_authority_the_user_trusts_is_asked_over_tls(home: Home, tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path / "tls")
    async with open_fault_server(make_context(tmp_path / "tls")) as server:
        configure(home, server)
        async with start_daemon(home):
            refused = await crabctl(home, "send", "hello")
        home.env["SSL_CERT_FILE"] = str(certificate)
        async with start_daemon(home):
            answered = await crabctl(home, "send", "hello")

    assert (refused.returncode, refused.stdout) == (1, b"")
    assert (answered.returncode, answered.stdout) == (0, b"fine\n")
