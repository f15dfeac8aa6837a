"""Three attackers on a copy of a sealed record, by what they can do.

The first changes bytes. The second also recomputes every hash, root and manifest, but cannot sign.
The third holds the signing key. Belongs here: what they do. Does not: what finds them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_platform.record import layout, merkle, sealed, signing
from audit_platform.record.chain import ChainWalker
from audit_platform.record.columns import (
    canonical_lines,
    hash_column,
    hashes_of,
    ints_of,
)
from audit_platform.record.digests import sha256_column, sha256_hex
from audit_platform.record.manifest import Manifest, NamedObject, Part

#: Changes rows of a day that carry their full prev_hash; the event hashes are made anew after it.
Change = Callable[[pa.RecordBatch], pa.RecordBatch]


def copy_of(objects: Path, into: Path) -> Path:
    """A plain copy of the record, as an outsider holds one."""
    shutil.copytree(objects, into, ignore=shutil.ignore_patterns(".meta", ".versions", ".tmp"))
    return into


def manifests_in(copy: Path, tenant_id: str) -> list[Manifest]:
    """All manifests of a tenant, by number."""
    folder = copy / layout.manifests_prefix(tenant_id)
    return [Manifest.from_bytes(str(p), p.read_bytes()) for p in sorted(folder.iterdir())]


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def rows_of(copy: Path, manifest: Manifest) -> pa.RecordBatch:
    """All rows of a day, prev_hash put back."""
    batches: list[pa.RecordBatch] = []
    for part in manifest.parts:
        before: sealed.LastRow | None = None
        for batch in pq.read_table(copy / part.object.key).combine_chunks().to_batches():
            full = hash_column(sealed.full_prev_hash(batch, before))
            before = sealed.last_row(batch)
            at = batch.schema.names.index("prev_hash")
            batches.append(batch.set_column(at, sealed.SEALED_SCHEMA.field("prev_hash"), full))
    return pa.concat_batches(batches)


def rehashed(rows: pa.RecordBatch, tenant_id: str) -> pa.RecordBatch:
    """Make event hashes true again, and links that pointed at an old hash point at the new one."""
    checksum = sha256_hex(rows["payload"])
    prev_hash = np.array(hashes_of(rows["prev_hash"]))
    old = [bytes(h) for h in hashes_of(rows["event_hash"])]
    new: dict[bytes, bytes] = {}
    out = np.zeros_like(prev_hash)
    for i in range(len(rows)):
        linked = new.get(prev_hash[i].tobytes())
        if linked is not None:
            prev_hash[i] = np.frombuffer(linked, dtype=np.uint8)
        line = canonical_lines(
            rows.slice(i, 1),
            tenant_id=tenant_id,
            checksum=checksum[i : i + 1],
            prev_hash=prev_hash[i : i + 1],
        )
        out[i] = sha256_column(line)[0]
        new[old[i]] = out[i].tobytes()
    names = rows.schema.names
    rows = rows.set_column(
        names.index("prev_hash"), rows.schema.field("prev_hash"), hash_column(prev_hash)
    )
    return rows.set_column(
        names.index("event_hash"), rows.schema.field("event_hash"), hash_column(out)
    )


def rewrite(copy: Path, manifest: Manifest, rows: pa.RecordBatch) -> Manifest:
    """Write other rows for a day, and an unsigned manifest that says the truth about them."""
    for part in manifest.parts:
        (copy / part.object.key).unlink()
    writer = sealed.PartWriter()
    writer.write(rows)
    data, facts = writer.close()
    digest = hashlib.sha256(data).hexdigest()
    key = layout.part_key(manifest.tenant_id, manifest.day, 0, digest)
    (copy / key).write_bytes(data)
    walker = ChainWalker()
    chains = manifest.chains
    try:
        walker.feed(
            rows["device_id"],
            rows["chain_id"],
            ints_of(rows["sequence_number"]),
            hashes_of(rows["event_hash"]),
            hashes_of(rows["prev_hash"]),
            first_row=0,
        )
        chains = tuple(walker.finish())
    except ValueError:
        pass  # rows that are not sorted show no chains: the old word about them stands
    part = Part(
        NamedObject(key, "1", digest, len(data), facts.rows),
        facts.root.hex(),
        tuple(r.hex() for r in facts.row_group_roots),
        facts.first_device,
        facts.last_device,
    )
    return replace(
        manifest,
        rows=facts.rows,
        parts=(part,),
        chains=chains,
        root=merkle.day_root([facts.root]).hex(),
    )


def sign(manifest: Manifest, key: Ed25519PrivateKey) -> Manifest:
    """Sign with whatever key the attacker holds."""
    key_id = signing.key_id_of(signing.public_bytes(key))
    return manifest.signed(key_id, key.sign(manifest.statement()))


def keep_old_signature(manifest: Manifest) -> Manifest:
    """Change what a manifest says and leave its signature."""
    return manifest.signed(manifest.key_id, bytes.fromhex(manifest.signature))


def put_manifests(copy: Path, manifests: Sequence[Manifest]) -> None:
    """Overwrite manifest files."""
    for manifest in manifests:
        path = copy / layout.manifest_key(manifest.tenant_id, manifest.number)
        path.write_bytes(manifest.raw)


def with_payload(rows: pa.RecordBatch, row: int, payload: str) -> pa.RecordBatch:
    """Other words in one row's payload."""
    values = rows["payload"].to_pylist()
    values[row] = payload
    at = rows.schema.names.index("payload")
    return rows.set_column(at, rows.schema.field("payload"), pa.array(values))


def swapped(rows: pa.RecordBatch, a: int, b: int) -> pa.RecordBatch:
    """Two rows in each other's place."""
    order = list(range(len(rows)))
    order[a], order[b] = order[b], order[a]
    return rows.take(pa.array(order))
