"""A device's timeline: its events in the order of its chains, with verdicts between them.

Belongs here: the order, the rows' own verdicts, copies that are shown once, the page. Does not:
what stands between rows (`marks.py`), reading rows (`device.py`).
Source: issue "One machine, whole"; design section 3 (verdicts).

Chains stand in the order in which their first event in the window came; in a chain sequences
ascend. Every page judges the whole window, so that a page's edge is never taken for a gap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from audit_platform.errors import HotUnavailable
from audit_platform.operations.query.device import MAX_DEVICE_ROWS, cold_rows, hot_rows
from audit_platform.operations.query.marks import LOOK_DAYS, Around, Placer, around, marks_of
from audit_platform.operations.query.model import (
    ANSWER_SCHEMA,
    NOTHING_ASKED,
    Copy,
    IsCancelled,
    Mark,
    Standing,
    Tier,
    Timeline,
    TimelinePosition,
    TimelineQuery,
    TimelineRow,
    never,
)
from audit_platform.operations.query.reach import completeness
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import Scope, widened
from audit_platform.operations.query.search import HOT_DEGRADED, scope_for, unknown_days
from audit_platform.record import layout, sealed
from audit_platform.record.chain import Verdict, judge_ids
from audit_platform.record.columns import (
    EVENT_SCHEMA,
    blocks,
    canonical_lines,
    hashes_of,
    ints_of,
)
from audit_platform.record.digests import sha256_column, sha256_hex

#: Entries of one page.
MAX_ENTRIES: Final = 10_000

#: A device's clock that differs more from the gateway's is flagged.
SKEW_MS: Final = 5 * 60 * 1000


def timeline(
    reader: Reader,
    query: TimelineQuery,
    *,
    tier: Tier = Tier.AUTO,
    is_cancelled: IsCancelled = never,
) -> Timeline:
    """One page of a device's timeline.

    `ValueError` for a limit outside 1 to `MAX_ENTRIES`. Raises as `search`. A window that holds
    more than `MAX_DEVICE_ROWS` of the device is judged and shown in part, and the completeness says
    so.
    """
    if not 1 <= query.limit <= MAX_ENTRIES:
        raise ValueError(f"limit {query.limit}: wanted 1 to {MAX_ENTRIES}")
    scope, wide, used, notes = scope_for(reader, query, tier, around=LOOK_DAYS)
    if used is Tier.HOT:
        try:
            view, cut = hot_rows(reader, scope, query, is_cancelled)
        except HotUnavailable:
            if tier is Tier.HOT:
                raise
            used, notes = Tier.COLD, [HOT_DEGRADED]
    if used is Tier.COLD:
        view, cut = cold_rows(reader, scope, query, is_cancelled)
    else:
        notes += unknown_days(scope, pa.Table.from_batches([view]))
    if cut:
        notes.append(f"more than {MAX_DEVICE_ROWS} events of the device: narrow the window")
    view = view.take(pa.array(sealed.sort_order(view)))
    marks = _marks(reader, wide, query.device_id, view, is_cancelled)
    page = _Judged(view, marks, query.tenant_id).page(query)
    return replace(page, tier=used, completeness=completeness(reader, scope, used, notes))


def _marks(
    reader: Reader, wide: Scope, device_id: str, view: pa.RecordBatch, is_cancelled: IsCancelled
) -> Placer:
    """Marks between the rows in view, by the days around those on which they came."""
    if not len(view):
        return Placer(Around(), view)
    came = ints_of(view["ingestion_time"])
    days = layout.day_of(int(came.min())), layout.day_of(int(came.max()))
    first, last = widened(*days, LOOK_DAYS)
    near = wide.narrowed(first, last)
    known = around(reader, near, device_id, view, is_cancelled)
    # Without any day nothing of the past is known: COLD did not answer, or is not there.
    known.is_all = bool(near.days) and not reader.has_sealed_before(wide.tenant_id, first)
    return marks_of(reader, near, known, view, device_id)


class _Judged:
    """All rows of a window with what is said of them, in the order of a timeline."""

    def __init__(self, view: pa.RecordBatch, marks: Placer, tenant_id: str) -> None:
        self._view, self._marks = view, marks
        self._chains: list[str] = view["chain_id"].to_pylist()
        self._sequences: list[int] = ints_of(view["sequence_number"]).tolist()
        self._hashes: list[bytes] = view["event_hash"].to_pylist()
        self._came = ints_of(view["ingestion_time"])
        self._skew: list[int] = (ints_of(view["event_time"]) - self._came).tolist()
        self._standing = [Standing(text) for text in view["standing"].to_pylist()]
        self._rank = self._ranks()
        #: Rows of the view in the order of the timeline.
        self._order = sorted(range(len(view)), key=lambda i: (self._rank[self._chains[i]], i))
        self._verdicts: dict[int, list[Verdict]] = {}
        self._copies: dict[int, list[Copy]] = {}
        self._folded: set[int] = set()
        self._ids()
        for i in _not_rebuilt(view, tenant_id):
            self._verdicts.setdefault(i, []).append(Verdict.BAD_CHECKSUM)

    def _ranks(self) -> dict[str, int]:
        """Chain -> its place, by the time at which its first row in view came."""
        first: dict[str, int] = {}
        for chain, came in zip(self._chains, self._came.tolist(), strict=True):
            first[chain] = min(came, first.get(chain, came))
        ordered = sorted(first, key=lambda chain: (first[chain], chain))
        return {chain: rank for rank, chain in enumerate(ordered)}

    def _ids(self) -> None:
        """Copies of what the device said once are folded into the first; others are flagged."""
        order = pa.array(self._order, pa.int64())
        ids = self._view["event_id"].take(order)
        checksums = sha256_column(self._view["payload"])[self._order]
        first: dict[str, int] = {}
        for i, event_id in zip(self._order, ids.to_pylist(), strict=True):
            first.setdefault(event_id, i)
        for found in judge_ids(ids, checksums, hashes_of(self._view["event_hash"])[self._order]):
            i = self._order[found.row or 0]
            j = first[self._view["event_id"][i].as_py()]
            if found.verdict is not Verdict.RESENT:
                self._verdicts.setdefault(i, []).append(found.verdict)
                continue
            self._folded.add(i)
            if Verdict.RESENT not in self._verdicts.setdefault(j, []):
                self._verdicts[j].append(Verdict.RESENT)
            self._copies.setdefault(j, []).append(
                Copy(
                    self._chains[i],
                    self._sequences[i],
                    self._hashes[i].hex(),
                    int(self._came[i]),
                    self._standing[i],
                )
            )

    def _entries(self) -> tuple[list[tuple[int, tuple[Mark, ...]]], tuple[Mark, ...]]:
        """(shown rows of the view, each with the marks before it; marks after the last)."""
        shown: list[tuple[int, tuple[Mark, ...]]] = []
        waiting: list[Mark] = []
        chain = ""
        for i in self._order:
            if self._chains[i] != chain:
                waiting += self._marks.tail.get(chain, [])
                chain = self._chains[i]
            waiting += self._marks.before.get(i, [])
            if i not in self._folded:
                shown.append((i, tuple(waiting)))
                waiting = []
        return shown, (*waiting, *self._marks.tail.get(chain, []))

    def page(self, query: TimelineQuery) -> Timeline:
        """The page that was asked for. `ValueError` for a position of another timeline."""
        shown, tail = self._entries()
        start = 0
        if query.after is not None:
            if query.after.chain_id not in self._rank:
                raise ValueError("the position is not of this timeline")
            after = self._place(*self._key(query.after))
            start = bisect_right(shown, after, key=lambda entry: self._place_of(entry[0]))
        on_page = shown[start : start + query.limit]
        is_last = start + query.limit >= len(shown)
        rows = self._view.take(pa.array([i for i, _ in on_page], pa.int64()))
        entries = tuple(
            TimelineRow(
                row=n,
                standing=self._standing[i],
                skew_ms=self._skew[i],
                skewed=abs(self._skew[i]) > SKEW_MS,
                verdicts=tuple(self._verdicts.get(i, ())),
                marks=before,
                copies=tuple(self._copies.get(i, ())),
            )
            for n, (i, before) in enumerate(on_page)
        )
        return Timeline(
            rows=pa.Table.from_batches([rows], schema=ANSWER_SCHEMA),
            entries=entries,
            tail=tail if is_last else (),
            counts=self._counts([*(m for _, before in shown for m in before), *tail]),
            events=len(shown),
            tier=Tier.AUTO,
            completeness=NOTHING_ASKED,
            next=None if is_last else self._position(on_page[-1][0]),
        )

    def _counts(self, marks: list[Mark]) -> dict[str, int]:
        found = Counter(str(mark.verdict) for mark in marks)
        found.update(str(v) for verdicts in self._verdicts.values() for v in verdicts)
        found["skewed"] = sum(abs(skew) > SKEW_MS for skew in self._skew)
        return {name: n for name, n in sorted(found.items()) if n}

    @staticmethod
    def _key(at: TimelinePosition) -> tuple[str, int, bytes]:
        return at.chain_id, at.sequence_number, at.event_hash

    def _place(self, chain: str, sequence: int, event_hash: bytes) -> tuple[int, int, bytes]:
        return self._rank[chain], sequence, event_hash

    def _place_of(self, i: int) -> tuple[int, int, bytes]:
        return self._place(self._chains[i], self._sequences[i], self._hashes[i])

    def _position(self, i: int) -> TimelinePosition:
        return TimelinePosition(self._chains[i], self._sequences[i], self._hashes[i])


def _not_rebuilt(view: pa.RecordBatch, tenant_id: str) -> list[int]:
    """Rows whose bytes do not have their eventHash: changed after they were stored."""
    wrong: list[int] = []
    first = 0
    for block in blocks(view.select(EVENT_SCHEMA.names)):
        lines = canonical_lines(
            block,
            tenant_id=tenant_id,
            checksum=sha256_hex(block["payload"]),
            prev_hash=hashes_of(block["prev_hash"]),
        )
        bad = (sha256_column(lines) != hashes_of(block["event_hash"])).any(axis=1)
        wrong += (np.flatnonzero(bad) + first).tolist()
        first += len(block)
    return wrong
