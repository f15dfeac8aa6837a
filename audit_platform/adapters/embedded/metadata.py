"""The metadata store of the embedded profile: SQLite in one file.

Belongs here: what SQLite needs. Does not: tables, statements and revisions (`adapters/sql/`).
Source: design section 9 (profiles); the promises are those of `ports.Metadata`.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from audit_platform.adapters.sql.revisions import bring_up
from audit_platform.adapters.sql.store import SqlMetadata, unavailable
from audit_platform.errors import AuditPlatformError, MetadataUnavailable

#: An opener waits this long for another process's write; the longest write here is a migration.
BUSY_TIMEOUT_MS: Final = 10_000

#: What each new SQLite connection is told. FULL: a commit is in the fsynced WAL when it returns.
PRAGMAS: Final[tuple[str, ...]] = (
    f"busy_timeout={BUSY_TIMEOUT_MS}",
    "synchronous=FULL",
    "foreign_keys=ON",
)

_REMEDY: Final = "check that its disk is writable and not full, then try again"


def open_sqlite(path: Path) -> SqlMetadata:
    """Open the store in this file, making it or bringing it up as needed; safe from many processes.

    Raises `MetadataUnavailable`, and `AuditPlatformError` for a store of a newer version.
    """
    engine = sa.create_engine(f"sqlite:///{path}")
    sa.event.listen(engine, "connect", _set_up_connection)
    sa.event.listen(engine, "begin", _begin)
    try:
        _make_folder(path.parent)
        with _alone(path):
            _demand_wal(engine)
            with engine.begin() as connection:
                bring_up(connection)
    except AuditPlatformError:
        engine.dispose()
        raise
    except (SQLAlchemyError, sqlite3.Error, OSError) as e:
        engine.dispose()
        raise unavailable(str(engine.url), e, _REMEDY) from e
    return SqlMetadata(engine, str(engine.url), _REMEDY)


def _set_up_connection(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    # By itself the driver begins only before INSERT and the like: DDL would stand alone, and a
    # migration could be cut in half.
    connection.exec_driver_sql("BEGIN")


def _demand_wal(engine: sa.Engine) -> None:
    """Readers and one writer side by side. The mode is kept in the file itself."""
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        answer = cursor.fetchone()
        cursor.close()
    finally:
        raw.close()
    if answer != ("wal",):
        raise MetadataUnavailable(
            f"SQLite cannot use its write-ahead log here (journal mode {answer})",
            remedy="put AUDIT_HOME on a local disk, not on a network file system",
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Only one process at a time opens: switching to WAL ignores SQLite's own waiting."""
    with path.with_name(path.name + ".opening").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file closes
        yield


def _make_folder(folder: Path) -> None:
    """Make a folder whose name survives a power cut, and those above it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    # Also when it was there: another process may have made it a moment ago, and not yet got here.
    above = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(above)
    finally:
        os.close(above)
