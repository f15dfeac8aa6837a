"""One flipped bit in a copy of a sealed part: what the demo shows fsck.

The bit lies in a row's eventHash, which the part holds plainly, so that the row still decodes and
can be named. Belongs here: choosing the bit. Does not: other damage (the mutation tests).
Source: design section 5 (sealed day: hashes are left uncompressed).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from audit_platform.errors import RecordMalformed

#: Which byte of the hash is changed: one in its middle.
BYTE_OF_HASH: Final = 16

_COLUMNS: Final = ["device_id", "sequence_number", "event_hash"]


@dataclass(frozen=True, slots=True)
class Flip:
    """A bit to flip: `offset` in the file, `mask` for that byte; and the row that it is in."""

    offset: int
    mask: int
    row: int
    device_id: str
    sequence: int


def choose_flip(data: bytes) -> Flip:
    """A bit in the eventHash of the middle row of a part. Raises `RecordMalformed` for no part."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        rows = file.read(columns=_COLUMNS)
        place = rows.num_rows // 2
        row = rows.slice(place, 1).to_pylist()[0]
    except (pa.ArrowException, OSError, IndexError) as e:
        raise RecordMalformed("sealed part", "", f"not readable: {e}") from e
    # prev_hash holds the same 32 bytes elsewhere: only the column itself is searched.
    column = file.schema_arrow.get_field_index("event_hash")
    for group in range(file.metadata.num_row_groups):
        chunk = file.metadata.row_group(group).column(column)
        end = chunk.data_page_offset + chunk.total_compressed_size
        found = data.find(row["event_hash"], chunk.data_page_offset, end)
        if found >= 0:
            return Flip(found + BYTE_OF_HASH, 1, place, row["device_id"], row["sequence_number"])
    raise RecordMalformed("sealed part", "event_hash", "the hashes are not held plainly")


def flip_bit(path: Path) -> Flip:
    """Flip one bit of a part's file in place; returns which."""
    data = bytearray(path.read_bytes())
    flip = choose_flip(bytes(data))
    data[flip.offset] ^= flip.mask
    path.write_bytes(data)
    return flip
