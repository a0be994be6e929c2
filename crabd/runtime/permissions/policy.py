"""Permissions: whether a call of a tool may be made, must be asked for, or is refused.

Rules are looked at in the order deny, allow, ask; what no rule speaks of, the session's mode decides. A call
touches files, runs commands and fetches pages: each is ruled on by itself, and the strictest ruling counts.
Nothing here awaits, but links are looked up on the disk: a session's caller does that in a thread.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable
from typing import Literal, TypeAlias

from msgspec import Struct

from crabd.events import Decision, Mode
from crabd.runtime.permissions.commands import Line, read_line, runs_unseen, spellings_of
from crabd.runtime.permissions.globs import (
    anchor,
    find_sensitive,
    holds_sensitive,
    is_guarded,
    is_within,
    matches,
    may_match,
)
from crabd.runtime.permissions.readers import find_reading
from crabd.runtime.permissions.rules import (
    FILE_READERS,
    FILE_WRITERS,
    Fit,
    Rule,
    find_command,
    fit_command,
    fit_url,
    host_of,
)
from crabd.runtime.permissions.shell import Command
from crabd.runtime.permissions.suggestions import suggest_command, suggest_path
from crabd.tools.base import Intent, ToolSpec

_CHANGELESS: frozenset[Mode] = frozenset(["read-only", "plan"])
_STRICTNESS: dict[Decision, int] = {"allow": 0, "ask": 1, "deny": 2}
_Kind: TypeAlias = Literal["read", "edit"]
_PATH_RULES = FILE_READERS | FILE_WRITERS
# Rules that "always" would add for one call: above it a person does not read them.
MAX_SUGGESTIONS = 5


class Ruling(Struct, frozen=True):
    """What was decided and by what: the ``rule``'s text, or the mode's name.

    ``reason`` is a sentence for the person who is asked, or for the model that is refused. ``suggestions``
    are the rules with which such a call is allowed from then on, none where no rule could do that.
    """

    decision: Decision
    rule: str
    reason: str
    suggestions: tuple[str, ...] = ()


class Policy(Struct, frozen=True, kw_only=True):
    """All that decides about the calls of one session.

    ``default`` takes the place of asking where a mode would ask, except that it never allows what is
    sensitive. ``private`` are crabd's own places, real ones as ``home`` is; ``shared`` is the one below them
    whose files the model is meant to read.
    """

    rules: tuple[Rule, ...] = ()
    mode: Mode = "ask"
    default: Decision = "ask"
    home: str = "/"
    private: tuple[str, ...] = ()
    shared: str | None = None

    def offers(self, name: str) -> bool:
        """Tell whether a model is told of a tool: not of one that is denied whatever it is called with."""
        if name in FILE_WRITERS and self.mode in _CHANGELESS:
            return False
        kind = "edit" if name in FILE_WRITERS else "read" if name in FILE_READERS else name
        bare = (rule for rule in self.rules if rule.decision == "deny" and rule.pattern is None)
        return not any(rule.names(name) or rule.tool == kind for rule in bare)

    def judge(self, spec: ToolSpec, intent: Intent, cwd: str | None) -> Ruling:
        """Decide about one call, made in the session's directory ``cwd``; blocks on the disk."""
        place = None if cwd is None else os.path.realpath(cwd)
        judge = _Judge(self, spec, place)
        return _strictest(judge.judge(intent))


