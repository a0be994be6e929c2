"""Where the daemon listens, and when that place is safe: one rule for the daemon and for every client."""

from __future__ import annotations

import os
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISVTX


class UnsafeDirectory(Exception):
    """Somebody else could put a socket in the place of ours: ``path`` lets them, and ``problem`` says how."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.path = path
        self.problem = problem


def socket_path() -> str:
    """Find the socket: ``$CRABD_SOCKET``, else the user's runtime directory."""
    return os.environ.get("CRABD_SOCKET") or default_socket_path()


def default_socket_path() -> str:
    """Find where the socket is when nobody says otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        # Costs a client more than all its other imports, so only where no session manager set a directory.
        import warnings

        import platformdirs

        with warnings.catch_warnings():
            # It warns that it falls back to a temporary directory, which is what is asked of it.
            warnings.simplefilter("ignore")
            runtime = platformdirs.user_runtime_dir()
    return f"{runtime}/crabd/crabd.sock"


def prepare_directory(directory: str) -> None:
    """Make the socket's directory, unless it is there: 0700, ours, and where nobody can replace it.

    Raises:
      UnsafeDirectory: it is a link, somebody else's or open to others, or others may write to its parent.
      OSError: it cannot be made.
    """
    parent = os.path.dirname(directory)  # noqa: PTH120  # pathlib costs a client a tenth of its start-up
    os.makedirs(os.path.dirname(parent), exist_ok=True)  # noqa: PTH103, PTH120  # likewise
    for each in (parent, directory):
        try:
            os.mkdir(each, 0o700)  # noqa: PTH102  # likewise
        except FileExistsError:
            continue
    check_directory(directory)


def check_directory(directory: str) -> None:
    """Make sure that the socket's directory, and the one above it, are ours alone to change.

    Raises:
      UnsafeDirectory: as ``prepare_directory``.
      FileNotFoundError: one of them is not there.
    """
    parent = os.path.dirname(directory)  # noqa: PTH120  # as above
    problem = _problem_of_parent(os.stat(parent))  # noqa: PTH116  # likewise
    if problem:
        raise UnsafeDirectory(parent, problem)
    problem = _problem_of(os.lstat(directory))
    if problem:
        raise UnsafeDirectory(directory, problem)


def _problem_of_parent(found: os.stat_result) -> str:
    # In a sticky directory, as /tmp is, only the owner of an entry may replace it.
    is_shared = found.st_mode & 0o022 and not found.st_mode & S_ISVTX
    return "can be changed by others" if is_shared or found.st_uid not in (0, os.getuid()) else ""


def _problem_of(found: os.stat_result) -> str:
    if S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not S_ISDIR(found.st_mode):
        return "is not a directory"
    if found.st_uid != os.getuid():
        return f"belongs to another user (uid {found.st_uid})"
    if S_IMODE(found.st_mode) & 0o077:
        return f"is open to others (mode {S_IMODE(found.st_mode):04o})"
    return ""
