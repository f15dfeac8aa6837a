"""The landing table: archived events as columns with their place in the log, and its Parquet form.

A row is one stored event, or (only `raw` is set) one line or one whole log record that does not
decode: `log_index` is then the line's number, or -1 for a whole record.
Belongs here: `LANDING_SCHEMA`, rows from log values, the count that a log record's header tells,
Parquet options of landing and quarantine. Does not: storing objects (`services/archive_*.py`),
sealed parts (`sealed.py`).
Source: design section 5 (landing); `docs/formats.md`; layout measured in the limits, section 12.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audit_platform.record.columns import EVENT_FIELDS, Ints, ints_of
from audit_platform.record.layout import MS_PER_DAY, day_of
from audit_platform.record.lines import ParsedLines, parse_stored

LANDING_SCHEMA: Final = pa.schema(
    [
        pa.field("log_offset", pa.int64(), nullable=False),
        pa.field("log_index", pa.int32(), nullable=False),
        *EVENT_FIELDS,
        pa.field("raw", pa.binary()),
    ]
)

#: `log_index` of a row that stands for a whole log record.
WHOLE_RECORD: Final = -1

#: A count beyond this is not believed; a log record holds at most about 500 events.
COUNT_PATTERN: Final = re.compile(r"[0-9]{1,6}")

#: Rows of a Parquet row group: what one reader holds at a time, the same as in sealed parts.
ROW_GROUP_ROWS: Final = 1 << 17

#: Columns with few different values in a range.
_DICTIONARY: Final = (
    "hospital_id",
    "device_id",
    "chain_id",
    "event_type",
    "event_version",
    "schema_ref",
    "criticality",
)
#: Columns by whose least and greatest value a reader can skip row groups; of the others, statistics
#: cost time (0.1 refs a row) and tell nothing.
_STATISTICS: Final = (
    "log_offset",
    "device_id",
    "event_time",
    "ingestion_time",
    "sequence_number",
    "received_ms",
)
_ENCODINGS: Final = {
    "log_offset": "DELTA_BINARY_PACKED",
    "log_index": "DELTA_BINARY_PACKED",
    "event_time": "DELTA_BINARY_PACKED",
    "ingestion_time": "DELTA_BINARY_PACKED",
    "sequence_number": "DELTA_BINARY_PACKED",
    "received_ms": "DELTA_BINARY_PACKED",
    "event_id": "DELTA_BYTE_ARRAY",
}


@dataclass(frozen=True, slots=True)
class LogValue:
    """The value of a log record with its place. `count` is the number of its lines."""

    offset: int
    appended_ms: int
    value: bytes
    count: int


@dataclass(frozen=True, slots=True)
class DayRows:
    """Rows of one tenant and day. `raw` of them are lines that did not decode."""

    day: str
    rows: pa.RecordBatch
    raw: int


def header_count(headers: Mapping[str, str]) -> int:
    """Events that a log record's header `count` tells; 1 when it tells no number."""
    text = headers.get("count", "")
    return int(text) if COUNT_PATTERN.fullmatch(text) else 1


def event_rows(tenant_id: str, values: Sequence[LogValue]) -> Iterator[DayRows]:
    """Rows of log values whose lines are stored events of one tenant, each line exactly once.

    A line goes to the UTC day of its ingestionTime; one that does not decode, as raw bytes, to the
    day on which its record was appended.
    """
    parsed = parse_stored(b"".join(v.value for v in values), tenant_id)
    first = np.fromiter(accumulate((v.count for v in values), initial=0), np.int64)
    if len(parsed.lines):
        yield from _decoded(parsed, values, first)
    for line, raw in parsed.bad:
        value = int(np.searchsorted(first, line, side="right")) - 1
        index = line - int(first[value])
        yield raw_row(values[value], index, raw)


def _decoded(
    parsed: ParsedLines,
    values: Sequence[LogValue],
    first: Ints,
) -> Iterator[DayRows]:
    value = np.searchsorted(first, parsed.lines, side="right") - 1
    offsets = np.fromiter((v.offset for v in values), np.int64)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(offsets[value]),
            pa.array((parsed.lines - first[value]).astype(np.int32)),
            *parsed.batch.columns,
            pa.nulls(len(parsed.lines), pa.binary()),
        ],
        schema=LANDING_SCHEMA,
    )
    ingestion = ints_of(parsed.batch["ingestion_time"])
    first_ms, last_ms = int(ingestion.min()), int(ingestion.max())
    if first_ms // MS_PER_DAY == last_ms // MS_PER_DAY:  # as nearly always
        yield DayRows(day_of(first_ms), batch, 0)
        return
    days = ingestion // MS_PER_DAY
    for day in np.unique(days):
        yield DayRows(day_of(int(day) * MS_PER_DAY), batch.filter(pa.array(days == day)), 0)


def raw_row(value: LogValue, index: int, raw: bytes) -> DayRows:
    """One row that keeps bytes as they are: line `index` of a value, or `WHOLE_RECORD`."""
    row = {"log_offset": value.offset, "log_index": index, "raw": raw}
    rows = pa.RecordBatch.from_pylist([row], schema=LANDING_SCHEMA)
    return DayRows(day_of(value.appended_ms), rows, 1)


def to_parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> bytes:
    """Rows of landing or quarantine as one Parquet file, row groups of `ROW_GROUP_ROWS`."""
    table = pa.Table.from_batches(batches, schema=schema)
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in _DICTIONARY if name in schema.names],
        write_statistics=[name for name in _STATISTICS if name in schema.names],
        column_encoding={k: v for k, v in _ENCODINGS.items() if k in schema.names},
    )
    return sink.getvalue()