class _Judge:
    """Rules on all that one call touches."""

    def __init__(self, policy: Policy, spec: ToolSpec, cwd: str | None) -> None:
        self._policy = policy
        self._tool = spec
        self._cwd = cwd
        self._mode = policy.mode
        self._changes_nothing = policy.mode in _CHANGELESS
        about = [rule for rule in policy.rules if rule.pattern is None and rule.names(spec.name)]
        self._bare = {rule.decision: rule for rule in reversed(about)}

    def judge(self, intent: Intent) -> Iterable[Ruling]:
        if denied := self._bare.get("deny"):
            yield _by_rule(denied, "denies it")
            return
        for path in intent.reads:
            yield self._judge_path("read", path, is_deep=self._tool.name == "grep")
        for path in intent.writes:
            yield self._judge_path("edit", path)
        if intent.command is not None:
            yield from self._judge_line(intent.command)
        if intent.url is not None:
            yield self._judge_url(intent.url)
        if not (intent.reads or intent.writes or intent.url) and intent.command is None:
            yield self._judge_call()

    def _judge_call(self) -> Ruling:
        """Rule on a call that touches no more than the session, unless it is of a foreign tool."""
        if self._changes_nothing and self._is_foreign and not self._tool.is_read_only:
            return self._by_mode("deny", f"{self._tool.name} may change something")
        for decision in ("allow", "ask"):
            if rule := self._bare.get(decision):
                return _by_rule(rule, f"decides about {self._tool.name}")
        if self._mode == "full" or not self._is_foreign:
            return self._by_mode("allow", "it touches only the session")
        return self._by_mode("ask", f"no rule speaks of {self._tool.name}", self._tool.name)

    @property
    def _is_foreign(self) -> bool:
        return self._tool.name.startswith("mcp__")

    def _judge_url(self, url: str) -> Ruling:
        for decision in ("deny", "allow", "ask"):
            for rule in self._rules(decision):
                if rule.pattern is not None and rule.names(self._tool.name) and fit_url(rule.pattern, url):
                    return _by_rule(rule, f"decides about {url}")
            if bare := self._bare.get(decision):
                return _by_rule(bare, f"decides about {url}")
        if self._mode == "full":
            return self._by_mode("allow", "it allows all")
        host = host_of(url)
        suggestions = (f"web_fetch(domain:{host})",) if host and self._tool.name == "web_fetch" else ()
        return self._by_mode("ask", f"what the address says is sent to {host or url}", *suggestions)

    def _judge_path(self, kind: _Kind, path: str, *, is_deep: bool = False) -> Ruling:
        mark = self._find_mark(path, is_deep=is_deep)
        for rule in self._rules("deny"):
            if self._covers(rule, kind, path):
                return _by_rule(rule, f"denies to {kind} {path}")
            if is_deep and self._covers_below(rule, path):
                return self._by_mode("ask", f"{rule.text} denies some of what is in {path}", is_hard=True)
        if self._changes_nothing and kind == "edit":
            return self._by_mode("deny", f"it would change {path}")
        for decision in ("allow", "ask"):
            for rule in self._rules(decision):
                # A rule reaches what is sensitive only if it was written with that in mind.
                is_meant = decision == "ask" or mark is None or mark in (rule.pattern or "")
                if is_meant and self._covers(rule, kind, path):
                    return _by_rule(rule, f"decides to {decision} {kind} of {path}")
        return self._judge_path_by_mode(kind, path, is_sensitive=mark is not None)

    def _judge_path_by_mode(self, kind: _Kind, path: str, *, is_sensitive: bool) -> Ruling:
        if kind == "read" and self._policy.shared and is_within(path, self._policy.shared):
            return self._by_mode("allow", "it was kept for this session")
        is_inside = self._cwd is not None and is_within(path, self._cwd)
        if self._mode == "full":
            if kind == "edit" and any(is_within(path, place) for place in self._policy.private):
                # Else it could allow itself what other modes ask for, and run what no sandbox confines.
                return self._by_mode(
                    "ask", f"{path} is crabd's own, and may decide what it allows", is_hard=True
                )
            return self._by_mode("allow", "it allows all")
        suggestion = suggest_path(kind, path)
        if is_sensitive:
            return self._by_mode(
                "ask", f"{path} may hold secrets, or is crabd's own", suggestion, is_hard=True
            )
        if allowed := self._bare.get("allow"):
            # Whoever allows any command has allowed what it opens.
            return _by_rule(allowed, f"allows any call of {self._tool.name}")
        if not is_inside:
            return self._by_mode(
                "ask", f"{path} is outside {self._cwd or 'any session directory'}", suggestion
            )
        if kind == "read":
            return self._by_mode("allow", "it is within the session's directory")
        if is_guarded(path):
            return self._by_mode("ask", f"{path} decides what runs, or what a model is told", suggestion)
        if self._mode == "accept-edits":
            return self._by_mode("allow", "it is within the session's directory")
        return self._by_mode("ask", f"it changes {path}", suggestion)

    def _judge_line(self, text: str) -> Iterable[Ruling]:
        line = read_line(text, self._cwd, self._policy.home)
        for doubt in line.doubts:
            yield self._judge_doubt(doubt)
        for wrapper in line.wrappers:
            yield from self._find_denied(wrapper)
        for directory in line.directories[1:]:
            yield self._judge_path("read", directory)
        for command in line.commands:
            yield from self._judge_command(command, line)
        for redirect in line.redirects:
            for path in line.paths_of(redirect.target):
                yield self._judge_path("edit" if redirect.writes else "read", path)
        if not (line.doubts or line.commands or line.redirects):
            yield self._by_mode("allow", "it runs nothing by itself")

    def _judge_doubt(self, doubt: str) -> Ruling:
        """Rule on what is not understood: only who allows any command, and denies none, has allowed it."""
        if self._changes_nothing:
            return self._by_mode("deny", f"it is not known to change nothing: {doubt}")
        if any(self._denials()):
            return self._by_mode(
                "ask", f"a rule denies some commands, and this may be one: {doubt}", is_hard=True
            )
        if allowed := self._bare.get("allow"):
            return _by_rule(allowed, "allows any command")
        return self._by_mode("allow" if self._mode == "full" else "ask", doubt, is_hard=True)

    def _judge_command(self, command: Command, line: Line) -> Iterable[Ruling]:
        yield from self._find_denied(command)
        reading = find_reading(command)
        paths = line.paths_read(reading) if reading is not None else None
        yield self._judge_words(command, is_reading=paths is not None)
        if reading is not None and paths is not None:
            for path in paths:
                yield self._judge_path("read", path, is_deep=reading.is_deep)
        else:
            for path in line.paths_mentioned(command):
                yield from self._judge_mentioned(path)

    def _judge_words(self, command: Command, *, is_reading: bool) -> Ruling:
        """Rule on a command by its words alone."""
        shown = " ".join(word.text for word in command.words)
        if is_reading and self._changes_nothing:
            return self._by_mode("allow", f"{shown} only reads")
        if self._changes_nothing:
            return self._by_mode("deny", f"{shown} is not known to change nothing")
        hidden = None if is_reading else self._find_hidden(command)
        for rule in () if self._may_be_denied(command) else self._rules_on_words("allow"):
            if fit_command(rule.pattern or "", command.words, by_any_path=False) == "yes":
                return _by_rule(rule, f"allows {shown}")
        if hidden is None and (allowed := self._bare.get("allow")):
            return _by_rule(allowed, "allows any command")
        for rule in self._rules_on_words("ask"):
            if _fits(rule, command) - {"no"}:
                return _by_rule(rule, f"asks about {shown}")
        if asked := self._bare.get("ask"):
            return _by_rule(asked, "asks about any command")
        if hidden is not None:
            return self._by_mode("ask", f"{shown} may run what {hidden.text} denies", is_hard=True)
        if is_reading:
            return self._by_mode("allow", f"{shown} only reads")
        if self._mode == "full":
            return self._by_mode("allow", "it allows all")
        return self._by_mode("ask", f"it runs {shown}", *suggest_command(command))

    def _judge_mentioned(self, path: str) -> Iterable[Ruling]:
        """Rule on a file that a command names which may do anything with it."""
        for rule in self._rules("deny"):
            if self._covers(rule, "read", path):
                yield _by_rule(rule, f"denies to read {path}")
            elif self._covers(rule, "edit", path):
                yield self._by_mode("ask", f"it may change {path}, which {rule.text} denies", is_hard=True)
        if mark := self._find_mark(path):
            yield self._judge_sensitive("read", path, mark)

    def _judge_sensitive(self, kind: _Kind, path: str, mark: str) -> Ruling:
        for rule in self._rules("allow"):
            if mark in (rule.pattern or "") and (
                self._covers(rule, "read", path) or self._covers(rule, "edit", path)
            ):
                return _by_rule(rule, f"allows to {kind} {path}")
        return self._judge_path_by_mode(kind, path, is_sensitive=True)

    def _find_denied(self, command: Command) -> Iterable[Ruling]:
        for rule in self._denials():
            if "yes" in _fits(rule, command):
                yield _by_rule(rule, f"denies {' '.join(word.text for word in command.words)}")

    def _may_be_denied(self, command: Command) -> bool:
        return any("maybe" in _fits(rule, command) for rule in self._denials())

    def _find_hidden(self, command: Command) -> Rule | None:
        """Find the rule that denies what a command may run, though it is no wrapper that is known."""
        for rule in self._denials():
            is_hidden = runs_unseen(command) or find_command(rule.pattern or "", command.words[1:])
            if is_hidden or "maybe" in _fits(rule, command):
                return rule
        return None

    def _denials(self) -> Iterable[Rule]:
        return self._rules_on_words("deny")

    def _rules_on_words(self, decision: Decision) -> Iterable[Rule]:
        return (rule for rule in self._rules(decision) if rule.pattern is not None and rule.names("bash"))

    def _rules(self, decision: Decision) -> Iterable[Rule]:
        return (rule for rule in self._policy.rules if rule.decision == decision)

    def _covers(self, rule: Rule, kind: _Kind, path: str) -> bool:
        """Tell whether a rule speaks of a file; one that allows must spell it as it is."""
        is_of_tool = rule.names(self._tool.name) and self._tool.name != "bash"
        if rule.pattern is None:
            return is_of_tool or rule.names(kind)
        if rule.tool != kind and not (is_of_tool and rule.tool in _PATH_RULES):
            return False
        pattern = anchor(rule.pattern, self._cwd, self._policy.home)
        if pattern is None:
            return False
        if rule.decision == "allow":
            return matches(pattern, path)
        plain, rest = _split_plain(pattern)
        return may_match(pattern, path) or may_match(f"{plain}/{rest}", path)

    def _covers_below(self, rule: Rule, directory: str) -> bool:
        """Tell whether a rule may speak of reading something below a directory."""
        if rule.pattern is None or rule.tool != "read":
            return False
        pattern = anchor(rule.pattern, self._cwd, self._policy.home)
        return pattern is not None and is_within(_split_plain(pattern)[0], directory)

    def _find_mark(self, path: str, *, is_deep: bool = False) -> str | None:
        """Find what makes a file sensitive, or what is below it, as the piece that a rule must name."""
        home, private = self._policy.home, self._policy.private
        mark = find_sensitive(path, home, private)
        return path if is_deep and mark is None and holds_sensitive(path, home, private) else mark

    def _by_mode(self, decision: Decision, reason: str, *suggestions: str, is_hard: bool = False) -> Ruling:
        """Rule as the mode says; where it asks the default may decide, but it allows nothing ``is_hard``."""
        default = self._policy.default
        if decision == "ask" and (default == "deny" or (default == "allow" and not is_hard)):
            return Ruling(default, self._mode, f"{reason}; the default is to {default}", suggestions)
        if decision == "ask":
            return Ruling(decision, self._mode, reason, suggestions)
        done = "allows" if decision == "allow" else "denies"
        return Ruling(decision, self._mode, f"mode {self._mode} {done} it: {reason}")


