"""Where keys come from, and that they stay there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from crabd.errors import ProviderError
from crabd.providers.keys import ApiKey
from tests.providers.asking import SECONDS

KEY = "sk-canary-42"


async def read(key: ApiKey) -> str | None:
    with trio.fail_after(SECONDS):
        return await key.read()


async def problem_of(key: ApiKey) -> str:
    with pytest.raises(ProviderError) as caught:
        await read(key)
    assert caught.value.kind == "auth"
    return str(caught.value)


def key_file(root: Path, text: str = KEY, mode: int = 0o600) -> str:
    path = root / "key"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


async def test_a_variable_of_the_environment_is_read() -> None:
    assert await read(ApiKey("test", variable="K", env={"K": f" {KEY}\n"})) == KEY


async def test_a_missing_variable_is_named_with_the_other_ways() -> None:
    problem = await problem_of(ApiKey("acme", variable="ACME_KEY", env={}))

    assert "set ACME_KEY" in problem
    assert "[providers.acme]" in problem


async def test_without_a_source_there_is_no_key() -> None:
    assert await read(ApiKey("local", env={})) is None


async def test_a_file_of_ones_own_is_read_once(tmp_path: Path) -> None:
    file = key_file(tmp_path, f"{KEY}\n")
    key = ApiKey("test", file=file, env={})

    first = await read(key)
    Path(file).write_text("another")

    assert (first, await read(key)) == (KEY, KEY)
    key.forget()
    assert await read(key) == "another"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
async def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    problem = await problem_of(ApiKey("test", file=key_file(tmp_path, mode=mode), env={}))

    assert "chmod 600" in problem
    assert KEY not in problem


async def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)

    assert "cannot be read" in await problem_of(ApiKey("test", file=str(tmp_path / "missing"), env={}))
    assert "not a regular file" in await problem_of(ApiKey("test", file=str(tmp_path / "fifo"), env={}))
    assert "empty" in await problem_of(ApiKey("test", file=key_file(tmp_path, "\n"), env={}))


async def test_a_commands_output_is_the_key_and_no_shell_sees_it(tmp_path: Path) -> None:
    command = f"{sys.executable} -c \"import sys; print(sys.argv[1])\" '$HOME;{KEY}'"

    assert await read(ApiKey("test", command=command, env={})) == f"$HOME;{KEY}"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"{sys.executable} -c 'raise SystemExit(\"{KEY}\")'", "ended with status 1"),
        ("/nowhere/pass show", "cannot be run (No such file or directory)"),
        ("pass 'unbalanced", "cannot be run (No closing quotation)"),
        ("true", "empty"),
    ],
)
async def test_a_command_that_fails_is_named_without_its_secrets(command: str, words: str) -> None:
    problem = await problem_of(ApiKey("test", command=command, env={}))

    assert words in problem
    assert KEY not in problem


async def test_two_first_calls_run_the_command_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"open({str(log)!r}, 'a').write('x'); print('key')"
    key = ApiKey("test", command=f'{sys.executable} -c "{code}"', env={})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, key)
        nursery.start_soon(read, key)

    assert log.read_text() == "x"


async def test_a_key_that_no_header_can_hold_is_refused_unquoted() -> None:
    problem = await problem_of(ApiKey("test", variable="K", env={"K": f"{KEY}\nx: y"}))

    assert KEY not in problem


async def test_neither_repr_nor_a_servers_words_show_the_key() -> None:
    key = ApiKey("test", variable="K", env={"K": KEY})
    await read(key)

    assert repr(key) == "<ApiKey of test from K>"
    assert key.hide(f"bad key {KEY}".encode()) == b"bad key [key]"


@pytest.mark.parametrize(("key", "shown"), [("k", b"ask"), ("sk-0123456789", b"[key]!")])
async def test_a_secret_is_hidden_and_a_stopgap_does_not_tear_words_apart(key: str, shown: bytes) -> None:
    source = ApiKey("test", variable="TEST_KEY", env={"TEST_KEY": key})
    await source.read()

    hidden = source.hide(b"ask" if key == "k" else f"{key}!".encode())

    assert hidden == shown
