"""Sealing: a closed day of one tenant becomes sorted parts under one signed manifest.

Safe to run again, twice at once, and after death at any step: parts have their content's digest in
their name, the manifest's number is claimed by put-if-absent, and who loses the claim adopts the
winner or goes on after it. Belongs here: the order of those steps. Does not: rows (`gather.py`),
parts (`parts.py`), what came late (`late.py`), judgement afterwards (`verify.py`).
Source: design section 2 (commit pattern), 5 (sealed day, manifest, revision, locks).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import SealRefused
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations import gather, held, manifests
from audit_platform.operations.claims import claim
from audit_platform.operations.parts import Progress, put_parts
from audit_platform.operations.plan import Plan, plan_of
from audit_platform.operations.refused import refused_of_day
from audit_platform.operations.resent import EarlierIds
from audit_platform.operations.seal_work import brought_together, work_folder
from audit_platform.ports import Objects, Platform
from audit_platform.record import layout, merkle
from audit_platform.record.chain import ChainSpan, ChainWalker, Verdict, judge_ids, may_stand_twice
from audit_platform.record.columns import (
    canonical_lines,
    hashes_of,
    ints_of,
)
from audit_platform.record.digests import sha256_column, sha256_hex
from audit_platform.record.edges import SIGNED_TYPES, edge_facts
from audit_platform.record.leaves import kept, leaves_of
from audit_platform.record.manifest import (
    SEALED,
    Manifest,
    Part,
    QuarantinedLink,
    previous_hash,
)

#: A claim can be lost to other days of the tenant; losing this often means something is wrong.
MAX_CLAIMS: Final = 20


@dataclass(frozen=True, slots=True)
class SealResult:
    """A sealed day. `adopted`: the manifest was there already, or another sealer won.

    `skipped`: keys of parts that an earlier sealer, which died, had put. `landing_skipped`: it had
    also brought the rows together, so that landing was not read again.
    """

    tenant_id: str
    day: str
    manifest_key: str
    manifest_number: int
    revision: int
    manifest_sha256: str
    rows: int
    duplicates: int
    parts: int
    bytes: int
    root: str
    quarantined_links: int
    verdicts: dict[str, int]
    adopted: bool
    skipped: tuple[str, ...] = ()
    landing_skipped: bool = False


def seal_day(
    platform: Platform,
    tenant_id: str,
    day: str,
    progress: Progress = lambda _what, _rows: None,
) -> SealResult:
    """Seal a closed day of a tenant and return its manifest's facts.

    A day that has a manifest gets a revision when a further closing (`late.py`) names rows that
    came since; else it is left as it is (its locks are lengthened if a dead sealer left that
    undone). Durable on return, locks lengthened. Raises `SealRefused` when the day is not closed,
    not covered, out of turn, its landing is not what it was, or a leaf of the manifest that it
    replaces would be lost; `StoreUnavailable`.
    """
    for _ in range(MAX_CLAIMS):
        history = manifests.read_history(platform, tenant_id)
        standing = history.counting.get(day)
        if standing is None:
            _in_turn(platform, tenant_id, day, history)
        plan = plan_of(platform, tenant_id, day, standing)
        if plan is None:
            assert standing is not None
            manifests.lengthen_locks(platform.objects, standing)
            return _result(standing, adopted=True)
        built = _Day()
        with work_folder(platform, plan) as folder:
            manifest = _build(platform, plan, history, built, folder, progress)
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
            return replace(
                _result(manifest, adopted=False),
                skipped=tuple(built.skipped),
                landing_skipped=built.landing_skipped,
            )
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
        revision=manifest.revision,
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
    """What a manifest says of its rows, collected on the way through them."""

    parts: list[Part] = field(default_factory=list)
    spans: list[ChainSpan] = field(default_factory=list)
    signed: list[bytes] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    accepted_links: set[str] = field(default_factory=set)
    seen: gather.Gathered = field(default_factory=gather.Gathered)
    held: int = 0
    rows: int = 0
    skipped: list[str] = field(default_factory=list)
    landing_skipped: bool = False

    def count(self, verdicts: Iterable[str]) -> None:
        for verdict in verdicts:
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1


def _sealed_ms(platform: Platform, day: str) -> int:
    """Now, unless the clock says that the day is not over: such a manifest is never good."""
    now_ms = platform.clock.now_ms()
    if now_ms < layout.day_end_ms(day):
        raise SealRefused(
            f"the wall clock stands before the end of {day}, which was closed",
            remedy="put the clock of this machine right, then seal again",
        )
    return now_ms


def _build(
    platform: Platform,
    plan: Plan,
    history: manifests.History,
    built: _Day,
    folder: Path,
    progress: Progress,
) -> Manifest:
    """Put the parts and make the signed manifest that names them."""
    inputs, standing = plan.inputs, plan.standing
    if inputs.absent:
        raise SealRefused(
            f"{inputs.absent[0].object.key} is named by a range record and is not in the store",
            remedy="repair the range from the log (7 days) before sealing",
        )
    links, quarantine = refused_of_day(platform.objects, inputs.quarantine, history, standing)
    _rows(platform, plan, history, links, built, folder, progress)
    if standing is not None:
        _keep(platform.objects, standing, built.parts)
    known = {i: k.hex() for i, k in platform.metadata.edge_keys(inputs.tenant_id).items()}
    facts = edge_facts(built.signed, known)
    newest = history.newest
    undecodable = [*(standing.undecodable if standing else ()), *built.seen.undecodable]
    copies = built.seen.duplicates + built.held
    manifest = Manifest(
        tenant_id=inputs.tenant_id,
        day=inputs.day,
        number=(newest.number if newest else 0) + 1,
        previous=previous_hash(newest),
        revision=standing.revision + 1 if standing else 1,
        status=SEALED,
        sealed_ms=_sealed_ms(platform, inputs.day),
        software=f"audit-platform {version('audit-platform')}",
        lock=platform.objects.lock,
        rows=built.rows,
        duplicates=copies + (standing.duplicates if standing else 0),
        root=merkle.day_root([bytes.fromhex(p.root) for p in built.parts]).hex(),
        parts=tuple(built.parts),
        chains=tuple(built.spans),
        starts=tuple(facts.starts),
        losses=tuple(facts.losses),
        verdicts=built.verdicts,
        quarantine=tuple(quarantine),
        links=tuple(q for q in links if q.link.event_hash not in built.accepted_links),
        undecodable=tuple(gather.merged(undecodable)),
        edge_keys={i: known[i] for i in sorted(facts.key_ids)},
        inputs=plan.ranges,
    )
    return manifests.sign(platform.keys, manifest)


def _rows(
    platform: Platform,
    plan: Plan,
    history: manifests.History,
    links: list[QuarantinedLink],
    built: _Day,
    folder: Path,
    progress: Progress,
) -> None:
    """Put the day's rows into parts; what they show goes to `built`."""
    objects = platform.objects
    tenant_id, day = plan.inputs.tenant_id, plan.inputs.day
    base = [p.object for p in plan.standing.parts] if plan.standing else []
    sources = gather.Sources(base, plan.inputs.landing)
    # The manifest that is replaced is the base; what any other day holds was sealed before.
    others = held.HeldRows(objects, (m for d, m in history.counting.items() if d != day))
    earlier = _Earlier(others, EarlierIds(objects, others.spans, day))
    walker = ChainWalker()
    paths, built.landing_skipped = brought_together(objects, plan, sources, folder, built.seen)
    rows = gather.rows_of(paths, tenant_id, built.seen)
    fresh = _judged(rows, tenant_id, earlier, walker, links, built)
    built.parts, built.skipped = put_parts(platform, tenant_id, day, fresh, progress)
    built.spans = walker.finish()
    gaps = sum(len(s.gaps) + s.unlisted_gaps for s in built.spans)
    if gaps:
        built.verdicts[Verdict.GAP.value] = gaps


