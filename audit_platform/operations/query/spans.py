"""What a day's manifest says of one device: its chains' spans, without a walk over all of them.

Belongs here: that look-up, and the rows behind it where a manifest does not list all gaps. Does
not: judging (`timeline.py`), reading manifests (`reader.py`).
Source: design section 5 (manifest: chains stand in the order of the rows), `docs/formats.md`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from audit_platform.errors import ObjectNotFound, RecordMalformed
from audit_platform.operations.query import units
from audit_platform.operations.query.reader import Day, Reader
from audit_platform.operations.query.scope import Scope, sealed_sources
from audit_platform.record.columns import ints_of
from audit_platform.record.manifest import Manifest
from audit_platform.record.spans import ChainSpan


def manifest_of(reader: Reader, day: Day) -> Manifest | None:
    """The manifest that counts for a day; None when it cannot be read any more."""
    try:
        return reader.manifest(day.facts.key, day.facts.version_id)
    except (RecordMalformed, ObjectNotFound):
        return None


def spans_of(reader: Reader, day: Day, device_id: str) -> tuple[ChainSpan, ...]:
    """What a sealed day holds of a device, every gap told. Raises `StoreUnavailable`.

    Where a manifest counts gaps without listing them the rows are read, and each run of sequences
    without a hole is a span of its own.
    """

    def find() -> tuple[tuple[ChainSpan, ...], int, bool]:
        manifest = manifest_of(reader, day)
        listed = () if manifest is None else _listed(manifest, device_id)
        if any(span.unlisted_gaps for span in listed):
            runs = _runs(reader, day, manifest, device_id)
            return runs, 1 + len(runs), True
        return listed, 1 + len(listed), manifest is not None

    return reader.spans.get((day.facts.version_id + day.facts.key, device_id), find)


def _listed(manifest: Manifest, device_id: str) -> tuple[ChainSpan, ...]:
    # Chains are sorted by device and chain, as the rows are (`ChainWalker.finish`).
    chains = manifest.chains
    at = bisect_left(chains, device_id, key=lambda c: c.device_id)
    end = at
    while end < len(chains) and chains[end].device_id == device_id:
        end += 1
    return chains[at:end]


def _runs(
    reader: Reader, day: Day, manifest: Manifest | None, device_id: str
) -> tuple[ChainSpan, ...]:
    """Runs of a device's sealed rows; those of a part that cannot be read are not known."""
    scope = Scope("" if manifest is None else manifest.tenant_id)
    sources = [s for s in sealed_sources(day) if s.may_hold(device_id)]
    found: list[ChainSpan] = []
    for unit in units.units_of(reader, scope, sources, lambda: False):
        if not unit.may_hold("device_id", device_id):
            continue
        batch = units.read(reader, scope, unit, ["device_id"])
        if batch is None:
            continue
        at = np.flatnonzero(units.equal_mask(batch, "device_id", device_id))
        rows = units.event_rows(reader, scope, unit, at) if len(at) else None
        if rows is not None:
            found += _runs_of(rows, device_id)
    return tuple(found)


def _runs_of(rows: pa.RecordBatch, device_id: str) -> Iterator[ChainSpan]:
    chains = rows["chain_id"].to_pylist()
    sequence = ints_of(rows["sequence_number"]).tolist()
    hashes, previous = rows["event_hash"].to_pylist(), rows["prev_hash"].to_pylist()
    edges = [
        i
        for i in range(1, len(rows))
        if chains[i] != chains[i - 1] or sequence[i] - sequence[i - 1] > 1
    ]
    for start, end in pairwise([0, *edges, len(rows)]):
        yield ChainSpan(
            device_id=device_id,
            chain_id=chains[start],
            first_sequence=sequence[start],
            first_prev_hash=previous[start].hex(),
            last_sequence=sequence[end - 1],
            head=hashes[end - 1].hex(),
            count=end - start,
        )
