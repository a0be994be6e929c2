"""Every kind of damage that a store may come to, planted on purpose, and what a doctor is to call it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import trio
from msgspec import structs

from crabd.messages import AssistantMessage, ToolCall, Usage
from crabd.store.journal.line import scan
from crabd.store.journal.recovery import load_meta, save_meta
from crabd.store.meta import add_up
from crabd.store.record import MessageAdded, Record, RunClosed, RunOpened
from crabd.store.seal import seal
from crabd.store.stepfiles.meta import load_sum, save_sum
from tests.store.clinic import Wound, flip, home, journal, opened
from tests.store.samples import said

ASKS = MessageAdded("r1", AssistantMessage((ToolCall("c1", "shell", "{}"),)))
IS_OPEN = (RunOpened("r1"), said("go"), ASKS)
LACKS_RESULT = (*IS_OPEN, RunClosed("r1", "error", 0.1, Usage()))


def edit_lines(root: Path, change: Callable[[list[bytes]], None]) -> None:
    lines = journal(root).read_bytes().splitlines(keepends=True)
    change(lines)
    journal(root).write_bytes(b"".join(lines))


def flip_line(root: Path, number: int) -> None:
    def change(lines: list[bytes]) -> None:
        lines[number - 1] = flip(lines[number - 1])

    edit_lines(root, change)


def swap_lines(root: Path) -> None:
    def change(lines: list[bytes]) -> None:
        lines[4], lines[5] = lines[5], lines[4]

    edit_lines(root, change)


def double_line(root: Path) -> None:
    edit_lines(root, lambda lines: lines.insert(4, lines[4]))


def lose_line(root: Path) -> None:
    edit_lines(root, lambda lines: lines.__delitem__(8))


def blank(root: Path) -> None:
    whole = journal(root).read_bytes()
    journal(root).write_bytes(whole[:600] + bytes(512) + whole[1112:])


def cut(root: Path) -> None:
    """Leave what a kill in the middle of the last write leaves: the meta is older than that write."""
    lines = journal(root).read_bytes().splitlines(keepends=True)
    size = sum(map(len, lines[:-4]))
    forget_meta(root)
    journal(root).write_bytes(b"".join(lines)[: size + 300])


def shorten(root: Path) -> None:
    edit_lines(root, lambda lines: lines.__delitem__(slice(-5, None)))


def forget_meta(root: Path) -> None:
    (home(root) / "meta.json").unlink()


def spoil(name: str) -> Wound:
    def place(root: Path) -> None:
        path = home(root) / name
        path.write_bytes(flip(path.read_bytes()))

    return place


def mistake_meta(root: Path) -> None:
    saved = load_meta(home(root))
    assert saved is not None
    meta = add_up(scan(journal(root).read_bytes()).steps[:-1])
    save_meta(home(root), meta, saved.journal_size, saved.journal_checksum, saved.bounds)


def write_log(*records: Record) -> Wound:
    """Put a log in the place of a session's own, as a daemon that was killed leaves it."""

    def place(root: Path) -> None:
        is_stepped = not journal(root).exists()
        other = root.parent / "other"
        trio.run(_write, other, "stepfiles" if is_stepped else "journal", records)
        shutil.rmtree(home(root))
        shutil.copytree(home(other), home(root))
        (home(root) / ("crabd.json" if is_stepped else "meta.json")).unlink()

    return place


async def _write(root: Path, backend: str, records: Sequence[Record]) -> None:
    async with opened(root, backend) as store:
        log = (await store.create("a", "b")).log
        await log.append(records)


def plant(*names: str) -> Wound:
    """Put a file with private modes somewhere below the root."""

    def place(root: Path) -> None:
        path = root.joinpath(*names)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text("something")
        path.chmod(0o600)

    return place


def link(*names: str) -> Wound:
    return lambda root: root.joinpath(*names).symlink_to("/etc")


def open_to_others(*names: str) -> Wound:
    return lambda root: root.joinpath(*names).chmod(0o755)


def write(document: bytes, *names: str) -> Wound:
    def place(root: Path) -> None:
        root.joinpath(*names).write_bytes(document)

    return place


def lose_note(root: Path) -> None:
    plant("sessions", ".deleted-a_b_2", "deletion.json")(root)


def grow_old(root: Path) -> None:
    plant("sessions", ".deleted-a_b_7", "journal.jsonl")(root)


def copy_session(root: Path) -> None:
    subprocess.run(["cp", "-a", home(root), home(root, "a_b_9")], check=True)


def step(root: Path, number: int, session: str = "a_b_1") -> Path:
    return home(root, session) / f"step-{number:06}"


def flip_step(root: Path, number: int) -> None:
    step(root, number).write_bytes(flip(step(root, number).read_bytes()))


def swap_steps(root: Path) -> None:
    five, six = step(root, 5).read_bytes(), step(root, 6).read_bytes()
    step(root, 5).write_bytes(six)
    step(root, 6).write_bytes(five)


def cut_steps(root: Path) -> None:
    """Leave what a kill in the middle of the last append leaves."""
    (home(root) / "crabd.json").unlink()
    step(root, 21).unlink()


def shorten_steps(root: Path) -> None:
    for number in range(17, 22):
        step(root, number).unlink()


