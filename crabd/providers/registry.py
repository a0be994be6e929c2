"""All the models this daemon can ask, by name: finds them, makes them ready, lists them.

Which there are and which is the default is decided in ``settings``; here it is asked and awaited.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import trio
from msgspec import structs

from crabd.errors import ConfigError, NotFound, ProviderError
from crabd.providers import offline
from crabd.providers.base import ModelChoice, ModelInfo, Models, Provider
from crabd.providers.http import Http
from crabd.providers.keys import ApiKey
from crabd.providers.openai import OpenAI
from crabd.providers.settings import (
    CONFIG_FILE,
    OLLAMA,
    Chosen,
    ProviderSettings,
    choose,
    keys_in,
    known_providers,
    known_window,
    nothing_found,
)

# A server on this machine answers at once or is not there; no start-up waits longer for one that is not.
_KNOCK_SECONDS = 0.3
# Once it has opened the door it may take the time to say what it has.
_DETECT_SECONDS = 2.0
# One slow server must not keep the others' models from being listed.
_LIST_SECONDS = 10.0


class Registry(Models):
    """Every provider by name, over one HTTP client.

    Whoever made it closes it. Nothing is connected, and no key is read, before it is needed.
    """

    def __init__(
        self, providers: Mapping[str, ProviderSettings], default: str | None, env: Mapping[str, str]
    ) -> None:
        """Take the configuration.

        Raises:
          ConfigError: see ``configure``.
        """
        self._env = env
        self._http = Http()
        self._detected: Chosen | None = None
        # What servers have told about their models, by id.
        self._windows: dict[str, int] = {}
        self.configure(providers, default)

    def __repr__(self) -> str:
        return f"<Registry default {self._default().id}, {len(self._providers)} providers>"

    def configure(self, providers: Mapping[str, ProviderSettings], default: str | None) -> None:
        """Replace the configuration; answers that are streaming go on. Keys are read again when needed.

        Raises:
          ConfigError: something cannot be meant, and everything stays as it was.
        """
        if offline.NAME in providers:
            raise ConfigError(CONFIG_FILE, f"[providers.{offline.NAME}]: this name is taken, choose another")
        settings = known_providers(providers, self._env)
        chosen = choose(default, providers, settings, self._env)
        ready: dict[str, Provider] = {name: self._make(name, of) for name, of in settings.items()}
        ready[offline.NAME] = offline.Offline()
        settings[offline.NAME] = ProviderSettings(model=offline.MODEL, context_window=offline.CONTEXT_WINDOW)
        if chosen:
            try:
                _split(chosen.id, settings)
            except NotFound as exc:
                raise ConfigError(CONFIG_FILE, f"`model`: {exc}") from exc
        self._configured = tuple(providers)
        self._settings = settings
        self._providers = ready
        self._chosen = chosen

    def resolve(self, model: str | None) -> ModelChoice:
        chosen = Chosen(model, "asked for by name") if model else self._default()
        name, own = _split(chosen.id, self._settings)
        model_id = f"{name}/{own}"
        window = self._settings[name].context_window or self._windows.get(model_id) or known_window(own)
        return ModelChoice(model_id, own, self._providers[name], chosen.why, window)

    async def detect(self) -> None:
        """Look for an Ollama on this machine if nothing else is there to ask. Never raises.

        Takes at most ``_KNOCK_SECONDS`` where there is none.
        """
        if self._chosen is None:
            self._detected = await self._find_ollama()

    async def list_models(self) -> tuple[tuple[ModelInfo, ...], tuple[str, ...]]:
        wanted = dict.fromkeys((*self._configured, *keys_in(self._env), OLLAMA, offline.NAME))
        names = [name for name in wanted if name in self._providers]
        answers: dict[str, tuple[ModelInfo, ...] | str] = {}

        async def ask(name: str) -> None:
            answers[name] = await self._list_of(name)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(ask, name)
        models: list[ModelInfo] = []
        problems: list[str] = []
        for name in names:
            match answers[name]:
                case str(problem):
                    # That there is no Ollama is no problem of somebody who never asked for one.
                    if name != OLLAMA or name in self._configured:
                        problems.append(problem)
                case tuple(found):
                    models += found
        return tuple(models), tuple(problems)

    async def aclose(self) -> None:
        """Hang up everywhere. A second call does nothing."""
        await self._http.aclose()

    def _make(self, name: str, settings: ProviderSettings) -> Provider:
        key = ApiKey(
            name,
            file=settings.api_key_file,
            command=settings.api_key_command,
            variable=settings.api_key_env,
            env=self._env,
        )
        return OpenAI(name, settings.base_url or "", key, self._http)

    def _default(self) -> Chosen:
        nothing = Chosen(f"{offline.NAME}/{offline.MODEL}", nothing_found(self._env))
        return self._chosen or self._detected or nothing

    async def _find_ollama(self) -> Chosen | None:
        if OLLAMA not in self._providers:
            return None
        place = urlsplit(self._settings[OLLAMA].base_url or "")
        try:
            # First a knock that costs nothing: loading the HTTP client for a server that is not there would.
            with trio.fail_after(_KNOCK_SECONDS):
                await (await trio.open_tcp_stream(place.hostname or "", place.port or 80)).aclose()
            with trio.fail_after(_DETECT_SECONDS):
                models = await self._providers[OLLAMA].list_models()
        except (OSError, trio.TooSlowError, ProviderError):
            return None
        # Models that only embed text are installed beside the ones that talk.
        talking = [model.id for model in models if "embed" not in model.id]
        return (
            Chosen(talking[0], f"Ollama answers at {place.netloc}; this is its first model")
            if talking
            else None
        )

    async def _list_of(self, name: str) -> tuple[ModelInfo, ...] | str:
        """Ask one provider; the answer may be a problem, as a sentence."""
        try:
            with trio.fail_after(_LIST_SECONDS):
                found = await self._providers[name].list_models()
        except ProviderError as exc:
            return str(exc)
        except trio.TooSlowError:
            return f"{name}: it did not list its models within {_LIST_SECONDS:g} s"
        self._windows.update({model.id: model.context_window for model in found if model.context_window})
        return tuple(self._with_window(name, model) for model in found)

    def _with_window(self, name: str, model: ModelInfo) -> ModelInfo:
        window = self._settings[name].context_window or model.context_window or known_window(model.id)
        return structs.replace(model, context_window=window)


def _split(model: str, known: Mapping[str, ProviderSettings]) -> tuple[str, str]:
    """Take ``provider/model`` apart; a provider alone stands for its own model.

    Raises:
      NotFound: no such provider, or it has no model of its own.
    """
    name, slash, own = model.partition("/")
    if name not in known:
        hint = f"there are {', '.join(sorted(known))}; add [providers.{name}] to {CONFIG_FILE}"
        raise NotFound(
            "provider", name, hint=hint if slash else "write provider/model, as in openai/gpt-5-mini"
        )
    own = own or known[name].model or ""
    if name == offline.NAME and own != offline.MODEL:
        raise NotFound("model", model, hint=f"the only one that needs no server is {name}/{offline.MODEL}")
    if not own:
        raise NotFound("model", model, hint=f"write {name}/MODEL; `crabctl models` lists them")
    return name, own
