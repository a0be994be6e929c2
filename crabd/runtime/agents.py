"""Agents: who can be talked to. Immutable definitions, read from ``<config>/agents/*.md`` and one built in.

A file is YAML front matter between ``---`` lines and, below it, the prompt::

    ---
    description: reviews changes
    model: openai/gpt-4.1
    max_rounds: 20
    budget: {tokens: 2000000, cost: 5, rounds: 500, seconds: 7200}
    daily_budget: {cost: 20}
    mode: accept-edits
    permissions: {allow: ["bash(pytest *)"], deny: ["edit(docs/**)"]}
    ---
    You review changes. Be brief.

The agent's name is the file's, without ``.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from crabd.errors import ConfigError, NotFound
from crabd.events import Budget, DailyBudget, Mode, RuleLists
from crabd.runtime.permissions.rules import Rule, read_rules

# Model calls in one run; above it a run is more likely lost than busy.
MAX_ROUNDS = 50
# The part of the window above which a history is compacted.
COMPACT_AT = 0.8
BUILT_IN = "built-in"
DEFAULT_PROMPT = (
    "You are crab, an assistant that lives in a daemon: your sessions outlive the terminal or editor that a "
    "person talks to you from. Answer plainly and briefly. Say what you do not know."
)


class FrontMatter(Struct, frozen=True, forbid_unknown_fields=True):
    """What an agent file may say above its prompt. ``tools`` left out means all of them.

    ``fallbacks`` are models that are asked, in order, when the agent's own gives no answer.
    With ``continue_partial`` a run goes on from an answer that broke off in its middle, rather than end.
    ``budget`` is for each of its sessions that has no own, ``daily_budget`` for all of them together.
    ``compact_at`` is a part of the model's window. Sessions that have no ``mode`` have this one.
    """

    description: str = ""
    model: str | None = None
    tools: tuple[str, ...] | None = None
    max_rounds: Annotated[int, Meta(ge=1, le=1000)] = MAX_ROUNDS
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    thinking: bool = False
    fallbacks: tuple[str, ...] = ()
    continue_partial: bool = False
    budget: Budget = Budget()
    daily_budget: DailyBudget = DailyBudget()
    compact_at: Annotated[float, Meta(ge=0.1, le=1.0)] = COMPACT_AT
    mode: Mode | None = None
    permissions: RuleLists = RuleLists()


class Agent(Struct, frozen=True):
    """An agent as a run finds it. ``source`` is its file, or ``built-in``; ``rules`` are its permissions."""

    name: str
    prompt: str
    options: FrontMatter
    source: str
    rules: tuple[Rule, ...] = ()


DEFAULT_AGENT = Agent("crab", DEFAULT_PROMPT, FrontMatter(description="a general assistant"), BUILT_IN)


class Agents(Struct, frozen=True):
    """All agents by name, and the files that could not be taken, a sentence each."""

    by_name: dict[str, Agent]
    problems: tuple[str, ...] = ()

    def get(self, name: str, others: Mapping[str, Agent] | None = None) -> Agent:
        """Look an agent up; those of a project are the ``others``, which take the place of none.

        Raises:
          NotFound: there is none of that name.
        """
        agents = {**(others or {}), **self.by_name}
        if name not in agents:
            raise NotFound("agent", name, hint=f"there are {', '.join(sorted(agents))}")
        return agents[name]


def load_agents(folder: Path, previous: Agents | None = None) -> Agents:
    """Read a folder of agent files; blocks on the disk. A missing folder is an empty one.

    A file that cannot be taken is a problem, not an end: its agent stays as ``previous`` had it.
    """
    by_name = {DEFAULT_AGENT.name: DEFAULT_AGENT}
    problems: list[str] = []
    for file in sorted(folder.glob("[!.]*.md")):
        try:
            by_name[file.stem] = parse_agent(file.stem, file.read_text(encoding="utf-8"), source=str(file))
        except (ConfigError, OSError, UnicodeDecodeError) as exc:
            problems.append(str(exc) if isinstance(exc, ConfigError) else f"{file}: {exc}")
            if previous is not None and file.stem in previous.by_name:
                by_name[file.stem] = previous.by_name[file.stem]
    return Agents(by_name, tuple(problems))


def parse_agent(name: str, text: str, *, source: str) -> Agent:
    """Read one agent file's text.

    Raises:
      ConfigError: the front matter is not closed, is not YAML, says something unknown, or has a wrong rule.
    """
    head, prompt = _split(text, source)
    try:
        options = msgspec.yaml.decode(head, type=FrontMatter) if head.strip() else FrontMatter()
    except ValueError as exc:
        # All of msgspec's errors are one, and so is what comes of a YAML date that no calendar has.
        raise ConfigError(source, f"front matter: {exc}") from exc
    return Agent(name, prompt.strip(), options, source, read_rules(options.permissions, source))


def _split(text: str, source: str) -> tuple[str, str]:
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    if not lines or lines[0].strip() != "---":
        return "", text
    for number, line in enumerate(lines[1:], start=1):
        if line.strip() == "---":
            return "".join(lines[1:number]), "".join(lines[number + 1 :])
    raise ConfigError(source, "the front matter has no closing --- line")
