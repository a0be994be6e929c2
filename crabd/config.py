"""Configuration: where things are, and what ``config.toml`` says. Read at the start and again on reload."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import platformdirs
from msgspec import Meta, Struct

from crabd.api.address import socket_path
from crabd.errors import ConfigError
from crabd.events import Decision, Mode, RuleLists
from crabd.providers.facts import ModelFacts
from crabd.providers.settings import ProviderSettings
from crabd.runtime.hooks import Hook
from crabd.tools.servers import ServerSettings
from crabd.tools.settings import SandboxMode, SandboxSettings

# systemd's default patience is 90 s and a person's is less; a model's answer mostly takes fewer than ten.
GRACE_SECONDS = 10.0

# How sessions are kept: ``stepfiles`` in the layout that crabtalk reads and writes too.
StoreName: TypeAlias = Literal["journal", "stepfiles"]


class Retention(Struct, frozen=True, forbid_unknown_fields=True):
    """When stored sessions are removed without anybody asking: so many days after their last use, or when all
    of them take more bytes, the longest unused first. Without either, never.
    """

    keep_days: Annotated[float, Meta(gt=0, le=36_500)] | None = None
    max_bytes: Annotated[int, Meta(gt=0)] | None = None


class Permissions(RuleLists, frozen=True):
    """What agents may do: rules, a ``mode``, and a ``default`` that takes the place of asking.

    Sessions and agents that have a mode of their own keep to that. Whoever is asked and does not answer
    within so many seconds has said no; left out, a question waits for as long as it takes.
    """

    mode: Mode = "ask"
    default: Decision = "ask"
    answer_within: Annotated[float, Meta(gt=0)] | None = None


class Web(Struct, frozen=True, forbid_unknown_fields=True):
    """What agents may fetch of the web: with ``allow_private`` also from this machine and its networks."""

    allow_private: bool = False


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``config.toml`` may say. ``model`` is ``provider/model``; ``grace`` is in seconds.

    ``models`` is what is known of models, by ``provider/model``; it comes before what crabd knows itself.
    ``store`` is read at the start alone. With ``titles`` the model names sessions that have no title.
    ``hooks`` are run in the order in which they stand. ``mcp`` are servers of tools.
    """

    store: StoreName = "journal"
    model: str | None = None
    providers: dict[str, ProviderSettings] = {}
    models: dict[str, ModelFacts] = {}
    grace: Annotated[float, Meta(ge=0, le=3600)] = GRACE_SECONDS
    retention: Retention = Retention()
    permissions: Permissions = Permissions()
    sandbox: SandboxMode | SandboxSettings = "auto"
    titles: bool = True
    hooks: tuple[Hook, ...] = ()
    web: Web = Web()
    mcp: ServerSettings = ServerSettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Places(Struct, frozen=True):
    """Where this user's crabd keeps what."""

    config: Path
    state: Path
    socket: Path


def find_places(socket: str | None = None) -> Places:
    """Find the places from the environment, as the XDG base directory specification has them."""
    config = os.environ.get("CRABD_CONFIG_DIR") or platformdirs.user_config_dir("crabd")
    state = os.environ.get("CRABD_STATE_DIR") or platformdirs.user_state_dir("crabd")
    return Places(Path(config), Path(state), Path(socket or socket_path()).absolute())


def read_settings(folder: Path) -> Settings:
    """Read ``config.toml``; a missing one is an empty one.

    Raises:
      ConfigError: it cannot be read, is not TOML, or says something unknown.
    """
    file = folder / "config.toml"
    try:
        return msgspec.toml.decode(file.read_bytes(), type=Settings)
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as exc:
        raise ConfigError(str(file), str(exc)) from exc
