"""Finding rows in one index file, in the order of a search, a row at a time as it is taken.

Belongs here: a query as SQL, which tree it goes by, blocks that may have its words, order. Does
not: tables and writing (`hot_index.py`), several indexes (`hot.py`). Source: `ports.EventQuery`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from heapq import heapify, heappop
from operator import itemgetter
from typing import Any, Final

import pyarrow as pa

from audit_platform.adapters.embedded.hot_index import AT, COLUMNS, Row, is_selecting
from audit_platform.ports import EventClock, EventPosition, EventQuery
from audit_platform.record.columns import EVENT_SCHEMA, HASH
from audit_platform.record.words import TEXT_COLUMNS, words

#: Words that select blocks; a query with more is tested by all of them, block by block.
MAX_SELECTING_WORDS: Final = 32

HASH_BYTES: Final = 32


#: The one character beyond ASCII whose small letter is in ASCII.
_KELVIN: Final = "\u212a"

_TEXT_OF: Final = itemgetter(*(AT[name] for name in TEXT_COLUMNS))
_SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM event"  # noqa: S608 - our own column names

#: (time, device, sequence, hash, id)
_Place = tuple[int, str, int, bytes, int]


def _type_of(field: pa.Field) -> type:
    if pa.types.is_string(field.type):
        return str
    return bytes if field.type == HASH else int


#: Types of the values of a row; prevHash may be missing.
_TYPES: Final = frozenset(
    tuple(absent if f.name == "prev_hash" else _type_of(f) for f in EVENT_SCHEMA)
    for absent in (bytes, type(None))
)


def position(row: Row, clock: EventClock) -> EventPosition:
    """Where a row stands by a clock."""
    ms = row[AT[_time_of(clock)]]
    return EventPosition(
        ms, row[AT["device_id"]], row[AT["sequence_number"]], row[AT["event_hash"]]
    )


def find(
    connection: sqlite3.Connection, query: EventQuery, needed: frozenset[str]
) -> Generator[Row, None, None]:
    """Rows that a query asks for (its limit apart), ascending by position.

    `needed` are the words of `query.text`. Reads on as rows are taken; close it when done.
    """
    select = _Select(query, needed)
    if query.device_id is not None:
        rows = select.rows(connection, "event_by_device")
        yield from (row for row in rows if has_words(row, needed))
        return
    given = " ".join(v or "" for v in (query.hospital_id, query.event_type, query.criticality))
    selecting = {word for word in needed.union(words(given)) if is_selecting(word)}
    if query.clock is EventClock.EVENT and not selecting:
        yield from select.rows(connection, "event_by_time")
    else:
        yield from _by_blocks(connection, select, sorted(selecting), needed)


def has_words(row: Row, needed: frozenset[str]) -> bool:
    """Whether all of these words stand in the row's text."""
    if not needed:
        return True
    return needed <= set(words(" ".join(_TEXT_OF(row))))


class _Select:
    """A query's conditions as SQL. Bound values only; names are our own.

    Of the words, a sieve: each that is ASCII must stand somewhere in a row's text.
    """

    def __init__(self, query: EventQuery, needed: frozenset[str]) -> None:
        time = _time_of(query.clock)
        after = query.after
        self.clock = query.clock
        self.from_ms = max(query.from_ms, after.ms) if after else query.from_ms
        self.to_ms = query.to_ms
        self._position = f"{time}, device_id, sequence_number, event_hash"
        self._conditions = [f"{time} >= ? AND {time} < ?"]
        self._values: list[Any] = [self.from_ms, self.to_ms]
        for name in ("device_id", "hospital_id", "event_type", "criticality"):
            wanted = getattr(query, name)
            if wanted is not None:
                self._conditions.append(f"{name} = ?")
                self._values.append(wanted)
        if after:
            self._conditions.append(f"({self._position}) > (?, ?, ?, ?)")
            self._values += after
        for word in sorted(needed):
            if word.isascii():
                self._sieve(word)

    def _sieve(self, word: str) -> None:
        payload = f"replace(payload, '{_KELVIN}', 'k')" if "k" in word else "payload"
        texts = [payload, *(name for name in TEXT_COLUMNS if name != "payload")]
        self._conditions.append(f"({' OR '.join(f'{text} LIKE ?' for text in texts)})")
        self._values += [f"%{word}%"] * len(texts)

    def rows(self, connection: sqlite3.Connection, index: str) -> Iterator[Row]:
        """Rows by way of an index, in order."""
        where = " AND ".join(self._conditions)
        return _sound(
            connection,
            f"{_SELECT} INDEXED BY {index} WHERE {where} ORDER BY {self._position}",
            self._values,
        )

    def places(self, connection: sqlite3.Connection, first: int, last: int) -> list[_Place]:
        """Where rows with ids from first to last stand in the order, each with its id."""
        where = " AND ".join(["id BETWEEN ? AND ?", *self._conditions])
        found: list[_Place] = connection.execute(
            f"SELECT {self._position}, id FROM event NOT INDEXED WHERE {where}",  # noqa: S608 - our own names
            [first, last, *self._values],
        ).fetchall()
        return found


def _sound(connection: sqlite3.Connection, statement: str, values: list[Any]) -> Iterator[Row]:
    """Rows of a statement, as they were written: SQLite has no digests, and pages can be damaged.

    Raises `sqlite3.DatabaseError`.
    """
    for row in connection.execute(statement, values):
        if tuple(map(type, row)) not in _TYPES or len(row[AT["event_hash"]]) != HASH_BYTES:
            raise sqlite3.DatabaseError("a row is damaged")
        yield row


def _by_blocks(
    connection: sqlite3.Connection, select: _Select, selecting: list[str], needed: frozenset[str]
) -> Iterator[Row]:
    """Rows block by block, held back until no later block can have an earlier one."""
    time = _time_of(select.clock)
    window = f"last_{time} >= ? AND first_{time} < ?"
    values: list[Any] = [select.from_ms, select.to_ms]
    source = "block"
    if selecting:
        source = "word CROSS JOIN block ON block.id = word.rowid"
        window = f"word MATCH ? AND {window}"
        match = " AND ".join(f'"{word}"' for word in selecting[:MAX_SELECTING_WORDS])
        values.insert(0, match)
    blocks = connection.execute(
        f"SELECT first_{time}, first_id, last_id FROM {source} WHERE {window}"  # noqa: S608 - our own names
        f" ORDER BY first_{time}, block.id",
        values,
    )
    waiting: list[_Place] = []
    for first_ms, first_id, last_id in blocks:
        yield from _taken(connection, waiting, first_ms, needed)
        waiting += select.places(connection, first_id, last_id)
        heapify(waiting)
    yield from _taken(connection, waiting, select.to_ms, needed)


def _taken(
    connection: sqlite3.Connection, waiting: list[_Place], before_ms: int, needed: frozenset[str]
) -> Iterator[Row]:
    """Take the rows before a time off the heap; the whole row is read only now."""
    while waiting and waiting[0][0] < before_ms:
        for row in _sound(connection, f"{_SELECT} WHERE id = ?", [heappop(waiting)[-1]]):
            if has_words(row, needed):
                yield row


def _time_of(clock: EventClock) -> str:
    return "event_time" if clock is EventClock.EVENT else "ingestion_time"
