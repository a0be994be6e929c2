"""The directory that one daemon holds: its lock, the sessions in it, and the numbers they have used up.

    <root>/lock                               held with flock as long as the store is open; never removed
    <root>/numbers.json                       the largest number of each pair of slugs that was ever deleted
    <root>/sessions/<id>/journal.jsonl        the records, the only truth
    <root>/sessions/<id>/meta.json            what they add up to
    <root>/sessions/<id>/journal.torn-<n>     tails that were cut off
    <root>/sessions/.new-<id>, .deleted-<id>  sessions on their way in and out, swept by the next start
    <root>/sessions/.deleted-<id>/deletion.json  stays a day, where a request key leads to it

Every call here blocks, so it runs in a thread, one at a time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec import Struct, structs

from crabd.errors import StoreError
from crabd.messages import clean_text, utc_now
from crabd.store.base import (
    Created,
    Damage,
    Deletion,
    Partial,
    Step,
    begin_meta,
    is_session_id,
    slug,
    still_known,
)
from crabd.store.deletion import DELETED_PREFIX, read_note, sweep, write_note
from crabd.store.disk import (
    JournalFile,
    load_file,
    make_dir,
    open_lock,
    replace_file_durably,
    save_new_file,
    sync_dir,
    temp_path,
)
from crabd.store.partial import read_partial
from crabd.store.record import encode_step, is_sealed, scan, seal
from crabd.store.recovery import ADVICE, JOURNAL, Found, examine, read_whole, save_meta

NUMBERS = "numbers.json"
NEW_PREFIX = ".new-"


class Survey(Struct, frozen=True):
    """What is in the root: a finding for each session, and a note on everything else that is odd."""

    sessions: dict[str, Found]
    notes: tuple[Damage, ...]


class Opened(Struct, frozen=True):
    """A session's finding; its journal and steps, unless the finding has a problem."""

    found: Found
    file: JournalFile | None = None
    steps: tuple[Step, ...] = ()
    partial: Partial | None = None


class Numbers(Struct, frozen=True):
    """``numbers.json``."""

    deleted: dict[str, int]


_encode = msgspec.json.Encoder().encode
_decode_numbers = msgspec.json.Decoder(Numbers).decode


