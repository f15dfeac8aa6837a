"""Sealing: a closed day of one tenant becomes sorted parts under one signed manifest.

Safe to run again, twice at once, and after death at any step: parts have their content's digest in
their name, the manifest's number is claimed by put-if-absent, and who loses the claim adopts the
winner or goes on after it. Belongs here: the order of those steps. Does not: rows (`gather.py`),
their form (`record/sealed.py`), judgement afterwards (`verify.py`).
Source: design section 2 (commit pattern), 5 (sealed day, manifest, locks).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import ObjectExists, SealRefused
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations import gather, held, manifests
from audit_platform.operations.claims import claim, lock_until
from audit_platform.operations.coverage import Coverage, DayInputs, coverage, inputs_of
from audit_platform.ports import Objects, ObjectVersion, Platform
from audit_platform.record import layout, merkle, sealed
from audit_platform.record.chain import ChainSpan, ChainWalker, Verdict, judge_ids
from audit_platform.record.columns import (
    canonical_lines,
    hashes_of,
    ints_of,
)
from audit_platform.record.digests import sha256_column
from audit_platform.record.edges import SIGNED_TYPES, edge_facts
from audit_platform.record.links import EventLink
from audit_platform.record.manifest import (
    SEALED,
    InputRange,
    Manifest,
    NamedObject,
    Part,
    QuarantinedLink,
    previous_hash,
)
from audit_platform.record.parquet import read_columns
from audit_platform.record.quarantine import QUARANTINE_SCHEMA

#: Data is locked this long at first, and to its day + 2 years once a manifest names it.
DATA_LOCK_MS: Final = 35 * layout.MS_PER_DAY

#: A claim can be lost to other days of the tenant; losing this often means something is wrong.
MAX_CLAIMS: Final = 20

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class SealResult:
    """A sealed day. `adopted`: the manifest was there already, or another sealer won."""

    tenant_id: str
    day: str
    manifest_key: str
    manifest_number: int
    manifest_sha256: str
    rows: int
    duplicates: int
    parts: int
    bytes: int
    root: str
    quarantined_links: int
    verdicts: dict[str, int]
    adopted: bool


def seal_day(
    platform: Platform,
    tenant_id: str,
    day: str,
    progress: Progress = lambda _what, _rows: None,
) -> SealResult:
    """Seal a closed day of a tenant and return its manifest's facts.

    Durable on return, locks lengthened. A day that has a manifest is left as it is (its locks are
    lengthened if a dead sealer left that undone). Raises `SealRefused` when the day is not closed,
    not covered, out of turn, or its landing is not what it was; `StoreUnavailable`.
    """
    for _ in range(MAX_CLAIMS):
        history = manifests.read_history(platform, tenant_id)
        standing = history.counting.get(day)
        if standing is not None:
            manifests.lengthen_locks(platform.objects, standing)
            return _result(standing, adopted=True)
        _in_turn(platform, tenant_id, day, history)
        manifest = _build(platform, tenant_id, day, history, progress)
        won = claim(
            platform.objects,
            layout.manifest_key(tenant_id, manifest.number),
            manifest.raw,
            platform.clock.now_ms(),
        )
        reach(Killpoint.MANIFEST_CLAIMED)
        if won.data == manifest.raw:
            manifests.lengthen_locks(platform.objects, manifest)
            reach(Killpoint.LOCK_LENGTHENED)
            return _result(manifest, adopted=False)
        # Somebody else has this number: read it, drop what it holds, claim the next.
    raise SealRefused(
        f"{tenant_id} {day}: lost the manifest number {MAX_CLAIMS} times",
        remedy="see which other sealer is running, then try again",
    )


def _result(manifest: Manifest, *, adopted: bool) -> SealResult:
    return SealResult(
        tenant_id=manifest.tenant_id,
        day=manifest.day,
        manifest_key=layout.manifest_key(manifest.tenant_id, manifest.number),
        manifest_number=manifest.number,
        manifest_sha256=manifest.sha256,
        rows=manifest.rows,
        duplicates=manifest.duplicates,
        parts=len(manifest.parts),
        bytes=sum(p.object.size for p in manifest.parts),
        root=manifest.root,
        quarantined_links=len(manifest.links),
        verdicts=manifest.verdicts,
        adopted=adopted,
    )


def _in_turn(platform: Platform, tenant_id: str, day: str, history: manifests.History) -> None:
    """First manifests take numbers in day order: no day before this one may still lack its own."""
    if history.manifests:
        due = layout.next_day(max(history.counting))
    else:
        due = first_day(platform, tenant_id) or day
    if due < day:
        raise SealRefused(
            f"{tenant_id}: {due} has no manifest yet, so {day} has to wait",
            remedy=f"seal {due} first",
        )


def first_day(platform: Platform, tenant_id: str) -> str | None:
    """The earliest day of which landing or quarantine holds anything of a tenant."""
    days: list[str] = []
    for prefix in (layout.LANDING, layout.QUARANTINE):
        for stored in platform.objects.versions(f"{prefix}/tenant={tenant_id}/"):
            parsed = layout.parse_range_object(stored.key)
            if parsed is not None:
                days.append(parsed[2])
                break  # keys are in day order
    return min(days, default=None)


@dataclass(slots=True)
class _Day:
    """What building a manifest collects on its way through the rows."""

    parts: list[Part] = field(default_factory=list)
    roots: list[bytes] = field(default_factory=list)
    signed: list[bytes] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    accepted_links: set[str] = field(default_factory=set)
    held: int = 0
    rows: int = 0

    def count(self, verdicts: list[str]) -> None:
        for verdict in verdicts:
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1


def _build(
    platform: Platform,
    tenant_id: str,
    day: str,
    history: manifests.History,
    progress: Progress,
) -> Manifest:
    """Put the parts and make the signed manifest that names them."""
    covered = coverage(platform, day)
    inputs = inputs_of(platform, covered, tenant_id)
    if inputs.absent:
        raise SealRefused(
            f"{inputs.absent[0].object.key} is named by a range record and is not in the store",
            remedy="repair the range from the log (7 days) before sealing",
        )
    links, quarantine = _quarantined(platform.objects, inputs, history)
    seen = gather.Gathered()
    built = _Day()
    walker = ChainWalker()
    with tempfile.TemporaryDirectory(prefix="audit-seal-") as folder:
        rows = gather.sorted_rows(platform.objects, inputs.landing, tenant_id, Path(folder), seen)
        fresh = _judged(
            rows,
            tenant_id,
            held.HeldRows(platform.objects, history.counting.values()),
            walker,
            links,
            built,
        )
        _put_parts(platform, tenant_id, day, fresh, built, progress)
    known = {i: key.hex() for i, key in platform.metadata.edge_keys(tenant_id).items()}
    facts = edge_facts(built.signed, known)
    newest = history.newest
    manifest = Manifest(
        tenant_id=tenant_id,
        day=day,
        number=(newest.number if newest else 0) + 1,
        previous=previous_hash(newest),
        revision=1,
        status=SEALED,
        sealed_ms=platform.clock.now_ms(),
        software=f"audit-platform {version('audit-platform')}",
        lock=platform.objects.lock,
        rows=built.rows,
        duplicates=seen.duplicates + built.held,
        root=merkle.day_root(built.roots).hex(),
        parts=tuple(built.parts),
        chains=tuple(_spans(walker, built)),
        starts=tuple(facts.starts),
        losses=tuple(facts.losses),
        verdicts=built.verdicts,
        quarantine=tuple(quarantine),
        links=tuple(q for q in links if q.link.event_hash not in built.accepted_links),
        undecodable=tuple(seen.undecodable),
        edge_keys={i: known[i] for i in sorted(facts.key_ids)},
        inputs=_input_ranges(covered),
    )
    return manifests.sign(platform.keys, manifest)


def _spans(walker: ChainWalker, built: _Day) -> list[ChainSpan]:
    spans = walker.finish()
    built.count([Verdict.GAP.value for s in spans for _ in s.gaps])
    return spans


def _judged(
    rows: Iterator[pa.RecordBatch],
    tenant_id: str,
    earlier: held.HeldRows,
    walker: ChainWalker,
    links: list[QuarantinedLink],
    built: _Day,
) -> Iterator[pa.RecordBatch]:
    """Rows that no earlier manifest holds, with what they show counted."""
    refused = pa.array([bytes.fromhex(q.link.event_hash) for q in links], pa.binary(32))
    for batch in rows:
        again = earlier.mask(batch)
        built.held += int(again.sum())
        fresh = batch.filter(pa.array(~again)) if again.any() else batch
        if not len(fresh):
            continue
        hashes = hashes_of(fresh["event_hash"])
        found = walker.feed(
            fresh["device_id"],
            fresh["chain_id"],
            ints_of(fresh["sequence_number"]),
            hashes,
            hashes_of(fresh["prev_hash"]),
            first_row=built.rows,
        )
        built.count([str(f.verdict) for f in found if f.verdict is not Verdict.GAP])
        # An eventId that stands twice is rare; only then are the checksums needed.
        if pc.count_distinct(fresh["event_id"]).as_py() < len(fresh):
            ids = judge_ids(fresh["event_id"], sha256_column(fresh["payload"]), hashes)
            built.count([str(f.verdict) for f in ids])
        if len(refused):
            accepted = fresh["event_hash"].filter(pc.is_in(fresh["event_hash"], value_set=refused))
            built.accepted_links |= {h.hex() for h in accepted.to_pylist()}
        built.signed += _signed_lines(fresh, tenant_id)
        built.rows += len(fresh)
        yield fresh


def _signed_lines(rows: pa.RecordBatch, tenant_id: str) -> list[bytes]:
    signed = rows.filter(pc.is_in(rows["event_type"], value_set=pa.array(SIGNED_TYPES)))
    if not len(signed):
        return []
    lines = canonical_lines(
        signed,
        tenant_id=tenant_id,
        checksum=sha256_column(signed["payload"]),
        prev_hash=hashes_of(signed["prev_hash"]),
    )
    return [line.encode() for line in lines.to_pylist()]


def _put_parts(
    platform: Platform,
    tenant_id: str,
    day: str,
    rows: Iterator[pa.RecordBatch],
    built: _Day,
    progress: Progress,
) -> None:
    """Cut by device into parts and put each; a part never shares a device with another."""
    writer = sealed.PartWriter()
    for batch in rows:
        for piece in _by_part(batch, writer):
            if piece is None:
                _put(platform, tenant_id, day, writer, built)
                progress("sealed", built.rows)
                writer = sealed.PartWriter()
            else:
                writer.write(piece)
    if writer.rows:
        _put(platform, tenant_id, day, writer, built)


def _by_part(batch: pa.RecordBatch, writer: sealed.PartWriter) -> Iterator[pa.RecordBatch | None]:
    """Pieces of a batch; None where a new part has to begin (at a device's first row)."""
    room = sealed.MAX_ROWS_PER_PART - writer.rows
    # A batch holds whole devices, so its start is always a place to cut.
    if writer.rows and len(batch) > room:
        yield None
    yield batch


def _put(
    platform: Platform, tenant_id: str, day: str, writer: sealed.PartWriter, built: _Day
) -> None:
    data, facts = writer.close()
    digest = hashlib.sha256(data).hexdigest()
    key = layout.part_key(tenant_id, day, len(built.parts), digest)
    stored = put_data(platform, key, data, digest)
    reach(Killpoint.PART_PUT)
    named = NamedObject(key, stored.version_id, digest, len(data), facts.rows)
    built.parts.append(
        Part(
            object=named,
            root=facts.root.hex(),
            row_group_roots=tuple(r.hex() for r in facts.row_group_roots),
            first_device=facts.first_device,
            last_device=facts.last_device,
        )
    )
    built.roots.append(facts.root)


def put_data(platform: Platform, key: str, data: bytes, sha256: str) -> ObjectVersion:
    """Store a data object under its content's name, or adopt the same bytes stored before."""
    until = lock_until(platform.clock.now_ms(), DATA_LOCK_MS)
    objects: Objects = platform.objects
    try:
        return objects.put(key, data, retain_until_ms=until, if_absent=True)
    except ObjectExists:
        standing = objects.oldest(key)
        if standing is not None and standing.sha256 == sha256:
            if standing.retain_until_ms < until:
                return objects.extend(key, standing.version_id, until)
            return standing
    # The name promises other bytes than stand there: ours go beside them, named by version.
    return objects.put(key, data, retain_until_ms=until, if_absent=False)


def _quarantined(
    objects: Objects, inputs: DayInputs, history: manifests.History
) -> tuple[list[QuarantinedLink], list[NamedObject]]:
    """(refused events that are links, once each; the quarantine objects of the day)."""
    known = {q.link.event_hash for m in history.manifests for q in m.links}
    links: list[QuarantinedLink] = []
    named: list[NamedObject] = []
    for o in inputs.quarantine:
        with objects.open(o.object.key, o.object.version_id) as file:
            table = read_columns(file, QUARANTINE_SCHEMA.names)
        table = table.filter(pc.less(table["log_offset"], o.end_offset))
        named.append(gather.named(o, table.num_rows))
        is_link = pc.and_(pc.equal(table["chunk"], 0), pc.is_valid(table["link_event_hash"]))
        for row in table.filter(is_link).to_pylist():
            if row["link_event_hash"] not in known:
                known.add(row["link_event_hash"])
                link = EventLink(
                    **{k.removeprefix("link_"): v for k, v in row.items() if k.startswith("link_")}
                )
                links.append(QuarantinedLink(row["entry_id"], row["slug"], link))
    links.sort(key=lambda q: (q.link.device_id, q.link.chain_id, q.link.sequence_number))
    return links, named


def _input_ranges(covered: Coverage) -> tuple[InputRange, ...]:
    """The offsets that were looked at, also where they held nothing of this tenant."""
    first: dict[tuple[str, int, int], int] = {}
    for r in covered.ranges:
        place = (r.topic, r.generation, r.partition)
        first[place] = min(r.first_offset, first.get(place, r.first_offset))
    return tuple(
        InputRange(
            p.topic,
            p.generation,
            p.partition,
            first.get((p.topic, p.generation, p.partition), p.end_offset),
            p.end_offset,
        )
        for p in covered.closing.partitions
    )
