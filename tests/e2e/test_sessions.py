"""Sessions over the real socket, with the model that is built in."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import pairwise

import msgspec
import pytest
import trio

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home, WireError, start_daemon


async def get_or_create(client: Client, **params: object) -> dict[str, object]:
    found: dict[str, object] = await client.call("session/get_or_create", agent="crab", **params)
    return found


async def test_fifty_concurrent_callers_on_fifty_links_get_one_session(daemon: Daemon) -> None:
    found: list[dict[str, object]] = []

    async def ask() -> None:
        found.append(await get_or_create(await daemon.connect()))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)

    assert {one["id"] for one in found} == {"crab_user_1"}
    assert sum(one["created"] is True for one in found) == 1


async def test_senders_that_share_a_slug_never_meet_also_after_a_restart(home: Home) -> None:
    senders = ["b_1", "b-1", "b:1", "B 1"]
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        before = [(await get_or_create(client, sender=sender))["id"] for sender in senders]
        await daemon.stop()

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        after = [(await get_or_create(client, sender=sender))["id"] for sender in reversed(senders)]

        assert len(set(before)) == 4
        assert after == before[::-1]


async def test_messages_to_a_busy_session_run_in_the_order_they_came(daemon: Daemon) -> None:
    client = await daemon.connect()
    session = (await get_or_create(client))["id"]

    asked = [await client.ask("session/send", session=session, content=f"echo {i}") for i in range(5)]
    results = [await client.answer(request) for request in asked]

    assert [result["text"] for result in results] == ["0", "1", "2", "3", "4"]
    assert [result["run"] for result in results] == ["r1", "r2", "r3", "r4", "r5"]
    assert [event["position"] for event in client.events("queued")] == [1, 2, 3, 4]


async def test_a_waiting_sender_gets_the_events_of_its_own_run_only(daemon: Daemon) -> None:
    first, second = await daemon.connect(), await daemon.connect()
    session = (await get_or_create(first))["id"]

    running = await first.ask("session/send", session=session, content="count 3")
    await first.event("run_started")
    result = await second.call("session/send", session=session, content="echo mine")
    await first.answer(running)

    assert {event["run"] for event in second.notifications} == {result["run"]}
    assert second.order[-2:] == ["run_ended", "answer"]
    assert {event["run"] for event in first.notifications} == {"r1"}


async def test_a_client_that_comes_late_sees_what_was_said_and_misses_nothing(daemon: Daemon) -> None:
    first, late = await daemon.connect(), await daemon.connect()
    session = (await get_or_create(first))["id"]
    running = await first.ask("session/send", session=session, content="slow 12 20")
    await first.event("text_delta", 3)

    attached = await late.call("session/subscribe", session=session)
    result = await first.answer(running)
    await late.event("run_ended")

    so_far = "".join(block["text"] for block in attached["snapshot"]["run"]["reply"]["content"])
    seqs = [event["seq"] for event in late.notifications]
    assert so_far
    assert so_far + "".join(event["text"] for event in late.events("text_delta")) == result["text"]
    assert seqs == list(range(attached["seq"] + 1, attached["seq"] + 1 + len(seqs)))


async def test_a_client_that_comes_back_gets_exactly_what_it_missed(daemon: Daemon) -> None:
    client, again = await daemon.connect(), await daemon.connect()
    session = (await get_or_create(client))["id"]
    await client.call("session/send", session=session, content="count 5")
    seen = client.notifications[2]

    back = await again.call("session/subscribe", session=session, after=seen["seq"], epoch=seen["epoch"])
    await again.event("run_ended")
    stranger = await again.call("session/subscribe", session=session, after=1, epoch="another life")

    assert back["replay"] == "complete"
    assert again.notifications == client.notifications[3:]
    assert again.order[0] == "answer"
    assert stranger["replay"] == "partial"


async def test_one_link_can_watch_all_sessions_and_stop_watching(daemon: Daemon) -> None:
    watcher, client = await daemon.connect(), await daemon.connect()
    watching = await watcher.call("session/subscribe", all=True)
    for sender in ("one", "two"):
        session = (await get_or_create(client, sender=sender))["id"]
        await client.call("session/send", session=session, content="echo hi")
    await watcher.event("run_ended", 2)

    stopped = await watcher.call("session/unsubscribe", all=True)
    seen = len(watcher.notifications)
    await client.call("session/send", session=session, content="echo hi")

    assert watching["snapshot"] is None
    assert {event["session"] for event in watcher.notifications} == {"crab_one_1", "crab_two_1"}
    assert stopped == {"unsubscribed": True}
    assert len(watcher.notifications) == seen
    with pytest.raises(WireError) as unclear:
        await watcher.call("session/subscribe")
    assert unclear.value.data["path"] == "$.session"


async def test_a_session_is_listed_filtered_and_paged(daemon: Daemon) -> None:
    client = await daemon.connect()
    for sender in ("a", "b", "c"):
        await get_or_create(client, sender=sender)
    await client.call("session/configure", session="crab_b_1", title="Fix the build")

    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = await client.call("session/list", limit=2, cursor=cursor)
        pages.append([info["id"] for info in page["sessions"]])
        cursor = page["cursor"]
        if cursor is None:
            break
    found = await client.call("session/list", text="BUILD")
    mine = await client.call("session/list", sender="c", state="idle")

    assert pages == [["crab_b_1", "crab_c_1"], ["crab_a_1"]]
    assert [info["title"] for info in found["sessions"]] == ["Fix the build"]
    assert [info["id"] for info in mine["sessions"]] == ["crab_c_1"]


async def test_history_is_paged_by_step_and_filtered_by_role(daemon: Daemon) -> None:
    client = await daemon.connect()
    session = (await get_or_create(client))["id"]
    for i in range(3):
        await client.call("session/send", session=session, content=f"echo {i}")

    last = await client.call("session/history", session=session, limit=2)
    first = await client.call("session/history", session=session, from_=1, limit=4)
    rest = await client.call("session/history", session=session, from_=first["next"])
    users = await client.call("session/history", session=session, roles=["user"])

    def said(page: dict[str, list[dict[str, dict[str, list[dict[str, str]]]]]]) -> list[str]:
        return [entry["message"]["content"][0]["text"] for entry in page["messages"]]

    assert said(last) == ["echo 2", "2"]
    assert said(first) == ["echo 0", "0", "echo 1", "1"]
    assert said(rest) == ["echo 2", "2"]
    assert rest["next"] is None
    assert said(users) == ["echo 0", "echo 1", "echo 2"]


async def test_pause_and_settings_survive_a_restart(home: Home) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = (await get_or_create(client, cwd="/tmp"))["id"]
        await client.call(
            "session/configure", session=session, title="T", model="offline/echo", thinking=True
        )
        await client.call("session/pause", session=session)
        await daemon.stop()

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        info = (await client.call("session/get", session=session))["info"]
        with pytest.raises(WireError) as refused:
            await client.call("session/send", session=session, content="hello")
        await client.call("session/resume", session=session)
        result = await client.call("session/send", session=session, content="echo hello")

        assert (info["state"], info["title"], info["model"], info["cwd"]) == (
            "paused",
            "T",
            "offline/echo",
            "/tmp",
        )
        assert (refused.value.code, refused.value.data["kind"]) == (-32003, "paused")
        assert result["text"] == "hello"


async def test_a_second_daemon_is_refused_by_the_name_of_the_first(daemon: Daemon) -> None:
    home = daemon.home
    same_socket = await run_crabd(home)
    same_store = await run_crabd(home, "--socket", str(home.directory / "run" / "other" / "crabd.sock"))

    for refused in (same_socket, same_store):
        assert refused.returncode == 75
        assert str(daemon.process.pid) in refused.stderr.decode()
    assert await (await daemon.connect()).call("daemon/ping") == {"pong": True}


async def test_an_odd_socket_place_is_refused_with_what_to_do(home: Home) -> None:
    home.socket.parent.mkdir(mode=0o755)
    home.socket.parent.chmod(0o755)
    open_to_others = await run_crabd(home)
    home.socket.parent.chmod(0o700)
    home.socket.write_text("precious")
    no_socket = await run_crabd(home)

    assert (open_to_others.returncode, no_socket.returncode) == (1, 1)
    assert b"is open to others (mode 0755)" in open_to_others.stderr
    assert b"is not a socket: remove it" in no_socket.stderr
    assert home.socket.read_text() == "precious"


async def test_a_wrong_configuration_ends_with_78_and_a_sentence(home: Home) -> None:
    home.configure('modle = "openai/x"\n')

    refused = await run_crabd(home)

    assert refused.returncode == 78
    assert b"config.toml: Object contains unknown field `modle`" in refused.stderr


async def test_reload_takes_new_agents_and_keeps_what_a_bad_file_names(home: Home) -> None:
    agents = home.config / "agents"
    agents.mkdir(parents=True)
    (agents / "poet.md").write_text("---\ndescription: rhymes\nmax_rounds: 3\n---\nYou rhyme.\n")
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = (await client.call("session/get_or_create", agent="poet"))["id"]
        running = await client.ask("session/send", session=session, content="slow 10 20")
        await client.event("text_delta")
        (agents / "poet.md").write_text("---\nmax_rounds: none\n---\n")
        (agents / "cook.md").write_text("You cook.\n")

        reloaded = await client.call("daemon/reload")
        listed = await client.call("agent/list")
        result = await client.answer(running)

        assert reloaded["agents"] == ["cook", "crab", "poet"]
        assert "poet.md: front matter" in reloaded["problems"][0]
        assert {agent["name"]: agent["max_rounds"] for agent in listed["agents"]}["poet"] == 3
        assert result["stop_reason"] == "end_turn"


async def test_the_environment_of_the_service_manager_is_spoken_to(home: Home) -> None:
    manager = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM)
    address = str(home.directory / "notify")
    await manager.bind(address)
    home.env["NOTIFY_SOCKET"] = address
    with manager, trio.fail_after(PATIENCE):
        async with start_daemon(home) as daemon:
            ready = await manager.recv(4096)
            daemon.process.send_signal(signal.SIGHUP)
            reloading = [await manager.recv(4096) for _ in range(2)]
            exit_code = await daemon.stop()
            stopping = await manager.recv(4096)

        assert ready == b"READY=1\nSTATUS=serving"
        assert reloading[0].startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert reloading[1] == b"READY=1"
        assert exit_code == 0
        assert stopping.startswith(b"STOPPING=1\nSTATUS=letting 0 runs finish\nEXTEND_TIMEOUT_USEC=")


async def run_crabd(home: Home, *flags: str) -> subprocess.CompletedProcess[bytes]:
    """Run a daemon that is not expected to stay."""
    with trio.fail_after(PATIENCE):
        return await trio.run_process(
            [sys.executable, "-m", "crabd", *flags], env=home.env, capture_stderr=True, check=False
        )


async def test_a_damaged_session_is_told_and_shown_as_such_and_others_are_served(home: Home) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        for sender in ("one", "two"):
            session = (await get_or_create(client, sender=sender))["id"]
            await client.call("session/send", session=session, content="echo hello")
        await daemon.stop()
    journal = home.state / "sessions" / "crab_one_1" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"hello", b"HELLO", 1))

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        with pytest.raises(WireError) as refused:
            await get_or_create(client, sender="one")
        listed = await client.call("session/list", state="damaged")
        status = await client.call("daemon/status")
        other = (await get_or_create(client, sender="two"))["id"]
        result = await client.call("session/send", session=other, content="echo still here")

        assert (refused.value.code, refused.value.data["kind"]) == (-32020, "damaged")
        assert "record 3" in refused.value.message
        assert [info["id"] for info in listed["sessions"]] == ["crab_one_1"]
        assert "crab_one_1" in status["store"]["problems"][0]
        assert result["text"] == "still here"
        assert journal.exists()


async def test_two_requests_of_one_link_that_wait_for_one_run_do_not_end_each_others_events(
    daemon: Daemon,
) -> None:
    client = await daemon.connect()
    session = (await get_or_create(client))["id"]
    again = {"session": session, "content": "slow 10 20", "request_key": "k1"}
    first = await client.ask("session/send", **again)
    await client.event("text_delta")

    second = await client.ask("session/send", **again)
    await client.notify("$/cancelRequest", id=second)
    with pytest.raises(WireError):
        await client.answer(second)
    result = await client.answer(first)

    assert "".join(event["text"] for event in client.events("text_delta")) == result["text"]
    assert len(client.events("run_ended")) == 1


async def test_messages_to_a_session_that_has_to_be_loaded_run_in_the_order_they_came(home: Home) -> None:
    async with start_daemon(home) as daemon:
        session = (await get_or_create(await daemon.connect()))["id"]
        await daemon.stop()

    async with start_daemon(home) as daemon:
        client = await daemon.connect()

        asked = [await client.ask("session/send", session=session, content=f"echo {i}") for i in range(9)]
        results = [await client.answer(request) for request in asked]

        assert [result["text"] for result in results] == [str(i) for i in range(9)]
        assert [result["run"] for result in results] == [f"r{i}" for i in range(1, 10)]


async def test_a_client_that_does_not_read_harms_nobody_and_learns_what_it_lost(daemon: Daemon) -> None:
    client = await daemon.connect()
    session = (await get_or_create(client))["id"]
    deaf = await trio.open_unix_socket(str(daemon.home.socket))
    subscribe = {"jsonrpc": "2.0", "id": 1, "method": "session/subscribe", "params": {"session": session}}
    await deaf.send_all(msgspec.json.encode(subscribe) + b"\n")
    words = " ".join(f"word{i}" for i in range(20_000))

    result = await client.call("session/send", session=session, content=f"echo {words}", events=False)
    with trio.fail_after(PATIENCE):
        heard = b""
        while b'"run_ended"' not in heard:
            heard += await deaf.receive_some()
    await deaf.aclose()

    events = [
        msgspec.json.decode(line)["params"] for line in heard.splitlines() if b'"session/event"' in line
    ]
    spans = [(e.get("merged_from", e.get("from", e["seq"])), e["seq"]) for e in events]
    assert result["text"] == words
    assert all(first == last + 1 for (_, last), (first, _) in pairwise(spans))
    assert spans[-1][1] == result["last_seq"]
    assert len(events) < result["last_seq"]
