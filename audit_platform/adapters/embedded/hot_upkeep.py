"""One index file from its making on: empty or as a copy, its notes, its smallest form.

Belongs here: what concerns a file as a whole. Does not: rows (`hot_index.py`), which files there
are (`hot.py`), snapshots (`hot_snapshots.py`). Source: `ports.Hot`; SQLite: backup API, VACUUM.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from audit_platform.adapters.embedded import hot_index
from audit_platform.adapters.embedded.hot_pool import connect
from audit_platform.errors import HotUnavailable
from audit_platform.record.layout import MS_PER_DAY

_NOTES: Final = "CREATE TABLE IF NOT EXISTS note(name TEXT PRIMARY KEY, value TEXT NOT NULL)"


def make(path: Path, source: Path | None) -> tuple[int, int] | None:
    """Make an index file, durable but for its name: empty, or with what `source` holds.

    Returns the first and last day (since 1970) of a copy's eventTimes; None for an empty index.
    Raises `HotUnavailable`, `sqlite3.Error`, `OSError`.
    """
    with closing(connect(path, create=True)) as connection:
        if source is not None:
            # Nobody writes to a snapshot: without a write-ahead log beside it.
            uri = f"file:{quote(str(source))}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as copied:
                # Here, not in the copy: the check of words leaves its connection locked.
                found = copied.execute("PRAGMA quick_check").fetchall()
                if found != [("ok",)]:
                    raise sqlite3.DatabaseError(f"{source.name}: {found[0][0]}")
                copied.backup(connection)
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise HotUnavailable(
                f"SQLite cannot use its write-ahead log here (journal mode {mode})",
                remedy="put AUDIT_HOME on a local disk, not on a network file system",
            )
        if source is None:
            connection.execute("BEGIN")
            for statement in hot_index.SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        first, last = connection.execute(
            "SELECT min(event_time), max(event_time) FROM event INDEXED BY event_by_time"
        ).fetchone()
    return None if first is None else (first // MS_PER_DAY, last // MS_PER_DAY)


def copy(connection: sqlite3.Connection, path: Path) -> None:
    """Copy an index as it is at one moment into a new file, durable but for its name."""
    with closing(connect(path, create=True)) as target:
        connection.backup(target)  # in one step: a reader of a WAL stands in nobody's way
        target.execute("PRAGMA journal_mode=DELETE")


def compact(connection: sqlite3.Connection) -> None:
    """One tree of words, no free pages, nothing in the write-ahead log."""
    connection.execute("INSERT INTO word(word) VALUES('optimize')")
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def notes(connection: sqlite3.Connection) -> dict[str, str]:
    """The notes of an index."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'note'").fetchone()
    return dict(connection.execute("SELECT name, value FROM note")) if known else {}


def note(connection: sqlite3.Connection, changes: Mapping[str, str]) -> None:
    """Change notes; durable on return."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_NOTES)
        connection.executemany("INSERT OR REPLACE INTO note VALUES(?, ?)", changes.items())
        connection.execute("DELETE FROM note WHERE value = ''")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
