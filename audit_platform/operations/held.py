"""Rows that earlier manifests hold: what makes a late copy of an event a duplicate.

Manifests say per device and chain which sequences they hold; only where a new row falls inside
such a span are the old hashes read. Belongs here: that look-up. Does not: duplicates within one
day (`gather.py`). Source: design section 5 (duplicates removed).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.ports import Objects
from audit_platform.record import sealed
from audit_platform.record.chain import ChainSpan
from audit_platform.record.columns import Mask, hash_column, ints_of, texts_at
from audit_platform.record.manifest import Manifest
from audit_platform.record.parquet import row_groups_of

_COLUMNS = ("device_id", "chain_id", "event_hash")


#: Device -> what manifests hold of it. One entry a device and day: kept as slim as can be.
HeldSpans = dict[str, list[tuple[ChainSpan, Manifest]]]


class HeldRows:
    """Looks new rows up among those of earlier manifests."""

    def __init__(self, objects: Objects, manifests: Iterable[Manifest]) -> None:
        self._objects = objects
        self.spans: HeldSpans = defaultdict(list)
        for manifest in manifests:
            for span in manifest.chains:
                self.spans[span.device_id].append((span, manifest))

    def mask(self, rows: pa.RecordBatch) -> Mask:
        """For each of the sorted rows: does an earlier manifest hold this very event?"""
        out = np.zeros(len(rows), dtype=np.bool_)
        if not self.spans or not len(rows):
            return out
        starts = np.flatnonzero(~sealed.same_chain_as_before(rows, None))
        ends = [*starts[1:].tolist(), len(rows)]
        sequence = ints_of(rows["sequence_number"])
        devices, chains = texts_at(rows["device_id"], starts), texts_at(rows["chain_id"], starts)
        for start, end, device, chain in zip(starts.tolist(), ends, devices, chains, strict=True):
            first, last = int(sequence[start]), int(sequence[end - 1])
            for span, manifest in self.spans.get(device, ()):
                if span.chain_id != chain:
                    continue
                if span.first_sequence <= last and first <= span.last_sequence:
                    known = self._hashes(manifest, device, chain)
                    hashes = rows["event_hash"].slice(start, end - start)
                    found = pc.is_in(hashes, value_set=known).to_numpy(zero_copy_only=False)
                    out[start:end] |= found
        return out

    def _hashes(self, manifest: Manifest, device: str, chain: str) -> pa.Array:
        found = [hash_column(np.zeros((0, 32), dtype=np.uint8))]
        for part in manifest.parts:
            if part.first_device <= device <= part.last_device:
                with self._objects.open(part.object.key, part.object.version_id) as file:
                    for rows in row_groups_of(
                        file, device, ["device_id", "chain_id", "event_hash"]
                    ):
                        of_chain = rows.filter(pc.equal(rows["chain_id"], chain))
                        found += of_chain["event_hash"].chunks
        return pa.concat_arrays(found)
