"""Parameters and results of ``trust/*``: which files of directories agents may heed."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from crabd.api.sessions import AbsolutePath, Params
from crabd.events import ProjectFile


class TrustList(Params, frozen=True):
    """The files that the directory ``path`` brings along; without it, all that are trusted.

    These are AGENTS.md and CRAB.md from the root down to it, and what counts in the nearest ``.crab``: hooks,
    agents, skills, MCP servers and permissions.
    """

    path: AbsolutePath | None = None


class TrustAdd(Params, frozen=True):
    """``files`` are paths with the digests that they were shown with; one that has changed is refused.

    One that changes later is not trusted any more.
    """

    files: Annotated[dict[AbsolutePath, str], Meta(min_length=1, max_length=1000)]


class TrustRemove(Params, frozen=True):
    """All files in the directory ``path`` and below it, or the one that is there."""

    path: AbsolutePath


class TrustFiles(Struct, frozen=True):
    """Files that directories bring along."""

    files: tuple[ProjectFile, ...]
