"""The uplink: brings what is spooled to ingest-gateway, and lets go of what is archived.

Belongs here: the rounds (send, ask, release), pauses after failures, what is given up on, figures.
Does not: what goes next (`edge_uplink_lanes.py`), HTTP (`edge_uplink_http.py`), which log records
are open (`edge_uplink_archived.py`), files (`edge_uplink_files.py`).
Source: design section 4; the issue's "Uplink"; failures 2, 10, 24.

Nothing is ever dropped: an entry is released when a range record lists the digest of each log
record that holds it, or when its bytes are kept in `set-aside/` because ingest cannot read them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import RecordMalformed, SpoolUnavailable
from audit_platform.metrics.edge import EDGE_UPLINK_ANSWERS, EDGE_UPLINK_EVENTS
from audit_platform.ports import Entry, Spool
from audit_platform.services import edge_entry
from audit_platform.services.edge_entry import LiveEntry
from audit_platform.services.edge_uplink_archived import Unarchived
from audit_platform.services.edge_uplink_files import SetAside
from audit_platform.services.edge_uplink_http import Failure, Fault, Receipt, UplinkSender
from audit_platform.services.edge_uplink_lanes import Lanes
from audit_platform.services.edge_uplink_load import UNREADABLE_TRIES, Load
from audit_platform.services.edge_uplink_runs import Runs
from audit_platform.telemetry import Telemetry

_logger: Final = logging.getLogger(__name__)

#: First and longest pause after a failure, doubled each time; each is drawn from half of it to all
#: of it, so that the edges of a city do not come back at the same moment.
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 30.0

#: The shortest pause where only a person can help (a credential, a wrong address).
SLOW_PAUSE_SECONDS: Final = 20.0

#: Seconds between two rounds of questions. Ranges close every 60 s.
ASK_SECONDS: Final = 5.0

#: Log records in one question; ingest-gateway takes no more.
ASK_RECORDS: Final = 1000

#: Seconds after which the spool is asked again to mark what may go.
RELEASE_AGAIN_SECONDS: Final = 5.0

#: With nothing to send or ask, an empty question is asked this often, to know the uplink is there.
IDLE_SECONDS: Final = 15.0

#: A good answer older than this says nothing about now.
CONNECTED_SECONDS: Final = 60.0

#: How often the spool is looked at when nobody offers anything.
POLL_SECONDS: Final = 0.5

#: Log records of acknowledged entries that are remembered, 24 bytes each: four hours of 60 small
#: bodies a second over two partitions. With the archive further behind, the oldest are forgotten,
#: and sent again when it has caught up: ingest counts them as duplicates.
MAX_UNARCHIVED: Final = 2_000_000

#: Positions of those that are sent again between two rounds of questions.
LATER_POSITIONS: Final = 256

METRICS: Final = (EDGE_UPLINK_ANSWERS, EDGE_UPLINK_EVENTS)


@dataclass(frozen=True, slots=True)
class UplinkStatus:
    """What an operator asks first.

    connected: the last attempt got a good answer, within `CONNECTED_SECONDS`. backlog_*: spooled
    and not acknowledged. replay_progress: 0..1, 1 when nothing waits in the backlog.
    unarchived_records: log records acknowledged and not archived yet. set_aside: events that ingest
    could not read, kept as files. clock_offset_ms: ingest-gateway's clock minus ours. trouble: what
    is wrong, or "".
    """

    connected: bool
    backlog_entries: int
    backlog_events: int
    replay_progress: float
    unarchived_records: int
    set_aside: int
    clock_offset_ms: int | None
    trouble: str


def _no_receipts(_lines: Sequence[bytes], _receipt: Receipt) -> None:
    """Nobody keeps them."""


class Uplink:
    """Drive it by `step`, in one thread; or `start` a thread that does.

    `offer` and `status` are for any thread. `close` stops it; spool and sender stay the caller's.
    """

    def __init__(
        self,
        spool: Spool,
        sender: UplinkSender,
        telemetry: Telemetry,
        set_aside: SetAside,
        *,
        lines_of: Callable[[Entry], list[bytes]] = edge_entry.lines_of,
        on_receipt: Callable[[Sequence[bytes], Receipt], None] = _no_receipts,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        ask_seconds: float = ASK_SECONDS,
    ) -> None:
        self._spool = spool
        self._sender = sender
        self._telemetry = telemetry
        self._set_aside = set_aside
        self._on_receipt = on_receipt
        self._monotonic = monotonic
        self._jitter = jitter
        self._ask_seconds = ask_seconds
        self._lanes = Lanes(spool, lines_of, set_aside.keep)
        self._unarchived = Unarchived()
        self._to_release = Runs()
        self._release_at = 0.0
        self._resume_at = 0.0
        self._failures = 0
        self._trouble = ""
        self._good_at: float | None = None
        self._ask_at = 0.0
        self._sent_last = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------ any thread

    def offer(self, entries: Sequence[LiveEntry]) -> None:
        """Hand over entries that were just spooled. Never blocks, keeps what there is room for."""
        self._lanes.offer(entries)
        self._wake.set()

    def status(self) -> UplinkStatus:
        """Figures; cheap."""
        good_at = self._good_at
        entries, events = self._lanes.waiting()
        return UplinkStatus(
            connected=good_at is not None
            and not self._failures
            and self._monotonic() - good_at <= CONNECTED_SECONDS,
            backlog_entries=entries,
            backlog_events=events,
            replay_progress=self._lanes.progress(),
            unarchived_records=self._unarchived.records,
            set_aside=self._set_aside.count,
            clock_offset_ms=self._sender.clock_offset_ms(),
            trouble=self._trouble,
        )

    def start(self) -> None:
        """Run in a thread of its own until `close`."""
        self._thread = threading.Thread(target=self._run, name="uplink")
        self._thread.start()

    def close(self) -> None:
        """Stop after the attempt in hand: that takes the sender's time-outs at most. Idempotent."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            if not self._try_step():
                self._wake.wait(self._seconds_to_wait())

    def _try_step(self) -> bool:
        try:
            return self.step()
        except Exception as e:
            _logger.exception("a round of the uplink failed")
            self._failed(Failure(Fault.LATER, f"the uplink itself failed: {type(e).__name__}"))
            return False

    def _seconds_to_wait(self) -> float:
        left = self._resume_at - self._monotonic()
        return left if left > 0 else POLL_SECONDS

    # --------------------------------------------------------------------------------- a round

    def step(self) -> bool:
        """One round: look at what is new, then one request at most. False: nothing to do now."""
        try:
            return self._round()
        except (SpoolUnavailable, OSError) as e:
            self._failed(Failure(Fault.LATER, f"the edge's own disk: {e}"))
        except RecordMalformed as e:
            self._failed(Failure(Fault.STRANGE, f"an entry of the spool: {e}"))
        return False

    def _round(self) -> bool:
        moved = self._lanes.scan()
        if self._monotonic() < self._resume_at:
            return moved
        self._release()
        if self._is_time_to_ask() and self._ask():
            self._sent_last = False
            return True
        load = self._lanes.next_load()
        if load is None:
            return self._ask() or moved
        self._sent_last = True
        self._send(load)
        return True

    def _is_time_to_ask(self) -> bool:
        # Turn about: a long round of questions must not hold events back, nor they the questions.
        return self._sent_last and self._monotonic() >= self._ask_at

    def _release(self) -> None:
        """Let go of what is archived. A disk that takes no marks must not keep us from sending."""
        if not self._to_release or self._monotonic() < self._release_at:
            return
        try:
            self._spool.release(list(self._to_release))
        except SpoolUnavailable as e:
            self._release_at = self._monotonic() + RELEASE_AGAIN_SECONDS
            _logger.warning("what is archived could not be released: %s", e)
        else:
            self._to_release = Runs()

    # --------------------------------------------------------------------------------- sending

    def _send(self, load: Load) -> None:
        lines = load.bodies[0] if load.bodies else []
        if lines:
            answer = self._sender.send(b"\n".join((*lines, b"")), len(lines))
            if isinstance(answer, Failure):
                self._count(answer.fault)
                self._failed(answer)
                if answer.fault in {Fault.TOO_LARGE, Fault.UNREADABLE}:
                    self._make_smaller(load, answer)
            else:
                self._on_receipt(lines, answer)
                self._count("acknowledged")
                self._telemetry.count(EDGE_UPLINK_EVENTS, len(lines), lane=load.lane.value)
                load.records += answer.records
                load.bodies.popleft()
                load.tries = 0
                self._went_well()
        if not load.bodies:
            self._acknowledged(load)

    def _acknowledged(self, load: Load) -> None:
        if load.records:
            self._unarchived.add(load.positions, load.records)
        else:
            for run in load.positions:
                self._to_release.add(*run)
        self._lanes.done(load)
        while self._unarchived.records > MAX_UNARCHIVED:
            self._lanes.send_again_later(self._unarchived.forget_oldest())

    def _make_smaller(self, load: Load, failure: Failure) -> None:
        """Halve a body that ingest does not take; keep a single event of that kind aside."""
        if load.split():
            return
        load.tries += 1
        if not failure.by_ingest or load.tries < UNREADABLE_TRIES:
            return
        [line] = load.bodies[0]
        first = load.positions.first()
        assert first is not None
        self._set_aside.keep(first[0], line, failure.reason)
        _logger.error("ingest cannot read an event: it is kept aside: %s", failure.reason)
        self._count("set_aside")
        load.bodies.popleft()
        load.tries = 0

    # ---------------------------------------------------------------------------------- asking

    def _ask(self) -> bool:
        """Ask what is archived, if it is time to. Whether anything was asked."""
        now = self._monotonic()
        if now < self._ask_at:
            return False
        question = self._unarchived.question(ASK_RECORDS)
        if not question:
            self._ask_at = now + self._ask_seconds
            if self._unarchived.records <= MAX_UNARCHIVED // 2:
                self._lanes.take_later(LATER_POSITIONS)
            if self._good_at is not None and now - self._good_at < IDLE_SECONDS:
                return False
        answer = self._sender.ask(question)
        if isinstance(answer, Failure):
            self._count(answer.fault)
            self._failed(answer)
            self._unarchived.end_round()
            return True
        self._went_well()
        release, again = self._unarchived.answered(answer)
        for run in release:
            self._to_release.add(*run)
        if again:
            _logger.error("the log lost %d entries of ours: sending them again", again.count())
            self._lanes.send_again(again)
        self._release()
        return True

    # -------------------------------------------------------------------------------- outcomes

    def _count(self, outcome: str) -> None:
        self._telemetry.count(EDGE_UPLINK_ANSWERS, outcome=str(outcome))

    def _went_well(self) -> None:
        self._failures = 0
        self._trouble = ""
        self._good_at = self._monotonic()

    def _failed(self, failure: Failure) -> None:
        """Note what is wrong, and when to go on."""
        doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 32)
        pause = min(doubled, LONGEST_PAUSE_SECONDS)
        if failure.fault in {Fault.DENIED, Fault.STRANGE}:
            pause = max(pause, SLOW_PAUSE_SECONDS)
        pause *= (1 + self._jitter()) / 2
        self._resume_at = self._monotonic() + max(pause, failure.wait_seconds)
        if not self._failures:
            _logger.warning("the uplink pauses: %s", failure.reason)
        self._failures += 1
        self._trouble = failure.reason
