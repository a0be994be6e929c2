"""What can be kept of a damaged journal: its records from the first on, as far as none is missing. Pure.

Every line carries its number and its checksum, so lines that are doubled or in the wrong order are as good as
ever. From the first number that is nowhere on, nothing is kept: what follows may rest on what is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec
from msgspec import Struct

from crabd.store.journal.line import VERSION, Line, encode_step
from crabd.store.record import Step
from crabd.store.seal import is_sealed

_decode = msgspec.json.Decoder(Line).decode


class Salvage(Struct, frozen=True):
    """The ``steps`` that can be kept, spelled as ``data``.

    ``lost`` counts the lines that go, and ``lost_runs`` names the runs that those are known to be of.
    """

    steps: tuple[Step, ...]
    data: bytes
    lost: int
    lost_runs: tuple[str, ...]


def salvage(journal: bytes, first: Step | None) -> Salvage:
    """Put together what is sound in a journal; ``first`` is its first record, if that is known otherwise.

    Never raises, whatever the bytes are.
    """
    texts = [text for text in journal.split(b"\n") if text]
    sound: dict[int, tuple[bytes, Line]] = {}
    contested: set[int] = set()
    for text, line in _sealed(texts):
        if sound.setdefault(line.n, (text, line))[0] != text:
            contested.add(line.n)
    kept = [Line(VERSION, 1, first.at, first.record)] if first is not None and 1 not in sound else []
    while (number := len(kept) + 1) in sound and number not in contested:
        kept.append(sound[number][1])
    taken = {sound[line.n][0] for line in kept if line.n in sound}
    gone = [line for text, line in _sealed(texts) if text not in taken]
    runs = dict.fromkeys(run for line in gone if (run := getattr(line.record, "run", None)) is not None)
    return Salvage(
        steps=tuple(Step(line.n, line.at, line.record) for line in kept),
        data=b"".join(_spell(line, len(kept)) for line in kept),
        lost=max(0, sum(text not in taken for text in texts) - (len(kept) - len(taken))),
        lost_runs=tuple(runs),
    )


def _spell(line: Line, last: int) -> bytes:
    """Spell a line as it was; one of an append that is no longer whole stands alone from now on."""
    is_whole = line.append is not None and line.append[1] <= last
    return encode_step(Step(line.n, line.at, line.record), append=line.append if is_whole else None)


def _sealed(texts: list[bytes]) -> Iterator[tuple[bytes, Line]]:
    for text in texts:
        if is_sealed(text):
            with suppress(msgspec.DecodeError):
                line = _decode(text)
                if line.v == VERSION:
                    yield text, line
