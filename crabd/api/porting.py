"""Parameters and results of ``session/import`` and ``session/export``."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from crabd.api.sessions import AbsolutePath, Name, OfSession, Params

ImportStatus: TypeAlias = Literal["imported", "found", "there", "refused", "skipped"]


class Import(Params, frozen=True):
    """Every session below ``path``: an export of ours, or a session, file or root of crabtalk's.

    ``memory`` is crabtalk's memory file or the tree of its dump, which have the summaries of its sessions;
    left out, they are looked for beside these. ``agent`` and ``sender`` take the place of those in the files.
    What was imported before is not again, unless ``again`` is set. The daemon reads the files itself; it
    writes none of them, and follows no link below ``path``.
    """

    path: AbsolutePath
    memory: AbsolutePath | None = None
    agent: Name | None = None
    sender: Name | None = None
    dry_run: bool = False
    again: bool = False


class LeftOut(Struct, frozen=True):
    """``where`` is a file, a line or a step, and ``problem`` why it was left out."""

    where: str
    problem: str


class ImportedSession(Struct, frozen=True, kw_only=True):
    """What became of the session at ``place``. Each is in the store whole or not at all.

    ``imported`` it is, or in a dry run ``found``; ``there`` it was before, as ``session``; ``refused`` it was
    for its ``problem``; what is ``skipped`` is no session. ``notes`` tell what stands in for what.
    """

    place: str
    status: ImportStatus
    session: str | None
    agent: str | None
    sender: str | None
    title: str
    messages: int
    problem: str | None
    notes: tuple[str, ...]
    skipped: tuple[LeftOut, ...]


class Imported(Struct, frozen=True, kw_only=True):
    """The counts are of all; of very many ``sessions`` only the first are told."""

    sessions: tuple[ImportedSession, ...]
    imported: int
    found: int
    there: int
    refused: int


class Export(OfSession, frozen=True, rename={"from_": "from"}):
    """The records from step ``from`` on, at most ``limit`` of them."""

    from_: Annotated[int, Meta(ge=1)] = 1
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000


class ExportPage(Struct, frozen=True):
    """Whole lines. The pages from step 1 on, put together, are the file; ``next`` is null after the last."""

    jsonl: str
    next: int | None
