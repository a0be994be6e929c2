"""Parameters and results of ``trust/*``: which instructions files in directories a model may be told."""

from __future__ import annotations

from msgspec import Struct

from crabd.api.sessions import AbsolutePath, Params


class Directory(Params, frozen=True):
    """Trusted are the AGENTS.md and CRAB.md from the root down to ``path``, as they are now.

    One that changes is not trusted any more.
    """

    path: AbsolutePath


class TrustedFiles(Struct, frozen=True):
    files: tuple[str, ...]
