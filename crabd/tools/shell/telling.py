"""How the output and the end of a command are told to a model. Pure.

A model pays for each word and can ask for more, so it gets both ends of what is long, and no word about what
went as it should.
"""

from __future__ import annotations

import re
import signal

from crabd.tools.shell.terminal import is_binary, plain_text

# Bytes of an output that a model reads, half of them from its beginning: some thousand tokens.
SHOWN_BYTES = 24_000
# A shell's exit code for a command that a signal ended, less the signal's number.
BY_SIGNAL = 128
# How programs tell that they were kept from something.
_KEPT_FROM = re.compile(
    r"read-only file system|permission denied|operation not permitted|network is (?:unreachable|down)"
    r"|could not resolve|name resolution|no such device or address|resource temporarily unavailable",
    re.IGNORECASE,
)


def tell_output(head: bytes, tail: bytes, dropped: int, rest: str) -> str:
    """Show an output; ``rest`` says where to find what is missing between its ends."""
    if is_binary(head + tail):
        size = len(head) + dropped + len(tail)
        return f"(binary output of {size} bytes: look at it with a program that makes text of it)"
    if not dropped:
        return plain_text(head + tail)
    head, tail, cut = _cut_at_lines(head, tail)
    return f"{plain_text(head)}\n[… {dropped + cut} bytes are left out here; {rest} …]\n{plain_text(tail)}"


def tell_end(exit_code: int | None, seconds: float) -> str:
    """Say how a command ended whose time was so many seconds; nothing where it went well."""
    if exit_code is None:
        return f"stopped, because its time of {seconds:g} s was over"
    if exit_code < 0:
        return f"ended by {_name_signal(-exit_code)}"
    if exit_code > BY_SIGNAL and (name := _name_signal(exit_code - BY_SIGNAL)).startswith("SIG"):
        return f"exit code {exit_code}, as of {name}"
    return f"exit code {exit_code}" if exit_code else ""


def add_note(output: str, note: str) -> str:
    """Put a note of ours on a line of its own below an output."""
    separator = "" if not output or output.endswith("\n") else "\n"
    return f"{output}{separator}[{note}]"


def is_kept_from(output: str) -> bool:
    """Tell whether a program seems to say that it was kept from something."""
    return bool(_KEPT_FROM.search(output))


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _cut_at_lines(head: bytes, tail: bytes) -> tuple[bytes, bytes, int]:
    """Leave out the pieces of lines at the cut, unless the lines are long; and count what that takes away."""
    end, start = head.rfind(b"\n") + 1, tail.find(b"\n") + 1
    cut_head = head[:end] if end > len(head) // 2 else head
    cut_tail = tail[start:] if start and start < len(tail) // 2 else tail
    return cut_head, cut_tail, len(head) - len(cut_head) + len(tail) - len(cut_tail)
