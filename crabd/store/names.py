"""The names of sessions: how an id is made of those who talk, and what is one. Pure."""

from __future__ import annotations

import hashlib
import re

from crabd.messages import SESSION_ID_PATTERN

# A directory name may have 255 bytes; two slugs of this length and a number stay far below it.
MAX_SLUG_LENGTH = 48
_match_session_id = re.compile(SESSION_ID_PATTERN).match
# Nobody makes more sessions; an id that is brought from elsewhere with a longer number gets a new one.
MAX_NUMBER_LENGTH = 9


def slug(name: str) -> str:
    """Turn a name into its decoration in a session id: lower-case ASCII, runs of others as one dash.

    Many names share a slug, so it identifies nobody. A name with nothing left, or too much, becomes a hash.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain and len(plain) <= MAX_SLUG_LENGTH:
        return plain
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def is_session_id(text: str) -> bool:
    """Tell whether text is in the grammar of session ids, and so cannot leave the sessions root."""
    return _match_session_id(text) is not None


def choose_number(session: str, pair: str, largest: int) -> int:
    """Choose the number of a new session of a pair of slugs whose ``largest`` number so far is known.

    That is the next one, or that of the id ``session`` when it is of this pair and above all others.
    """
    if is_session_id(session):
        number = int(session.rpartition("_")[2][:MAX_NUMBER_LENGTH])
        if session == f"{pair}_{number}" and number > largest:
            return number
    return largest + 1
