"""Paths as the system has them: found once, without a link in them, and opened later as just these.

What was judged is what is opened: every directory on the way is entered by itself and through no link, so a
link that was put there since is an error. Everything here blocks, so it runs in a thread. Nothing here knows
what is in a file.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO

from crabd.tools.base import BadArguments
from crabd.tools.files.text import is_text

# The system's own limit, with the zero at the end.
MAX_PATH = 4095
# Names that are looked through for one that was meant, in a directory that may have a million.
MAX_NAMES = 10_000
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking, lest a pipe that was put there hold the thread.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_ADVICE = {
    errno.EACCES: "its permissions forbid that; ask the person, or take another file",
    errno.EPERM: "the system forbids that; ask the person, or take another file",
    errno.EROFS: "its disk is read-only; take another place",
    errno.ENOSPC: "its disk is full; free some space, then try again",
    errno.EDQUOT: "its disk's quota is used up; free some space, then try again",
    errno.ENAMETOOLONG: "the name is too long; take a shorter one",
    errno.ENOTDIR: "something on the way to it is no directory; look with ls",
}


class Refusal(Exception):
    """A call that cannot be done as it is; the text tells the model why, and what to do."""


def resolve(text: str, cwd: str | None) -> str:
    """Find the real absolute path of what a model wrote, be there a file or not.

    ``~`` is the person's home, and a relative path starts in ``cwd``. Where a disk takes names in other
    letters for the same, the path has the name that is there.

    Raises:
      BadArguments: it is no path, or it leads to where the file tools do not go.
    """
    if not text or "\0" in text or not is_text(text):
        raise BadArguments(f"{show(text)} is no path: write one such as src/main.py")
    if len(os.fsencode(text)) > MAX_PATH:
        raise BadArguments(f"a path of {len(text)} characters is longer than the system takes")
    if text == "~" or text.startswith("~/"):
        text = str(Path.home()) + text[1:]
    if not text.startswith("/") and cwd is None:
        raise BadArguments(
            f"this session has no directory, so {show(text)} is nowhere: write an absolute path"
        )
    try:
        path = _in_true_letters(os.path.realpath(Path(cwd or "/", text)))
    except OSError as exc:
        raise BadArguments(f"{show(text)} was changed while it was looked up: try again") from exc
    if not is_text(path):
        raise BadArguments(f"{show(path)} is not named in UTF-8: rename it first")
    if path == "/proc" or path.startswith("/proc/"):
        raise BadArguments(f"{path} is about processes, not a file: look at it with bash")
    return path


def show(path: str) -> str:
    """Write a path so that it is one line of plain text; one with odd letters is quoted."""
    return path if path.isprintable() else ascii(path)


def brief(path: str, cwd: str | None) -> str:
    """Write a path as short as it can be said in a directory."""
    if cwd is not None and path != cwd and is_within(path, cwd):
        path = path[len(cwd.rstrip("/")) + 1 :]
    return show(path)


def is_within(path: str, directory: str) -> bool:
    """Say whether a real path is a real directory's or below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


@contextmanager
def parent_of(path: str, *, make: bool = False) -> Generator[tuple[int, str]]:
    """Give the directory that a real path is in, as a descriptor, and the name in it.

    With ``make`` directories that are missing are made.

    Raises:
      OSError, Refusal.
    """
    above, _, name = path.rpartition("/")
    if not name:
        raise Refusal(f"{show(path)} is a directory: name a file in it")
    descriptor = _enter(above or "/", make)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)


