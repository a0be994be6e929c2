"""Changes of files, all or none: looked up, kept, made beside the old ones and put in their place.

A file is replaced by its name, so that nobody ever reads half of it, and another name of the same file (a
hard link) keeps what it had. What calls this decides what changes; nothing here knows of tools.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from secrets import token_hex
from threading import Lock

from msgspec import Struct

from crabd.tools.files.paths import Refusal, open_in, parent_of, show, stat_in

# A text that a model edits is far smaller; more than this is not held in memory.
MAX_BYTES = 4 * 1024 * 1024
# Files that a session can have read and still edit; the one that was not looked at for longest goes first.
MAX_KNOWN = 10_000
# What starts a file that is being made, so that it can be told apart if the machine goes down just then.
TEMP_PREFIX = ".crabd-"
# Between a look at what is there and its replacement no other session of ours comes, be it for an instant.
_committing = Lock()


class Glimpse(Struct, frozen=True):
    """Two texts of one file at one time, by digests that leave out their ends: null for no file."""

    on_disk: str | None
    in_editor: str


class Known:
    """What one session has seen of files: the digest of each as it was read or written last.

    Of those that an editor shows there is also the last ``glimpse``.
    """

    def __init__(self) -> None:
        self._digests: OrderedDict[str, str] = OrderedDict()
        self._glimpses: OrderedDict[str, Glimpse] = OrderedDict()

    def __contains__(self, path: str) -> bool:
        return path in self._digests

    def note(self, path: str, digest: str | None) -> None:
        """Remember a file as it is; null means that there is none, or that it is too large to be edited."""
        self._digests.pop(path, None)
        if digest is not None:
            self._digests[path] = digest
            if len(self._digests) > MAX_KNOWN:
                self._digests.popitem(last=False)

    def glimpse(self, path: str) -> Glimpse | None:
        """Tell how a file was on the disk and in the editor when both were looked at last."""
        return self._glimpses.get(path)

    def note_glimpse(self, path: str, glimpse: Glimpse) -> None:
        """Remember how a file is on the disk and in the editor."""
        self._glimpses.pop(path, None)
        self._glimpses[path] = glimpse
        if len(self._glimpses) > MAX_KNOWN:
            self._glimpses.popitem(last=False)

    def require_any(self, path: str) -> None:
        """Make sure that the session has seen a file.

        Raises:
          Refusal: it has not.
        """
        if path not in self:
            raise Refusal(f"{show(path)} was not read in this session: read it first")

    def require(self, path: str, content: bytes) -> None:
        """Make sure that a file is what the session has seen last.

        Raises:
          Refusal: it was never read, or was changed since.
        """
        self.require_any(path)
        if self._digests[path] != digest_of(content):
            raise Refusal(f"{show(path)} was changed by someone else since it was read: read it again")


class Change(Struct, frozen=True):
    """One file's old and new content, null for none, and its new mode, null for what it was or the usual."""

    path: str
    before: bytes | None
    after: bytes | None
    mode: int | None = None


def digest_of(content: bytes) -> str:
    """Sum a content up."""
    return sha256(content).hexdigest()


def load(path: str) -> tuple[bytes, int] | None:
    """Read a file of a real path that may be edited, and its mode; null if there is none.

    Raises:
      OSError.
      Refusal: it is no file, or too large.
    """
    try:
        with parent_of(path) as (above, name):
            return _load_in(above, name, path)
    except FileNotFoundError:
        return None


def apply(changes: Sequence[Change]) -> None:
    """Make all changes, or none if one of them cannot be made. Blocks; what has begun is finished.

    Raises:
      OSError.
      Refusal: a file is not what it was, or a link was put in its way.
    """
    with ExitStack() as stack:
        staged: list[_Staged] = []
        for change in changes:
            above, name = stack.enter_context(parent_of(change.path, make=change.after is not None))
            staged.append(_Staged(change, above, name))
            stack.callback(staged[-1].clear)
            with _naming(change.path):
                staged[-1].prepare()
        with _committing:
            _commit(staged)


def _commit(staged: Sequence[_Staged]) -> None:
    done: list[_Staged] = []
    try:
        for each in staged:
            with _naming(each.path):
                each.commit()
            done.append(each)
    except BaseException:
        for each in reversed(done):
            each.undo()
        raise


class _Staged:
    """A change whose new file lies ready beside the old one."""

    def __init__(self, change: Change, above: int, name: str) -> None:
        self._change = change
        self._above = above
        self._name = name
        self._temp = f"{TEMP_PREFIX}{token_hex(8)}"

    @property
    def path(self) -> str:
        return self._change.path

    def prepare(self) -> None:
        """Write the new file beside the old one."""
        if self._change.after is not None:
            self._make(self._change.after, self._change.mode)

    def commit(self) -> None:
        """Put the new file in the place of what is known to be there."""
        change = self._change
        found = self._load()
        if (found and found[0]) != change.before:
            raise Refusal(f"{show(change.path)} was changed by someone else just now: read it again")
        if change.after is None:
            os.unlink(self._name, dir_fd=self._above)
        elif change.before is None:
            self._put_new()
        else:
            self._put()

    def undo(self) -> None:
        """Put back what was there; a disk that fails now has failed for the caller already."""
        with suppress(OSError):
            if self._change.before is None:
                os.unlink(self._name, dir_fd=self._above)
            else:
                self._make(self._change.before, self._change.mode)
                self._put()

    def clear(self) -> None:
        """Remove what was made and is not in its place."""
        with suppress(FileNotFoundError):
            os.unlink(self._temp, dir_fd=self._above)

    def _load(self) -> tuple[bytes, int] | None:
        try:
            return _load_in(self._above, self._name, self._change.path)
        except FileNotFoundError:
            return None

    def _status(self) -> os.stat_result | None:
        with suppress(FileNotFoundError):
            return stat_in(self._above, self._name, self._change.path)
        return None

    def _make(self, content: bytes, mode: int | None) -> None:
        """Write a file beside, with the mode and owner of the one that it is to replace."""
        old = self._status()
        if mode is None and old is not None:
            mode = _mode_of(old)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._temp, flags, 0o666 if mode is None else 0o600, dir_fd=self._above)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if old is not None:
                # Only root may give files away; for others they are their own already.
                with suppress(PermissionError):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
            if mode is not None:
                os.fchmod(descriptor, mode)

    def _put(self) -> None:
        os.replace(self._temp, self._name, src_dir_fd=self._above, dst_dir_fd=self._above)

    def _put_new(self) -> None:
        """Take a name that is free, which only a link can do without taking one that is not."""
        try:
            os.link(self._temp, self._name, src_dir_fd=self._above, dst_dir_fd=self._above)
        except FileExistsError:
            raise Refusal(f"{show(self._change.path)} was made by someone else just now: read it") from None
        except OSError:
            # A disk that has no links, such as a stick's.
            self._put()


def _load_in(above: int, name: str, path: str) -> tuple[bytes, int]:
    with os.fdopen(open_in(above, name, path), "rb") as file:
        status = os.fstat(file.fileno())
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise Refusal(f"{show(path)} has {status.st_size:,} bytes, too many to edit: change it with bash")
    return content, _mode_of(status)


def _mode_of(status: os.stat_result) -> int:
    """Take a file's mode without what lets it run as somebody else; the system does so too at a change."""
    return stat.S_IMODE(status.st_mode) & 0o1777


@contextmanager
def _naming(path: str) -> Generator[None]:
    """Have an error name the file that a model knows, not the one that is being made for it."""
    try:
        yield
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc
