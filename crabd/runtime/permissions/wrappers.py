"""Commands that run another command, such as ``env``, ``xargs`` and ``bash -c``: what they run. Pure.

A wrapper that does nothing else is looked through; of one that does more, as ``sudo``, both it and what it
runs count. An option that is not in the tables here is a doubt.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from msgspec import Struct, structs

from crabd.runtime.permissions.shell import Command, Redirect, Script, Word, is_harmless_variable, read_script

# ``env nice bash -c 'xargs …'`` is four; whoever writes many more hides something.
MAX_DEPTH = 10
MAX_COMMANDS = 500
SHELLS = frozenset(["bash", "sh", "dash", "ash", "ksh", "zsh", "fish"])
# Programs are these wherever the system keeps them; elsewhere a file of that name is anything.
_SYSTEM = re.compile(r"(?:/usr(?:/local)?)?/s?bin/[^/]+")
# What xargs and find add, which nobody knows before.
_MORE = Word("…", "unknown")


class Unwrapped(Struct, frozen=True):
    """All that a script runs: ``commands`` are judged each, of ``wrappers`` only whether they are refused."""

    commands: tuple[Command, ...] = ()
    wrappers: tuple[Command, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    doubts: tuple[str, ...] = ()


class _Options(Struct, frozen=True):
    """Options of a wrapper: letters without and with a value, long ones too; words before the command."""

    letters: str = ""
    valued: str = ""
    long: str = ""
    long_valued: str = ""
    operands: int = 0
    is_transparent: bool = True


_WRAPPERS = {
    "command": _Options("p"),
    "builtin": _Options(),
    "exec": _Options("cl", "a"),
    "nohup": _Options(),
    "time": _Options("p"),
    "timeout": _Options("fpv", "ks", "foreground preserve-status verbose", "kill-after signal", 1),
    "nice": _Options("", "n", "", "adjustment"),
    "ionice": _Options("t", "cn", "ignore", "class classdata"),
    "stdbuf": _Options("", "ioe", "", "input output error"),
    "setsid": _Options("cfw", "", "ctty fork wait"),
    "busybox": _Options(),
    "toybox": _Options(),
    "xargs": _Options(
        "0oprtx", "EILPdns", "null no-run-if-empty verbose", "max-args max-procs delimiter max-lines"
    ),
    "sudo": _Options(
        "AbEHnPSk", "CDghprRTtuU", "preserve-env set-home non-interactive", "user group", 0, False
    ),
    "doas": _Options("nL", "Cu", "", "", 0, False),
    "unshare": _Options("mnpuiUrCfc", "", "fork", "", 0, False),
    "chroot": _Options("", "", "", "", 1, False),
    "taskset": _Options("a", "", "all-tasks", "", 1, False),
    "flock": _Options("sxnueF", "wE", "", "timeout", 1, False),
    "strace": _Options("fFqrtTvx", "eopsu", "", "", 0, False),
    "watch": _Options("bcdegtx", "n", "", "interval", 0, False),
}


def unwrap(script: Script, home: str) -> Unwrapped:
    """Find all that a script runs, also by way of other commands."""
    finder = _Finder(home)
    finder.add(script, 0)
    return Unwrapped(
        tuple(finder.commands),
        tuple(finder.wrappers),
        tuple(finder.redirects),
        tuple(dict.fromkeys(finder.doubts)),
    )


class _Finder:
    def __init__(self, home: str) -> None:
        self._home = home
        self.commands: list[Command] = []
        self.wrappers: list[Command] = []
        self.redirects: list[Redirect] = []
        self.doubts: list[str] = []

    def add(self, script: Script, depth: int) -> None:
        self.redirects += script.redirects
        self.doubts += script.doubts
        for command in script.commands:
            self._follow(command, depth)

    def _follow(self, command: Command, depth: int) -> None:
        name = program_of(command)
        if len(self.commands) + len(self.wrappers) > MAX_COMMANDS:
            self.doubts.append(f"it runs more than {MAX_COMMANDS} commands")
        elif depth > MAX_DEPTH:
            self.doubts.append("commands in it run others too deeply")
        elif name == "env":
            self._follow_env(command, depth)
        elif name == "eval":
            self._follow_text(command, command.words[1:], depth)
        elif name == "find":
            self._follow_find(command, depth)
        elif name in SHELLS:
            self._follow_shell(command, depth)
        elif name in _WRAPPERS and not _only_looks_up(command):
            self._follow_wrapper(command, _WRAPPERS[name], depth)
        else:
            self.commands.append(command)

    def _follow_inner(self, outer: Command, words: Sequence[Word], depth: int) -> None:
        if words:
            if words[0].kind != "fixed":
                self.doubts.append("the name of a command in it is not known before it runs")
            self._follow(structs.replace(outer, words=tuple(words)), depth + 1)

    def _follow_wrapper(self, command: Command, options: _Options, depth: int) -> None:
        (self.wrappers if options.is_transparent else self.commands).append(command)
        start = _find_operands(command.words, options)
        if start is None:
            self.doubts.append(f"what {command.words[0].text} runs in it is hard to tell")
            return
        inner = command.words[start + options.operands :]
        if program_of(command) == "xargs" and inner:
            replaced = _replaced_by(command.words[1:start])
            inner = (*(_blur(word, replaced) for word in inner), _MORE)
        self._follow_inner(command, inner, depth)

    def _follow_env(self, command: Command, depth: int) -> None:
        self.wrappers.append(command)
        words = command.words
        at = 1
        while at < len(words) and words[at].kind == "fixed":
            word = words[at].text
            split = re.match(r"(?:-[iv0]*S|--split-string=)(.*)", word, re.DOTALL)
            if split or word in ("--split-string",):
                self._follow_split(command, at, split[1] if split else "", depth)
                return
            if word in ("-u", "--unset"):
                at += 1
            elif name := re.match(r"([^-=][^=]*)=", word):
                if not is_harmless_variable(name[1]):
                    self.doubts.append(f"it sets {name[1]}, which may change what runs")
            elif word not in ("-", "-i", "--ignore-environment", "--") and not word.startswith("--unset="):
                break
            at += 1
        if at < len(words) and (words[at].text.startswith("-") or words[at].kind != "fixed"):
            self.doubts.append("what env runs in it is hard to tell")
        self._follow_inner(command, words[at:], depth)

    def _follow_split(self, command: Command, at: int, text: str, depth: int) -> None:
        """Follow ``env -S 'command and words' more``."""
        rest = command.words[at + 1 :]
        if not text and rest:
            first, rest = rest[0], rest[1:]
            text = first.text if first.kind == "fixed" else "$"
        try:
            words = [] if any(each in text for each in "$\\#") else shlex.split(text)
        except ValueError:
            words = []
        if words:
            self._follow(structs.replace(command, words=(Word("env"), *map(Word, words), *rest)), depth + 1)
        else:
            self.doubts.append("what env -S runs in it is hard to tell")

    def _follow_find(self, command: Command, depth: int) -> None:
        """Part what find does by itself from what it runs."""
        own: list[Word] = []
        words = iter(command.words)
        for word in words:
            if word.text not in ("-exec", "-ok", "-execdir", "-okdir") or word.kind != "fixed":
                own.append(word)
                continue
            if word.text.endswith("dir"):
                self.doubts.append(f"find {word.text} runs commands in other directories")
            inner: list[Word] = []
            for each in words:
                if each.kind == "fixed" and each.text in (";", "+"):
                    break
                inner.append(_blur(each, "{}"))
            self._follow_inner(command, inner, depth)
        self.commands.append(structs.replace(command, words=tuple(own)))

    def _follow_shell(self, command: Command, depth: int) -> None:
        """Follow ``bash -c 'text'``; what a shell reads from elsewhere is a command like any other."""
        at, has_text = 1, False
        words = command.words
        while at < len(words) and words[at].kind == "fixed" and words[at].text[:1] in ("-", "+"):
            letters = words[at].text
            if letters == "--":
                at += 1
                break
            if not re.fullmatch(r"[-+][cefuxnvlo]+", letters):
                self.doubts.append(f"what {words[0].text} {letters} runs in it is hard to tell")
            has_text = has_text or "c" in letters
            at += 2 if letters.endswith("o") else 1
        if not has_text:
            self.commands.append(command)
            return
        if program_of(command) in ("fish", "zsh"):
            self.doubts.append(f"{words[0].text} reads commands in another way than bash")
        self._follow_text(command, words[at : at + 1], depth)

    def _follow_text(self, command: Command, words: Sequence[Word], depth: int) -> None:
        self.wrappers.append(command)
        if not words or any(word.kind != "fixed" for word in words):
            self.doubts.append(f"what {command.words[0].text} runs in it is not known before")
            return
        script = read_script(" ".join(word.text for word in words), self._home)
        if command.is_repeated:
            inner = tuple(structs.replace(each, is_repeated=True) for each in script.commands)
            script = structs.replace(script, commands=inner)
        self.add(script, depth + 1)


def program_of(command: Command) -> str | None:
    """Find which program a command is, called by its name or by its place in the system."""
    name = command.name
    return name.rpartition("/")[2] if name is not None and _SYSTEM.fullmatch(name) else name


def _only_looks_up(command: Command) -> bool:
    """Tell ``command -v name``, which runs nothing."""
    words = command.words
    return command.name == "command" and len(words) > 1 and words[1].text in ("-v", "-V")


def _find_operands(words: Sequence[Word], options: _Options) -> int | None:
    """Find the first word that is no option; null when that cannot be told."""
    at = 1
    while at < len(words):
        word = words[at]
        if word.kind != "fixed":
            return None
        if word.text == "--":
            return at + 1
        if not word.text.startswith("-") or word.text == "-":
            return at
        step = _measure_option(word.text, options)
        if step is None:
            return None
        at += step
    return at


def _measure_option(text: str, options: _Options) -> int | None:
    """Tell how many words an option takes; null for one that is not known."""
    if text.startswith("--"):
        name, equals, _ = text[2:].partition("=")
        if name in options.long_valued.split():
            return 1 if equals else 2
        return 1 if name in options.long.split() and not equals else None
    if "n" in options.valued and re.fullmatch(r"-[0-9]+", text):
        return 1
    for place, letter in enumerate(text[1:], 2):
        if letter in options.valued:
            return 2 if place == len(text) else 1
        if letter not in options.letters:
            return None
    return 1


def _replaced_by(options: Sequence[Word]) -> str:
    """Find what xargs -I puts its input in place of; empty when it adds it at the end alone."""
    texts = [word.text for word in options]
    for number, text in enumerate(texts):
        if found := re.fullmatch(r"-[0oprtx]*I(.*)", text, re.DOTALL):
            return found[1] or (texts[number + 1] if number + 1 < len(texts) else "")
    return ""


def _blur(word: Word, replaced: str) -> Word:
    return Word(word.text, "unknown") if replaced and replaced in word.text else word
