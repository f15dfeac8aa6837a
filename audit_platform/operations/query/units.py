"""Row groups that a question reads, and what their statistics allow to skip.

Belongs here: one row group of one source, its bounds, reading its rows as events with their place.
Does not: which sources there are (`scope.py`), order and pages (`cold.py`).
Source: design section 5 (row groups of 2^17 rows, statistics); `docs/formats.md`.

A source that cannot be read is dropped from the scope, which says so; the question goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit_platform.errors import AuditPlatformError, QueryCancelled, Recoverable
from audit_platform.operations.query.footers import RowGroup
from audit_platform.operations.query.model import IsCancelled
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import Scope, Source
from audit_platform.record.columns import (
    EVENT_SCHEMA,
    Hashes,
    Ints,
    Mask,
    hash_column,
    hashes_of,
    ints_of,
)

#: What reading a changed or missing object raises.
UNREADABLE: Final = (AuditPlatformError, pa.ArrowException, OSError, ValueError, KeyError)


_FEW_VALUES: Final = ["hospital_id", "device_id", "event_type", "schema_ref", "criticality"]
_BATCH_ROWS: Final = 8192

#: Says which rows of a batch are wanted.
Choose = Callable[[pa.RecordBatch], Mask]


@dataclass(frozen=True, slots=True)
class Unit:
    """One row group of a source."""

    source: Source
    group: RowGroup

    def may_hold(self, column: str, value: str | None) -> bool:
        """Whether the row group can hold this value."""
        bounds = self.group.bounds.get(column)
        return value is None or bounds is None or bool(bounds[0] <= value <= bounds[1])

    def may_hold_time(self, column: str, from_ms: int, to_ms: int) -> bool:
        """Whether the row group can hold a time in `from_ms <= t < to_ms`."""
        bounds = self.group.bounds.get(column)
        return bounds is None or bool(bounds[0] < to_ms and bounds[1] >= from_ms)

    def least(self, column: str) -> int:
        """The least time it can hold."""
        bounds = self.group.bounds.get(column)
        return int(bounds[0]) if bounds else -(1 << 62)


def check(is_cancelled: IsCancelled) -> None:
    """Raise `QueryCancelled` when the caller has left; asked before each row group."""
    if is_cancelled():
        raise QueryCancelled("the query was cancelled", remedy="ask again with a smaller window")


def units_of(
    reader: Reader, scope: Scope, sources: Sequence[Source], is_cancelled: IsCancelled
) -> Iterator[Unit]:
    """Row groups of sources, by their footers."""
    for source in sources:
        check(is_cancelled)
        try:
            footer = reader.footer(source.key, source.version_id)
        except Recoverable:
            raise
        except UNREADABLE:
            scope.unavailable.add(source.key)
            continue
        for group in footer.groups:
            yield Unit(source, group)


def read(reader: Reader, scope: Scope, unit: Unit, columns: Sequence[str]) -> pa.RecordBatch | None:
    """Columns of a row group, `_FEW_VALUES` as dictionaries.

    None when there are no rows, or (and told) when they cannot be read. Raises `Recoverable`: a
    store that does not answer is not a missing object.
    """
    source = unit.source
    try:
        with reader.platform.objects.open(source.key, source.version_id) as file:
            parquet = _opened(reader, source, file)
            table = parquet.read_row_group(unit.group.number, list(columns), use_threads=False)
        batches: list[pa.RecordBatch] = table.select(list(columns)).combine_chunks().to_batches()
    except Recoverable:
        raise
    except UNREADABLE:
        scope.unavailable.add(source.key)
        return None
    return batches[0] if batches else None


def counts_mask(unit: Unit, batch: pa.RecordBatch) -> Mask:
    """Rows of a unit that count: all of a sealed part; of landing, decoded ones not yet covered.

    Of landing, `batch` has `log_offset` and `event_hash`.
    """
    if unit.source.sealed:
        return np.ones(len(batch), dtype=np.bool_)
    mask = np.asarray(batch["event_hash"].is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    return mask & (ints_of(batch["log_offset"]) >= unit.source.from_offset)


def place_columns(source: Source) -> tuple[str, ...]:
    """Columns that `counts_mask` and `log_places` need."""
    return ("event_hash",) if source.sealed else ("event_hash", "log_offset", "log_index")


def event_rows(reader: Reader, scope: Scope, unit: Unit, at: Ints) -> pa.RecordBatch | None:
    """Rows `at` (counted in the unit, in any order) as `EVENT_SCHEMA`, with the full `prev_hash`.

    None (and told) when they cannot be read. Rows behind the last of them are not decoded.
    """
    order = np.argsort(at, kind="stable")
    rows = _rows_at(reader, scope, unit, at[order])
    if rows is None:
        return None
    if unit.source.sealed and rows["prev_hash"].null_count:
        full = _full_prev_hash(reader, scope, unit, at[order], rows)
        if full is None:
            return None
        position = EVENT_SCHEMA.get_field_index("prev_hash")
        rows = rows.set_column(position, EVENT_SCHEMA.field("prev_hash"), hash_column(full))
    return rows.take(pa.array(np.argsort(order, kind="stable")))


def _rows_at(reader: Reader, scope: Scope, unit: Unit, at: Ints) -> pa.RecordBatch | None:
    """Rows at ascending places of a unit, as they stand in the file."""
    pieces: list[pa.RecordBatch] = []
    start, last = 0, int(at[-1])
    source = unit.source
    try:
        with reader.platform.objects.open(source.key, source.version_id) as file:
            parquet = _opened(reader, source, file)
            for batch in parquet.iter_batches(
                _BATCH_ROWS, [unit.group.number], EVENT_SCHEMA.names, use_threads=False
            ):
                mine = at[(at >= start) & (at < start + len(batch))] - start
                if len(mine):
                    pieces.append(batch.take(pa.array(mine)).cast(EVENT_SCHEMA))
                start += len(batch)
                if start > last:
                    break
        rows = pa.concat_batches(pieces)
        if len(rows) != len(at):
            raise ValueError(f"{source.key}: row group {unit.group.number} is cut off")
    except Recoverable:
        raise
    except UNREADABLE:
        scope.unavailable.add(source.key)
        return None
    return rows


def _opened(reader: Reader, source: Source, file: BinaryIO) -> pq.ParquetFile:
    # Columns of few values come as dictionaries: a fifth of the time.
    footer = reader.footer(source.key, source.version_id)
    return pq.ParquetFile(
        file, metadata=footer.metadata, pre_buffer=False, read_dictionary=_FEW_VALUES
    )


def _full_prev_hash(
    reader: Reader, scope: Scope, unit: Unit, at: Ints, rows: pa.RecordBatch
) -> Hashes | None:
    """`prev_hash` of rows of a sealed part, with what was left out put back."""
    batch = read(reader, scope, unit, ["event_hash"])
    if batch is None:
        return None
    previous = np.array(hashes_of(batch["event_hash"])[np.maximum(at - 1, 0)])
    lacks = np.asarray(rows["prev_hash"].is_null().to_numpy(zero_copy_only=False), dtype=bool)
    first = lacks & (at == 0)
    if first.any():
        last = _last_hash_before(reader, scope, unit)
        if last is None:
            return None
        previous[first] = last
    full = np.array(hashes_of(rows["prev_hash"]))
    full[lacks] = previous[lacks]
    return full


def _last_hash_before(reader: Reader, scope: Scope, unit: Unit) -> Hashes | None:
    """The eventHash of the row before a row group of a sealed part, shape (1, 32)."""
    number = unit.group.number
    if not number:
        # A part never starts without its prevHash: it was changed.
        scope.unavailable.add(unit.source.key)
        return None
    footer = reader.footer(unit.source.key, unit.source.version_id)
    batch = read(reader, scope, Unit(unit.source, footer.groups[number - 1]), ["event_hash"])
    return None if batch is None else hashes_of(batch["event_hash"].slice(len(batch) - 1))


def equal_mask(batch: pa.RecordBatch, column: str, *values: str) -> Mask:
    """Rows whose text column has one of these values."""
    texts = batch[column]
    wanted = pa.array(values, pa.string())
    if not pa.types.is_dictionary(texts.type):
        found = pc.is_in(texts, value_set=wanted)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)
    known = pc.is_in(texts.dictionary, value_set=wanted).to_numpy(zero_copy_only=False)
    # A null has no index; the place behind the dictionary stands for it.
    codes = texts.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)
    mask: Mask = np.append(np.asarray(known, dtype=np.bool_), [False])[codes]
    return mask
