"""Does a revision keep every leaf of the manifest that it replaces?

A leaf is eventHash and ingestionTime, 40 bytes. Parts hold rows in one order for ever, so the old
leaves must stand in the new ones in that same order: both are read once, in fixed memory.
Belongs here: that comparison. Does not: whether the parts are what their manifests say (`fsck.py`),
making a revision (`operations/seal.py`). Source: design section 5 (revision).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from audit_platform.record.columns import hashes_of, ints_of
from audit_platform.record.manifest import Part

Open = Callable[[str, str], AbstractContextManager[BinaryIO]]
Leaves = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Kept:
    """How many old leaves were looked for, how many are missing, and the first that is (or "")."""

    old: int
    missing: int
    first_missing: str


def leaves_of(opener: Open, parts: Iterable[Part]) -> Iterator[Leaves]:
    """Leaf data of all rows in order, a row group at a time.

    Raises `ObjectNotFound`, `KeyError`, `pa.ArrowException`, `OSError`.
    """
    for part in parts:
        with opener(part.object.key, part.object.version_id) as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(
                    group, columns=["event_hash", "ingestion_time"], use_threads=False
                ).combine_chunks()
                (rows,) = table.to_batches()
                data = np.empty((len(rows), 40), dtype=np.uint8)
                data[:, :32] = hashes_of(rows["event_hash"])
                ms = ints_of(rows["ingestion_time"]).astype(">i8")
                data[:, 32:] = np.ascontiguousarray(ms).view(np.uint8).reshape(-1, 8)
                yield data.view("V40").ravel()


def kept(old: Callable[[], Iterator[Leaves]], new: Callable[[], Iterator[Leaves]]) -> Kept:
    """Look for every old leaf among the new ones. Both come in the order of sealed rows."""
    count = _in_order(old(), new())
    if count is not None:
        return Kept(count, 0, "")
    # Something is missing, or out of order: then each old block is held against all new ones.
    count = missing = 0
    first_missing = ""
    for wanted in old():
        found = np.zeros(len(wanted), dtype=np.bool_)
        for block in new():
            found |= np.isin(wanted, block)
        lost = wanted[~found]
        if len(lost) and not first_missing:
            first_missing = bytes(lost[0])[:32].hex()
        count += len(wanted)
        missing += len(lost)
    return Kept(count, missing, first_missing)


def _in_order(old: Iterator[Leaves], new: Iterator[Leaves]) -> int | None:
    """How many old leaves there are, when each was found where its order wants it; else None."""
    count = 0
    wanted = next(old, None)
    for block in new:
        while wanted is not None:
            found = np.isin(wanted, block)
            here = int(found.sum())
            if not found[:here].all():
                return None  # one was passed over by a later one that is here
            count += here
            wanted = wanted[here:]
            if len(wanted):
                break
            wanted = next(old, None)
    return count if wanted is None else None
