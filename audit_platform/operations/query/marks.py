"""What stands between the rows of a device's timeline: gaps, losses, forks, resets, broken links.

The judging is the record's own: `ChainWalker` over the rows in view, `judge_links` over what the
manifests of the days around say of the device, and over what is not sealed yet. Belongs here: what
they are given, and before which row each finding stands. Does not: verdicts of rows themselves
(`timeline.py`). Source: design section 3 (chains, losses, verdicts).

Chains are looked at from `LOOK_DAYS` before the window to as many after it. What a chain's first
event names may be older: then its beginning is not judged.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from audit_platform.operations.held import HeldRows
from audit_platform.operations.query import quarantine, units
from audit_platform.operations.query.device import Collected, collect
from audit_platform.operations.query.model import IsCancelled, Mark, Standing
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import Scope, Source
from audit_platform.operations.query.spans import manifest_of, spans_of
from audit_platform.record import sealed
from audit_platform.record.chain import (
    ChainSpan,
    ChainStart,
    ChainWalker,
    DayChains,
    Finding,
    LossRun,
    Verdict,
    judge_links,
)
from audit_platform.record.columns import (
    EVENT_SCHEMA,
    canonical_lines,
    hashes_of,
    ints_of,
)
from audit_platform.record.digests import sha256_hex
from audit_platform.record.edges import SIGNED_TYPES, edge_facts
from audit_platform.record.manifest import Manifest, QuarantinedLink

#: Days around the window: an edge keeps 72 hours, so what fills a gap comes within four days.
LOOK_DAYS: Final = 4

#: New chains of one answer whose reason is read: one row group each.
_MAX_REASONS: Final = 20

_SHOWN: Final = frozenset(
    {
        Verdict.GAP,
        Verdict.DECLARED_GAP,
        Verdict.FORK,
        Verdict.BROKEN_LINK,
        Verdict.CHAIN_RESET,
    }
)


@dataclass(slots=True)
class Around:
    """What is known of a device's chains in the days around the window."""

    days: list[DayChains] = field(default_factory=list)
    links: dict[tuple[str, int], QuarantinedLink] = field(default_factory=dict)
    manifests: list[Manifest] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    hashes: set[str] = field(default_factory=set)
    is_all: bool = True


def around(
    reader: Reader,
    scope: Scope,
    device_id: str,
    view: pa.RecordBatch,
    is_cancelled: IsCancelled,
) -> Around:
    """Chains of a device over the days of a scope; `view` are rows that are known already."""
    found = Around()
    for day in scope.sealed.values():
        manifest = manifest_of(reader, day)
        if manifest is None:
            continue
        spans = spans_of(reader, day, device_id)
        if spans:
            found.manifests.append(replace(manifest, chains=spans))
        _add_day(found, manifest, device_id, spans)
    unsealed, signed = _unsealed(reader, scope, device_id, is_cancelled)
    _add_unsealed(reader, scope, found, device_id, _with_view(unsealed, view), signed)
    open_days = [day for day in scope.days if day not in scope.sealed]
    links = quarantine.links_of(reader, scope, device_id, open_days, is_cancelled)
    found.links |= {(q.link.chain_id, q.link.sequence_number): q for q in links}
    found.days.append(DayChains(max(open_days, default=""), links=[q.link for q in links]))
    found.hashes |= {h.hex() for h in view["event_hash"].to_pylist()}
    return found


def _add_day(found: Around, manifest: Manifest, device_id: str, spans: Sequence[ChainSpan]) -> None:
    links = [q for q in manifest.links if q.link.device_id == device_id]
    found.links |= {(q.link.chain_id, q.link.sequence_number): q for q in links}
    found.days.append(
        DayChains(
            manifest.day,
            spans=spans,
            links=[q.link for q in links],
            losses=[x for x in manifest.losses if x.device_id == device_id],
            starts=manifest.starts,
        )
    )


