"""What a process asked of the system, as strace tells it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

# All calls with which a store could make, change, move or sync a file, whether or not it does.
CALLS = (
    "openat,write,pwrite64,ftruncate,truncate,fallocate,lseek,fsync,fdatasync,sync_file_range,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir"
)
# Every thread; files by their paths; all bytes, spelled so that a line is a call.
OPTIONS = ("-f", "-qq", "-y", "-xx", "-s", "99999999", "-e", f"trace={CALLS}", "-e", "signal=none")


class Call(Struct, frozen=True):
    """A system call. ``result`` is null when it begins, and negative when it has failed."""

    thread: str
    name: str
    args: tuple[str, ...]
    result: int | None = None


def read_calls(trace: str) -> Iterator[Call]:
    """Read a trace made with ``OPTIONS``. Each call comes twice: when it begins, and when it has ended.

    One that a kill has cut off has no end.
    """
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        thread, text = line.split(maxsplit=1)
        if text.startswith("+++"):
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            text = begun.pop(thread) + resumed[1]
        else:
            text = text.removesuffix("<unfinished ...>")
            begun[thread] = text
            yield _read_call(thread, text)
        asked, _, told = text.rpartition(" = ")
        if re.match(r"-?\d", told):
            call = _read_call(thread, asked)
            result = int(re.match(r"-?\d+", told)[0])  # type: ignore[index]  # it has just matched
            yield Call(thread, call.name, call.args, result)


def _read_call(thread: str, text: str) -> Call:
    name, _, args = text.partition("(")
    found = re.findall(r'"((?:\\x..)*)"|([^\s,()"]+)', args.partition(" = ")[0])
    return Call(thread, name, tuple(_unescape(quoted or plain) for quoted, plain in found))


def _unescape(text: str) -> str:
    # Each byte becomes one character, as latin-1 has it.
    return re.sub(r"\\x(..)", lambda found: chr(int(found[1], 16)), text)
