"""One partition of the search-indexer: where it stands, and one step from the log into HOT.

Belongs here: where reading begins, what is skipped, indexing what was read, the group's offset.
Does not: which partitions are ours, back-off, time (`search_indexer.py`), what an event is
(`operations/log_events.py`). Source: design section 2, 8 (HOT).

The group's offset is a hint: HOT takes each event once, so reading again changes nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa

from audit_platform.errors import HotRefused, HotUnavailable, NotAssigned, OffsetOutOfRange
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.log_events import LogEvents, NoEvent, log_events
from audit_platform.ports import GroupMember, Hot, LogRecord, Platform
from audit_platform.record.landing import header_count
from audit_platform.record.layout import EVENTS_TOPIC

#: Faults logged one by one in one step; the rest is counted.
LOGGED_FAULTS = 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. `skipped` log records were deleted before they were read."""

    records: int = 0
    new: int = 0
    known: int = 0
    skipped: int = 0
    others: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Partition:
    """A partition that is ours; the next record to index is at `next_offset`.

    `pending` was read and is not in HOT yet, because HOT did not answer.
    """

    platform: Platform
    number: int
    next_offset: int
    pending: list[LogRecord] = field(default_factory=list)
    events_per_record: float = 1.0
    oldest_ms: int = 0

    def step(self, member: GroupMember, max_bytes: int) -> Step:
        """Index the next records, then commit the group's offset.

        Raises `HotUnavailable`, `LogUnavailable`: call again, nothing is passed over.
        """
        skipped = 0
        if not self.pending:
            skipped = self._read(max_bytes)
        if not self.pending:
            return Step(skipped=skipped)
        records = self.pending
        found = log_events(records)
        new, known, refused = _index(self.platform.hot, found)
        _say(found.others)
        reach(Killpoint.INDEXED)
        self.events_per_record = sum(header_count(r.headers) for r in records) / len(records)
        self.next_offset, self.pending = records[-1].offset + 1, []
        # Only a hint: when another member holds the partition now, the assignment will tell.
        with suppress(NotAssigned):
            member.commit(self.number, self.next_offset)
        others = Counter(str(other.reason) for other in found.others)
        others += Counter({"refused": refused})
        return Step(len(records), new, known, skipped, others)

    def _read(self, max_bytes: int) -> int:
        """Read on; how many records were passed over because the log has them no more."""
        log = self.platform.log
        skipped = 0
        first, end = log.bounds(EVENTS_TOPIC, self.number)
        if not first <= self.next_offset <= end:
            # Before the first: retention. Behind the end: another log, read it from its start.
            skipped = max(0, first - self.next_offset)
            _log.error(
                "the log does not hold the next offset any more; run rebuild-hot for its days",
                extra={"partition": self.number, "wanted": self.next_offset, "first": first},
            )
            self.next_offset = first
        if self.next_offset == end:
            return skipped
        with suppress(OffsetOutOfRange):  # deleted a moment ago: the next step sees it
            self.pending = log.read(EVENTS_TOPIC, self.number, self.next_offset, max_bytes)
            if not self.pending:
                self.next_offset = end  # a hole up to an end that was durable before
        self.oldest_ms = self.pending[0].appended_ms if self.pending else 0
        return skipped

    def lag(self, now_ms: int) -> tuple[int, float, float]:
        """(log records, events, seconds) behind the log's end.

        Events are taken to be as many a record as in the last ones indexed.
        """
        behind = max(0, self.platform.log.bounds(EVENTS_TOPIC, self.number)[1] - self.next_offset)
        oldest_ms = self.oldest_ms if self.pending or behind else 0
        seconds = max(0, now_ms - oldest_ms) / 1000 if oldest_ms else 0.0
        return behind, behind * self.events_per_record, seconds


def open_partition(platform: Platform, number: int, committed: int | None) -> Partition:
    """A partition where the group left it; at the log's first record when it never was here."""
    if committed is None:
        committed = platform.log.bounds(EVENTS_TOPIC, number)[0]
    return Partition(platform, number, committed)


def _index(hot: Hot, found: LogEvents) -> tuple[int, int, int]:
    """(new, known, refused) events; what can be written is, also when one index cannot.

    Raises the first `HotUnavailable` at the end.
    """
    new = known = refused = 0
    failed: HotUnavailable | None = None
    for (tenant_id, day), batches in sorted(found.rows.items()):
        rows = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        created, never = 0, 0
        try:
            created = hot.create(tenant_id, day, rows)
        except HotRefused as e:
            # The same rows would be refused for ever: nothing behind them may wait for them.
            _log.exception("not indexed: HOT refuses rows; COLD and landing hold them")
            created, never = e.created, len(e.rows)
        except HotUnavailable as e:
            failed = failed or e
        new += created
        refused += never
        known += rows.num_rows - created - never
    if failed is not None:
        raise failed
    return new, known, refused


def _say(others: list[NoEvent]) -> None:
    for other in others[:LOGGED_FAULTS]:
        _log.error(
            "not indexed: the log holds what is no event; landing keeps its bytes",
            extra={
                "topic": EVENTS_TOPIC,
                "partition": other.partition,
                "offset": other.offset,
                "line": other.line,
                "reason": str(other.reason),
            },
        )
    if len(others) > LOGGED_FAULTS:
        _log.error("not indexed: %d more like these", len(others) - LOGGED_FAULTS)