def mistake_sum(root: Path) -> None:
    known = load_sum(home(root))
    assert known is not None
    wrong = structs.replace(known.meta, message_count=7)
    save_sum(home(root), wrong, known.last, known.files, known.dense)


# What is the same in every layout.
EVERYWHERE: dict[str, tuple[Wound, list[str]]] = {
    "a copied session": (copy_session, ["stranger"]),
    "an open run": (write_log(*IS_OPEN), ["meta", "open_run"]),
    "an unpaired call": (write_log(*LACKS_RESULT), ["meta", "open_call"]),
    "a torn tail set aside": (plant("sessions", "a_b_1", "journal.torn-1"), ["set_aside"]),
    "a left-over of a write": (plant("sessions", "a_b_1", ".tmp-meta.json"), ["leftover"]),
    "a left-over of a reply": (plant("sessions", "a_b_1", "partial.jsonl"), ["leftover"]),
    "a foreign file in a session": (plant("sessions", "a_b_1", "notes.txt"), ["foreign"]),
    "a link in a session": (link("sessions", "a_b_1", "more"), ["link"]),
    "a foreign file": (plant("sessions", "notes.txt"), ["foreign"]),
    "a foreign directory": (plant("sessions", "Mine", "notes.txt"), ["foreign"]),
    "a file with a session's name": (plant("sessions", "x_y_3"), ["foreign"]),
    "a link with a session's name": (link("sessions", "x_y_3"), ["link"]),
    "a session that was never made": (plant("sessions", ".new-a_b_8", "journal.jsonl"), ["leftover"]),
    "a session that was half deleted": (grow_old, ["leftover"]),
    "a spoilt deletion note": (lose_note, ["deletion_note", "leftover"]),
    "a session that others can enter": (open_to_others("sessions", "a_b_1"), ["mode"]),
    "sessions that others can enter": (open_to_others("sessions"), ["mode"]),
    "a store that others can enter": (open_to_others("."), ["mode"]),
    "numbers that are none": (write(b'{"deleted":', "numbers.json"), ["numbers"]),
    "numbers of nobody": (
        write(seal(b'{"deleted":{"a_b":0,"../x":3,"a_c":7}}') + b"\n", "numbers.json"),
        ["numbers"],
    ),
    "numbers that were changed": (
        write(b'{"deleted":{"a_b":2},"crc":"00000000"}\n', "numbers.json"),
        ["numbers"],
    ),
    "numbers set aside": (plant("numbers.damaged"), ["set_aside"]),
}

JOURNAL: dict[str, tuple[Wound, list[str]]] = {
    "a flipped bit": (lambda root: flip_line(root, 9), ["damaged"]),
    "a flipped bit in the first line": (lambda root: flip_line(root, 1), ["damaged"]),
    "a flipped bit in the last line": (lambda root: flip_line(root, 21), ["damaged"]),
    "swapped lines": (swap_lines, ["damaged"]),
    "a doubled line": (double_line, ["damaged"]),
    "a missing line": (lose_line, ["damaged"]),
    "a zero block": (blank, ["damaged"]),
    "an empty journal": (write(b"", "sessions", "a_b_1", "journal.jsonl"), ["damaged"]),
    "no journal": (lambda root: journal(root).unlink(), ["missing"]),
    "a cut tail": (cut, ["torn"]),
    "a journal that was longer": (shorten, ["lost"]),
    "no meta": (forget_meta, ["meta"]),
    "a spoilt meta": (spoil("meta.json"), ["meta"]),
    "a wrong meta": (mistake_meta, ["meta"]),
    "a file that others can read": (open_to_others("sessions", "a_b_1", "journal.jsonl"), ["mode"]),
}

STEPFILES: dict[str, tuple[Wound, list[str]]] = {
    "a flipped bit": (lambda root: flip_step(root, 9), ["damaged"]),
    "a flipped bit in the first step": (lambda root: flip_step(root, 1), ["damaged"]),
    "a flipped bit in the last step": (lambda root: flip_step(root, 21), ["damaged"]),
    "swapped steps": (swap_steps, ["damaged"]),
    "a missing step": (lambda root: step(root, 9).unlink(), ["damaged"]),
    "an empty step": (write(b"", "sessions", "a_b_1", "step-000009"), ["damaged"]),
    "no first step": (lambda root: step(root, 1).unlink(), ["damaged"]),
    "a cut append": (cut_steps, ["torn"]),
    "steps that there were": (shorten_steps, ["lost"]),
    "no sum": (lambda root: (home(root) / "crabd.json").unlink(), ["meta"]),
    "a spoilt sum": (spoil("crabd.json"), ["meta"]),
    "a wrong sum": (mistake_sum, ["meta"]),
    "a spoilt meta": (write(b"{", "sessions", "a_b_1", "meta"), ["meta"]),
    "a step of no number": (plant("sessions", "a_b_1", "step-7"), ["foreign"]),
    "a step that others can read": (open_to_others("sessions", "a_b_1", "step-000009"), ["mode"]),
}

WOUNDS = {"journal": JOURNAL | EVERYWHERE, "stepfiles": STEPFILES | EVERYWHERE}
