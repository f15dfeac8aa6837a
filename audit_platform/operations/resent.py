"""Events of a day that say again what an earlier day holds in another chain.

An edge restored from an old copy sends again what it had sent, in a new epoch: the same eventId
under another hash. Both are kept; the manifest counts them, so that nobody takes them for news.
Only devices whose sequences stand in another chain of an earlier day are looked up.
Belongs here: that look-up. Does not: copies with the same hash (`held.py`), ids that stand twice in
one day (`record/chain.py`). Source: design section 3 (eventId, `resent`, `id_reuse`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.operations.held import HeldSpans
from audit_platform.ports import Objects
from audit_platform.record import sealed
from audit_platform.record.chain import ChainSpan, Verdict
from audit_platform.record.columns import ints_of, texts_at
from audit_platform.record.digests import sha256_column
from audit_platform.record.manifest import Manifest
from audit_platform.record.parquet import row_groups_of

_COLUMNS = ("device_id", "chain_id", "event_id", "payload")


class EarlierIds:
    """The eventIds of earlier days, read where a device's sequences come again in another chain."""

    def __init__(self, objects: Objects, spans: HeldSpans, day: str) -> None:
        self._objects, self._spans, self._day = objects, spans, day

    def verdicts(self, rows: pa.RecordBatch) -> list[str]:
        """`resent` or `id_reuse` for each of the sorted rows whose eventId an earlier day holds."""
        if not self._spans or not len(rows):
            return []
        found: list[str] = []
        starts = np.flatnonzero(~sealed.same_chain_as_before(rows, None))
        ends = [*starts[1:].tolist(), len(rows)]
        sequence = ints_of(rows["sequence_number"])
        devices, chains = texts_at(rows["device_id"], starts), texts_at(rows["chain_id"], starts)
        for start, end, device, chain in zip(starts.tolist(), ends, devices, chains, strict=True):
            first, last = int(sequence[start]), int(sequence[end - 1])
            others = [
                (span, manifest)
                for span, manifest in self._spans.get(device, ())
                if span.chain_id != chain
                and span.first_sequence <= last
                and first <= span.last_sequence
                and manifest.day < self._day
            ]
            if others:
                found += self._of_chain(rows.slice(start, end - start), device, others)
        return found

    def _of_chain(
        self, rows: pa.RecordBatch, device: str, others: Sequence[tuple[ChainSpan, Manifest]]
    ) -> list[str]:
        known: dict[str, bytes] = {}
        wanted = rows["event_id"]
        for span, manifest in others:
            for part in manifest.parts:
                if not part.first_device <= device <= part.last_device:
                    continue
                with self._objects.open(part.object.key, part.object.version_id) as file:
                    for table in row_groups_of(file, device, _COLUMNS):
                        same = table.filter(
                            pc.and_(
                                pc.equal(table["chain_id"], span.chain_id),
                                pc.is_in(table["event_id"], value_set=wanted),
                            )
                        ).combine_chunks()
                        for batch in same.to_batches():
                            checksums = _checksums(batch)
                            known |= dict(
                                zip(batch["event_id"].to_pylist(), checksums, strict=True)
                            )
        if not known:
            return []
        again = rows.filter(pc.is_in(wanted, value_set=pa.array(list(known), pa.string())))
        pairs = zip(again["event_id"].to_pylist(), _checksums(again), strict=True)
        return [
            (Verdict.RESENT if known[event_id] == checksum else Verdict.ID_REUSE).value
            for event_id, checksum in pairs
        ]


def _checksums(rows: pa.RecordBatch) -> list[bytes]:
    return [bytes(row) for row in sha256_column(rows["payload"])]
