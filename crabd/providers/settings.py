"""Which model servers there are, and which model is asked when nobody says. Decided from what is given.

It must not look around by itself: the configuration and the environment come as arguments.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from msgspec import Meta, Struct, structs

from crabd.errors import ConfigError
from crabd.providers.presets import PRESETS, Kind, Preset

CONFIG_FILE = "config.toml"
OLLAMA = "ollama"
_OLLAMA_PORT = 11434


# Hours would be as good as for ever; at zero nothing could be asked.
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400)]


class Deadlines(Struct, frozen=True, forbid_unknown_fields=True):
    """How long a server may take, in seconds: to ``connect``, to say its first word, to say the next.

    ``first_byte`` is for the head, and again for what follows it: a local server may load its model in the
    one and read a long history in the other. ``total`` bounds what the others cannot: a server that sends a
    comment now and then, and never an answer.
    """

    connect: Seconds = 10
    first_byte: Seconds = 300
    idle: Seconds = 90
    total: Seconds = 3600


DEADLINES = Deadlines()


class ProviderSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model server, as ``[providers.NAME]`` in config.toml describes it.

    A well-known server needs no ``base_url`` and no ``kind``, which for others is ``openai`` if left out.
    ``model`` is taken when the provider alone is named. ``context_window`` is in tokens, for servers that do
    not tell; ``deadlines`` are for one that is slow. Without ``stream`` answers are asked for whole.
    """

    kind: Kind | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    api_key_command: str | None = None
    model: str | None = None
    context_window: int | None = None
    deadlines: Deadlines = DEADLINES
    stream: bool = True


class Chosen(NamedTuple):
    """A model's ``provider/model``, and who chose it."""

    id: str
    why: str


def known_providers(
    configured: Mapping[str, ProviderSettings], env: Mapping[str, str]
) -> dict[str, ProviderSettings]:
    """Put together every provider that can be named: the well-known ones, Ollama, and the configured ones.

    Each has a ``base_url`` that is safe to send a conversation to.

    Raises:
      ConfigError: a provider that is meant to be used has none.
    """
    known = _with_environment(env)
    for name, given in configured.items():
        if not name or "/" in name:
            raise ConfigError(CONFIG_FILE, f"[providers.{name!r}]: a name is not empty and has no slash")
        known[name] = _complete(name, given, known.get(name))
    return known


def choose(
    model: str | None,
    configured: Iterable[str],
    known: Mapping[str, ProviderSettings],
    env: Mapping[str, str],
) -> Chosen | None:
    """Choose the default model: the configured one, a configured provider's, that of a key which is set.

    ``known`` is what ``known_providers`` made of the ``configured`` ones; null means that nothing was said.
    """
    if model:
        return Chosen(model, f"`model` in {CONFIG_FILE}")
    for name in configured:
        if known[name].model:
            return Chosen(f"{name}/{known[name].model}", f"[providers.{name}] in {CONFIG_FILE}")
    for name in keys_in(env):
        return Chosen(f"{name}/{known[name].model}", f"{known[name].api_key_env} is set")
    return None


def keys_in(env: Mapping[str, str]) -> list[str]:
    """List the well-known providers that can be asked without a word: their key is in the environment."""
    return [name for name, one in PRESETS.items() if one.model and env.get(one.variable or "", "").strip()]


def nothing_found(env: Mapping[str, str]) -> str:
    """Say why there is no model to ask, naming every place that was looked at."""
    variables = ", ".join(str(one.variable) for one in PRESETS.values() if one.model)
    return (
        f"nothing was found: no `model` in {CONFIG_FILE}, no API key in the environment ({variables}), "
        f"no Ollama at {_ollama_url(env)}"
    )


def _with_environment(env: Mapping[str, str]) -> dict[str, ProviderSettings]:
    """Apply what the environment says about where well-known servers are."""
    known = {name: _settings_of(preset) for name, preset in PRESETS.items()}
    openai, anthropic = known["openai"], known["anthropic"]
    if url := env.get("OPENAI_BASE_URL"):
        url = _checked("OPENAI_BASE_URL", url)
        # Whoever listens elsewhere, chat completions are what it will know.
        openai = structs.replace(
            openai, base_url=url, kind=openai.kind if url == openai.base_url else "openai"
        )
    if url := env.get("ANTHROPIC_BASE_URL"):
        # By custom this one stops before the version.
        begin = _checked("ANTHROPIC_BASE_URL", url).removesuffix("/v1")
        anthropic = structs.replace(anthropic, base_url=f"{begin}/v1")
    known["openai"] = structs.replace(openai, model=env.get("OPENAI_MODEL") or openai.model)
    known["anthropic"] = structs.replace(anthropic, model=env.get("ANTHROPIC_MODEL") or anthropic.model)
    ollama = _ollama_url(env)
    if _is_safe(ollama):
        known[OLLAMA] = ProviderSettings(base_url=ollama)
    return known


def _settings_of(preset: Preset) -> ProviderSettings:
    return ProviderSettings(
        kind=preset.kind, base_url=preset.base_url, api_key_env=preset.variable, model=preset.model
    )


def _complete(name: str, given: ProviderSettings, known: ProviderSettings | None) -> ProviderSettings:
    """Fill in what is known of a provider. A key is bound to its server: another URL does not get it."""
    if given.base_url:
        return structs.replace(given, base_url=_checked(CONFIG_FILE, given.base_url))
    if known is None:
        raise ConfigError(CONFIG_FILE, f"[providers.{name}] needs base_url, the address where its API begins")
    has_key = given.api_key_env or given.api_key_file or given.api_key_command
    return structs.replace(
        given,
        kind=given.kind or known.kind,
        base_url=known.base_url,
        api_key_env=given.api_key_env if has_key else known.api_key_env,
        model=given.model or known.model,
    )


def _checked(source: str, url: str) -> str:
    if not _is_safe(url):
        raise ConfigError(
            source,
            f"{_shown(url)} is no address for a conversation: use https, or http on this machine only, "
            "with no password, query or fragment in it",
        )
    return url.rstrip("/")


def _shown(url: str) -> str:
    """Leave out what stands before the host: it may be a password."""
    return url.rpartition("@")[2]


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    if not parts.hostname or not has_port or "@" in parts.netloc or parts.query or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ollama_url(env: Mapping[str, str]) -> str:
    """Read ``OLLAMA_HOST`` as Ollama does: a host, with or without scheme and port."""
    given = env.get("OLLAMA_HOST", "").strip()
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        port = parts.port or _OLLAMA_PORT
    except ValueError:
        return _shown(given)
    # A server that listens everywhere is reached here.
    everywhere = ("", "0.0.0.0", "::")  # noqa: S104  compared, never listened on
    host = parts.hostname or ""
    host = "127.0.0.1" if host in everywhere else f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{port}/v1"
