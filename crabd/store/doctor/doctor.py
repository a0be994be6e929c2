"""The doctor of a store on disk: looks at everything under its root, and mends what can be mended safely.

    <root>/lock, numbers.json, catalogue.json   its own files
    <root>/sessions/                            a directory for each session; ``treatment`` looks into them
    <root>/quarantine/                          what earlier repairs have put there

Without ``repairs`` nothing is changed. With it nothing is deleted, save what a deletion that was cut short
has left; each mend is durable, can be interrupted and done again, and what it replaces is in quarantine.
The caller sees to it that nobody else writes meanwhile. Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from crabd.messages import clean_text
from crabd.store.deletion import DELETED_PREFIX, NOTE, read_note, sweep
from crabd.store.disk import TEMP_PREFIX, load_file, replace_file_durably
from crabd.store.doctor.flaws import REPAIR, Chart, Flaw, Grade, Mend
from crabd.store.doctor.modes import check_modes
from crabd.store.doctor.quarantine import Quarantine
from crabd.store.doctor.treatment import Close, Hands, Held
from crabd.store.journal.check import JournalTreatment
from crabd.store.journal.recovery import JOURNAL
from crabd.store.journal.store import JournalLayout
from crabd.store.names import is_session_id
from crabd.store.root import NEW_PREFIX, NUMBERS, Numbers
from crabd.store.seal import is_sealed, seal
from crabd.store.stepfiles.check import StepTreatment
from crabd.store.stepfiles.meta import META
from crabd.store.stepfiles.scan import list_numbers
from crabd.store.stepfiles.store import StepLayout

CONFIG_KEY = "the setting store in config.toml"
TO_QUARANTINE = f"{REPAIR} moves it into quarantine"
# What stands before the number in a session's id.
_PAIR = re.compile(r"[a-z0-9-]+_[a-z0-9-]+")


class _AnyNumbers(Struct, frozen=True):
    """``numbers.json``, whatever it says."""

    deleted: dict[str, object]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_AnyNumbers).decode


class Doctor:
    """Goes through the store at ``root``; ``close`` makes the records that close a log.

    ``store`` is what the configuration has sessions kept as, null if that is not known.
    """

    def __init__(self, root: Path, close: Close, *, repairs: bool, store: str | None = None) -> None:
        self.chart = Chart(repairs=repairs)
        self._root = root
        self._sessions = root / "sessions"
        self.quarantine = Quarantine(root)
        self._close = close
        self._store = store

    def __repr__(self) -> str:
        return f"<Doctor of {self._root}, {self.chart!r}>"

    def sessions(self) -> list[str]:
        """List the sessions there are, whatever state they are in."""
        try:
            names = (path.name for path in self._sessions.iterdir() if _is_directory(path))
            return sorted(filter(is_session_id, names))
        except OSError:
            # ``check_root`` has told, unless it is a store that has not begun.
            return []

    def check_session(self, session: str, held: Held | None = None) -> bool:
        """Look at one session, and tell whether something was mended; it may be gone by now.

        ``held`` is what its log has, if that is open; then nothing is mended.
        """
        home = self._sessions / session
        before = len(self.chart.flaws)
        if home.exists():
            try:
                self._treat(home, held)
            except OSError as exc:
                self._add_unreadable(home, exc)
        return any(flaw.mended for flaw in self.chart.flaws[before:])

    def _treat(self, home: Path, held: Held | None) -> None:
        """Look into a session's directory, in the layout it has."""
        is_stepped = not (home / JOURNAL).exists() and bool((home / META).exists() or list_numbers(home))
        layout = StepLayout() if is_stepped else JournalLayout()
        if self._store not in (None, layout.name):
            # Once for all: mostly they all are.
            self._store = None
            problem = f"sessions in it are kept as {layout.name}, and {CONFIG_KEY} says otherwise"
            advice = f"set store = {layout.name!r} again; to change over, export all sessions before"
            self._add("other_store", self._root, problem, advice, None, is_problem=True)
        hands = Hands(layout, self.quarantine, self._close, self._retire)
        treatment = StepTreatment if is_stepped else JournalTreatment
        treatment(home, self.chart, hands, held).run()

    def check_root(self) -> None:
        """Look at all that is in no session."""
        try:
            self._check_root()
        except OSError as exc:
            self._add_unreadable(self._root, exc)

    def _check_root(self) -> None:
        if self._root.exists():
            # What is just being written is not there for long.
            own = [path for path in self._root.iterdir() if not path.name.startswith(TEMP_PREFIX)]
            check_modes(self.chart, str(self._root), [self._root.resolve(), *sorted(own)])
            self._check_numbers()
        if self._sessions.is_dir():
            for path in sorted(self._sessions.iterdir()):
                self._check_name(path)

    def _check_numbers(self) -> None:
        path = self._root / NUMBERS
        _, is_sound = self._read_numbers()
        if not is_sound:
            problem = "it is damaged: ids of deleted sessions may come again"
            advice = f"{REPAIR} keeps what can be read of it"
            self._add("numbers", path, problem, advice, self._renew_numbers, is_problem=True)
        if (aside := path.with_suffix(".damaged")).exists():
            problem = "an earlier start has found it damaged and set it aside"
            self._add("set_aside", aside, problem, TO_QUARANTINE, partial(self._put_away, aside))

    def _check_name(self, path: Path) -> None:
        """Look at a name in the sessions directory."""
        away = partial(self._put_away, path)
        if path.is_symlink():
            problem = "it is a symbolic link, which crabd does not follow"
            advice = f"put the directory itself there; {TO_QUARANTINE}"
            self._add("link", path, problem, advice, away, is_problem=True)
        elif path.name.startswith(DELETED_PREFIX):
            self._check_deleted(path)
        elif path.name.startswith(NEW_PREFIX):
            problem = "it is left of a session that a crash kept from being made"
            self._add("leftover", path, problem, "the next start of the daemon removes it", away)
        elif not is_session_id(path.name) or not path.is_dir():
            self._add("foreign", path, "it is no session", f"move it elsewhere; {TO_QUARANTINE}", away)

    def _check_deleted(self, path: Path) -> None:
        note = path / NOTE
        is_known = read_note(path) is not None
        if not is_known and note.exists() and not is_sealed(load_file(note).removesuffix(b"\n")):
            problem = "the note of a deletion is damaged: a request to delete that is repeated finds nothing"
            self._add("deletion_note", note, problem, TO_QUARANTINE, partial(self._put_away, note))
        if not is_known or len(list(path.iterdir())) > 1:
            problem = "it is left of a session that was deleted"
            advice = f"the next start of the daemon removes it, and so does {REPAIR}"
            self._add("leftover", path, problem, advice, partial(_finish_deletion, path, is_known))

    def _add_unreadable(self, path: Path, exc: OSError) -> None:
        problem = f"{exc.filename or path} cannot be read: {exc.strerror}"
        advice = "check its permissions, and the disk"
        self._add("unreadable", path, problem, advice, None, is_problem=True)

    def _add(
        self,
        kind: str,
        path: Path,
        problem: str,
        advice: str,
        mend: Mend | None,
        *,
        is_problem: bool = False,
    ) -> None:
        grade: Grade = "problem" if is_problem else "notice"
        where = clean_text(str(path))
        self.chart.add(Flaw(kind=kind, grade=grade, where=where, problem=problem, advice=advice), mend)

    def _put_away(self, path: Path) -> str:
        if is_session_id(path.name):
            return self._retire(path)
        return f"moved to {self.quarantine.move(path)}"

    def _retire(self, home: Path) -> str:
        """Move what has a session's name out of the store; no other session gets that name."""
        numbers, _ = self._read_numbers()
        pair, _, number = home.name.rpartition("_")
        self._write_numbers(numbers | {pair: max(int(number), numbers.get(pair, 0))})
        return f"moved to {self.quarantine.move(home)}"

    def _renew_numbers(self) -> str:
        numbers, _ = self._read_numbers()
        copy = self.quarantine.copy(self._root / NUMBERS)
        self._write_numbers(numbers)
        return f"{len(numbers)} of its numbers kept; as it was: {copy}"

    def _read_numbers(self) -> tuple[dict[str, int], bool]:
        """Read what numbers there are, and tell whether that is all and as it was written."""
        try:
            document = load_file(self._root / NUMBERS).removesuffix(b"\n")
            said = _decode(document).deleted
        except FileNotFoundError:
            return {}, True
        except msgspec.DecodeError:
            return {}, False
        numbers = {
            pair: number
            for pair, number in said.items()
            if _PAIR.fullmatch(pair) and isinstance(number, int) and number > 0
        }
        return numbers, is_sealed(document) and len(numbers) == len(said)

    def _write_numbers(self, numbers: dict[str, int]) -> None:
        replace_file_durably(self._root / NUMBERS, seal(_encode(Numbers(numbers))) + b"\n")


def _finish_deletion(path: Path, is_known: bool) -> str:
    sweep(path, keeps_note=is_known)
    return "removed, as was asked when the session was deleted"


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
