"""The tools that find: glob for files, grep for lines, ls for what is in a directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from heapq import nsmallest
from itertools import accumulate, groupby
from typing import Annotated, Any, Literal

from msgspec import Meta

from crabd.tools.base import BadArguments, Intent, PreparedCall, Tool, ToolContext, ToolOutcome, ToolSpec
from crabd.tools.files.globs import split_fixed, translate
from crabd.tools.files.paths import brief, open_directory, resolve, show
from crabd.tools.files.searching import MAX_HITS, Hit, Search, Searcher
from crabd.tools.files.text import shorten
from crabd.tools.threads import attempt, look
from crabd.tools.typed import Arguments, Call, read_arguments, schema_of

MAX_SHOWN = 1000
# Characters of a line that was found.
MAX_LINE = 300
_NARROWER = "use a narrower pattern or place"

_Limit = Annotated[int, Meta(ge=1, le=MAX_SHOWN, description="How many to show.")]
_IgnoredToo = Annotated[bool, Meta(description="Look at files that a .gitignore names too.")]


class GlobArguments(Arguments, frozen=True, kw_only=True):
    pattern: Annotated[str, Meta(min_length=1, description="Such as src/**/*.py or **/*.{c,h}.")]
    path: Annotated[str, Meta(description="The directory to start in; else the session's.")] = "."
    limit: _Limit = 200
    include_ignored: _IgnoredToo = False


class GrepArguments(Arguments, frozen=True, kw_only=True):
    pattern: Annotated[str, Meta(min_length=1, description="A regular expression, for one line.")]
    path: Annotated[str, Meta(description="A directory or a file; else the session's directory.")] = "."
    glob: (
        Annotated[str, Meta(min_length=1, description="Only in files such as *.py or src/**/*.c.")] | None
    ) = None
    ignore_case: bool = False
    output: Annotated[Literal["lines", "files"], Meta(description="The lines, or the files they are in.")] = (
        "lines"
    )
    context: Annotated[int, Meta(ge=0, le=10, description="Lines to show around each.")] = 0
    limit: _Limit = 200
    include_ignored: _IgnoredToo = False


class LsArguments(Arguments, frozen=True, kw_only=True):
    path: Annotated[str, Meta(description="The directory; else the session's.")] = "."
    limit: _Limit = MAX_SHOWN


GLOB = ToolSpec(
    "glob",
    "Find files by their paths. * and ? stay within a name, ** is any number of directories, {a,b} one of "
    "both. Files that a .gitignore names are left out.",
    schema_of(GlobArguments),
    is_read_only=True,
    is_idempotent=True,
)
GREP = ToolSpec(
    "grep",
    "Find lines in files by a regular expression, with their numbers. Files that a .gitignore names are left "
    "out, and so are binary ones.",
    schema_of(GrepArguments),
    is_read_only=True,
    is_idempotent=True,
)
LS = ToolSpec(
    "ls",
    "List a directory: directories end in a slash, links tell where they lead, files have their size.",
    schema_of(LsArguments),
    is_read_only=True,
    is_idempotent=True,
)


class Glob(Tool):
    """Finds files by their paths."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    @property
    def spec(self) -> ToolSpec:
        return GLOB

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(GlobArguments, arguments)
        # Where a pattern starts is what is looked at, which may be less or elsewhere.
        fixed, rest = split_fixed(wanted.pattern + "**" * wanted.pattern.endswith("/"))
        start = fixed if fixed.startswith(("/", "~")) else f"{wanted.path}/{fixed}"
        root = await look(_resolve_place, start, context.cwd)
        search = Search(mode="names", glob=rest, only=_translate(rest), is_ignored_too=wanted.include_ignored)
        title = f"find {wanted.pattern} in {brief(root, context.cwd)}"
        find = partial(self._find, root, search, wanted.limit, context.cwd)
        return Call(Intent(title=title, reads=(root,)), partial(attempt, find))

    async def _find(self, root: str, search: Search, limit: int, cwd: str | None) -> ToolOutcome:
        names, count = await self._searcher.find_names(root, search, limit)
        if not names:
            return ToolOutcome(f"no file in {brief(root, cwd)} has a path like {search.glob}")
        return ToolOutcome("\n".join(_listed(names, count, root, cwd)))


