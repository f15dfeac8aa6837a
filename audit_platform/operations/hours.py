"""Events of a sealed day by hour of their ingestionTime, read from its parts.

Belongs here: the count. Does not: a picture of it (`defs/plots.py`).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit_platform.operations.claims import read_claim
from audit_platform.ports import Platform
from audit_platform.record import layout
from audit_platform.record.manifest import Manifest

HOURS = 24
_MS_PER_HOUR = layout.MS_PER_DAY // HOURS


def events_per_hour(platform: Platform, manifest_key: str) -> tuple[int, ...]:
    """24 counts of the day that a manifest names; reads one column, a row group at a time.

    Raises `RecordMalformed`, `ObjectNotFound`, `StoreUnavailable`; `ValueError` for no manifest.
    """
    record = read_claim(platform.objects, manifest_key)
    if record is None:
        raise ValueError(manifest_key)
    manifest = Manifest.from_bytes(manifest_key, record.data)
    start = layout.day_start_ms(manifest.day)
    counts = np.zeros(HOURS, dtype=np.int64)
    for part in manifest.parts:
        with platform.objects.open(part.object.key, part.object.version_id) as file:
            for batch in pq.ParquetFile(file).iter_batches(
                columns=["ingestion_time"], use_threads=False
            ):
                ms = pc.cast(batch["ingestion_time"], pa.int64())
                hour = pc.divide(pc.subtract(ms, start), _MS_PER_HOUR)
                counts += np.bincount(hour.to_numpy(), minlength=HOURS)[:HOURS]
    return tuple(int(n) for n in counts)
