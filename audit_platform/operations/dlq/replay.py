"""Carrying out an approved proposal: its lines into the log as ingest-gateway would put them.

Chunk by chunk: judged again, appended, written down. A replay that is killed goes on with the first
chunk that is not written down, so it appends one chunk again at most, and copies count once. What
is appended is exactly what the approved dry run said would be accepted, and is still good.
Belongs here: that loop, its speed, when it stops by itself. Does not: judging (`judge.py`), the
records (`records.py`). Source: design sections 4 (log records) and 7; the mission's row 12.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from audit_platform.errors import DecisionRefused
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.dlq.decide import letters_of
from audit_platform.operations.dlq.judge import Judge, Judged, named_schema
from audit_platform.operations.dlq.letters import Letters
from audit_platform.operations.dlq.records import Case, State, case_of, put
from audit_platform.operations.query.model import IsCancelled, never
from audit_platform.operations.query.reader import Reader
from audit_platform.ports import NewRecord, Platform
from audit_platform.record import layout
from audit_platform.record.decision import Action, Line, Outcome, Replayed
from audit_platform.record.event import CheckedEvent, stored_line
from audit_platform.record.schemas import EventSchema, SchemaRegistry
from audit_platform.record.times import format_time_ms

#: Bytes in one log record (design section 4); a chunk has fewer events than a record may have.
MAX_RECORD_BYTES: Final = 1024 * 1024

#: A tenth of what one ingest-gateway takes on a slow core: what comes from devices goes first.
EVENTS_PER_SECOND: Final = 500

#: A replay stops by itself when more than this share of a chunk's lines that should be accepted is
#: refused, or so many of them in a row: then something changed since the dry run, and a person must
#: look before the rest is taken on the same grounds.
MAX_REFUSED_SHARE: Final = 0.10
MAX_REFUSED_IN_A_ROW: Final = 5


@dataclass(slots=True)
class Replay:
    """What a replay did. `stopped` says why it ended before the last chunk ("" when it did not).

    `counts` are of the whole proposal so far, by outcome; `skipped` chunks had been done before,
    `done` were done now.
    """

    tenant_id: str
    proposal_id: str
    chunks: int
    counts: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    done: int = 0
    appended: int = 0
    stopped: str = ""

    @property
    def is_complete(self) -> bool:
        """Every chunk is written down."""
        return self.skipped + self.done == self.chunks


@dataclass(slots=True)
class _Work:
    """An approved case on its way."""

    platform: Platform
    case: Case
    judge: Judge
    schema: EventSchema | None
    letters: Letters | None
    in_a_row: int = 0

    def predicted(self, at: int) -> Line:
        dry_run = self.case.dry_run
        assert dry_run is not None  # an approved case has one
        return dry_run.lines[at]

    def judged(self, chunk: range) -> list[Judged]:
        """The lines of a chunk as they are judged now; what was not to be accepted as predicted."""
        proposal = self.case.proposal
        if self.schema is None or self.letters is None:
            found = [self.judge.repaired(proposal.events[i]) for i in chunk]
        else:
            part = [proposal.entries[i] for i in chunk]
            letters = self.letters.whole([n.entry_id for n in part])
            found = [self.judge.entry(n, letters.get(n.entry_id), self.schema) for n in part]
        pairs = zip(chunk, found, strict=True)
        return [
            now if (was := self.predicted(i)).outcome is Outcome.ACCEPTED else Judged(was)
            for i, now in pairs
        ]

    def trouble(self, chunk: range, judged: Sequence[Judged]) -> str:
        """Why this chunk must not be appended, or "": refusals that the dry run did not expect."""
        expected = refused = 0
        first = ""
        for at, now in zip(chunk, judged, strict=True):
            if self.predicted(at).outcome is not Outcome.ACCEPTED:
                continue
            expected += 1
            is_refused = now.event is None
            refused += is_refused
            first = first or now.line.reason
            self.in_a_row = self.in_a_row + 1 if is_refused else 0
            if self.in_a_row >= MAX_REFUSED_IN_A_ROW:
                return f"{self.in_a_row} lines in a row are refused now: {now.line.reason}"
        # In a chain of repaired events each one follows from the one before it.
        share = 0.0 if self.case.proposal.action is Action.REPAIR else MAX_REFUSED_SHARE
        if refused > share * expected:
            return f"{refused} of {expected} lines of a chunk are refused now: {first}"
        return ""


def _opened(
    reader: Reader,
    tenant_id: str,
    proposal_id: str,
    schemas: SchemaRegistry,
    is_cancelled: IsCancelled,
) -> _Work:
    case = case_of(reader, tenant_id, proposal_id)
    proposal = case.proposal
    _demand_approval(case)
    if proposal.action is Action.REJECT:
        raise DecisionRefused(
            "nothing_to_replay", f"{proposal_id} rejects its entries", remedy="nothing to do"
        )
    is_repair = proposal.action is Action.REPAIR
    return _Work(
        reader.platform,
        case,
        Judge(reader.platform, tenant_id, schemas),
        None if is_repair else named_schema(schemas, proposal.schema_ref),
        None if is_repair else letters_of(reader, proposal, is_cancelled),
    )


def _demand_approval(case: Case) -> None:
    if case.is_approved:
        return
    raise DecisionRefused(
        "not_approved",
        f"proposal {case.proposal.proposal_id} is {case.state}",
        remedy="its set or dry run changed after the approval: propose it anew"
        if case.state is State.VOID
        else "a second operator must approve its set and dry run",
    )


def replay(
    reader: Reader,
    tenant_id: str,
    proposal_id: str,
    schemas: SchemaRegistry,
    *,
    events_per_second: int = EVENTS_PER_SECOND,
    is_cancelled: IsCancelled = never,
    wait: Callable[[float], None] = time.sleep,
) -> Replay:
    """Carry out an approved proposal, from where an earlier run of it ended.

    May be killed or cancelled at any moment. Raises `DecisionRefused` (not approved, void, a
    suspended tenant), the ports' `…Unavailable`; what was written down stays done.
    """
    work = _opened(reader, tenant_id, proposal_id, schemas, is_cancelled)
    chunks = list(work.case.proposal.chunks())
    told = Replay(tenant_id, proposal_id, len(chunks))
    for number, chunk in enumerate(chunks):
        # A further dry run, or the approval's end, counts from the next chunk on.
        work.case = case_of(reader, tenant_id, proposal_id)
        _demand_approval(work.case)
        before = work.case.replayed.get(number)
        if before is not None:
            told.skipped += 1
            told.counts.update(str(line.outcome) for line in before.lines)
            continue
        if is_cancelled():
            told.stopped = "cancelled"
            break
        judged = work.judged(chunk)
        told.stopped = work.trouble(chunk, judged)
        if told.stopped:
            break
        events = [j.event for j in judged if j.event is not None]
        wait(len(events) / events_per_second)
        _write(work, number, judged, events)
        told.done += 1
        told.appended += len(events)
        told.counts.update(str(j.line.outcome) for j in judged)
    return told


def _write(
    work: _Work, number: int, judged: Sequence[Judged], events: Sequence[CheckedEvent]
) -> None:
    """Append a chunk's events, then write down what became of each of its lines."""
    platform, proposal = work.platform, work.case.proposal
    now_ms = platform.clock.now_ms()
    partitions = platform.log.describe(layout.EVENTS_TOPIC).partitions
    records = list(_records(proposal.tenant_id, events, now_ms, partitions))
    offsets = platform.log.append(layout.EVENTS_TOPIC, records) if records else []
    reach(Killpoint.DLQ_APPENDED)
    done = Replayed(
        tenant_id=proposal.tenant_id,
        proposal_id=proposal.proposal_id,
        at_ms=now_ms,
        chunk=number,
        lines=tuple(j.line for j in judged),
        records=tuple(
            (r.partition, offset, layout.short_digest(r.value), int(r.headers["count"]))
            for r, offset in zip(records, offsets, strict=True)
        ),
    )
    put(platform, layout.replay_key(proposal.tenant_id, proposal.proposal_id, number), done)
    reach(Killpoint.DLQ_REPLAYED)


def _records(
    tenant_id: str, events: Sequence[CheckedEvent], now_ms: int, partitions: int
) -> Iterator[NewRecord]:
    """Log records of events, each device's in their order."""
    stamp = format_time_ms(now_ms).encode("ascii")
    homes: defaultdict[int, list[bytes]] = defaultdict(list)
    for event in events:
        home = layout.partition_of(tenant_id, event.device_id, partitions)
        homes[home].append(stored_line(event.canonical, stamp) + b"\n")
    for partition, lines in sorted(homes.items()):
        waiting: list[bytes] = []
        size = 0
        for line in lines:
            if waiting and size + len(line) > MAX_RECORD_BYTES:
                yield _record(tenant_id, partition, waiting)
                waiting, size = [], 0
            waiting.append(line)
            size += len(line)
        yield _record(tenant_id, partition, waiting)


def _record(tenant_id: str, partition: int, lines: Sequence[bytes]) -> NewRecord:
    headers = {"v": "1", "tenant": tenant_id, "count": str(len(lines))}
    return NewRecord(partition, b"".join(lines), headers)
