"""Rules of permissions: ``tool`` or ``tool(pattern)``, how they are read and what they match. Pure.

A rule that names ``read`` or ``edit`` speaks of every file that a call reads or changes, whichever the tool;
any other name is that of one tool. A rule that could never match is refused when it is read.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from crabd.errors import ConfigError
from crabd.events import Decision, RuleLists
from crabd.runtime.permissions.globs import check_pattern
from crabd.runtime.permissions.shell import Word

FILE_READERS = frozenset(["read", "grep", "glob", "ls"])
FILE_WRITERS = frozenset(["edit", "write", "apply_patch"])
PATTERNED = FILE_READERS | FILE_WRITERS | {"bash", "web_fetch"}
# A rule is a line that a person reads.
MAX_RULE = 1000

Fit: TypeAlias = Literal["no", "maybe", "yes"]

_RULE = re.compile(r"([a-z*][a-z0-9_*.-]*|mcp__[A-Za-z0-9_*.-]+)(?:\((.*)\))?", re.DOTALL)
_REDIRECTION = re.compile(r"\d*>&\d|\d+>")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")


class Rule(Struct, frozen=True):
    """``tool`` or ``tool(pattern)``, as its ``text``, what it decides, and the place where it was written."""

    text: str
    decision: Decision
    source: str
    tool: str
    pattern: str | None = None

    def names(self, tool: str) -> bool:
        """Tell whether it speaks of a tool by its name."""
        return fnmatchcase(tool, self.tool)


def parse_rule(text: str, decision: Decision, source: str) -> Rule:
    """Read a rule as a person writes it.

    Raises:
      ValueError: it is none, or could never match; the text says what to write.
    """
    found = _RULE.fullmatch(text.strip())
    if len(text) > MAX_RULE or not text.isprintable() or found is None:
        raise ValueError(
            f"{text[:80]!r} is no rule: write tool or tool(pattern), with the tool's name as it is"
        )
    tool, pattern = found[1], found[2]
    if tool not in PATTERNED and (near := difflib.get_close_matches(tool, PATTERNED, 1, 0.75)):
        raise ValueError(f"there is no tool {tool!r} in {text!r}: did you mean {near[0]}?")
    if pattern is not None:
        _check_pattern(tool, pattern, text)
    if tool == "bash" and pattern is not None and pattern.strip() == "*":
        # Any command, which is what the tool by itself says, and not that of a shell by its name.
        pattern = None
    return Rule(text.strip(), decision, source, tool, pattern)


def read_rules(lists: RuleLists, source: str) -> tuple[Rule, ...]:
    """Read the rules of a file.

    Raises:
      ConfigError: one is wrong; it says which.
    """
    rules: list[Rule] = []
    for decision, texts in each_list(lists):
        for number, text in enumerate(texts, 1):
            try:
                rules.append(parse_rule(text, decision, source))
            except ValueError as exc:
                raise ConfigError(source, f"rule {number} of {decision}: {exc}") from exc
    return tuple(rules)


def each_list(lists: RuleLists) -> tuple[tuple[Decision, tuple[str, ...]], ...]:
    """Get the lists with what each decides, in the order in which they are looked at."""
    return (("deny", lists.deny), ("allow", lists.allow), ("ask", lists.ask))


def fit_command(pattern: str, words: Sequence[Word], *, by_any_path: bool) -> Fit:
    """Tell whether a pattern of words matches a command, or may, for what is not known before it runs.

    A last ``*`` stands for any further words, ``word:*`` also for a word that begins with ``word:``. With
    ``by_any_path`` the command may be called by its path.
    """
    wanted, is_open = _split_pattern(pattern)
    if not words or not wanted:
        return "yes" if is_open and words else "no"
    first = words[0]
    name = first.text.rpartition("/")[2] if by_any_path and "/" not in wanted[0] else first.text
    named = (Word(name, first.kind), *words[1:])
    if _is_certain(wanted, named, is_open=is_open):
        return "yes"
    return "maybe" if _is_possible(wanted, named, is_open=is_open) else "no"


def find_command(pattern: str, words: Sequence[Word]) -> bool:
    """Tell whether a command that a pattern matches may be among the words of another, or within one."""
    wanted, _ = _split_pattern(pattern)
    if not wanted:
        return bool(words)
    name = re.escape(wanted[0].removesuffix(":*")).replace(r"\*", r"\S*").replace(r"\?", r"\S")
    said = re.compile(rf"(?<![\w.-]){name}(?![\w.-])")
    for at, word in enumerate(words):
        # Without quotes and backslashes, for a shell that reads the word once more.
        is_said = said.search(re.sub(r"[\\'\"]", "", word.text))
        is_name = word.text.isidentifier()
        if is_said and (not is_name or fit_command(pattern, words[at:], by_any_path=True) != "no"):
            return True
    return False


def fit_url(pattern: str, url: str) -> bool:
    """Tell whether ``domain:example.org``, or ``domain:*.example.org``, matches a URL."""
    wanted = pattern.removeprefix("domain:").lower()
    host = host_of(url)
    return host is not None and (fnmatchcase(host, wanted) if wanted.startswith("*.") else host == wanted)


def host_of(url: str) -> str | None:
    """Find the host of a URL; null for one in which others may find another."""
    if any(each in url for each in "\\@") or not url.isprintable() or " " in url:
        return None
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return host.rstrip(".") if host else None


def _check_pattern(tool: str, pattern: str, text: str) -> None:
    if tool not in PATTERNED:
        raise ValueError(f"{tool} takes no pattern: write {tool} instead of {text!r}")
    if not pattern.strip():
        raise ValueError(f"the pattern of {text!r} is empty: write {tool}, or what it is to match")
    if tool == "bash":
        _split_pattern(pattern)
    elif tool != "web_fetch":
        check_pattern(pattern)
    elif not _HOST.fullmatch(pattern.removeprefix("domain:").lower()) or not pattern.startswith("domain:"):
        raise ValueError(f"{text!r} names no domain: write web_fetch(domain:example.org)")


@lru_cache(maxsize=1024)
def _split_pattern(pattern: str) -> tuple[tuple[str, ...], bool]:
    """Split a pattern of words, and tell whether further words may follow.

    Raises:
      ValueError: a quote in it has no end, or it would need a shell to be understood.
    """
    words = shlex.split(pattern)
    if any(word in ("|", "||", "&&", ";", "&", ">", "<") for word in words):
        raise ValueError(f"bash({pattern}) is more than one command: write a rule for each")
    if found := next(filter(_REDIRECTION.match, words), None):
        raise ValueError(
            f"bash({pattern}) has a redirection: leave out {found}, its file is judged by itself"
        )
    is_open = words[-1] == "*"
    if is_open:
        words.pop()
    elif words[-1].endswith(":*") and len(words[-1]) > 2:
        is_open = True
    return tuple(words), is_open


def _fits_word(wanted: str, word: str) -> bool:
    if wanted.endswith(":*") and len(wanted) > 2:
        return word == wanted[:-2] or word.startswith(wanted[:-1])
    return fnmatchcase(word, wanted)


def _is_certain(wanted: Sequence[str], words: Sequence[Word], *, is_open: bool) -> bool:
    if len(words) < len(wanted) or (len(words) > len(wanted) and not is_open):
        return False
    pairs = zip(wanted, words, strict=False)
    return all(word.kind == "fixed" and _fits_word(each, word.text) for each, word in pairs)


def _is_possible(wanted: Sequence[str], words: Sequence[Word], *, is_open: bool) -> bool:
    """Follow what words that are not known may become: any words, or none."""
    places = {0}
    for word in words:
        if word.kind == "fixed":
            places = {p + 1 for p in places if p < len(wanted) and _fits_word(wanted[p], word.text)} | (
                {len(wanted)} if is_open and len(wanted) in places else set()
            )
        else:
            places = set(range(min(places), len(wanted) + 1)) if places else places
    return len(wanted) in places
