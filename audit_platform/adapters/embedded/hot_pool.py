"""Connections to index files, kept open for the next use, a bounded number of them.

Belongs here: opening SQLite as an index needs it, lending a connection to one thread at a time,
letting go of those not used for longest. Does not: any statement of an index (`hot_index.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final
from urllib.parse import quote

#: Connections kept open: each has up to three files, and a process may have 1,024.
MAX_IDLE: Final = 100

#: A writer waits this long for another one: a batch takes milliseconds, a checkpoint seconds.
BUSY_SECONDS: Final = 30.0

#: Memory for pages: of those kept open, and of one that is written (two or three at a time).
IDLE_CACHE_KIB: Final = 1024
WRITE_CACHE_KIB: Final = 16_384

#: Pages of 4 KiB in the write-ahead log before a commit carries them over into the file.
CHECKPOINT_PAGES: Final = 2000

#: A write-ahead log that a long read made longer is cut back to this.
WAL_BYTES: Final = 32 << 20


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open an index file. FULL: a commit is in the fsynced write-ahead log when it returns."""
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=32,
    )
    for pragma in (
        "synchronous=FULL",
        f"cache_size=-{IDLE_CACHE_KIB}",
        f"journal_size_limit={WAL_BYTES}",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


class Connections:
    """Idle connections by file, the one used last at the end. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle: list[tuple[Path, int, sqlite3.Connection]] = []

    @contextmanager
    def lent(self, path: Path) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else has meanwhile.

        Raises `FileNotFoundError` when there is no such file (a deleted one may still be open
        here: it is not used any more), `sqlite3.Error`.
        """
        inode = path.stat().st_ino
        connection = self._take(path, inode) or connect(path)
        try:
            yield connection
        except BaseException:
            connection.close()  # whatever state it is in, nobody gets it
            raise
        self._give_back(path, inode, connection)

    def _take(self, path: Path, inode: int) -> sqlite3.Connection | None:
        with self._lock:
            for n in range(len(self._idle) - 1, -1, -1):
                if self._idle[n][0] != path:
                    continue
                _, opened, connection = self._idle.pop(n)
                if opened == inode:
                    return connection
                connection.close()
        return None

    def _give_back(self, path: Path, inode: int, connection: sqlite3.Connection) -> None:
        with self._lock:
            self._idle.append((path, inode, connection))
            surplus = self._idle[:-MAX_IDLE]
            del self._idle[: len(surplus)]
        for _, _, old in surplus:
            old.close()

    def forget(self, path: Path) -> None:
        """Close what is open on a file."""
        with self._lock:
            gone = [entry for entry in self._idle if entry[0] == path]
            self._idle = [entry for entry in self._idle if entry[0] != path]
        for _, _, connection in gone:
            connection.close()

    def close(self) -> None:
        """Close all that is not lent. Idempotent."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, _, connection in idle:
            connection.close()


def stamp_of(path: Path) -> tuple[int, ...]:
    """What tells that a file and its write-ahead log are as they were."""
    database = path.stat()
    try:
        log = path.with_name(path.name + "-wal").stat()
    except FileNotFoundError:
        return (database.st_mtime_ns, database.st_size, 0, 0)
    return (database.st_mtime_ns, database.st_size, log.st_mtime_ns, log.st_size)
