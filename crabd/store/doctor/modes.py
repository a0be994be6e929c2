"""Who may read and write what is in a store: its owner alone, 0700 for directories and 0600 for files.

Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from crabd.messages import clean_text
from crabd.store.doctor.flaws import REPAIR, Chart, Flaw

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


def check_modes(chart: Chart, where: str, paths: Sequence[Path], *, is_mendable: bool = True) -> None:
    """Look at the modes and owners of files and directories that are there; links have none of their own."""
    found = [(path, path.lstat()) for path in paths]
    wrong = {
        path: mode for path, status in found if (mode := stat.S_IMODE(status.st_mode)) != _right_mode(status)
    }
    if wrong:
        told = "; ".join(f"{clean_text(path.name)} has mode {mode:04o}" for path, mode in wrong.items())
        flaw = Flaw(
            kind="mode",
            grade="problem",
            where=where,
            problem=f"not for its owner alone to read and write: {told}",
            advice=f"{REPAIR} sets 0700 for directories and 0600 for files",
        )
        chart.add(flaw, (lambda: _set_modes(wrong)) if is_mendable else None)
    for path, status in found:
        if status.st_uid != os.getuid():
            chart.add(
                Flaw(
                    kind="owner",
                    grade="problem",
                    where=where,
                    problem=f"{clean_text(str(path))} belongs to another user (uid {status.st_uid})",
                    advice="give it to yourself with chown, or move it away",
                )
            )


def _right_mode(status: os.stat_result) -> int:
    """Tell which mode something should have; a link, or what crabd never makes, has the right one."""
    if stat.S_ISDIR(status.st_mode):
        return DIRECTORY_MODE
    return FILE_MODE if stat.S_ISREG(status.st_mode) else stat.S_IMODE(status.st_mode)


def _set_modes(paths: Iterable[Path]) -> str:
    for path in paths:
        path.chmod(_right_mode(path.lstat()))
    return "modes set right"
