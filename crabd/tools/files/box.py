"""The tools for files, as one session has them."""

from __future__ import annotations

from crabd.tools.base import Tool
from crabd.tools.files.changing import Known
from crabd.tools.files.editing import ApplyPatch, Edit, Editing, Write
from crabd.tools.files.finding import Glob, Grep, Ls
from crabd.tools.files.reading import Read
from crabd.tools.files.searching import Searcher
from crabd.tools.turns import Turns


def file_tools(searcher: Searcher, artifacts: str, turns: Turns) -> tuple[Tool, ...]:
    """Make the tools that a session reads, finds and changes files with; what it has read is theirs to know.

    ``artifacts`` is the directory of the session's own artifacts, which it may read in any case. The person's
    editor and commands take ``turns``.
    """
    known = Known()
    editing = Editing(known, turns)
    return (
        Read(known, artifacts, turns),
        Write(editing),
        Edit(editing),
        ApplyPatch(editing),
        Glob(searcher),
        Grep(searcher),
        Ls(),
    )
