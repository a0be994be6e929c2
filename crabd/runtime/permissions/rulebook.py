"""A person's own rules, of ``config.toml`` and of ``permissions.toml``, and what they come to in a session.

The second file is crabd's to write, for a person who says "always"; a person may edit it, too, and reload.
Everything that blocks goes through a thread from here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio
from msgspec import structs

from crabd.errors import BadRequest, ConfigError, StoreError
from crabd.events import Decision, Mode, RuleLists
from crabd.runtime.agents import Agent
from crabd.runtime.permissions.policy import Policy
from crabd.runtime.permissions.rules import Rule, each_list, parse_rule, read_rules
from crabd.store.meta import SessionMeta

FILE = "permissions.toml"
# More than a person has, and few enough to look at with every call.
MAX_RULES = 2000
_HEAD = """\
# What agents may do: deny comes before allow, allow before ask. crabctl permissions writes this file anew.
"""


class Rulebook:
    """The rules of a person. ``config`` is the directory of their files, ``home`` their real home.

    Who does not ``answer_within`` so many seconds has said no; null, as it should be, waits for ever.
    ``private`` are crabd's own places, real ones, that no agent reads without being allowed to, but for what
    is kept for its session below ``artifacts``.
    """

    def __init__(
        self, config: Path, home: str, private: Sequence[str] = (), artifacts: Path | None = None
    ) -> None:
        self._file = config / FILE
        self._artifacts = artifacts
        self._kept = RuleLists()
        self._base = Policy(home=home, private=tuple(private))
        self._configured: tuple[Rule, ...] = ()
        self._turn = trio.Lock()
        self.answer_within: float | None = None

    async def load(self, lists: RuleLists, source: str, mode: Mode, default: Decision) -> None:
        """Take the rules of the configuration, and those of the file as it is now, if both are sound.

        Raises:
          ConfigError: a rule is wrong, or the file cannot be read; the rules stay as they were.
        """
        async with self._turn:
            configured = read_rules(lists, source)
            kept = await trio.to_thread.run_sync(self._read)
            rules = (*configured, *read_rules(kept, str(self._file)))
            self._configured, self._kept = configured, kept
            self._base = structs.replace(self._base, rules=rules, mode=mode, default=default)

    def mode_of(self, meta: SessionMeta | None, agent: Agent | None) -> Mode:
        """Tell the mode of a session: its own, else its agent's, else the configuration's."""
        own = meta.mode if meta else None
        return own or (agent.options.mode if agent else None) or self._base.mode

    def policy(
        self, meta: SessionMeta | None = None, agent: Agent | None = None, project: Sequence[Rule] = ()
    ) -> Policy:
        """Put together what decides in a session; ``project`` are the rules of a trusted directory."""
        own = _rules_of(meta) if meta else ()
        rules = (*self._base.rules, *(agent.rules if agent else ()), *project, *own)
        shared = os.path.realpath(self._artifacts / meta.id) if meta and self._artifacts else None
        return structs.replace(self._base, rules=rules, mode=self.mode_of(meta, agent), shared=shared)

    async def remember(self, rules: Sequence[str]) -> None:
        """Allow from now on, in all sessions, what these rules say.

        Raises:
          ValueError: one is no rule.
          StoreError, ConfigError: they cannot be kept.
        """
        for rule in rules:
            await self.set_rule(rule, "allow")

    async def set_rule(self, text: str, decision: Decision | None) -> None:
        """Have a rule decide this, whatever it decided in the file before; with null there is none.

        Raises:
          ValueError: it is no rule.
          BadRequest: there is no such rule to remove, or there are too many.
          StoreError: the file cannot be written; the rules stay as they were.
          ConfigError: the file was changed and is wrong now.
        """
        async with self._turn:
            kept = await trio.to_thread.run_sync(self._read)
            lists = _change(kept, text.strip(), decision)
            rules = read_rules(lists, str(self._file))
            await trio.to_thread.run_sync(self._write, lists)
            self._kept = lists
            self._base = structs.replace(self._base, rules=(*self._configured, *rules))

    def _read(self) -> RuleLists:
        try:
            return msgspec.toml.decode(self._file.read_bytes(), type=RuleLists)
        except (FileNotFoundError, NotADirectoryError):
            return RuleLists()
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as exc:
            raise ConfigError(str(self._file), str(exc)) from exc

    def _write(self, lists: RuleLists) -> None:
        made = self._file.with_suffix(".tmp")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(made, "w", encoding="utf-8", opener=_open_private) as out:
                out.write(_HEAD + "".join(_as_toml(name, texts) for name, texts in each_list(lists)))
                out.flush()
                os.fsync(out.fileno())
            made.replace(self._file)
        except OSError as exc:
            raise StoreError(
                "io", f"{self._file}: {exc.strerror}: mend that, then set the rule again"
            ) from exc


def checked(lists: RuleLists) -> RuleLists:
    """Give a client's rules back when they are rules.

    Raises:
      BadRequest: one is not.
    """
    for decision, texts in each_list(lists):
        for number, text in enumerate(texts):
            try:
                parse_rule(text, decision, "")
            except ValueError as exc:
                raise BadRequest(f"$.permissions.{decision}[{number}]", str(exc)) from exc
    return lists


def _rules_of(meta: SessionMeta) -> tuple[Rule, ...]:
    """Read a session's own rules; with a wrong one, which an import may bring, everything is denied."""
    try:
        return read_rules(meta.permissions, f"session {meta.id}")
    except ConfigError as exc:
        return (Rule("*", "deny", f"{exc}: mend it with session/configure", "*"),)


def _change(lists: RuleLists, text: str, decision: Decision | None) -> RuleLists:
    """Put a rule into one list and take it out of the others.

    Raises:
      ValueError: it is no rule.
      BadRequest: there is none to remove, or there are too many.
    """
    if decision is not None:
        parse_rule(text, decision, "")
    elif not any(text in texts for _, texts in each_list(lists)):
        raise BadRequest(
            "$.rule", f"{FILE} has no rule {text!r}: crabctl permissions lists where each one is"
        )
    changed = {name: tuple(each for each in texts if each != text) for name, texts in each_list(lists)}
    if decision is not None:
        changed[decision] += (text,)
    if sum(map(len, changed.values())) > MAX_RULES:
        raise BadRequest("$.rule", f"there are {MAX_RULES} rules already: remove some first")
    return RuleLists(allow=changed["allow"], deny=changed["deny"], ask=changed["ask"])


def _as_toml(name: str, texts: Sequence[str]) -> str:
    # Rules have printable characters alone, and their strings are the same in JSON and in TOML.
    lines = "".join(f"  {json.dumps(text, ensure_ascii=False)},\n" for text in texts)
    return f"{name} = [\n{lines}]\n" if lines else ""


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
