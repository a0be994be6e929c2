"""Patterns of paths, matched component by component, and the places that nobody touches by the way. Pure.

``*``, ``?`` and ``[…]`` match within a component, ``**`` any number of them. A pattern begins at ``/``, at
``~/`` or, if it begins otherwise, at the session's directory. ``dir/**`` is the directory too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

# What a piece of a path must say for a pattern to be meant for it, and the paths that are sensitive.
SENSITIVE = (
    (".ssh", "~/.ssh/**"),
    (".gnupg", "~/.gnupg/**"),
    (".aws", "~/.aws/**"),
    (".azure", "~/.azure/**"),
    (".kube", "~/.kube/**"),
    (".docker", "~/.docker/config.json"),
    ("gcloud", "~/.config/gcloud/**"),
    ("gh", "~/.config/gh/**"),
    (".netrc", "~/.netrc"),
    (".pgpass", "~/.pgpass"),
    (".npmrc", "~/.npmrc"),
    (".pypirc", "~/.pypirc"),
    (".git-credentials", "~/.git-credentials"),
    (".password-store", "~/.password-store/**"),
    ("keyrings", "~/.local/share/keyrings/**"),
    ("_history", "~/.*_history"),
    (".env", "/**/.env"),
    (".env", "/**/.env.*"),
    (".pem", "/**/*.pem"),
    (".key", "/**/*.key"),
    (".p12", "/**/*.p12"),
    ("id_", "/**/id_{rsa,dsa,ecdsa,ed25519}"),
    ("shadow", "/etc/{shadow,gshadow}"),
    ("proc", "/proc/*/{environ,mem,root,cwd,fd}/**"),
)
# Examples of what an .env file says hold no secrets.
_EXAMPLES = ("example", "sample", "template", "dist")
# Files within a project that decide what runs, or what a model is told: editing them is more than editing.
GUARDED = (
    "/**/.git/**",
    "/**/.gitmodules",
    "/**/.gitconfig",
    "/**/.crab/**",
    "/**/{agents,crab,claude,gemini}.md",
    "/**/.{claude,codex,cursor,vscode,idea,husky}/**",
    "/**/.mcp.json",
    "/**/.envrc",
    "/**/.{bashrc,bash_profile,bash_login,bash_logout,bash_aliases,profile,inputrc,xprofile,xinitrc}",
    "/**/.{zshrc,zshenv,zprofile,zlogin,zlogout,cshrc,tcshrc,kshrc,login}",
    "/**/.config/{fish,autostart,systemd}/**",
)


def anchor(pattern: str, cwd: str | None, home: str) -> str | None:
    """Make a pattern of paths absolute; null for one that begins at a directory there is none of."""
    if pattern == "~" or pattern.startswith("~/"):
        return home + pattern[1:]
    if pattern.startswith("/"):
        return pattern
    return None if cwd is None else f"{cwd}/{pattern}"


def check_pattern(pattern: str) -> None:
    """Make sure that a pattern can match a path.

    Raises:
      ValueError: it cannot; the text says why and what to write.
    """
    if pattern.startswith("~") and not (pattern == "~" or pattern.startswith("~/")):
        raise ValueError("only ~/ is known: write the whole path of another person's directory")
    for part in pattern.split("/"):
        if "**" in part and part != "**":
            raise ValueError(f"** stands by itself between slashes, not in {part!r}")
        if part == "..":
            raise ValueError("a path never has .. in it when it is matched: write where it leads")


def matches(pattern: str, path: str) -> bool:
    """Tell whether an absolute pattern matches an absolute path, both as they are spelled."""
    return _match(_split(pattern), _split(path), fnmatchcase)


def may_match(pattern: str, path: str) -> bool:
    """Tell it also of spellings that some file systems take for the same: case, and forms of Unicode."""
    return matches(fold(pattern), fold(path))


def is_within(path: str, directory: str) -> bool:
    """Tell whether a path is a directory, or below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def fold(text: str) -> str:
    """Make one spelling of those that a file system may take for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def find_sensitive(path: str, home: str, private: Sequence[str]) -> str | None:
    """Find what makes a path sensitive: the piece that a rule must name to be meant for it.

    ``private`` are directories of crabd's own.
    """
    folded = fold(path)
    for directory in private:
        if is_within(folded, fold(directory)):
            return directory.rpartition("/")[2]
    for mark, pattern in SENSITIVE:
        if any(
            matches(each, folded)
            for each in _expand(fold(home + pattern[1:] if pattern[0] == "~" else pattern))
        ):
            is_example = mark == ".env" and folded.endswith(_EXAMPLES)
            return None if is_example else mark
    return None


def holds_sensitive(directory: str, home: str, private: Sequence[str]) -> bool:
    """Tell whether places known to be sensitive are below a directory."""
    return any(is_within(place, directory) for place in (f"{home}/.ssh", *private, "/etc/shadow", "/proc/1"))


def is_guarded(path: str) -> bool:
    """Tell whether a file decides what runs, or what a model is told."""
    folded = fold(path)
    return any(matches(each, folded) for pattern in GUARDED for each in _expand(pattern))


@lru_cache(maxsize=1024)
def _split(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


@lru_cache(maxsize=256)
def _expand(pattern: str) -> tuple[str, ...]:
    """Write the alternatives of a built-in pattern out; people's patterns have no braces."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        return (pattern,)
    choices, _, after = rest.partition("}")
    return tuple(f"{before}{choice}{after}" for choice in choices.split(","))


def _match(pattern: Sequence[str], parts: Sequence[str], is_like: Callable[[str, str], bool]) -> bool:
    """Follow all ways to read a pattern at once, so that none of them takes long."""
    places = _open(pattern, {0})
    for part in parts:
        stayed = {place for place in places if place < len(pattern) and pattern[place] == "**"}
        passed = {
            place + 1 for place in places - stayed if place < len(pattern) and is_like(part, pattern[place])
        }
        places = _open(pattern, stayed | passed)
    return len(pattern) in places


def _open(pattern: Sequence[str], places: set[int]) -> set[int]:
    """Add the places after every ``**``, which may stand for nothing."""
    reached = set(places)
    for place in range(len(pattern)):
        if place in reached and pattern[place] == "**":
            reached.add(place + 1)
    return reached
