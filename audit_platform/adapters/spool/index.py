"""The spool's index: what the closed segments hold, and what is released. One small file.

Belongs here: its rows and how they reach the disk. Does not: what follows from them (`shelf.py`).
Source: `README.md` beside this file.

A line per row: CRC-32 of the JSON as 8 hex digits, a blank, the JSON, a newline. Lines that are not
so are passed over: every row states what is true and only spares work (reading a segment, sending
again), so each may be missing. The file is written anew at each opening and when it has grown.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from audit_platform.adapters.embedded.files import Files, FsyncSite, read_whole, write_file
from audit_platform.adapters.spool.runs import Runs
from audit_platform.ports import SetAside

_FILE: Final = "index"
#: Rows are appended until so many, and four times as many as the file needs, are there.
_ROWS_BEFORE_REWRITE: Final = 4096

_log = logging.getLogger(__name__)


class Summary(NamedTuple):
    """What a segment holds: positions `base`..`next` in `bytes` bytes, `entries` of them."""

    base: int
    next: int
    bytes: int
    entries: int
    first_ms: int
    last_ms: int
    encrypted: bool
    classes: tuple[str, ...]


class Rows(NamedTuple):
    """All that an index says."""

    segments: dict[int, Summary]
    released: Runs
    next: int
    set_aside: dict[str, SetAside]


class Index:
    """The file. Not for several threads at once."""

    def __init__(self, files: Files, folder: Path) -> None:
        self._files = files
        self._path = folder / _FILE
        self._handle: int | None = None
        self._size = 0
        self._rows = 0
        self._needed = 0

    def load(self) -> Rows:
        """What the file says; nothing when it is not there or can not be read."""
        found = Rows({}, Runs(), 0, {})
        after = 0
        try:
            is_there = self._files.stat(self._path) is not None
            data = read_whole(self._files, self._path) if is_there else b""
        except OSError as e:
            _log.warning("the spool's index can not be read, so all segments are: %s", e)
            data = b""
        for line in data.split(b"\n")[:-1]:
            try:
                if int(line[:8], 16) == zlib.crc32(line[9:]):
                    after = max(after, _apply(found, orjson.loads(line[9:])))
            except (ValueError, TypeError, KeyError, IndexError):
                continue
        return found._replace(next=max(after, found.released.end))

    def rewrite(self, rows: Rows) -> None:
        """Make these the file's rows, durable on return. Raises `OSError`: call it again."""
        lines = [_line("next", rows.next), _line("released", rows.released.all())]
        lines += [_line("segment", *summary) for summary in rows.segments.values()]
        lines += [_line("set aside", *report) for report in rows.set_aside.values()]
        data = b"".join(lines)
        self.close()
        written = self._path.with_name(_FILE + ".new")
        write_file(self._files, written, data, FsyncSite.SPOOL_INDEX)
        self._files.rename(written, self._path)
        self._files.fsync_dir(self._path.parent, FsyncSite.SPOOL_INDEX_NAME)
        self._handle = self._files.open(self._path)
        self._size, self._rows, self._needed = len(data), len(lines), len(lines)

    @property
    def wants_rewrite(self) -> bool:
        """Whether it can not be appended to (a rewrite failed), or has grown too much."""
        return self._handle is None or self._rows > max(_ROWS_BEFORE_REWRITE, 4 * self._needed)

    def add_released(self, runs: Iterable[tuple[int, int]]) -> None:
        """Append released runs, durable on return. Raises `OSError`; `wants_rewrite` must be no."""
        self._append(_line("released", list(runs)))
        assert self._handle is not None
        try:
            self._files.fsync(self._handle, FsyncSite.SPOOL_RELEASED)
        except OSError:
            self.close()  # after a failed fsync another one proves nothing
            raise

    def hint(self, *rows: Summary | SetAside | tuple[int, int]) -> None:
        """Append rows (a plain pair: released) if the disk takes them. Not durable."""
        if self._handle is None:
            return
        try:
            self._append(b"".join(map(_hint_line, rows)))
        except OSError as e:
            _log.warning("the spool's index was not written: %s", e)

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._files.close(handle)

    def _append(self, line: bytes) -> None:
        assert self._handle is not None
        self._files.pwrite(self._handle, line, self._size)
        self._size += len(line)
        self._rows += 1


def _line(kind: str, *values: object) -> bytes:
    data = orjson.dumps((kind, *values))
    return b"%08x %b\n" % (zlib.crc32(data), data)


def _hint_line(row: Summary | SetAside | tuple[int, int]) -> bytes:
    if isinstance(row, Summary):
        return _line("segment", *row)
    return _line("set aside", *row) if isinstance(row, SetAside) else _line("released", [row])


def _apply(found: Rows, row: list[Any]) -> int:
    """Take one row in. Returns a position that was surely given or passed over before."""
    kind, values = row[0], row[1:]
    if kind == "next":
        return int(values[0])
    if kind == "released":
        for first, after in values[0]:
            found.released.add(int(first), int(after))
    elif kind == "segment":
        *numbers, encrypted, classes = values
        base, after, size, entries, first_ms, last_ms = map(int, numbers)
        found.segments[base] = Summary(
            base, after, size, entries, first_ms, last_ms, bool(encrypted), _interned(classes)
        )
        return after
    elif kind == "set aside":
        file, first, after, reason = values
        found.set_aside[str(file)] = SetAside(str(file), int(first), int(after), str(reason))
        return int(after)
    return 0


_CLASSES: Final[dict[tuple[str, ...], tuple[str, ...]]] = {}


def _interned(classes: Iterable[Any]) -> tuple[str, ...]:
    """The same few sets of classes recur in thousands of segments."""
    found = tuple(str(c) for c in classes)
    return _CLASSES.setdefault(found, found)
