"""The tools that change files: write, edit and apply_patch.

Each plans its changes from what the files are, shows them, and plans anew when it is run, so that two calls
for one file in the same round both count, and a change of somebody else in between is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Annotated, Any

import trio
from msgspec import Meta

from crabd.tools.base import (
    BadArguments,
    Intent,
    PreparedCall,
    Tool,
    ToolContext,
    ToolOutcome,
    ToolSpec,
)
from crabd.tools.files.buffers import Buffers, open_buffers
from crabd.tools.files.changing import MAX_BYTES, Known
from crabd.tools.files.patch import FilePatch, PatchProblem, parse
from crabd.tools.files.paths import Refusal, brief, explain, resolve, show
from crabd.tools.files.planning import Load, Plan, plan_edit, plan_patch, plan_write
from crabd.tools.files.text import compare, is_text
from crabd.tools.threads import attempt, look
from crabd.tools.turns import Turns
from crabd.tools.typed import Arguments, read_arguments, schema_of

# Files of one patch: each holds a descriptor while it is applied.
MAX_FILES = 100


class WriteArguments(Arguments, frozen=True, kw_only=True):
    path: Annotated[str, Meta(description="The file, absolute or from the session's directory.")]
    content: Annotated[str, Meta(description="All of its new text.")]


class EditArguments(Arguments, frozen=True, kw_only=True):
    path: Annotated[str, Meta(description="The file, absolute or from the session's directory.")]
    old: Annotated[
        str,
        Meta(
            min_length=1, description="The text to replace, exactly as read shows it, without line numbers."
        ),
    ]
    new: Annotated[str, Meta(description="The text to put there.")]
    replace_all: Annotated[bool, Meta(description="Replace it wherever it is.")] = False


class PatchArguments(Arguments, frozen=True, kw_only=True):
    patch: Annotated[
        str, Meta(min_length=1, description="From '*** Begin Patch' to '*** End Patch', or a unified diff.")
    ]


WRITE = ToolSpec(
    "write",
    "Make a file, or replace all of one that was read before. Directories that are missing are made. "
    "Prefer edit for a file that is there.",
    schema_of(WriteArguments),
    is_idempotent=True,
)
EDIT = ToolSpec(
    "edit",
    "Replace text in a file that was read before. The old text has to be in one place only: give lines "
    "around it, or set replace_all.",
    schema_of(EditArguments),
)
APPLY_PATCH = ToolSpec(
    "apply_patch",
    "Change, make, move and delete several files, all or none. The patch is a line '*** Begin Patch', then "
    "for each file '*** Update File: PATH' (then maybe '*** Move to: PATH') with hunks, '*** Add File: PATH' "
    "with lines that start with '+', or '*** Delete File: PATH', then a line '*** End Patch'. A hunk starts "
    "with '@@' and maybe a line that comes before it, as in '@@ def main():'; its lines start with ' ', '-' "
    "or '+', and it has three lines around what changes. A unified diff is taken too.",
    schema_of(PatchArguments),
)


class Editing:
    """What the tools that change files share in a session: what it has seen, and that they take turns."""

    def __init__(self, known: Known, turns: Turns) -> None:
        self.known = known
        self.turns = turns
        self.turn = trio.Lock()


class Write(Tool):
    """Makes a file or replaces one that was read."""

    def __init__(self, editing: Editing) -> None:
        self._editing = editing

    @property
    def spec(self) -> ToolSpec:
        return WRITE

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(WriteArguments, arguments)
        _require_text(wanted.content)
        path = await look(resolve, wanted.path, context.cwd)
        intent = Intent(title=f"write {brief(path, context.cwd)}", writes=(path,))
        plan = partial(plan_write, self._editing.known, path, wanted.content)
        call = _Changing(intent, plan, self._editing, context)
        await call.check()
        return call


class Edit(Tool):
    """Replaces text in a file that was read."""

    def __init__(self, editing: Editing) -> None:
        self._editing = editing

    @property
    def spec(self) -> ToolSpec:
        return EDIT

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(EditArguments, arguments)
        _require_text(wanted.old, wanted.new)
        if wanted.old == wanted.new:
            raise BadArguments("`old` and `new` are the same: write what should be there in `new`")
        path = await look(resolve, wanted.path, context.cwd)
        intent = Intent(title=f"edit {brief(path, context.cwd)}", reads=(path,), writes=(path,))
        plan = partial(plan_edit, self._editing.known, path, wanted.old, wanted.new, wanted.replace_all)
        call = _Changing(intent, plan, self._editing, context)
        await call.check()
        return call


class ApplyPatch(Tool):
    """Changes several files at once."""

    def __init__(self, editing: Editing) -> None:
        self._editing = editing

    @property
    def spec(self) -> ToolSpec:
        return APPLY_PATCH

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(PatchArguments, arguments)
        _require_text(wanted.patch)
        try:
            files = await look(parse, wanted.patch)
        except PatchProblem as exc:
            raise BadArguments(str(exc)) from exc
        if len(files) > MAX_FILES:
            raise BadArguments(f"the patch has {len(files)} files: give {MAX_FILES} at most at a time")
        resolved = {name: await look(resolve, name, context.cwd) for name in _names(files)}
        read = {resolved[each.path] for each in files if each.kind != "add"}
        intent = Intent(
            title=f"patch {', '.join(brief(path, context.cwd) for path in dict.fromkeys(resolved.values()))}",
            reads=tuple(sorted(read)),
            writes=tuple(sorted(set(resolved.values()))),
        )
        plan = partial(plan_patch, self._editing.known, files, resolved)
        call = _Changing(intent, plan, self._editing, context)
        # Whether it fits tells what is in the files, which the model may not have been allowed to know.
        if all(path in self._editing.known for path in read):
            await call.check()
        return call


class _Changing(PreparedCall):
    """A call that changes files. ``plan`` blocks; it looks at the files and says what to change."""

    def __init__(
        self, intent: Intent, plan: Callable[[Load], Plan], editing: Editing, context: ToolContext
    ) -> None:
        self._intent = intent
        self._plan = plan
        self._editing = editing
        self._context = context

    def __repr__(self) -> str:
        return f"<Changing {self._intent.title}>"

    @property
    def intent(self) -> Intent:
        return self._intent

    async def check(self) -> None:
        """Refuse what cannot be done before anybody is asked about it.

        Raises:
          BadArguments.
        """
        try:
            async with self._open() as buffers:
                await look(self._plan, buffers.load)
        except Refusal as exc:
            raise BadArguments(str(exc)) from exc
        except OSError as exc:
            raise BadArguments(explain(exc)) from exc

    async def preview(self) -> str:
        try:
            async with self._open() as buffers:
                return await look(_show, self._plan, buffers.load)
        except Refusal as exc:
            return f"it cannot be done as things are: {exc}\n"
        except OSError as exc:
            return f"it cannot be done as things are: {explain(exc)}\n"

    async def run(self) -> ToolOutcome:
        async with self._editing.turn:
            return await attempt(self._change)

    async def _change(self) -> ToolOutcome:
        async with self._open() as buffers:
            plan = await look(self._plan, buffers.load)
            for each in plan.changes:
                await self._context.preserver.keep(each.path, buffers.unsaved(each.path))
            made = await buffers.make(plan.changes)
        for path, digest in made.digests.items():
            self._editing.known.note(path, digest)
        return ToolOutcome("; ".join([plan.told, *made.notes]))

    def _open(self) -> AbstractAsyncContextManager[Buffers]:
        return open_buffers(self._context, self._editing.turns, self._editing.known, self._intent.writes)


def _require_text(*texts: str) -> None:
    if not all(map(is_text, texts)):
        raise BadArguments("the text has half a surrogate pair in it: write it as UTF-8 can")
    if any(len(text) > MAX_BYTES for text in texts):
        raise BadArguments(f"the text has more than {MAX_BYTES:,} characters: make such a file with bash")


def _show(plan: Callable[[Load], Plan], load: Load) -> str:
    return "".join(compare(show(each.path), each.before, each.after) for each in plan(load).changes)


def _names(files: Sequence[FilePatch]) -> list[str]:
    names = [name for each in files for name in (each.path, each.move_to) if name is not None]
    return list(dict.fromkeys(names))
