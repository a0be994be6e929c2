"""Which model servers there are, and which model is asked when nobody says. Decided from what is given.

It must not look around by itself: the configuration and the environment come as arguments.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct, structs

from crabd.errors import ConfigError

CONFIG_FILE = "config.toml"
OLLAMA = "ollama"
_OLLAMA_PORT = 11434


class ProviderSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model server, as ``[providers.NAME]`` in config.toml describes it.

    A well-known server needs no ``base_url``. ``model`` is taken when the provider alone is named.
    ``context_window`` is in tokens, for servers that do not tell.
    """

    kind: Literal["openai"] = "openai"
    base_url: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    api_key_command: str | None = None
    model: str | None = None
    context_window: int | None = None


class Chosen(NamedTuple):
    """A model's ``provider/model``, and who chose it."""

    id: str
    why: str


def _well_known(base_url: str, variable: str, model: str) -> ProviderSettings:
    return ProviderSettings(base_url=base_url, api_key_env=variable, model=model)


# In the order in which a key of the environment is taken. The models are small ones, cheap to begin with.
_WELL_KNOWN = {
    "openai": _well_known("https://api.openai.com/v1", "OPENAI_API_KEY", "gpt-5-mini"),
    "openrouter": _well_known("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openrouter/auto"),
    "groq": _well_known("https://api.groq.com/openai/v1", "GROQ_API_KEY", "openai/gpt-oss-20b"),
    "mistral": _well_known("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral-small-latest"),
    "deepseek": _well_known("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "deepseek-chat"),
}

# In tokens, by how a model's name begins after its last slash. Ollama's names (``gpt-oss:20b``) do not fit on
# purpose: there the window is what its server was started with.
_CONTEXT_WINDOWS = {
    "gpt-4.1": 1_047_576,
    "gpt-4o": 128_000,
    "gpt-5": 400_000,
    "gpt-oss-": 131_072,
    "o3": 200_000,
    "o4-mini": 200_000,
    "claude-": 200_000,
    "gemini-": 1_048_576,
    "deepseek-chat": 128_000,
    "deepseek-reasoner": 128_000,
    "mistral-small-": 128_000,
    "mistral-medium-": 128_000,
    "mistral-large-": 128_000,
    "llama-3.1-": 131_072,
    "llama-3.3-": 131_072,
}


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
    """List the well-known providers whose key is in the environment."""
    return [name for name, known in _WELL_KNOWN.items() if env.get(known.api_key_env or "", "").strip()]


def nothing_found(env: Mapping[str, str]) -> str:
    """Say why there is no model to ask, naming every place that was looked at."""
    variables = ", ".join(str(known.api_key_env) for known in _WELL_KNOWN.values())
    return (
        f"nothing was found: no `model` in {CONFIG_FILE}, no API key in the environment ({variables}), "
        f"no Ollama at {_ollama_url(env)}"
    )


def known_window(model: str) -> int | None:
    """Look up a well-known model's context window, in tokens."""
    short = model.rpartition("/")[2]
    return next((size for start, size in _CONTEXT_WINDOWS.items() if short.startswith(start)), None)


def _with_environment(env: Mapping[str, str]) -> dict[str, ProviderSettings]:
    """Apply what the environment says about where well-known servers are."""
    openai = _WELL_KNOWN["openai"]
    url = env.get("OPENAI_BASE_URL") or openai.base_url
    model = env.get("OPENAI_MODEL") or openai.model
    known = dict(_WELL_KNOWN)
    known["openai"] = structs.replace(openai, base_url=_checked("OPENAI_BASE_URL", str(url)), model=model)
    ollama = _ollama_url(env)
    if _is_safe(ollama):
        known[OLLAMA] = ProviderSettings(base_url=ollama)
    return known


def _complete(name: str, given: ProviderSettings, known: ProviderSettings | None) -> ProviderSettings:
    """Fill in what is known of a provider. A key is bound to its server: another URL does not get it."""
    if given.base_url:
        return structs.replace(given, base_url=_checked(CONFIG_FILE, given.base_url))
    if known is None:
        raise ConfigError(CONFIG_FILE, f"[providers.{name}] needs base_url, the address where its API begins")
    has_key = given.api_key_env or given.api_key_file or given.api_key_command
    return structs.replace(
        given,
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
