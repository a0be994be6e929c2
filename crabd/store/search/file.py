"""The full text of all sessions in one SQLite file: what is fed to it, and what is found.

It may be deleted at any time, and is thrown away when another crabd has made it. Whatever dies, it is as it
was after some ``add`` or ``forget``, and so it knows how far it got with each session. Every call here
blocks, so it runs in a thread: those that write one at a time, and those that search one at a time.

Of the messages that match, the newest are ranked: a word that is in all of them would else cost a look at
each, and nobody reads that far. Titles and summaries are fewer, and apart, so that an old one is found too.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from crabd.errors import BadRequest
from crabd.store.base import Hit, Query
from crabd.store.meta import SessionMeta
from crabd.store.record import Step
from crabd.store.search.documents import Document, Role, documents_in, scope, scope_of, title_of
from crabd.store.search.ranking import Candidate, Ranked, by_message, by_session
from crabd.store.search.words import Terms, cut, parse, spell

# Raised with every change of what is fed, or how.
VERSION = 1
# How many of the newest that match are ranked: so many at a time, until they are of so many sessions, and not
# more often than this. Four words that are everywhere take about 10 ms at a time.
RANKED, ENOUGH_SESSIONS, MOST_TIMES = 500, 20, 4
# The numbers of documents go up from here with what is said, and down with what was said before.
MIDDLE = 1 << 40

SCHEMA = f"""
CREATE TABLE sessions (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, upto INTEGER NOT NULL, at TEXT NOT NULL
);
CREATE TABLE documents (
  number INTEGER PRIMARY KEY, session INTEGER NOT NULL, step INTEGER NOT NULL, role TEXT NOT NULL
);
CREATE INDEX documents_of ON documents (session);
CREATE TABLE texts (
  number INTEGER PRIMARY KEY, at TEXT NOT NULL, scope TEXT NOT NULL, text TEXT NOT NULL
);
CREATE VIRTUAL TABLE messages USING fts5(text, scope, content='', tokenize='unicode61 remove_diacritics 0');
CREATE VIRTUAL TABLE heads USING fts5(text, scope, content='', tokenize='unicode61 remove_diacritics 0');
PRAGMA user_version = {VERSION};
"""
# The rows that are ranked are small and lie together; texts are read for those that are shown.
FIND = """
SELECT documents.number, sessions.id, step, role, -score
FROM (
  SELECT rowid AS found, bm25({table}, 1.0, 0.0) AS score
  FROM {table} WHERE {table} MATCH ? AND rowid <= ? ORDER BY rowid DESC LIMIT ?
)
JOIN documents ON documents.number = found JOIN sessions ON sessions.number = documents.session
"""
INSERT = "INSERT INTO {table} (rowid, text, scope) VALUES (?, ?, ?)"
DELETE = "INSERT INTO {table} ({table}, rowid, text, scope) VALUES ('delete', ?, ?, ?)"
TABLES: dict[Role, str] = {
    "title": "heads",
    "summary": "heads",
    "user": "messages",
    "assistant": "messages",
    "tool": "messages",
}


class Progress(Struct, frozen=True):
    """How far a session is indexed: up to the step of that number and time; 0 while it is being forgotten."""

    upto: int
    at: datetime


class Addition(Struct, frozen=True):
    """The steps of a session that come next; never none."""

    meta: SessionMeta
    steps: tuple[Step, ...]

    @property
    def progress(self) -> Progress:
        """How far the session is indexed with them."""
        return Progress(self.steps[-1].n, self.steps[-1].at)


class SearchFile:
    """An index that is open. Whoever opened it closes it."""

    def __init__(self, path: Path) -> None:
        """Open the index at ``path``, making it, and its directory, if there is none that can be used.

        Raises:
          sqlite3.Error: it is damaged, or the disk fails, or this SQLite has no full text.
          OSError: the disk fails.
        """
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        _prepare(path)
        self._path = path
        self._inode = path.stat().st_ino
        self._writer = _connect(path)
        self._reader = _connect(path)
        low, high = self._writer.execute("SELECT min(number), max(number) FROM documents").fetchone()
        self._low, self._high = low or MIDDLE, high or MIDDLE - 1

    def close(self) -> None:
        """Give the files back. A second call does nothing."""
        self._reader.close()
        self._writer.close()

    def progress(self) -> dict[str, Progress]:
        """Tell how far each session is indexed."""
        rows = self._writer.execute("SELECT id, upto, at FROM sessions")
        return {id_: Progress(upto, datetime.fromisoformat(at)) for id_, upto, at in rows}

    def add(self, additions: Sequence[Addition], *, is_past: bool) -> None:
        """Take in what was said, all or none of it.

        With ``is_past`` it counts as older than all there is; the newest session comes first then.

        Raises:
          sqlite3.Error: none of it is in; the file is gone, damaged, or cannot be written now.
        """
        with self._transaction():
            rows: list[tuple[int, SessionMeta, Document]] = []
            for addition in reversed(additions) if is_past else additions:
                session, meta = self._keep_progress(addition), addition.meta
                rows += ((session, meta, document) for document in documents_in(addition.steps))
                title = self._change_title(session, title_of(meta, addition.steps))
                rows += ((session, meta, document) for document in title)
            first = self._low - len(rows) if is_past else self._high + 1
            for number, (session, meta, document) in enumerate(rows, first):
                self._insert(number, session, meta, document)
        self._low, self._high = min(self._low, first), max(self._high, first + len(rows) - 1)

    def forget(self, session: str, limit: int) -> bool:
        """Take out so many documents of a session; false when all of it is gone."""
        with self._transaction():
            rows = self._writer.execute(
                "SELECT documents.number, role, scope, text FROM sessions "
                "JOIN documents ON documents.session = sessions.number "
                "JOIN texts ON texts.number = documents.number WHERE id = ? LIMIT ?",
                [session, limit],
            ).fetchall()
            for row in rows:
                self._delete(*row)
            change = "UPDATE sessions SET upto = 0" if rows else "DELETE FROM sessions"
            self._writer.execute(f"{change} WHERE id = ?", [session])
        return bool(rows)

    def search(
        self, query: Query, find_meta: Callable[[str], SessionMeta | None]
    ) -> tuple[tuple[Hit, ...], str | None]:
        """Find a page of hits, and the cursor of the next; sessions that ``find_meta`` lacks are passed over.

        Raises:
          BadRequest: the query or the cursor means nothing.
        """
        try:
            terms = parse(query.text)
        except ValueError as exc:
            raise BadRequest("$.query", str(exc)) from None
        newest, start = _read_cursor(query.cursor) if query.cursor is not None else (self._high, 0)
        found = self._find(query, terms.match, newest) or self._find_apart(query, terms, newest)
        found = [each for each in found if find_meta(each.session) is not None]
        ranked = by_session(found) if query.session is None else by_message(found)
        page = ranked[start : start + query.limit]
        end = start + len(page)
        # What has gone since is left out.
        hits = [hit for one in page if (hit := self._show(one, terms, find_meta(one.shown.session)))]
        return tuple(hits), f"{newest}.{end}" if end < len(ranked) else None

    @contextmanager
    def _transaction(self) -> Generator[None]:
        if not self._is_there():
            raise sqlite3.DatabaseError("somebody has removed it")
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            self._writer.rollback()
            raise

    def _is_there(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def _keep_progress(self, addition: Addition) -> int:
        """Note how far a session is indexed now, and return its number."""
        session, progress = addition.meta.id, addition.progress
        self._writer.execute(
            "INSERT INTO sessions (id, upto, at) VALUES (?1, ?2, ?3) "
            "ON CONFLICT (id) DO UPDATE SET upto = ?2, at = ?3",
            [session, progress.upto, progress.at.isoformat()],
        )
        number: int
        (number,) = self._writer.execute("SELECT number FROM sessions WHERE id = ?", [session]).fetchone()
        return number

    def _change_title(self, session: int, title: Document) -> tuple[Document, ...]:
        """Take the title out that a session had; returns what is to be put in, if it has another now."""
        before = self._writer.execute(
            "SELECT documents.number, role, scope, text FROM documents "
            "JOIN texts ON texts.number = documents.number WHERE session = ? AND role = 'title'",
            [session],
        ).fetchone()
        if before is not None and before[3] == title.text:
            return ()
        if before is not None:
            self._delete(*before)
        return (title,) if title.text else ()

    def _insert(self, number: int, session: int, meta: SessionMeta, document: Document) -> None:
        step, role, at, text = document.step, document.role, document.at.isoformat(), document.text
        words = scope(meta)
        self._writer.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", [number, session, step, role])
        self._writer.execute("INSERT INTO texts VALUES (?, ?, ?, ?)", [number, at, words, text])
        self._writer.execute(INSERT.format(table=TABLES[role]), [number, spell(text), words])

    def _delete(self, number: int, role: Role, words: str, text: str) -> None:
        # The engine keeps no text, so it has to be told what it was.
        self._writer.execute(DELETE.format(table=TABLES[role]), [number, spell(text), words])
        self._writer.execute("DELETE FROM documents WHERE number = ?", [number])
        self._writer.execute("DELETE FROM texts WHERE number = ?", [number])

    def _find_apart(self, query: Query, terms: Terms, newest: int) -> list[Candidate]:
        """Find sessions that have all the terms, though none of their messages has."""
        found = [self._find(query, match, newest) for match in terms.apart]
        sessions = [{each.session for each in some} for some in found]
        there = set[str].intersection(*sessions) if sessions else set[str]()
        once = {each.number: each for some in found for each in some if each.session in there}
        return list(once.values())

    def _find(self, query: Query, match: str, newest: int) -> list[Candidate]:
        expression = " AND ".join([*(f'scope : "{word}"' for word in scope_of(query)), match])
        found = self._read(expression, "heads", newest)
        for _ in range(MOST_TIMES):
            more = self._read(expression, "messages", newest)
            found += more
            if len(more) < RANKED or len({each.session for each in found}) >= ENOUGH_SESSIONS:
                break
            newest = more[-1].number - 1
        return found

    def _read(self, expression: str, table: str, newest: int) -> list[Candidate]:
        rows = self._reader.execute(FIND.format(table=table), [expression, newest, RANKED])
        return [Candidate(*row) for row in rows]

    def _show(self, one: Ranked, terms: Terms, meta: SessionMeta | None) -> Hit | None:
        shown = one.shown
        row = self._reader.execute("SELECT at, text FROM texts WHERE number = ?", [shown.number]).fetchone()
        if meta is None or row is None:
            return None
        return Hit(
            session=shown.session,
            title=meta.title,
            step=shown.step,
            role=shown.role,
            at=datetime.fromisoformat(row[0]),
            snippet=cut(row[1], terms.marks),
            score=round(one.score, 3),
            matches=one.matches,
        )


def discard(path: Path) -> None:
    """Throw an index away; it must not be open.

    Raises:
      OSError: some of it is still there.
    """
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _prepare(path: Path) -> None:
    """Make the file anew unless it is one of ours."""
    with closing(_connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        discard(path)
        with closing(_connect(path)) as connection:
            connection.executescript(f"BEGIN;{SCHEMA}COMMIT;")


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite gives the files beside it the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut takes the last transactions, and never a part of one.
        connection.execute("PRAGMA synchronous = NORMAL")
        # Of a session that is deleted no text stays behind.
        connection.execute("PRAGMA secure_delete = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _read_cursor(cursor: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,18})\.([0-9]{1,9})", cursor)
    if found is None:
        problem = f"{cursor!r} is none that was given: leave it out to begin with the first page"
        raise BadRequest("$.cursor", problem)
    return int(found[1]), int(found[2])
