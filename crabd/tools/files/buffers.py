"""What a person's editor has of files: read in place of the disk, and changed through it.

Only plain text within the session's directory goes through an editor, and only as long as it answers; all
else, and everything where there is no editor, is between us and the disk. What a model asked for is not known
here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct

from crabd.tools.base import Editor, EditorFailed, ToolContext
from crabd.tools.files.changing import MAX_BYTES, Change, Glimpse, Known, apply, digest_of, load
from crabd.tools.files.paths import Refusal, explain, is_within, parent_of, show
from crabd.tools.files.text import BOM, decode, is_text, name_kind, with_crlf
from crabd.tools.threads import change, look
from crabd.tools.turns import Turns


class Buffer(Struct, frozen=True):
    """A file as its editor has it, and as it is on the disk, null for not there.

    One that ``is_torn`` was changed on the disk while its editor had other text that was not saved.
    """

    content: bytes
    on_disk: bytes | None
    mode: int | None
    is_torn: bool = False

    @property
    def is_saved(self) -> bool:
        return self.content == self.on_disk


class Made(Struct, frozen=True):
    """The digest that each changed file has now, null for none, and what is to be told besides."""

    digests: dict[str, str | None]
    notes: tuple[str, ...] = ()


@asynccontextmanager
async def open_buffers(
    context: ToolContext, turns: Turns, known: Known, paths: Sequence[str]
) -> AsyncGenerator[Buffers]:
    """Ask the editor about files, and let no command put a link in its way until the end."""
    editor, cwd = context.editor(), context.cwd
    if editor is None or cwd is None:
        yield Buffers(None, known)
        return
    real = await look(os.path.realpath, cwd)
    async with turns.visit(real) as may_ask:
        buffers = Buffers(editor if may_ask else None, known)
        await buffers.fetch([path for path in paths if is_within(path, real)])
        yield buffers


class Buffers:
    """Files as they are in an editor, for one look or one change."""

    def __init__(self, editor: Editor | None, known: Known) -> None:
        self._editor = editor
        self._known = known
        self._glimpses: dict[str, Glimpse] = {}
        # Null for one that neither the editor nor the disk has.
        self._asked: dict[str, Buffer | None] = {}

    def __repr__(self) -> str:
        return f"<Buffers of {self._editor!r}, {len(self._asked)} asked for>"

    async def fetch(self, paths: Sequence[str]) -> None:
        """Ask the editor about files, or ask again. What is not its affair is left to whoever loads it."""
        for path in paths:
            self._asked.pop(path, None)
            there = await look(_load_plain, path)
            if there is not None and self._editor is not None:
                self._take(path, *there, await self._editor.read(path))

    def _take(self, path: str, on_disk: bytes | None, mode: int | None, text: str | None) -> None:
        if text is None or len(text) > MAX_BYTES or not is_text(text) or not _is_plain(text.encode()):
            if on_disk is None:
                self._asked[path] = None
            return
        glimpse = Glimpse(_sum_up(on_disk), _sum_up_text(text))
        found = compare(on_disk, mode, text, glimpse, self._known.glimpse(path))
        if not found.is_saved or glimpse.on_disk == glimpse.in_editor:
            # Of an editor that is behind the earlier glimpse tells more.
            self._glimpses[path] = glimpse
        # An editor may show a file that is not there as an empty one.
        self._asked[path] = found if found.content or on_disk is not None else None

    def load(self, path: str) -> tuple[bytes, int | None] | None:
        """Give a file and its mode as a plan takes them; null if there is none. May block.

        Raises:
          OSError.
          Refusal: the disk and the editor each have their own changes, or as ever.
        """
        if self.is_torn(path):
            problem = f"{show(path)} was changed on the disk, and has other changes in the editor"
            raise Refusal(f"{problem}: read it again, and ask the person which of them count")
        found = self._asked.get(path)
        return load(path) if found is None else (found.content, found.mode)

    def is_torn(self, path: str) -> bool:
        """Tell whether the disk and the editor each have their own changes of a file."""
        found = self._asked.get(path)
        return found is not None and found.is_torn

    def unsaved(self, path: str) -> bytes | None:
        """Give what the editor has of a file; null where the disk has the same."""
        found = self._asked.get(path)
        return None if found is None or found.is_saved else found.content

    def remember(self, path: str) -> None:
        """Have it known that the session has seen a file as it is in the editor."""
        if path in self._glimpses:
            self._known.note_glimpse(path, self._glimpses[path])

    async def make(self, changes: Sequence[Change]) -> Made:
        """Make all changes; if one cannot be made, those that were are taken back.

        Raises:
          OSError, Refusal.
        """
        through = [each for each in changes if self._takes(each)]
        direct = [each for each in changes if each not in through]
        for each in direct:
            if self.unsaved(each.path) is not None:
                problem = f"{show(each.path)} has changes in the editor that are not saved"
                raise Refusal(f"{problem}: ask the person to save it first")
        done: list[Change] = []
        try:
            for each in through:
                await self._write(each)
                done.append(each)
            digests = await change(_make, direct)
        except (OSError, Refusal) as exc:
            lost = [each.path for each in reversed(done) if not await self._take_back(each)]
            if not lost:
                raise
            problem = explain(exc) if isinstance(exc, OSError) else str(exc)
            raise Refusal(f"{problem}; {', '.join(map(show, lost))} had been changed and stays so") from exc
        return await self._look_after(through, digests)

    def _takes(self, wanted: Change) -> bool:
        """Tell whether a change goes through the editor, which gives a new file the usual mode."""
        is_known = self._editor is not None and wanted.path in self._asked
        is_usual = wanted.before is not None or wanted.mode is None
        return is_known and is_usual and wanted.after is not None and _is_plain(wanted.after)

    async def _write(self, wanted: Change) -> None:
        assert self._editor is not None, "it takes the change"
        assert wanted.after is not None, "it takes no deletion"
        found = self._asked[wanted.path]
        await change(_stand_ready, wanted.path, None if found is None else found.on_disk)
        try:
            await self._editor.write(wanted.path, wanted.after.decode())
        except EditorFailed as exc:
            problem = f"the editor may not have written {show(wanted.path)}: {exc}"
            raise Refusal(f"{problem}; read it to see how it is") from exc

    async def _take_back(self, done: Change) -> bool:
        """Undo what the editor has written; tell whether that is known to have worked."""
        assert self._editor is not None, "it has made the change"
        try:
            if done.before is None:
                await change(_remove, done.path)
            else:
                await self._editor.write(done.path, done.before.decode())
        except (OSError, Refusal, EditorFailed):
            return False
        return True

    async def _look_after(self, through: Sequence[Change], digests: dict[str, str | None]) -> Made:
        """See what the editor has made of what it was given; it may have formatted it, or not saved it."""
        await self.fetch([each.path for each in through])
        notes: list[str] = []
        for each in through:
            self.remember(each.path)
            found = self._asked.get(each.path)
            there = (found.content, found.mode) if found else await look(load, each.path)
            content = None if there is None else there[0]
            if content is None:
                notes.append(f"the editor did not make {show(each.path)}, though it says so: look with ls")
            elif content != each.after:
                notes.append(f"the editor made {show(each.path)} other than it was written: read it again")
            else:
                digests[each.path] = digest_of(content)
                if self.unsaved(each.path) is not None:
                    notes.append(f"{show(each.path)} is not saved yet: commands do not see the change")
        return Made(digests, tuple(notes))


def compare(
    on_disk: bytes | None, mode: int | None, text: str, now: Glimpse, before: Glimpse | None
) -> Buffer:
    """Tell what counts of a file on the disk and in the editor, by how both were ``before``.

    An editor that still shows what the disk had has only not looked again.
    """
    content = merge(on_disk, text)
    if before is None or on_disk is None or now.on_disk in (now.in_editor, before.on_disk):
        return Buffer(content, on_disk, mode)
    if now.in_editor == before.in_editor == before.on_disk:
        return Buffer(on_disk, on_disk, mode)
    return Buffer(content, on_disk, mode, is_torn=True)


def merge(on_disk: bytes | None, text: str) -> bytes:
    """Take a text from an editor, which may know neither a file's ends of lines nor its last newline."""
    if on_disk is None:
        return text.encode()
    old = decode(on_disk)
    if _bare(old.body) == _bare(text):
        return on_disk
    if old.body.endswith("\n") and text and not text.endswith("\n"):
        text += "\n"
    return (with_crlf(text) if old.eol == "\r\n" else text).encode()


