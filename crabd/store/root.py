"""The directory that one daemon holds: its lock, the sessions in it, and the numbers they have used up.

How a session is kept in its own directory is its layout's business.

    <root>/lock                               held with flock as long as the store is open; never removed
    <root>/numbers.json                       the largest number of each pair of slugs that was ever deleted
    <root>/sessions/<id>/                     a session
    <root>/sessions/.new-<id>, .deleted-<id>  sessions on their way in and out, swept by the next start
    <root>/sessions/.deleted-<id>/deletion.json  stays a day, where a request key leads to it

Every call here blocks, so it runs in a thread, one at a time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from crabd.errors import StoreError
from crabd.messages import clean_text, utc_now
from crabd.store.base import Damage
from crabd.store.deletion import DELETED_PREFIX, read_note, sweep, write_note
from crabd.store.disk import (
    disk_usage,
    load_file,
    make_dir,
    open_lock,
    replace_file_durably,
    require_room,
    sync_dir,
    temp_path,
)
from crabd.store.layout import Found, Layout, Opened, SessionFiles, guess_meta
from crabd.store.meta import Deletion, SessionMeta, add_up, begin_meta, still_known
from crabd.store.names import choose_number, is_session_id, slug
from crabd.store.record import Created, Step, check_log, rename_log
from crabd.store.seal import is_sealed, newer, seal

NUMBERS = "numbers.json"
NUMBERS_VERSION = 1
NEW_PREFIX = ".new-"


class Survey(Struct, frozen=True):
    """What is in the root: a finding for each session, and a note on everything else that is odd."""

    sessions: dict[str, Found]
    notes: tuple[Damage, ...]


class Numbers(Struct, frozen=True):
    """``numbers.json``."""

    deleted: dict[str, int]
    v: int = NUMBERS_VERSION


class _Version(Struct, frozen=True):
    """What every ``numbers.json`` tells, whatever crabd wrote it."""

    v: int = NUMBERS_VERSION


_encode = msgspec.json.Encoder().encode
_decode_numbers = msgspec.json.Decoder(Numbers).decode
_decode_version = msgspec.json.Decoder(_Version).decode


class StoreRoot:
    """The root of a store, ours alone between ``take`` and ``release``."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._layout = layout
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
          StoreError: ``locked``, naming the holder; ``io`` when a session is kept in another layout.
          OSError: the disk fails.
        """
        for path in (self._path, self._sessions):
            path.mkdir(0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
        lock = take_lock(self._path / "lock")
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

    def save_catalogue(self) -> None:
        """Write down what all metas say, for the next start. Losing it costs time, not data.

        Raises:
          OSError: the old one is still there.
        """
        self._layout.save_catalogue(self._path, self._sessions)

    def release(self) -> None:
        """Let another process take the root. A second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def create(self, blank: Created) -> tuple[Step, SessionFiles]:
        """Make a session of that first record, under an id that was never used; it is durable on return.

        Raises:
          OSError: there is no new session.
        """
        session = self._choose_id(blank)
        first = Step(1, utc_now(), structs.replace(blank, session=session))
        files = self._build(session, (first,))
        self._note_number(session)
        with suppress(OSError):
            files.save_meta(begin_meta(first))
        return first, files

    def restore(self, steps: Sequence[Step]) -> SessionMeta:
        """Make a session of a whole log, under the id it names if that may be; it is durable on return.

        Raises:
          OSError, ValueError: there is no new session.
        """
        session = self._choose_id(check_log(steps))
        steps = rename_log(steps, session)
        meta = add_up(steps)
        self._build(session, steps).close()
        self._note_number(session)
        # It has all it needs; that spares the next start from reading it.
        with suppress(OSError):
            self._layout.examine(self.home(session))
        return meta

    def _choose_id(self, blank: Created) -> str:
        pair = f"{slug(blank.agent)}_{slug(blank.sender)}"
        number = choose_number(blank.session, pair, self._largest.get(pair, 0))
        while os.path.lexists(self.home(f"{pair}_{number}")):
            number += 1
        return f"{pair}_{number}"

    def _note_number(self, session: str) -> None:
        pair, number = _split(session)
        self._largest[pair] = number

    def load(self, session: str) -> Opened:
        """Open a session's files and read what is needed of them.

        Raises:
          OSError: the disk fails.
        """
        return self._layout.load(self.home(session))

    def read(self, session: str, after: int, upto: int | None) -> tuple[Step, ...]:
        """Read the steps above ``after``, up to ``upto`` or to the end.

        Raises:
          OSError: the disk fails.
          StoreError: ``damaged``.
        """
        return self._layout.read(self.home(session), after, upto)

    def remove(self, session: str, deletion: Deletion | None) -> None:
        """Delete a session; it is gone for good on return. May be tried again after it has failed.

        The note of its ``deletion`` goes along with it, so that one is never there without the other.

        Raises:
          OSError: some of it may be gone.
        """
        self._keep_number(session)
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

    def sizes(self) -> dict[str, int]:
        """Measure what each session takes on the disk, in bytes.

        Raises:
          OSError: the disk fails.
        """
        with os.scandir(self._sessions) as entries:
            return {entry.name: disk_usage(entry.path) for entry in entries if is_session_id(entry.name)}

    def check_room(self) -> None:
        """Make sure that the disk has room for more than what is going on already.

        Raises:
          OSError: it has not, or does not answer.
        """
        require_room(self._sessions)

    def look_again(self, session: str) -> Found | None:
        """Find out what others have made of a session; null if they have moved it away.

        Raises:
          OSError: the disk fails.
        """
        if os.path.lexists(self.home(session)):
            return self._examine(self.home(session))
        self._keep_number(session)
        return None

    def _keep_number(self, session: str) -> None:
        """Remember a number that the directories no longer tell to be used."""
        pair, number = _split(session)
        if number == self._largest[pair]:
            self._deleted[pair] = number
            document = seal(_encode(Numbers(self._deleted)))
            replace_file_durably(self._path / NUMBERS, document + b"\n")

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

    def _build(self, session: str, steps: Sequence[Step]) -> SessionFiles:
        """Make a session aside, where the next start sweeps it, and move it in place when it is durable."""
        making = self._sessions / (NEW_PREFIX + session)
        home = self.home(session)
        shutil.rmtree(making, ignore_errors=True)
        try:
            make_dir(making)
            self._layout.fill(making, steps)
            sync_dir(making)
            making.rename(home)
            sync_dir(self._sessions)
            return self._layout.open(home, steps)
        except BaseException:
            # What cannot be taken back now is left aside.
            with suppress(OSError):
                self._take_back(home, making)
            raise

    def _take_back(self, home: Path, making: Path) -> None:
        """Remove a session that could not be made, out of its place first."""
        with suppress(FileNotFoundError):
            home.rename(making)
            # Before that is safe, a power cut could leave an empty session in its place.
            sync_dir(self._sessions)
        shutil.rmtree(making, ignore_errors=True)

    def _survey(self) -> Survey:
        notes: list[Damage] = []
        sessions: dict[str, Found] = {}
        deletions: list[Deletion] = []
        temp_path(self._path / NUMBERS).unlink(missing_ok=True)
        self._deleted = self._load_numbers(notes)
        self._largest = dict(self._deleted)
        self._layout.read_catalogue(self._path)
        with os.scandir(self._sessions) as entries:
            for entry in entries:
                if is_session_id(entry.name):
                    # Whatever it is, its number is taken.
                    pair, number = _split(entry.name)
                    self._largest[pair] = max(number, self._largest.get(pair, 0))
                known = self._layout.recall(entry)
                if known is not None:
                    sessions[entry.name] = known
                    continue
                match _look_at(entry):
                    case str(odd):
                        notes.append(Damage(clean_text(entry.name), f"{clean_text(entry.path)} {odd}"))
                    case Deletion() as deletion:
                        deletions.append(deletion)
                    case None if is_session_id(entry.name):
                        sessions[entry.name] = self._examine(Path(entry.path))
                    case None:
                        pass
        self.deletions = still_known(sorted(deletions, key=lambda deletion: deletion.at), utc_now())
        return Survey(sessions, tuple(notes))

    def _examine(self, home: Path) -> Found:
        try:
            return self._layout.examine(home)
        except OSError as exc:
            meta = None
            with suppress(OSError):
                meta = guess_meta(home)
            return Found(meta, f"{exc.filename or home} cannot be read: {exc.strerror}")

    def _load_numbers(self, notes: list[Damage]) -> dict[str, int]:
        path = self._path / NUMBERS
        try:
            document = load_file(path).removesuffix(b"\n")
        except FileNotFoundError:
            return {}
        with suppress(msgspec.DecodeError):
            if is_sealed(document):
                version = _decode_version(document).v
                if version != NUMBERS_VERSION:
                    raise StoreError("io", f"{path}: {newer(f'format {version}')}: start that one")
                return _decode_numbers(document).deleted
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        notes.append(
            Damage(NUMBERS, f"{path} is damaged and now {aside}: ids of deleted sessions may come again")
        )
        return {}


def take_lock(path: Path) -> int:
    """Lock a store by its file ``path``; whoever closes the descriptor gives it back.

    Raises:
      StoreError: ``locked``, naming the holder.
      OSError: the file cannot be made.
    """
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


def _split(session: str) -> tuple[str, int]:
    pair, _, number = session.rpartition("_")
    return pair, int(number)
