"""The rules that a person is offered who says "always": never wider than the call that they see. Pure."""

from __future__ import annotations

import re
import shlex

from crabd.runtime.permissions.shell import Command
from crabd.runtime.permissions.wrappers import SHELLS, program_of

# Programs of which the word after the name, or two of them, say what is done, as in `git commit`.
_VERBS = {
    "git", "cargo", "go", "npm", "pnpm", "yarn", "bun", "pip", "uv", "poetry", "docker", "podman",
    "systemctl", "kubectl", "gh",
}  # fmt: skip
_LONG_VERBS = {
    ("npm", "run"),
    ("pnpm", "run"),
    ("yarn", "run"),
    ("bun", "run"),
    ("uv", "pip"),
    ("docker", "compose"),
}
# Verbs that run whatever follows them, or cannot be taken back.
_DANGEROUS = {
    "exec", "run", "x", "dlx", "push", "reset", "clean", "config", "publish", "delete", "rm", "apply", "tool",
    "install", "add", "submodule", "filter-branch", "rebase", "bisect", "difftool", "mergetool", "api",
    "alias",
}  # fmt: skip
# Programs that do one thing to a project, whatever follows.
_PROJECT = {
    "pytest", "ruff", "mypy", "pyright", "black", "isort", "flake8", "tsc", "eslint", "prettier", "jest",
    "vitest", "mkdir", "touch",
}  # fmt: skip
# What these run is in their input or in a file, so that their words say nothing.
_READ_INPUT = {
    *SHELLS,
    "source",
    ".",
    "eval",
    "parallel",
    "xargs",
    "python",
    "python3",
    "node",
    "perl",
    "ruby",
}
_PLAIN = re.compile(r"[A-Za-z0-9_./:=@%+,-]+")


def suggest_command(command: Command) -> tuple[str, ...]:
    """Suggest the rule that allows a command: with any arguments where they change little, else just so."""
    words = [word.text for word in command.words if word.kind == "fixed"]
    if not words or words[0] != command.name or program_of(command) in _READ_INPUT:
        return ()
    for length in (3, 2, 1):
        if _says_enough(words[:length]) and len(words) >= length:
            return (f"bash({' '.join(words[:length])} *)",)
    if len(words) < len(command.words):
        return ()
    # A star of the command is itself, not any word.
    text = " ".join(each if _PLAIN.fullmatch(each) else shlex.quote(escape(each)) for each in words)
    return (f"bash({text})",) if text.isprintable() and len(text) < 400 else ()


def suggest_path(kind: str, path: str) -> str:
    """Suggest the rule for this very file: its directory's other files are other files."""
    return f"{kind}({escape(path)})"


def escape(text: str) -> str:
    """Have each character match itself alone."""
    return re.sub(r"([*?\[])", r"[\1]", text)


def _says_enough(words: list[str]) -> bool:
    match words:
        case [name]:
            return name in _PROJECT
        case [name, verb]:
            is_verb = name in _VERBS and _PLAIN.fullmatch(verb) and not verb.startswith("-")
            return bool(is_verb) and verb not in _DANGEROUS and (name, verb) not in _LONG_VERBS
        case [name, group, verb]:
            return (name, group) in _LONG_VERBS and bool(_PLAIN.fullmatch(verb)) and not verb.startswith("-")
        case _:
            return False