def _keep(objects: Objects, standing: Manifest, parts: Sequence[Part]) -> None:
    """Refuse a revision that lacks a leaf of the manifest that it replaces."""
    found = kept(
        partial(leaves_of, objects.open, standing.parts), partial(leaves_of, objects.open, parts)
    )
    if found.missing or found.old != standing.rows:
        raise SealRefused(
            f"{standing.tenant_id} {standing.day}: {found.missing} of {standing.rows} events of"
            f" revision {standing.revision} would be missing, the first is {found.first_missing}",
            remedy="keep everything as it is and run `audit-platform fsck`",
        )


@dataclass(frozen=True, slots=True)
class _Earlier:
    """What other days hold: the same events, and the same words in other chains."""

    rows: held.HeldRows
    ids: EarlierIds


def _judged(
    rows: Iterator[pa.RecordBatch],
    tenant_id: str,
    earlier: _Earlier,
    walker: ChainWalker,
    links: list[QuarantinedLink],
    built: _Day,
) -> Iterator[pa.RecordBatch]:
    """Rows that no earlier manifest holds, with what they show counted."""
    refused = pa.array([bytes.fromhex(q.link.event_hash) for q in links], pa.binary(32))
    for batch in rows:
        again = earlier.rows.mask(batch)
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
        if may_stand_twice(fresh["event_id"]):
            ids = judge_ids(fresh["event_id"], sha256_column(fresh["payload"]), hashes)
            built.count([str(f.verdict) for f in ids])
        built.count(earlier.ids.verdicts(fresh))
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
        checksum=sha256_hex(signed["payload"]),
        prev_hash=hashes_of(signed["prev_hash"]),
    )
    return [line.encode() for line in lines.to_pylist()]