@contextmanager
def open_directory(path: str) -> Generator[int]:
    """Give the directory of a real path, open for listing.

    Raises:
      OSError, Refusal.
    """
    inner = _enter(path, make=False)
    try:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=inner)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc
    finally:
        os.close(inner)
    try:
        _keep_out_of_proc(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_file(path: str) -> Generator[BinaryIO]:
    """Give the regular file of a real path, open for reading; never waits for the other end of a pipe.

    Raises:
      OSError, Refusal.
    """
    with parent_of(path) as (above, name):
        descriptor = open_in(above, name, path)
    with os.fdopen(descriptor, "rb") as file:
        yield file


def open_in(above: int, name: str, path: str) -> int:
    """Open a regular file for reading by its name in a directory; the caller closes it.

    Raises:
      OSError, Refusal.
    """
    # It is looked at first, for there are devices that do something when they are opened.
    _require_file(stat_in(above, name, path), path)
    try:
        descriptor = os.open(name, _FILE, dir_fd=above)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise _swapped(path) from exc
        raise OSError(exc.errno, exc.strerror, path) from exc
    try:
        _require_file(os.fstat(descriptor), path)
        _keep_out_of_proc(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def stat_in(above: int, name: str, path: str) -> os.stat_result:
    """Look at what has a name in a directory, be it a link.

    Raises:
      OSError: there is nothing, or it cannot be seen.
    """
    try:
        return os.stat(name, dir_fd=above, follow_symlinks=False)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc


def explain(problem: OSError) -> str:
    """Say an error of the system so that a model knows what to do."""
    path = str(problem.filename or "the file")
    if problem.errno == errno.ENOENT:
        return _say_missing(path)
    reason = problem.strerror or str(problem)
    return f"{show(path)}: {reason}: {_ADVICE.get(problem.errno or 0, 'look at it with ls, then try again')}"


def _enter(path: str, make: bool) -> int:
    """Go down from the root, a name at a time."""
    here = os.open("/", _DIRECTORY)
    done = ""
    for name in path.split("/"):
        if name:
            done = f"{done}/{name}"
            try:
                inner = _enter_one(here, name, done, make)
            finally:
                os.close(here)
            here = inner
    return here


def _enter_one(above: int, name: str, path: str, make: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path) from None
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            raise _swapped(path) from None
        raise NotADirectoryError(errno.ENOTDIR, "it is no directory", path) from None
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc
    try:
        os.mkdir(name, dir_fd=above)
    except FileExistsError:
        pass
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc
    return _enter_one(above, name, path, make=False)


def _swapped(path: str) -> Refusal:
    return Refusal(
        f"{show(path)} is a link now, which it was not when the call was judged, so it was not followed: "
        "look with ls, then call again"
    )


def _require_file(status: os.stat_result, path: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _swapped(path)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        advice = "look with ls" if stat.S_ISDIR(status.st_mode) else "only files are read and written"
        raise Refusal(f"{show(path)} is {kind}: {advice}")


def _keep_out_of_proc(descriptor: int, path: str) -> None:
    """Refuse what is of the processes, and so of the daemon itself, wherever it is mounted."""
    if os.fstat(descriptor).st_dev == Path("/proc").stat().st_dev:
        raise Refusal(f"{show(path)} is about processes, not a file: look at it with bash")


def _in_true_letters(path: str) -> str:
    """Write every name on the way as its directory has it, where a disk takes other letters for the same."""
    true = ""
    for name in path.split("/")[1:]:
        if (other := name.swapcase()) != name and _is_same(f"{true}/{name}", f"{true}/{other}"):
            name = _listed_name(true or "/", name)
        true = f"{true}/{name}"
    return true or "/"


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.lstat(other))
    except OSError:
        return False


def _listed_name(directory: str, name: str) -> str:
    """Find the name under which a directory lists what it also knows by another; both may be listed."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries]
    return name if name in names else next((each for each in names if _fold(each) == _fold(name)), name)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKD", name).casefold()


def _say_missing(path: str) -> str:
    """Name what was meant: the same in other letters, or something like it."""
    above, _, name = path.rpartition("/")
    try:
        with os.scandir(above or "/") as entries:
            names = [entry.name for entry, _ in zip(entries, range(MAX_NAMES), strict=False)]
    except OSError:
        return f"there is no {show(path)}, nor the directory it would be in: look with ls or glob"
    near = [each for each in names if _fold(each) == _fold(name)] or get_close_matches(name, names, 3)
    meant = f"; did you mean {', '.join(map(show, near))}?" if near else ": look with ls or glob"
    return f"there is no {show(path)}{meant}"