class Grep(Tool):
    """Finds lines in files."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    @property
    def spec(self) -> ToolSpec:
        return GREP

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(GrepArguments, arguments)
        if "\n" in wanted.pattern:
            raise BadArguments("`pattern` is for one line: look for a part of it that has no newline")
        root = await look(_resolve_place, wanted.path, context.cwd)
        search = Search(
            mode=wanted.output,
            pattern=wanted.pattern,
            glob=wanted.glob,
            only=wanted.glob and _translate(wanted.glob if "/" in wanted.glob else f"**/{wanted.glob}"),
            ignores_case=wanted.ignore_case,
            is_ignored_too=wanted.include_ignored,
            context=wanted.context,
        )
        title = f"search {brief(root, context.cwd)} for {show(wanted.pattern)}"
        find = partial(self._find_lines if wanted.output == "lines" else self._find_files, root, search)
        return Call(
            Intent(title=title, reads=(root,)), partial(attempt, partial(find, wanted.limit, context.cwd))
        )

    async def _find_lines(self, root: str, search: Search, limit: int, cwd: str | None) -> ToolOutcome:
        hits, is_whole = await self._searcher.find_lines(root, search)
        if not hits:
            return ToolOutcome(f"no line in {brief(root, cwd)} matches {show(search.pattern)}")
        lines = list(_shown(hits, search, limit, root, cwd))
        left_out = sum(hit.is_match for hit in hits) - limit
        if not is_whole:
            lines.append(f"(more than {MAX_HITS:,} lines, and these are only some: {_NARROWER})")
        elif left_out > 0:
            lines.append(f"({left_out:,} more lines match: {_NARROWER})")
        return ToolOutcome("\n".join(lines))

    async def _find_files(self, root: str, search: Search, limit: int, cwd: str | None) -> ToolOutcome:
        names, count = await self._searcher.find_names(root, search, limit)
        if not names:
            return ToolOutcome(f"no line in {brief(root, cwd)} matches {show(search.pattern)}")
        return ToolOutcome("\n".join(_listed(names, count, root, cwd)))


class Ls(Tool):
    """Lists a directory."""

    @property
    def spec(self) -> ToolSpec:
        return LS

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(LsArguments, arguments)
        path = await look(resolve, wanted.path, context.cwd)
        intent = Intent(title=f"list {brief(path, context.cwd)}", reads=(path,))
        return Call(intent, partial(attempt, partial(self._list, path, wanted.limit)))

    async def _list(self, path: str, limit: int) -> ToolOutcome:
        return ToolOutcome(await look(_list, path, limit))


def _resolve_place(path: str, cwd: str | None) -> str:
    place = resolve(path, cwd)
    if place == "/":
        raise BadArguments("/ is the whole machine: name a directory below it")
    return place


def _translate(glob: str) -> str:
    try:
        return translate(glob)
    except ValueError as exc:
        raise BadArguments(str(exc)) from exc


def _listed(names: Sequence[str], count: int, root: str, cwd: str | None) -> Iterator[str]:
    for name in names:
        yield _name(name, root, cwd)
    if count > len(names):
        yield f"({count - len(names):,} more files: {_NARROWER})"


def _name(name: str, root: str, cwd: str | None) -> str:
    """Write the path of what was found; a file that was searched alone comes without a name."""
    return brief(root if name == "<stdin>" else f"{root}/{name}", cwd)


def _shown(hits: Sequence[Hit], search: Search, limit: int, root: str, cwd: str | None) -> Iterator[str]:
    """Show lines below the path of their file; ``:`` is behind the number of one that matches."""
    matches = accumulate(hit.is_match for hit in hits)
    shown = [hit for hit, so_far in zip(hits, matches, strict=True) if so_far <= limit]
    for path, lines in groupby(shown, key=lambda hit: hit.path):
        yield _name(path, root, cwd)
        last = None
        for hit in lines:
            if search.context and last is not None and hit.number > last + 1:
                yield "--"
            last = hit.number
            yield f"{hit.number}{':' if hit.is_match else '-'}{shorten(hit.text, MAX_LINE)}"


def _list(path: str, limit: int) -> str:
    with open_directory(path) as descriptor, os.scandir(descriptor) as entries:
        names = nsmallest(limit + 1, (entry.name for entry in entries))
        lines = [_describe(descriptor, name) for name in names[:limit]]
    if len(names) > limit:
        lines.append("(more follow: find a part of them with glob)")
    return "\n".join(lines) or f"({show(path)} is empty)"


def _describe(above: int, name: str) -> str:
    try:
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return f"{show(name)} -> {show(os.readlink(name, dir_fd=above))}"
    except FileNotFoundError:
        return f"{show(name)} (just gone)"
    if stat.S_ISDIR(status.st_mode):
        return f"{show(name)}/"
    return f"{show(name)} {status.st_size:,}" if stat.S_ISREG(status.st_mode) else f"{show(name)} (no file)"