def _by_rule(rule: Rule, what: str) -> Ruling:
    return Ruling(rule.decision, rule.text, f"the rule {rule.text} ({rule.source}) {what}")


def _fits(rule: Rule, command: Command) -> set[Fit]:
    """Tell how a rule that denies or asks fits a command, however that is called and spelled."""
    return {fit_command(rule.pattern or "", each, by_any_path=True) for each in spellings_of(command)}


def _split_plain(pattern: str) -> tuple[str, str]:
    """Part a pattern where its wildcards begin; what is before is spelled as the disk has it now."""
    parts = pattern.split("/")
    plain = next((n for n, part in enumerate(parts) if any(each in part for each in "*?[")), len(parts))
    return os.path.realpath("/".join(parts[:plain]) or "/"), "/".join(parts[plain:])


def _strictest(rulings: Iterable[Ruling]) -> Ruling:
    """Take the strictest ruling, the first of its kind, with the suggestions of all that ask.

    Where one of those has none, no rule can allow the call, and none is suggested.
    """
    found = list(rulings)
    first = max(found, key=lambda ruling: _STRICTNESS[ruling.decision])
    asking = [ruling for ruling in found if ruling.decision == "ask"]
    is_allowable = first.decision == "ask" and all(ruling.suggestions for ruling in asking)
    every = dict.fromkeys(rule for ruling in asking for rule in ruling.suggestions)
    suggestions = tuple(every) if is_allowable and len(every) <= MAX_SUGGESTIONS else ()
    return Ruling(first.decision, first.rule, first.reason, suggestions)
