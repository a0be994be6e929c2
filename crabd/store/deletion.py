"""What stays of a deleted session: for a day, the note by which a repeated request is known.

The note is written into the session's directory before that is moved out of sight, so that the one move is
the deletion and its memory both, whenever a crash comes. Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from crabd.messages import utc_now
from crabd.store.disk import load_file, make_dir, replace_file_durably
from crabd.store.meta import Deletion, still_known
from crabd.store.seal import is_sealed, seal

# What a session's directory is called once it is deleted, before its id.
DELETED_PREFIX = ".deleted-"
NOTE = "deletion.json"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Deletion).decode


def write_note(place: Path, deletion: Deletion) -> None:
    """Put a note into a session's directory; it is on the disk on return.

    Raises:
      OSError: there is no new note.
    """
    if not place.exists():
        make_dir(place)
    replace_file_durably(place / NOTE, seal(_encode(deletion)) + b"\n")


def read_note(dying: Path) -> Deletion | None:
    """Read the note in a deleted session's directory; null if there is none that is still to be known.

    Raises:
      OSError: the disk fails.
    """
    try:
        document = load_file(dying / NOTE).removesuffix(b"\n")
        deletion = _decode(document)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    is_its_own = is_sealed(document) and dying.name == DELETED_PREFIX + deletion.session
    return deletion if is_its_own and still_known((deletion,), utc_now()) else None


def sweep(dying: Path, *, keeps_note: bool = False) -> None:
    """Remove what is left of a session, or all of it but the note.

    Raises:
      OSError: some of it is still there.
    """
    if not keeps_note:
        with suppress(FileNotFoundError):
            shutil.rmtree(dying)
        return
    with os.scandir(dying) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name != NOTE:
                Path(entry.path).unlink()
