"""All the models this daemon can ask, by name: finds them, makes them ready, lists them.

Which there are and which is the default is decided in ``settings``; here it is asked and awaited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

import trio
from msgspec import structs

from crabd.errors import ConfigError, NotFound, ProviderError
from crabd.providers import offline
from crabd.providers.base import ModelChoice, ModelInfo, Models, Provider
from crabd.providers.cascade import Cascade
from crabd.providers.circuit import Trouble
from crabd.providers.dialects import DIALECTS
from crabd.providers.facts import UNKNOWN, ModelFacts, known_facts
from crabd.providers.http import Http
from crabd.providers.keys import ApiKey
from crabd.providers.presets import service_at
from crabd.providers.server import Server
from crabd.providers.settings import (
    CONFIG_FILE,
    OLLAMA,
    Chosen,
    ProviderSettings,
    choose,
    keys_in,
    known_providers,
    nothing_found,
)

# A server on this machine answers at once or is not there; no start-up waits longer for one that is not.
_KNOCK_SECONDS = 0.3
# Once it has opened the door it may take the time to say what it has.
_DETECT_SECONDS = 2.0
# One slow server must not keep the others' models from being listed.
_LIST_SECONDS = 10.0
# How long a list is good: whoever has just pulled a model looks again within a minute.
_LIST_KEPT_SECONDS = 60.0
# Several times what the largest service has. More would only fill the screen and the memory.
_MAX_LISTED = 2000


class Registry(Models):
    """Every provider by name, over one HTTP client.

    Whoever made it closes it. Nothing is connected, and no key is read, before it is needed.
    """

    def __init__(
        self,
        providers: Mapping[str, ProviderSettings],
        default: str | None,
        env: Mapping[str, str],
        models: Mapping[str, ModelFacts] | None = None,
        learn: Callable[[str], None] | None = None,
    ) -> None:
        """Take the configuration. ``learn`` is told every key that is read.

        Raises:
          ConfigError: see ``configure``.
        """
        self._env = env
        self._learn = learn
        self._http = Http()
        self._detected: Chosen | None = None
        self._settings: dict[str, ProviderSettings] = {}
        # What servers have told about their models, by id.
        self._told: dict[str, ModelFacts] = {}
        # What each provider answered last, and until when that is good; asked for by one at a time.
        self._listed: dict[str, tuple[float, tuple[ModelInfo, ...]]] = {}
        self._listing = trio.Lock()
        self.configure(providers, default, models)

    def __repr__(self) -> str:
        return f"<Registry default {self._default().id}, {len(self._providers)} providers>"

    def configure(
        self,
        providers: Mapping[str, ProviderSettings],
        default: str | None,
        models: Mapping[str, ModelFacts] | None = None,
    ) -> None:
        """Replace the configuration; answers that are streaming go on. Keys are read again when needed.

        ``models`` is what a person says of them, by ``provider/model``.

        Raises:
          ConfigError: something cannot be meant, and everything stays as it was.
        """
        if offline.NAME in providers:
            raise ConfigError(CONFIG_FILE, f"[providers.{offline.NAME}]: this name is taken, choose another")
        for model in models or ():
            if "/" not in model:
                raise ConfigError(CONFIG_FILE, f'[models."{model}"]: write provider/model, in quotes')
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
        # What a server told is true of that server, and of no other that has its name now.
        moved = {
            name for name, old in self._settings.items() if old.base_url != _base_url(settings.get(name))
        }
        self._told = {id_: facts for id_, facts in self._told.items() if id_.partition("/")[0] not in moved}
        self._configured = tuple(providers)
        self._settings = settings
        self._providers = ready
        self._chosen = chosen
        self._models = dict(models or {})
        self._listed.clear()
        self._http.configure({name: of.deadlines for name, of in settings.items()})

    def resolve(self, model: str | None, fallbacks: Sequence[str] = ()) -> ModelChoice:
        choice = self._ready(Chosen(model, "asked for by name") if model else self._default())
        others = [self._ready(Chosen(each, "a fallback")) for each in fallbacks]
        inline = [*{each.id: each for each in (choice, *others)}.values()]
        if len(inline) == 1:
            return choice
        # What the smallest of them takes, so that each can go on where another has stopped.
        windows = [each.context_window for each in inline if each.context_window]
        return structs.replace(choice, provider=Cascade(inline), context_window=min(windows, default=None))

    def troubles(self) -> tuple[Trouble, ...]:
        """List the servers that have failed since they answered last."""
        return self._http.troubles()

    async def detect(self) -> None:
        """Look for an Ollama on this machine if nothing else is there to ask. Never raises.

        Takes at most ``_KNOCK_SECONDS`` where there is none.
        """
        if self._chosen is None:
            self._detected = await self._find_ollama()

    async def list_models(self) -> tuple[tuple[ModelInfo, ...], tuple[str, ...]]:
        answers: dict[str, tuple[ModelInfo, ...] | str] = {}

        async def ask(name: str, provider: Provider) -> None:
            answers[name] = await self._list_of(name, provider)

        async with self._listing, trio.open_nursery() as nursery:
            wanted = dict.fromkeys((*self._configured, *keys_in(self._env), OLLAMA, offline.NAME))
            asked = {name: self._providers[name] for name in wanted if name in self._providers}
            for name, provider in asked.items():
                nursery.start_soon(ask, name, provider)
        models: list[ModelInfo] = []
        problems: list[str] = []
        for name in asked:
            match answers[name]:
                case str(problem):
                    # That there is no Ollama is no problem of somebody who never asked for one.
                    if name != OLLAMA or name in self._configured:
                        problems.append(problem)
                case tuple(found):
                    models += found[:_MAX_LISTED]
                    if len(found) > _MAX_LISTED:
                        problems.append(f"{name}: of its {len(found)} models only {_MAX_LISTED} are listed")
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
            learn=self._learn,
        )
        dialect = DIALECTS[settings.kind or "openai"](name, is_streamed=settings.stream)
        facts = partial(self._facts_of, name)
        return Server(dialect, settings.base_url or "", key, self._http, facts=facts)

    def _ready(self, chosen: Chosen) -> ModelChoice:
        name, own = _split(chosen.id, self._settings)
        facts = self._facts_of(name, own)
        provider = self._providers[name]
        return ModelChoice(f"{name}/{own}", own, provider, chosen.why, facts.context_window, facts.images)

    def _facts_of(self, name: str, own: str) -> ModelFacts:
        """Say what is known of a model: by the person, then by its server, then by us."""
        # A run may still ask a server that was taken out of the configuration.
        settings = self._settings.get(name) or ProviderSettings()
        given = self._models.get(f"{name}/{own}", UNKNOWN)
        told = self._told.get(f"{name}/{own}", UNKNOWN)
        known = known_facts(service_at(settings.base_url), own)
        window = ModelFacts(context_window=settings.context_window)
        return given.filled_up(window).filled_up(told).filled_up(known)

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

    async def _list_of(self, name: str, provider: Provider) -> tuple[ModelInfo, ...] | str:
        """Ask one provider, or remember what it said; the answer may be a problem, as a sentence."""
        good_until, found = self._listed.get(name, (0.0, ()))
        if trio.current_time() >= good_until:
            try:
                with trio.fail_after(_LIST_SECONDS):
                    found = await provider.list_models()
            except ProviderError as exc:
                return str(exc)
            except trio.TooSlowError:
                return f"{name}: it did not list its models within {_LIST_SECONDS:g} s"
            self._listed[name] = (trio.current_time() + _LIST_KEPT_SECONDS, found)
            self._told.update((model.id, _facts_in(model)) for model in found)
        return tuple(self._completed(name, model) for model in found)

    def _completed(self, name: str, model: ModelInfo) -> ModelInfo:
        facts = self._facts_of(name, model.id.removeprefix(f"{name}/"))
        return structs.replace(
            model, context_window=facts.context_window, max_output=facts.max_output, prices=facts.prices
        )


def _base_url(settings: ProviderSettings | None) -> str | None:
    return settings.base_url if settings else None


def _facts_in(model: ModelInfo) -> ModelFacts:
    return ModelFacts(context_window=model.context_window, max_output=model.max_output, prices=model.prices)


def _split(model: str, known: Mapping[str, ProviderSettings]) -> tuple[str, str]:
    """Take ``provider/model`` apart; a provider alone stands for its own model.

    Raises:
      NotFound: no such provider, or it has no model of its own.
    """
    name, slash, own = model.partition("/")
    if name not in known:
        hint = f"there are {', '.join(sorted(known))}; add [providers.{name}] to {CONFIG_FILE}"
        raise NotFound(
            "provider", name, hint=hint if slash else "write provider/model, as in openai/gpt-5.4-mini"
        )
    own = own or known[name].model or ""
    if name == offline.NAME and own != offline.MODEL:
        raise NotFound("model", model, hint=f"the only one that needs no server is {name}/{offline.MODEL}")
    if not own:
        raise NotFound("model", model, hint=f"write {name}/MODEL; `crabctl models` lists them")
    return name, own