class StoreRoot:
    """The root of a store, ours alone between ``take`` and ``release``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sessions = path / "sessions"
        self._lock: int | None = None
        self._largest: dict[str, int] = {}
        self._deleted: dict[str, int] = {}
        # Those that a request key leads to, the oldest first.
        self.deletions: tuple[Deletion, ...] = ()

    @property
    def is_held(self) -> bool:
        return self._lock is not None

    def home(self, session: str) -> Path:
        """Name a session's directory; the id is one that ``is_session_id`` has passed."""
        return self._sessions / session

    def take(self) -> Survey:
        """Make the directories, lock them, and look at all that is there.

        Raises:
          StoreError: ``locked``, naming the holder.
          OSError: the disk fails.
        """
        for path in (self._path, self._sessions):
            path.mkdir(0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
        lock = _take_lock(self._path / "lock")
        try:
            # A name that an earlier life made is not to be relied on before it is synced.
            for path in (self._sessions, self._path, self._path.parent):
                sync_dir(path)
            survey = self._survey()
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        return survey

    def release(self) -> None:
        """Let another process take the root. A second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def create(self, blank: Created) -> tuple[Step, JournalFile]:
        """Make a session of that first record, under an id that was never used; it is durable on return.

        Raises:
          OSError: there is no new session.
        """
        pair = f"{slug(blank.agent)}_{slug(blank.sender)}"
        number = self._largest.get(pair, 0) + 1
        while os.path.lexists(self.home(f"{pair}_{number}")):
            number += 1
        session = f"{pair}_{number}"
        first = Step(1, utc_now(), structs.replace(blank, session=session))
        file = self._build(session, encode_step(first))
        self._largest[pair] = number
        with suppress(OSError):
            save_meta(self.home(session), begin_meta(first), file.size, file.checksum)
        return first, file

    def load(self, session: str) -> Opened:
        """Open a session's journal and read all of it.

        Raises:
          OSError: the disk fails.
        """
        found = examine(self.home(session))
        if found.problem:
            return Opened(found)
        path = self.home(session) / JOURNAL
        data = load_file(path)
        checksum = crc32(data)
        try:
            steps, meta = read_whole(data, checksum, found, session)
        except ValueError as exc:
            return Opened(structs.replace(found, problem=f"{path}: {exc}: {ADVICE}"))
        file = JournalFile(path, checksum)
        partial = read_partial(self.home(session)) if meta.open_run is not None else None
        return Opened(structs.replace(found, meta=meta), file, steps, partial)

    def read(self, session: str, size: int | None, after: int) -> tuple[Step, ...]:
        """Read the steps above ``after`` from the first ``size`` bytes of a journal, or from all of it.

        Raises:
          OSError: the disk fails.
          StoreError: ``damaged``.
        """
        path = self.home(session) / JOURNAL
        result = scan(load_file(path)[:size])
        if result.problem:
            raise StoreError("damaged", f"{path}: {result.problem}: {ADVICE}", session=session)
        return tuple(step for step in result.steps if step.n > after)

    def remove(self, session: str, deletion: Deletion | None) -> None:
        """Delete a session; it is gone for good on return. May be tried again after it has failed.

        The note of its ``deletion`` goes along with it, so that one is never there without the other.

        Raises:
          OSError: some of it may be gone.
        """
        pair, number = _split(session)
        if number == self._largest[pair]:
            # The directories no longer tell that this number was used.
            self._deleted[pair] = number
            document = seal(_encode(Numbers(self._deleted)))
            replace_file_durably(self._path / NUMBERS, document + b"\n")
        home, dying = self.home(session), self._dying(session)
        if deletion is not None:
            # An earlier try may have moved it already.
            write_note(home if home.exists() else dying, deletion)
        with suppress(FileNotFoundError):
            home.rename(dying)
        sync_dir(self._sessions)
        if deletion is not None:
            self._note(deletion)
        sweep(dying, keeps_note=deletion is not None)

    def _dying(self, session: str) -> Path:
        return self._sessions / (DELETED_PREFIX + session)

    def _note(self, deletion: Deletion) -> None:
        """Know one more deletion, and forget those that are too old or too many."""
        noted = (*(old for old in self.deletions if old.session != deletion.session), deletion)
        self.deletions = still_known(noted, deletion.at)
        known = {each.session for each in self.deletions}
        for old in noted:
            if old.session not in known:
                # If it cannot go now, a later start sweeps it.
                with suppress(OSError):
                    sweep(self._dying(old.session))

    def _build(self, session: str, journal: bytes) -> JournalFile:
        """Make a session aside, where the next start sweeps it, and move it in place when it is durable."""
        making = self._sessions / (NEW_PREFIX + session)
        home = self.home(session)
        shutil.rmtree(making, ignore_errors=True)
        try:
            make_dir(making)
            save_new_file(making / JOURNAL, journal)
            sync_dir(making)
            making.rename(home)
            sync_dir(self._sessions)
            return JournalFile(home / JOURNAL, crc32(journal))
        except BaseException:
            with suppress(OSError):
                home.rename(making)
            shutil.rmtree(making, ignore_errors=True)
            raise

    def _survey(self) -> Survey:
        notes: list[Damage] = []
        sessions: dict[str, Found] = {}
        deletions: list[Deletion] = []
        temp_path(self._path / NUMBERS).unlink(missing_ok=True)
        self._deleted = self._load_numbers(notes)
        self._largest = dict(self._deleted)
        with os.scandir(self._sessions) as entries:
            for entry in entries:
                if is_session_id(entry.name):
                    # Whatever it is, its number is taken.
                    pair, number = _split(entry.name)
                    self._largest[pair] = max(number, self._largest.get(pair, 0))
                match _look_at(entry):
                    case str(odd):
                        notes.append(Damage(clean_text(entry.name), f"{clean_text(entry.path)} {odd}"))
                    case Deletion() as deletion:
                        deletions.append(deletion)
                    case None if is_session_id(entry.name):
                        sessions[entry.name] = _examine(Path(entry.path))
                    case None:
                        pass
        self.deletions = still_known(sorted(deletions, key=lambda deletion: deletion.at), utc_now())
        return Survey(sessions, tuple(notes))

    def _load_numbers(self, notes: list[Damage]) -> dict[str, int]:
        path = self._path / NUMBERS
        try:
            document = load_file(path).removesuffix(b"\n")
        except FileNotFoundError:
            return {}
        with suppress(msgspec.DecodeError):
            if is_sealed(document):
                return _decode_numbers(document).deleted
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        notes.append(
            Damage(NUMBERS, f"{path} is damaged and now {aside}: ids of deleted sessions may come again")
        )
        return {}


def _take_lock(path: Path) -> int:
    fd = open_lock(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        problem = f"another crabd (process {holder}) holds {path.parent}: use that one, or stop it first"
        raise StoreError("locked", problem) from None
    # The name is a courtesy to whom we refuse; a full disk must not keep us from starting.
    with suppress(OSError):
        os.ftruncate(fd, os.pwrite(fd, b"%d\n" % os.getpid(), 0))
    return fd


def _look_at(entry: os.DirEntry[str]) -> str | Deletion | None:
    """Say what is odd about a name in the sessions directory, after sweeping what a crash has left.

    Of a deleted session the note may have to be kept a while; it is returned.
    """
    if entry.is_symlink():
        return "is a symbolic link, which crabd does not follow: put the directory itself there"
    if entry.name.startswith((NEW_PREFIX, DELETED_PREFIX)):
        try:
            deletion = read_note(Path(entry.path))
            sweep(Path(entry.path), keeps_note=deletion is not None)
        except OSError as exc:
            return f"is a left-over that cannot be removed ({exc.strerror}): remove it"
        return deletion
    if not is_session_id(entry.name) or not entry.is_dir():
        return "is no session and was left alone: move it elsewhere"
    return None


def _examine(home: Path) -> Found:
    try:
        return examine(home)
    except OSError as exc:
        return Found(None, f"{exc.filename or home} cannot be read: {exc.strerror}")


def _split(session: str) -> tuple[str, int]:
    pair, _, number = session.rpartition("_")
    return pair, int(number)