def _unsealed(
    reader: Reader, scope: Scope, device_id: str, is_cancelled: IsCancelled
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Landing rows that no manifest covers: (the device's, signed ones of all devices)."""
    found = Collected()
    landing = [s for s in scope.sources if not s.sealed]
    for unit in units.units_of(reader, scope, landing, is_cancelled):
        units.check(is_cancelled)
        collect(
            reader,
            scope,
            unit,
            found,
            lambda batch: (
                units.equal_mask(batch, "device_id", device_id)
                | units.equal_mask(batch, "event_type", *SIGNED_TYPES)
            ),
            ("device_id", "event_type"),
        )
    rows, _ = found.one_of_each()
    events = rows.select(EVENT_SCHEMA.names)
    return (
        events.filter(pa.array(units.equal_mask(events, "device_id", device_id))),
        events.filter(pa.array(units.equal_mask(events, "event_type", *SIGNED_TYPES))),
    )


def _with_view(unsealed: pa.RecordBatch, view: pa.RecordBatch) -> pa.RecordBatch:
    """Unsealed rows and those in view (HOT may be ahead of landing), each once."""
    known = set(unsealed["event_hash"].to_pylist())
    pairs = zip(view["event_hash"].to_pylist(), view["standing"].to_pylist(), strict=True)
    fresh = [h not in known and s == Standing.NOT_YET_SEALED for h, s in pairs]
    more = view.select(EVENT_SCHEMA.names).filter(pa.array(fresh, pa.bool_()))
    return pa.concat_batches([unsealed, more])


def _add_unsealed(
    reader: Reader,
    scope: Scope,
    found: Around,
    device_id: str,
    rows: pa.RecordBatch,
    signed: pa.RecordBatch,
) -> None:
    rows = rows.take(pa.array(sealed.sort_order(rows)))
    rows = rows.filter(pa.array(~HeldRows(reader.platform.objects, found.manifests).mask(rows)))
    walker = ChainWalker()
    feed(walker, rows)
    lines = canonical_lines(
        signed,
        tenant_id=scope.tenant_id,
        checksum=sha256_hex(signed["payload"]),
        prev_hash=hashes_of(signed["prev_hash"]),
    ).to_pylist()
    keys, old = reader.edge_keys(scope.tenant_id) if lines else ({}, "")
    if old:
        scope.problems.append(old)
    facts = edge_facts((line.encode() for line in lines), {i: key.hex() for i, key in keys.items()})
    for line in lines:
        event = orjson.loads(line)
        if event["eventType"] == "chain_start":
            found.reasons[event["chainId"]] = str(event["payload"].get("reason", ""))
    found.days.append(
        DayChains(
            max(scope.days, default=""),
            spans=walker.finish(),
            losses=[x for x in facts.losses if x.device_id == device_id],
            starts=facts.starts,
        )
    )


def feed(walker: ChainWalker, rows: pa.RecordBatch) -> list[Finding]:
    """Walk sorted rows of one device."""
    return walker.feed(
        rows["device_id"],
        rows["chain_id"],
        ints_of(rows["sequence_number"]),
        hashes_of(rows["event_hash"]),
        hashes_of(rows["prev_hash"]),
        first_row=0,
    )


# ------------------------------------------------------------------------------------- placement


class Placer:
    """Puts findings before rows in view: sorted by (chain, sequence, hash)."""

    def __init__(self, known: Around, view: pa.RecordBatch) -> None:
        self._known = known
        self._rows: dict[str, tuple[int, list[int]]] = {}
        chains = view["chain_id"].to_pylist()
        sequences = ints_of(view["sequence_number"]).tolist()
        for i, (chain, sequence) in enumerate(zip(chains, sequences, strict=True)):
            self._rows.setdefault(chain, (i, []))[1].append(sequence)
        self._starts = _starts(known)
        self._losses = [loss for day in known.days for loss in day.losses]
        self.before: dict[int, list[Mark]] = {}
        self.tail: dict[str, list[Mark]] = {}
        self._seen: set[tuple[Verdict, str, int]] = set()

    def place(self, found: Finding) -> None:
        """One finding, once, if it concerns a row in view or what lies between two."""
        chain, first = found.chain_id, found.sequence
        key = (found.verdict, chain, first or 0)
        if found.verdict not in _SHOWN or first is None or key in self._seen:
            return
        mark, last = self._mark(found, first), self._last(found, first)
        at, sequences = self._rows.get(chain, (0, []))
        if not sequences:
            return
        is_gap = found.verdict in {Verdict.GAP, Verdict.DECLARED_GAP}
        row = bisect_right(sequences, last) if is_gap else bisect_left(sequences, first)
        if found.verdict is Verdict.FORK:
            row = max(row, bisect_right(sequences, first) - 1)
        if row == len(sequences):
            if is_gap and not self._held_between(chain, sequences[-1], first):
                self.tail.setdefault(chain, []).append(mark)
                self._seen.add(key)
            return
        beside = sequences[row] == first if not is_gap else row > 0
        if beside or (is_gap and self._next_start(chain, last) in {None, sequences[row]}):
            self.before.setdefault(at + row, []).append(mark)
            self._seen.add(key)

    def _mark(self, found: Finding, first: int) -> Mark:
        last = self._last(found, first)
        link = self._known.links.get((found.chain_id, first))
        cause, detail = "", found.detail
        if found.verdict is Verdict.DECLARED_GAP:
            cause = "a signed loss event"
            if link is not None and last == first:
                cause = f"quarantined entry {link.entry_id} ({link.slug})"
        elif found.verdict is Verdict.CHAIN_RESET:
            cause = self._known.reasons.get(found.chain_id, "")
        elif found.verdict is Verdict.GAP:
            detail = f"sequences {first} to {last} are missing"
        return Mark(found.verdict, found.chain_id, first, last, last - first + 1, detail, cause)

    def _last(self, found: Finding, first: int) -> int:
        """The last sequence that a finding speaks of."""
        if found.verdict not in {Verdict.GAP, Verdict.DECLARED_GAP}:
            return first
        ends = [self._next_start(found.chain_id, first)]
        if found.verdict is Verdict.DECLARED_GAP:
            if (found.chain_id, first) in self._known.links:
                return first
            ends += [
                loss.last + 1
                for loss in self._losses
                if loss.chain_id == found.chain_id and loss.first <= first <= loss.last
            ]
        return min((end for end in ends if end is not None), default=first + 1) - 1

    def _next_start(self, chain: str, sequence: int) -> int | None:
        """The least sequence behind one at which something held, refused or lost begins."""
        starts = self._starts.get(chain, [])
        at = bisect_right(starts, sequence)
        return starts[at] if at < len(starts) else None

    def _held_between(self, chain: str, low: int, high: int) -> bool:
        found = self._next_start(chain, low)
        return found is not None and found < high


def _starts(known: Around) -> dict[str, list[int]]:
    found: dict[str, set[int]] = {}
    for day in known.days:
        for span in day.spans:
            mine = found.setdefault(span.chain_id, set())
            mine.add(span.first_sequence)
            mine.update(gap.last + 1 for gap in span.gaps)
        for link in day.links:
            found.setdefault(link.chain_id, set()).add(link.sequence_number)
        for loss in day.losses:
            found.setdefault(loss.chain_id, set()).add(loss.first)
    return {chain: sorted(starts) for chain, starts in found.items()}


def marks_of(
    reader: Reader,
    scope: Scope,
    known: Around,
    view: pa.RecordBatch,
    device_id: str,
) -> Placer:
    """All marks of the rows in view, which are sorted as a part is."""
    walked = [f for f in feed(ChainWalker(), view) if f.verdict is not Verdict.GAP]
    judged = judge_links(
        known.days, is_event=lambda device, h: _is_event(reader, known, device, h)
    ).findings
    judged = [f for f in judged if f.device_id == device_id]
    new = {f.chain_id for f in judged if f.verdict is Verdict.CHAIN_RESET}
    for chain in sorted(new)[:_MAX_REASONS]:
        if chain not in known.reasons:
            known.reasons[chain] = _reason(reader, scope, known, chain)
    placer = Placer(known, view)
    for finding in [*walked, *judged]:
        placer.place(finding)
    return placer


def _is_event(reader: Reader, known: Around, device_id: str, event_hash: str) -> bool:
    """Whether a hash is an event of the device; where older days were not looked at, it may be."""
    if not known.is_all or event_hash in known.hashes:
        return True
    for manifest in known.manifests:
        rows = HeldRows(reader.platform.objects, [manifest])
        probe = _probe(manifest, device_id, event_hash)
        if len(probe) and bool(rows.mask(probe).any()):
            return True
    return False


def _probe(manifest: Manifest, device_id: str, event_hash: str) -> pa.RecordBatch:
    """One row for each chain of the device that day, with the hash that is looked for."""
    spans = [c for c in manifest.chains if c.device_id == device_id]
    rows: list[dict[str, Any]] = [
        {
            "device_id": device_id,
            "chain_id": c.chain_id,
            "sequence_number": c.first_sequence,
            "event_hash": bytes.fromhex(event_hash),
        }
        for c in spans
    ]
    return pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA)


def _reason(reader: Reader, scope: Scope, known: Around, chain_id: str) -> str:
    """Why a chain began, as its sealed `chain_start` says; "" when it is not held here."""
    start: ChainStart | None = None
    day = ""
    for chains in known.days:
        for s in chains.starts:
            if s.chain_id == chain_id:
                start, day = s, chains.day
    if start is None:
        return ""
    sources: list[Source] = [
        s for s in scope.sources if s.sealed and s.day == day and s.may_hold(start.device_id)
    ]
    for unit in units.units_of(reader, scope, sources, lambda: False):
        if not unit.may_hold("device_id", start.device_id):
            continue
        batch = units.read(reader, scope, unit, ["event_hash", "payload"])
        if batch is None:
            continue
        wanted = np.frombuffer(bytes.fromhex(start.event_hash), dtype=np.uint8)
        at = np.flatnonzero((hashes_of(batch["event_hash"]) == wanted).all(axis=1))
        if len(at):
            return str(orjson.loads(batch["payload"][int(at[0])].as_py()).get("reason", ""))
    return ""


__all__ = ["LOOK_DAYS", "Around", "LossRun", "Placer", "around", "feed", "marks_of"]
