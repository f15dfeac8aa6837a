"""Rows out of a Parquet file that is read through a Python file object.

Belongs here: the one way to read some columns, or the rows of some devices. Does not: what the
columns mean (`landing.py`, `sealed.py`), reading with judgement (`partcheck.py`).

Not `pyarrow.parquet.read_table`: it reads ahead on Arrow's I/O threads, which can still hold the
Python file when the interpreter ends, and then end the process with an abort ("terminate called
without an active exception", seen in one of 13 short commands), so that a clean answer came with
the exit code of a crash. Here every read happens on the calling thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def read_columns(file: BinaryIO, columns: Sequence[str]) -> pa.Table:
    """All rows, these columns in this order.

    Raises `KeyError` (a column is missing), `pa.ArrowException`, `OSError`.
    """
    return pq.ParquetFile(file).read(list(columns), use_threads=False).select(list(columns))


def row_groups_of(file: BinaryIO, device_id: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of one device, a table for each row group that can hold some.

    `columns` must include `device_id`. A row group without statistics is read. Raises as
    `read_columns`.
    """
    parquet = pq.ParquetFile(file)
    place = parquet.schema_arrow.get_field_index("device_id")
    for group in range(parquet.num_row_groups):
        statistics = parquet.metadata.row_group(group).column(place).statistics
        has_bounds = statistics is not None and statistics.has_min_max
        if has_bounds and not statistics.min <= device_id <= statistics.max:
            continue
        table = parquet.read_row_group(group, list(columns), use_threads=False)
        yield table.filter(pc.equal(table["device_id"], device_id)).select(list(columns))
