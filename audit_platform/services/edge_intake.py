"""The intake of an edge: completes what devices say into chains, and spools it; no HTTP in it.

Order: events are given their places under one lock, in the order in which their bodies come; who
has the turn to commit appends everything that was placed meanwhile, by one call. So the spool has
each device's events in the order of its chain, and many bodies share an fsync. When an append
fails, whatever was placed since is taken back; unless the spool was merely full, the disk may hold
part of it, so the epoch ends there: the next event opens a new one, and nothing can be a fork.
Belongs here: that order, and the edge's own events. Does not: reading bytes (`edge_reading.py`),
places in chains (`edge_placing.py`), HTTP (`edge_gateway.py`).
Source: design section 3 (who fills what, chains, losses), 4 (acknowledgement); failure 29.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from audit_platform.errors import AuditPlatformError, EventRefused, SpoolFull
from audit_platform.killpoints import Killpoint, reach
from audit_platform.metrics.edge import EDGE_EVENTS, EDGE_LOST
from audit_platform.ports import Clock, Dropped, Keys, SetAside, Spool
from audit_platform.record.canonical import canonical_bytes
from audit_platform.record.edges import SIGNED_TYPES
from audit_platform.record.schemas import registry
from audit_platform.record.times import format_time_ms
from audit_platform.services import edge_own
from audit_platform.services.edge_entry import LiveEntry, Said, kind_of, ready
from audit_platform.services.edge_memory import Memory, remember
from audit_platform.services.edge_placing import (
    ACCEPTED,
    DeviceAnswer,
    EdgeIdentity,
    Job,
    Outcome,
    Placer,
    new_chain_id,
)
from audit_platform.services.edge_reading import Reader
from audit_platform.telemetry import Telemetry

_logger: Final = logging.getLogger(__name__)

#: The edge's clock is off when the platform's differs by more (failure 29: 5 minutes), and good
#: again when it differs by less than the second: a clock at the border must not flap.
CLOCK_OFF_MS: Final = 300_000
CLOCK_GOOD_MS: Final = 240_000

METRICS: Final = (EDGE_EVENTS, EDGE_LOST)


def _nobody(_entries: Sequence[LiveEntry]) -> None:
    """Nobody waits for fresh entries."""


class Intake:
    """Takes events. Called from several threads."""

    def __init__(
        self,
        spool: Spool,
        keys: Keys,
        clock: Clock,
        identity: EdgeIdentity,
        telemetry: Telemetry,
        on_spooled: Callable[[Sequence[LiveEntry]], None] = _nobody,
    ) -> None:
        """Remembers devices from the end of the spool. Raises `SpoolUnavailable`.

        `on_spooled` gets fresh entries, in the order of their positions; it must not block.
        """
        self._spool = spool
        self._keys = keys
        self._clock = clock
        self._identity = identity
        self._telemetry = telemetry
        self._on_spooled = on_spooled
        self._reader = Reader(
            registry(), identity.tenant_id, identity.hospital_id, identity.device_id
        )
        self._memory = Memory()
        self._placer = Placer(identity, self._memory)
        # Locks, in the order in which they may be taken: committing, then placing.
        self._committing = threading.Lock()
        self._placing = threading.Lock()
        self._pending: list[Job] = []
        self._undeclared: list[Dropped] = []
        self._reported: set[SetAside] = set()
        self._offset_ms = 0
        self._clock_is_off = False
        self._reason = "start" if spool.bounds()[1] == 0 else "restart"
        remember(spool, self._memory)

    # ---------------------------------------------------------------------------------- devices

    def take(self, lines: Sequence[bytes]) -> list[DeviceAnswer]:
        """The answer for each line; whatever was accepted, also earlier, is durable on return.

        Raises `SpoolFull`, `SpoolUnavailable`, `KeysUnavailable`: nothing of it is promised; and
        `KeyUnknown` when a new epoch would have to be signed and the edge has no key.
        """
        batch = self._reader.read(lines, self._stamp)
        with self._placed() as job:
            answers = self._placer.place_all(job, batch)
        counts = Counter([answer.outcome for answer in answers if answer is not ACCEPTED])
        counts[Outcome.ACCEPTED] += answers.count(ACCEPTED)
        for outcome, count in (+counts).items():
            self._telemetry.count(EDGE_EVENTS, count, outcome=outcome)
        return answers

    def devices(self) -> dict[str, int]:
        """When each device was last heard, by the edge's clock; the edge is not among them."""
        with self._placing:
            return {
                device_id: device.last_seen_ms
                for device_id, device in self._memory.devices.items()
                if device_id != self._identity.device_id
            }

    @property
    def epoch(self) -> str:
        """The chainId of the epoch; "" while none could be opened."""
        return self._memory.chain_id

    @property
    def clock_is_off(self) -> bool:
        """Whether the edge's clock is known to be wrong."""
        return self._clock_is_off

    def _stamp(self) -> str:
        """The time for an event whose device has no clock. Raises `EventRefused`."""
        if self._clock_is_off:
            raise EventRefused(
                "edge_clock_off",
                "eventTime",
                "eventTime is missing, and the edge's own clock is wrong",
                remedy="send eventTime, or set the edge's clock",
            )
        return format_time_ms(self._clock.now_ms())

    # --------------------------------------------------------------------------- the edge's own

    def open_epoch(self) -> None:
        """Begin new chains where there is no epoch: a signed `chain_start`, durable on return.

        Raises as `take`; the next event tries again.
        """
        with self._placed():
            pass

    def look_after(self, clock_offset_ms: int | None) -> None:
        """Put on record what changed: the clock, segments set aside, losses. Raises as `take`.

        `clock_offset_ms` is how far the platform's clock is ahead of ours; None: not known. For
        one thread at a time; call it every few seconds.
        """
        if clock_offset_ms is not None:
            self._judge_clock(clock_offset_ms)
        for report in self._spool.status().set_aside:
            if report not in self._reported:
                self._say(edge_own.SEGMENT_SET_ASIDE, edge_own.set_aside_payload(report))
                self._reported.add(report)
        self._declare()

    def _judge_clock(self, offset_ms: int) -> None:
        self._offset_ms = offset_ms
        limit = CLOCK_GOOD_MS if self._clock_is_off else CLOCK_OFF_MS
        is_off = abs(offset_ms) > limit
        if is_off is not self._clock_is_off:
            self._clock_is_off = is_off
            _logger.warning("the edge's clock is %s", "off" if is_off else "good again")
            self._say(edge_own.CLOCK, edge_own.clock_payload(offset_ms, is_off=is_off))

    def _declare(self) -> None:
        """Put on record what a full spool dropped, by signed `loss` events."""
        with self._placing:
            dropped, self._undeclared = self._undeclared, []
        if not dropped:
            return
        runs, nameless = edge_own.lost_runs(dropped)
        try:
            for part in edge_own.loss_parts(runs):
                self._say(edge_own.LOSS, {"runs": part})
            self._spool.declared(dropped)
        except BaseException:
            with self._placing:
                self._undeclared = [*dropped, *self._undeclared]
            raise
        lost = sum(run.count for run in runs) + nameless
        self._telemetry.count(EDGE_LOST, lost)
        _logger.error("the full spool dropped %d events; their loss is on record", lost)

    def _say(self, event_type: str, payload: dict[str, Any]) -> None:
        """Put an event of the edge itself on record; signed where its type is."""
        with self._placed() as job:
            said = self._own(event_type, payload, self._memory.chain_id)
            self._placer.join(job, ready(said, self._identity.tenant_id))

    def _own(self, event_type: str, payload: dict[str, Any], chain_id: str) -> Said:
        """The next event of the edge itself, in this chain."""
        me = self._identity
        sequence = self._memory.next_sequence(me.device_id)
        # The platform's time while ours is known to be wrong.
        now_ms = self._clock.now_ms() + (self._offset_ms if self._clock_is_off else 0)
        time = format_time_ms(now_ms)
        if event_type in SIGNED_TYPES:
            place = {
                "chainId": chain_id,
                "deviceId": me.device_id,
                "eventTime": time,
                "hospitalId": me.hospital_id,
                "sequenceNumber": sequence,
                "tenantId": me.tenant_id,
            }
            payload = edge_own.signed_payload(self._keys, event_type, place, payload)
        criticality = registry().criticality(event_type, 1)
        kind = kind_of(event_type, 1, criticality, "", me.hospital_id)
        text = canonical_bytes(payload).decode()
        return Said(me.device_id, time, sequence, kind, text, stamped=False)

    # ------------------------------------------------------------------------------- committing

    @contextmanager
    def _placed(self) -> Iterator[Job]:
        """Place events into the job within the block; all of it is durable when it has ended."""
        with self._placing:
            job = Job(self._clock.now_ms())
            try:
                if not self._memory.chain_id:
                    self._begin_epoch(job)
                yield job
            except BaseException:
                job.undo(self._memory)
                raise
            self._pending.append(job)
        with self._committing:
            if not job.is_decided:
                self._append_pending()
        if job.error is not None:
            raise job.error
        if self._undeclared:
            try:
                self._declare()
            except AuditPlatformError:
                # What was placed is durable all the same; `look_after` tries again.
                _logger.exception("a loss is not on record yet; its bytes are kept")

    def _begin_epoch(self, job: Job) -> None:
        chain_id = new_chain_id()
        said = self._own(edge_own.CHAIN_START, {"reason": self._reason}, chain_id)
        self._placer.begin_epoch(job, chain_id, said)

    def _append_pending(self) -> None:
        """Append what was placed until now; each of these jobs is decided on return."""
        with self._placing:
            jobs, self._pending = self._pending, []
        try:
            made = [entry for job in jobs for entry in job.entries()]
            positions, dropped = self._spool.append([entry for entry, _ in made])
        except BaseException as e:
            self._take_back(jobs, e)
            if not isinstance(e, Exception):
                raise
            return
        if made:
            reach(Killpoint.SPOOLED)
        for job in jobs:
            job.is_decided = True
            if job.opens_epoch:
                self._reason = "spool_failed"  # why there would be another one
        self._on_spooled(
            [
                tuple.__new__(LiveEntry, (position, entry[0], entry[2], lines))
                for position, (entry, lines) in zip(positions, made, strict=True)
            ]
        )
        if dropped:
            with self._placing:
                self._undeclared += dropped

    def _take_back(self, jobs: list[Job], error: BaseException) -> None:
        """Undo what could not be stored, and what was placed behind it."""
        with self._placing:
            jobs += self._pending
            self._pending = []
            for job in reversed(jobs):
                job.undo(self._memory)
                job.is_decided = True
                job.error = error
            if not isinstance(error, SpoolFull):
                self._memory.chain_id = ""
