"""One index file: rows of one tenant's day in SQLite, laid out for what it costs to write.

Rows stand in blocks: a block is up to `BLOCK_ROWS` neighbours by ingestionTime with the bounds of
both times. Words are indexed by block, not by row (FTS5 without content, positions and sizes): a
block holds each word once, so an event costs a fraction of a word; a search reads the blocks that
may have it and tests their rows. Two trees by row: (eventTime, eventHash), which is the identity
too, since equal hashes have equal times, and grows at its end; and (device, ingestionTime).

Belongs here: tables, writing rows, sets of hashes. Does not: a search (`hot_find.py`), which index
(`hot.py`), what a word is (`record/words.py`). Source: `ports.Hot`; `docs/search.md`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audit_platform.adapters.embedded.hot_pool import WRITE_CACHE_KIB
from audit_platform.record.columns import EVENT_SCHEMA, TIMESTAMP, ints_of
from audit_platform.record.words import TEXT_COLUMNS, words

#: Rows that are sieved together; about 1 ms to read and test.
BLOCK_ROWS: Final = 2048

#: Columns of a row as `EVENT_SCHEMA` has them, and as tuples have them.
COLUMNS: Final = tuple(EVENT_SCHEMA.names)
AT: Final = {name: n for n, name in enumerate(COLUMNS)}

_BRACE: Final = ord("}")
_QUOTE: Final = ord('"')

UUID_CHARACTERS: Final = 36
UUID_FIRST: Final = 8
UUID_LAST: Final = 12
_SHORT_HEX: Final = re.compile(r"[0-9a-f]{4}")


#: Large values stand last: a test of the others need not read them.
_STORED: Final = (
    "event_time",
    "event_hash",
    "ingestion_time",
    "device_id",
    "sequence_number",
    "hospital_id",
    "event_type",
    "criticality",
    "event_version",
    "chain_id",
    "event_id",
    "schema_ref",
    "prev_hash",
    "payload",
)

#: Columns of few different values in a block: each is turned into an object once.
_REPEATED: Final = (
    "hospital_id",
    "device_id",
    "chain_id",
    "event_type",
    "schema_ref",
    "criticality",
)

_BLOCK: Final = (
    "first_id",
    "last_id",
    "first_ingestion_time",
    "last_ingestion_time",
    "first_event_time",
    "last_event_time",
)

#: Words come cut and folded, parted by spaces: `ascii` takes whatever is not ASCII as letters.
_WORDS: Final = "words, content='', detail=none, columnsize=0, tokenize='ascii'"

SCHEMA: Final = (
    "CREATE TABLE about(documents INTEGER NOT NULL)",
    "INSERT INTO about VALUES(0)",
    f"CREATE TABLE event(id INTEGER PRIMARY KEY, {', '.join(_STORED)})",
    "CREATE UNIQUE INDEX event_by_time ON event(event_time, event_hash)",
    "CREATE INDEX event_by_device ON event(device_id, ingestion_time)",
    f"CREATE TABLE block(id INTEGER PRIMARY KEY, {', '.join(_BLOCK)})",
    f"CREATE VIRTUAL TABLE word USING fts5({_WORDS})",
)

_INSERT: Final = (
    f"INSERT OR IGNORE INTO event(id, {', '.join(_STORED)})"
    f" VALUES({', '.join('?' * (1 + len(_STORED)))})"
)

#: What parts words within ASCII becomes a blank; capitals become small ones.
_ASCII_FOLD: Final = bytes(
    b + 32 if 65 <= b <= 90 else b if 48 <= b <= 57 or 97 <= b <= 122 or b >= 128 else 32  # noqa: PLR2004 - ASCII letters, digits, not ASCII
    for b in range(256)
)

Row = tuple[Any, ...]


# --------------------------------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class Prepared:
    """A block of rows, ready to be written: values by `_STORED`, its words, its bounds in ms."""

    values: list[list[Any]]
    words: str
    ingestion: tuple[int, int]
    event: tuple[int, int]

    @property
    def rows(self) -> int:
        """Rows in it."""
        return len(self.values[0])


def prepare(rows: pa.RecordBatch) -> list[Prepared]:
    """Cut rows into blocks by ingestionTime, and turn columns into values. No I/O."""
    ingestion = ints_of(rows["ingestion_time"])
    if (ingestion[1:] < ingestion[:-1]).any():
        order = np.argsort(ingestion, kind="stable")
        rows = rows.take(pa.array(order))
    return [
        _prepared(rows.slice(start, BLOCK_ROWS)) for start in range(0, rows.num_rows, BLOCK_ROWS)
    ]


def _prepared(rows: pa.RecordBatch) -> Prepared:
    encoded = {name: rows[name].dictionary_encode() for name in _REPEATED}
    values: list[list[Any]] = []
    bounds: dict[str, tuple[int, int]] = {}
    for name in _STORED:
        column = rows[name]
        if name in encoded:
            values.append(_repeated(encoded[name]))
        elif pa.types.is_timestamp(column.type):
            times = ints_of(column)
            bounds[name] = int(times.min()), int(times.max())
            values.append(times.tolist())
        else:
            values.append(_values(column))
    return Prepared(
        values=values,
        words=_words({name: e.dictionary for name, e in encoded.items()}, rows),
        ingestion=bounds["ingestion_time"],
        event=bounds["event_time"],
    )


def _values(column: pa.Array) -> list[Any]:
    # By way of numpy: up to forty times cheaper than `to_pylist` here.
    values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
    return values


def _repeated(column: pa.DictionaryArray) -> list[Any]:
    """The same where few values are: each is one object, however often it stands there."""
    values: list[Any] = _values(column.dictionary)
    if len(values) == 1:
        return values * len(column)
    at = column.indices.to_numpy()
    return list(np.array(values, dtype=object)[at].tolist())


def block_words(rows: pa.RecordBatch) -> set[str]:
    """The selecting words of some rows, each once, as `record.words` cuts and folds them.

    All but pieces of event ids of four hex digits: they are as many as the rows and tell little.
    """
    found = _words({name: rows[name].unique() for name in _REPEATED}, rows).split(" ")
    return set(found) - {""}


def _words(few: Mapping[str, pa.Array], rows: pa.RecordBatch) -> str:
    """The same, with blanks between; `few` has the different values of repeated columns."""
    texts: list[bytes] = []
    ids = b""
    for name in TEXT_COLUMNS:
        if name == "event_id":
            ids = _id_pieces(rows[name].cast(pa.binary()))
        elif name == "payload":
            texts.append(_payload_pieces(rows[name].cast(pa.binary())))
        else:
            texts += few[name].cast(pa.binary()).to_pylist()
    # Cut at what is ASCII and parts words; each word once, in the order in which it is met.
    found = dict.fromkeys(b" ".join(texts).translate(_ASCII_FOLD).split())
    joined = b" ".join([*found, ids.translate(_ASCII_FOLD)]).decode("utf-8", "replace")
    if joined.isascii():
        return joined
    return " ".join({cut for word in joined.split(" ") for cut in _cut(word)})


def _cut(word: str) -> list[str]:
    return [word] if word.isascii() else words(word)


def _payload_pieces(column: pa.Array) -> bytes:
    """All payloads, cut at each quote: each different piece once, a quote before each but one.

    No word goes beyond a quote. Arrow compares the pieces where they stand: most are met again and
    again, and cutting every payload into words costs three times as much.
    """
    ends = _ends(column)
    buffer = column.buffers()[2]
    if buffer is None or ends[0] == ends[-1]:
        return b""
    data = np.frombuffer(buffer, np.uint8)[ends[0] : ends[-1]]
    last = ends[1:] - ends[0] - 1
    if (last < 0).any() or (data[last] != _BRACE).any():
        # A brace at the end of each parts words too; where one is missing, a blank does.
        data = np.frombuffer(b" ".join(column.to_pylist()), np.uint8)
    cuts = np.concatenate([[0], np.flatnonzero(data == _QUOTE), [len(data)]]).astype(np.int32)
    buffers = [None, pa.py_buffer(cuts), pa.py_buffer(data)]
    pieces = pa.Array.from_buffers(pa.binary(), len(cuts) - 1, buffers).unique()
    ends = _ends(pieces)
    return bytes(memoryview(pieces.buffers()[2])[ends[0] : ends[-1]])


def _ends(column: pa.Array) -> npt.NDArray[np.int32]:
    return np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]


def _id_pieces(column: pa.Array) -> bytes:
    """The first and the last piece of each event id; whole ones where they are not UUIDs."""
    ends = _ends(column)
    if (ends[1:] - ends[:-1] != UUID_CHARACTERS).any():
        return b" ".join(column.to_pylist())
    data = np.frombuffer(column.buffers()[2], np.uint8)[ends[0] : ends[-1]]
    ids = data.reshape(-1, UUID_CHARACTERS)
    last = np.full((len(ids), UUID_LAST + 1), ord(" "), np.uint8)
    last[:, :UUID_LAST] = ids[:, -UUID_LAST:]
    # The first is of the time: the same in many ids that stand side by side.
    first = np.ascontiguousarray(ids[:, :UUID_FIRST])
    whole = first.view(np.uint64).ravel()
    begins = np.concatenate([[True], whole[1:] != whole[:-1]])
    return last.tobytes() + b" ".join(set(first[begins].view(f"S{UUID_FIRST}").ravel().tolist()))


def is_selecting(word: str) -> bool:
    """Whether a block that has this word surely names it."""
    return _SHORT_HEX.fullmatch(word) is None


def write(connection: sqlite3.Connection, blocks: Sequence[Prepared]) -> int:
    """Write blocks in one transaction, durable on return; how many rows were new.

    A row whose identity is there already changes nothing.
    """
    connection.execute(f"PRAGMA cache_size=-{WRITE_CACHE_KIB}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        new = sum(_write_block(connection, block) for block in blocks)
        if new:
            connection.execute("UPDATE about SET documents = documents + ?", (new,))
        connection.execute("COMMIT" if new else "ROLLBACK")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return new


def _write_block(connection: sqlite3.Connection, block: Prepared) -> int:
    last = connection.execute("SELECT id, last_id FROM block ORDER BY id DESC LIMIT 1").fetchone()
    number, first = (1, 1) if last is None else (last[0] + 1, last[1] + 1)
    ids = range(first, first + block.rows)
    new = connection.executemany(_INSERT, zip(ids, *block.values, strict=True)).rowcount
    if new:
        connection.execute(
            "INSERT INTO block VALUES(?, ?, ?, ?, ?, ?, ?)",
            (number, ids[0], ids[-1], *block.ingestion, *block.event),
        )
        connection.execute("INSERT INTO word(rowid, words) VALUES(?, ?)", (number, block.words))
    return new


def remove(connection: sqlite3.Connection, hashes: Iterable[bytes]) -> int:
    """Delete the rows with these hashes; how many there were. Blocks keep their bounds and words.

    Reads the identities of all rows: no tree goes by hash alone.
    """
    wanted = set(hashes)
    connection.execute("BEGIN IMMEDIATE")
    try:
        rows = connection.execute("SELECT id, event_hash FROM event INDEXED BY event_by_time")
        found = [(row_id,) for row_id, event_hash in rows if event_hash in wanted]
        connection.executemany("DELETE FROM event WHERE id = ?", found)
        connection.execute("UPDATE about SET documents = documents - ?", (len(found),))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return len(found)


# --------------------------------------------------------------------------------------- reading


def documents(connection: sqlite3.Connection) -> int:
    """How many rows there are."""
    count: int = connection.execute("SELECT documents FROM about").fetchone()[0]
    return count


def hashes(connection: sqlite3.Connection) -> npt.NDArray[np.uint8]:
    """All eventHashes, ascending, shape (n, 32). `ValueError` for one that has not 32 bytes."""
    cursor = connection.execute("SELECT event_hash FROM event INDEXED BY event_by_time")
    parts = []
    while some := cursor.fetchmany(1 << 16):
        part = np.frombuffer(b"".join(h for (h,) in some), np.uint8)
        parts.append(part.reshape(len(some), 32))
    if not parts:
        return np.zeros((0, 32), np.uint8)
    rows = np.concatenate(parts)
    return np.unique(rows.view("V32").ravel()).view(np.uint8).reshape(-1, 32)


def has(connection: sqlite3.Connection, row: Row) -> bool:
    """Whether this very event is here."""
    identity = (row[AT["event_time"]], row[AT["event_hash"]])
    found = connection.execute(
        "SELECT 1 FROM event WHERE event_time = ? AND event_hash = ?", identity
    )
    return found.fetchone() is not None


def event_ms(row: Row) -> int:
    """The eventTime of a row."""
    ms: int = row[AT["event_time"]]
    return ms


def to_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as `EVENT_SCHEMA`."""
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [
        pa.array(values, pa.int64()).cast(TIMESTAMP)
        if pa.types.is_timestamp(field.type)
        else pa.array(values, field.type)
        for field, values in zip(EVENT_SCHEMA, columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=EVENT_SCHEMA)
