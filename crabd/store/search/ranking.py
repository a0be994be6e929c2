"""What of all that was found is shown first. Decides only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct, structs

from crabd.store.search.documents import Role

# What counts how much: a title was chosen, and a question has the words of the one who looks for it.
WEIGHTS: dict[Role, float] = {"title": 3.0, "summary": 2.0, "user": 1.5, "assistant": 1.0, "tool": 0.7}
# What a match is worth at least: of a word that is nearly everywhere, ``bm25`` makes nothing.
FLOOR = 0.1


class Candidate(Struct, frozen=True):
    """A document that matches: a newer one has a higher ``number``, a better one a higher ``bm25``."""

    number: int
    session: str
    step: int
    role: Role
    bm25: float

    @property
    def score(self) -> float:
        return (self.bm25 + FLOOR) * WEIGHTS[self.role]


class Ranked(Struct, frozen=True):
    """What is shown of a hit, its score, and how many documents stand behind it."""

    shown: Candidate
    score: float
    matches: int


def by_message(found: Sequence[Candidate]) -> list[Ranked]:
    """Rank every document by itself."""
    return _sorted(Ranked(each, each.score, 1) for each in _lift_titles(found))


def by_session(found: Sequence[Candidate]) -> list[Ranked]:
    """Rank sessions by their best message, title and summary together."""
    sessions: dict[str, list[Candidate]] = {}
    for each in _lift_titles(found):
        sessions.setdefault(each.session, []).append(each)
    return _sorted(map(_sum_up, sessions.values()))


def _lift_titles(found: Sequence[Candidate]) -> Iterator[Candidate]:
    """Have titles match no worse than the best message does: among a few of them no word is rare."""
    best = max((each.bm25 for each in found), default=0.0)
    return (structs.replace(each, bm25=best) if each.role == "title" else each for each in found)


def _sum_up(found: Sequence[Candidate]) -> Ranked:
    best: dict[str, Candidate] = {}
    for each in sorted(found, key=lambda each: (each.score, each.number)):
        best[each.role if each.role in ("title", "summary") else "message"] = each
    # A title is seen anyway.
    shown = best.get("message") or best.get("summary") or best["title"]
    return Ranked(shown, sum(each.score for each in best.values()), len(found))


def _sorted(ranked: Iterable[Ranked]) -> list[Ranked]:
    return sorted(ranked, key=lambda one: (one.score, one.shown.number), reverse=True)
