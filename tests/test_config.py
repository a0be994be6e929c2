"""Where things are, and what ``config.toml`` may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabd.config import Permissions, Places, Settings, find_places, read_settings
from crabd.errors import ConfigError
from crabd.providers.settings import Deadlines, ProviderSettings

VARIABLES = (
    "CRABD_CONFIG_DIR",
    "CRABD_STATE_DIR",
    "CRABD_SOCKET",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Give the environment of a user of whom nothing is known but the home."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ann")
    return monkeypatch


def test_places_are_the_xdg_directories_below_home(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("XDG_RUNTIME_DIR", "/run/user/7")

    places = find_places()

    assert places == Places(
        config=Path("/home/ann/.config/crabd"),
        state=Path("/home/ann/.local/state/crabd"),
        socket=Path("/run/user/7/crabd/crabd.sock"),
    )


def test_the_xdg_variables_move_the_places(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("XDG_CONFIG_HOME", "/c")
    environment.setenv("XDG_STATE_HOME", "/s")

    places = find_places("/x.sock")

    assert places == Places(Path("/c/crabd"), Path("/s/crabd"), Path("/x.sock"))


def test_our_own_variables_come_before_all_others(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("XDG_CONFIG_HOME", "/c")
    environment.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    environment.setenv("CRABD_CONFIG_DIR", "/mine/config")
    environment.setenv("CRABD_STATE_DIR", "/mine/state")
    environment.setenv("CRABD_SOCKET", "/mine/sock")

    places = find_places()

    assert places == Places(Path("/mine/config"), Path("/mine/state"), Path("/mine/sock"))


def test_a_socket_that_is_named_comes_before_the_variable_and_is_made_absolute(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("CRABD_SOCKET", "/mine/sock")
    environment.chdir(tmp_path)

    assert find_places("s").socket == tmp_path / "s"


def test_without_a_runtime_directory_there_is_a_socket_all_the_same(environment: pytest.MonkeyPatch) -> None:
    socket = find_places().socket

    assert socket.is_absolute()
    assert socket.parts[-2:] == ("crabd", "crabd.sock")


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "nowhere") == Settings()


def test_a_file_says_what_it_says_and_leaves_the_rest_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'model = "local/m"\ngrace = 3\n[providers.local]\nbase_url = "http://127.0.0.1:1/v1"\n'
    )

    settings = read_settings(tmp_path)

    local = ProviderSettings(base_url="http://127.0.0.1:1/v1")
    assert settings == Settings(model="local/m", grace=3, providers={"local": local}, log_level="info")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"grace = 1\ngrace = = 2\n", "line 2"),
        (b"modle = 'x'", "unknown field `modle`"),
        (b"model = 7", "$.model"),
        (b"grace = -1", "$.grace"),
        (b"grace = 3601", "$.grace"),
        (b"log_level = 'loud'", "$.log_level"),
        (b"[retention]\nkeep_days = 0", "$.retention.keep_days"),
        (b"[retention]\nmax_bytes = 0.5", "$.retention.max_bytes"),
        (b"[providers.x]\nkey = 'secret'", "unknown field `key` - at `$.providers[...]`"),
        (b"model = '\xff'", "utf-8"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name_and_what_is_wrong(
    tmp_path: Path, text: bytes, problem: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(text)

    with pytest.raises(ConfigError) as refused:
        read_settings(tmp_path)

    assert refused.value.file == str(file)
    assert problem in refused.value.problem


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()

    with pytest.raises(ConfigError, match=r"config\.toml: .*directory"):
        read_settings(tmp_path)


def test_what_agents_may_do_is_a_mode_a_default_and_rules(tmp_path: Path) -> None:
    rules = 'allow = ["bash(make)"]\ndeny = ["edit(~/x)"]\n'
    (tmp_path / "config.toml").write_text(f'[permissions]\nmode = "plan"\ndefault = "deny"\n{rules}')

    said = read_settings(tmp_path).permissions

    assert said == Permissions(mode="plan", default="deny", allow=("bash(make)",), deny=("edit(~/x)",))


@pytest.mark.parametrize("line", ['mode = "yolo"', 'default = "maybe"', "allow = [1]", "alow = []"])
def test_permissions_that_cannot_be_meant_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "config.toml").write_text(f"[permissions]\n{line}\n")

    with pytest.raises(ConfigError, match=r"permissions|alow"):
        read_settings(tmp_path)


def test_the_store_is_one_of_two(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    stores: list[str] = []
    for text in ("", 'store = "stepfiles"'):
        file.write_text(text)
        stores.append(read_settings(tmp_path).store)
    file.write_text('store = "tape"')

    with pytest.raises(ConfigError, match="store"):
        read_settings(tmp_path)

    assert stores == ["journal", "stepfiles"]


def test_a_slow_server_may_be_given_more_time(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[providers.ollama.deadlines]\nfirst_byte = 900\n")

    deadlines = read_settings(tmp_path).providers["ollama"].deadlines

    assert deadlines == Deadlines(connect=10, first_byte=900, idle=90, total=3600)


@pytest.mark.parametrize(
    "line", ["idle = 0", "idle = -1", "total = 90000", 'connect = "soon"', "between = 3"]
)
def test_a_deadline_that_cannot_be_meant_is_refused_by_its_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "config.toml").write_text(f"[providers.ollama.deadlines]\n{line}\n")

    with pytest.raises(ConfigError, match=line.partition(" ")[0]):
        read_settings(tmp_path)