def _bare(text: str) -> str:
    return text.replace("\r\n", "\n").removesuffix("\n")


def _sum_up(content: bytes | None) -> str | None:
    return None if content is None else _sum_up_text(decode(content).body)


def _sum_up_text(text: str) -> str:
    return digest_of(_bare(text).encode("utf-8", "surrogateescape"))


def _is_plain(content: bytes) -> bool:
    """Tell whether an editor would give back a content as it is."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return not content.startswith(BOM) and name_kind(content) is None


def _load_plain(path: str) -> tuple[bytes | None, int | None] | None:
    """Load a file that an editor may be asked about, be there one or not; null for one that it may not."""
    try:
        there = load(path)
    except (OSError, Refusal):
        return None
    if there is None:
        return None, None
    return there if _is_plain(there[0]) else None


def _stand_ready(path: str, on_disk: bytes | None) -> None:
    """Make the directories that are missing, and see that the file is still what it was and no link."""
    with parent_of(path, make=True):
        there = load(path)
    if (there and there[0]) != on_disk:
        raise Refusal(f"{show(path)} was changed by someone else just now: read it again")


def _make(changes: Sequence[Change]) -> dict[str, str | None]:
    apply(changes)
    return {each.path: None if each.after is None else digest_of(each.after) for each in changes}


def _remove(path: str) -> None:
    there = load(path)
    if there is not None:
        apply([Change(path, there[0], None)])
