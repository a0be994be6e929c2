"""Stores of many sessions, made without waiting for the disk, and text as people write it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from functools import reduce
from itertools import accumulate
from pathlib import Path
from zlib import crc32

from crabd.messages import AssistantMessage, TextBlock, user_text, utc_now
from crabd.store.disk import replace_file
from crabd.store.journal.line import encode_append
from crabd.store.journal.recovery import JOURNAL, save_meta
from crabd.store.meta import advance, begin_meta
from crabd.store.record import Configured, Created, MessageAdded, Record, Step

VOCABULARY = 50_000


class Writer:
    """Writes words of a language with few common and many rare ones: the n-th is used 1/n as often."""

    def __init__(self) -> None:
        # The same text in every run.
        self._chance = random.Random(1)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self.words = [
            "".join(self._chance.choices(letters, k=self._chance.randint(3, 9))) for _ in range(VOCABULARY)
        ]
        self._weights = list(accumulate(1 / n for n in range(1, VOCABULARY + 1)))

    def text(self, words: int) -> str:
        return " ".join(self._chance.choices(self.words, cum_weights=self._weights, k=words))

    def message(self) -> str:
        """Write some words or many: 100 on average."""
        return self.text(3 + round(self._chance.expovariate(1 / 97)))


def write_sessions(root: Path, count: int, said: Sequence[Sequence[str]], titles: Sequence[str]) -> None:
    """Leave so many sessions of twenty senders, used a second after each other, in a store that is closed."""
    began = utc_now() - timedelta(seconds=count)
    for number in range(1, count + 1):
        at = began + timedelta(seconds=number)
        home = root / "sessions" / f"crab_user-{number % 20}_{number}"
        home.mkdir(0o700, parents=True)
        records: list[Record] = [
            Created(session=home.name, agent="crab", sender=f"user {number % 20}", cwd="/home/me/src"),
            *(
                MessageAdded("r1", AssistantMessage((TextBlock(text),)) if at % 2 else user_text(text))
                for at, text in enumerate(said[number % len(said)])
            ),
            Configured(title=titles[number % len(titles)]),
        ]
        steps = [Step(n, at, record) for n, record in enumerate(records, 1)]
        journal = encode_append(steps[:1]) + encode_append(steps[1:])
        replace_file(home / JOURNAL, journal)
        save_meta(home, reduce(advance, steps[1:], begin_meta(steps[0])), len(journal), crc32(journal))
