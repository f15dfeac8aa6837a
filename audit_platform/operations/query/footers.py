"""What the footer of a Parquet object tells: row groups, their bounds, their Bloom filters.

Belongs here: from a file's footer to what can be skipped. Does not: which objects there are
(`scope.py`), keeping footers (`reader.py`), reading rows (`units.py`).
Source: design section 5 (row groups, statistics); `docs/formats.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import pyarrow.parquet as pq

#: Columns by which rows can be narrowed and row groups skipped.
EQUAL_COLUMNS: Final = ("device_id", "hospital_id", "event_type", "criticality")
TIME_COLUMNS: Final = ("event_time", "ingestion_time")

#: Column -> (least, greatest) value; times in milliseconds.
Bounds = dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of a Parquet object; `first_row` counts in the object."""

    number: int
    first_row: int
    rows: int
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer of a Parquet object and its row groups with their bounds.

    `bloom` is (offset, length) of each row group's filter on eventId; length 0: there is none.
    """

    metadata: pq.FileMetaData
    groups: tuple[RowGroup, ...]
    bloom: tuple[tuple[int, int], ...]


def read_footer(file: BinaryIO) -> Footer:
    """The footer of an open file. Raises `pa.ArrowException`, `KeyError`, `OSError`."""
    found = pq.ParquetFile(file, pre_buffer=False).metadata
    return Footer(found, _groups(found), _filters(found))


def _groups(footer: pq.FileMetaData) -> tuple[RowGroup, ...]:
    places = {footer.schema.column(i).path: i for i in range(footer.num_columns)}
    groups, first_row = [], 0
    for number in range(footer.num_row_groups):
        row_group = footer.row_group(number)
        bounds: Bounds = {}
        for name in (*TIME_COLUMNS, *EQUAL_COLUMNS):
            statistics = row_group.column(places[name]).statistics
            if statistics is None or not statistics.has_min_max:
                continue
            if name in TIME_COLUMNS:
                bounds[name] = (statistics.min_raw, statistics.max_raw)
            else:
                bounds[name] = (statistics.min, statistics.max)
        groups.append(RowGroup(number, first_row, row_group.num_rows, bounds))
        first_row += row_group.num_rows
    return tuple(groups)


def _filters(footer: pq.FileMetaData) -> tuple[tuple[int, int], ...]:
    place = next(i for i in range(footer.num_columns) if footer.schema.column(i).path == "event_id")
    columns = [footer.row_group(g).column(place) for g in range(footer.num_row_groups)]
    return tuple((c.bloom_filter_offset or 0, c.bloom_filter_length or 0) for c in columns)
