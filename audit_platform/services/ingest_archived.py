"""What of the log is archived: answers for edges, and partitions whose archive is too far behind.

An edge keeps what a 202 acknowledged until a range record lists the same digest. It asks here.
Belongs here: reading range records for that, their bounded cache, the age of what is not archived.
Does not: HTTP (`ingest_gateway.py`), a question's form (`ingest_question.py`), range records
themselves (`operations/coverage.py`).
Source: design section 4 (the edge keeps what was acknowledged; 6 of 7 days), section 5 (ranges).

Everything that waits for objects or log runs in one thread of its own, one thing at a time. Bodies
of events see what the last look found and never wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from bisect import bisect_right, insort
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from audit_platform.errors import AuditPlatformError, OffsetOutOfRange, RecordMalformed
from audit_platform.operations.claims import read_claim
from audit_platform.operations.coverage import range_records
from audit_platform.ports import Log, Platform
from audit_platform.record.layout import (
    MS_PER_DAY,
    generation_key,
    short_digest,
)
from audit_platform.record.ranges import Generation, RangeRecord
from audit_platform.services.ingest_problems import Problem
from audit_platform.services.ingest_question import Asked, parse_question

_logger: Final = logging.getLogger(__name__)

#: The log keeps records for 7 days. One day before it would delete one that no range record
#: covers, ingest takes no more for that partition: edges keep 72 hours on disk, and a day is
#: enough for a person to bring the archive-writer back.
LATE_MS: Final = 6 * MS_PER_DAY

#: Real seconds between two looks at how far the archive has come. A range closes every 60 s.
LOOK_SECONDS: Final = 15.0

#: How long the first body waits for the first look, which takes milliseconds where objects answer.
FIRST_LOOK_SECONDS: Final = 2.0

#: Log records whose digests are remembered: 16 bytes each, and an edge asks about the last minutes.
MAX_REMEMBERED: Final = 1_000_000

#: Range records, or log records, read for one question, each in about 10 ms. What would need more
#: is answered `pending`, and the next question finds the first ones remembered.
MAX_READS: Final = 64

#: What an edge should wait before it asks again while objects or log do not answer.
RETRY_AFTER_SECONDS: Final = 5

ARCHIVED: Final = "archived"
PENDING: Final = "pending"
DIFFERS: Final = "differs"

#: Beyond every offset.
_MAX_NUMBER: Final = 2**63 - 1


class _Place(NamedTuple):
    topic: str
    generation: int
    partition: int


@dataclass(frozen=True, slots=True)
class _Range:
    """Digests of one range: covers `first <= o < end`; an offset not listed is a hole."""

    first: int
    end: int
    offsets: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, record: RangeRecord) -> _Range:
        return cls(
            record.first_offset,
            record.end_offset,
            np.array([r.offset for r in record.records], np.int64),
            np.array([int(r.digest, 16) for r in record.records], np.uint64),
        )

    def lists(self, asked: Asked) -> bool:
        at = int(np.searchsorted(self.offsets, asked.offset))
        return (
            at < len(self.offsets)
            and int(self.offsets[at]) == asked.offset
            and int(self.digests[at]) == asked.digest
        )


class _Ranges:
    """The ranges looked at last, up to `MAX_REMEMBERED` log records."""

    def __init__(self) -> None:
        self._ranges: OrderedDict[tuple[_Place, int], _Range] = OrderedDict()
        self._firsts: defaultdict[_Place, list[int]] = defaultdict(list)
        self.records = 0

    def covering(self, place: _Place, offset: int) -> _Range | None:
        firsts = self._firsts[place]
        at = bisect_right(firsts, offset) - 1
        if at < 0:
            return None
        key = (place, firsts[at])
        found = self._ranges[key]
        if offset >= found.end:
            return None
        self._ranges.move_to_end(key)
        return found

    def remember(self, place: _Place, record: RangeRecord) -> _Range:
        key = (place, record.first_offset)
        known = self._ranges.get(key)
        if known is not None:
            return known  # the oldest version of a range record is the same for ever
        found = self._ranges[key] = _Range.of(record)
        insort(self._firsts[place], found.first)
        self.records += len(found.offsets)
        while self.records > MAX_REMEMBERED and len(self._ranges) > 1:
            (of, first), least = self._ranges.popitem(last=False)
            self._firsts[of].remove(first)
            self.records -= len(least.offsets)
        return found


class _Question:
    """One question on its way: what may still be read for it, and the log's ends as seen now."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._bounds: dict[tuple[str, int], tuple[int, int]] = {}
        self.reads_left = MAX_READS

    def may_read(self) -> bool:
        """Take one read, if there is one left."""
        self.reads_left -= 1
        return self.reads_left >= 0

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The log's first and next offset; (0, 0) for a partition that it does not have."""
        found = self._bounds.get((topic, partition))
        if found is None:
            is_there = partition < self._log.describe(topic).partitions
            found = self._log.bounds(topic, partition) if is_there else (0, 0)
            self._bounds[topic, partition] = found
        return found


class _Coverage:
    """Range records of all generations, as far as anyone asked. Used by one thread only."""

    def __init__(self, platform: Platform) -> None:
        self._log = platform.log
        self._objects = platform.objects
        self._clock = platform.clock
        self._generations: list[Generation] = []
        self._ranges = _Ranges()
        self._reached: dict[_Place, int] = {}

    @property
    def newest(self) -> Generation | None:
        """The newest log generation that was seen."""
        return self._generations[-1] if self._generations else None

    def look(self) -> frozenset[tuple[str, int]]:
        """See how far each partition of the newest generation is archived.

        Returns the (topic, partition) whose oldest record without a range is over `LATE_MS` old.
        """
        while (record := self._next_generation()) is not None:
            self._generations.append(record)
            self._reached.clear()  # nobody looks at an older one's ends any more
        late = set()
        for topic in self._generations[-1].topics if self._generations else ():
            for partition, start in enumerate(topic.start_offsets):
                place = _Place(topic.topic, self._generations[-1].number, partition)
                if partition >= self._log.describe(topic.topic).partitions:
                    continue  # another topic: the next generation is still to be opened
                try:
                    if self._is_late(place, start):
                        late.add((topic.topic, partition))
                except RecordMalformed as e:
                    # The archive-writer stands still there too; other partitions go on.
                    _logger.error("%s/%s: %s", place.topic, partition, e)  # noqa: TRY400 - the traceback adds nothing
        return frozenset(late)

    def _next_generation(self) -> Generation | None:
        found = read_claim(self._objects, generation_key(len(self._generations) + 1))
        return None if found is None else Generation.from_bytes(found.key, found.data)

    def _is_late(self, place: _Place, start: int) -> bool:
        first, end = self._log.bounds(place.topic, place.partition)
        last = next(range_records(self._objects, *place, holding=end), None)
        if last is not None:
            self._ranges.remember(place, last)
        self._reached[place] = start if last is None else last.end_offset
        at = max(self._reached[place], first)
        if at >= end:
            return False
        oldest = self._log.read(place.topic, place.partition, at, 1)
        return bool(oldest) and self._clock.now_ms() - oldest[0].appended_ms > LATE_MS

    def states(self, asked: Sequence[Asked]) -> list[str]:
        """`archived`, `pending` or `differs` for each."""
        question = _Question(self._log)
        states = [PENDING] * len(asked)
        for n in sorted(range(len(asked)), key=asked.__getitem__):
            states[n] = self._state(asked[n], question)
        return states

    def _state(self, asked: Asked, question: _Question) -> str:
        may_be_covered_later = not self._generations
        for generation in reversed(self._generations):
            start = generation.topic(asked.topic)
            if (
                start is None
                or asked.partition >= len(start.start_offsets)
                or asked.offset < start.start_offsets[asked.partition]
            ):
                continue
            is_newest = generation is self._generations[-1]
            found = self._covering(
                _Place(asked.topic, generation.number, asked.partition), asked.offset, question
            )
            if question.reads_left < 0:
                return PENDING
            if found is not None and found.lists(asked):
                return ARCHIVED
            if is_newest:
                may_be_covered_later = found is None
        first, end = question.bounds(asked.topic, asked.partition)
        if not first <= asked.offset < end:
            return DIFFERS  # never to be archived: the log lost it, or is another one
        if may_be_covered_later or not question.may_read() or self._holds(asked):
            return PENDING
        return DIFFERS

    def _covering(self, place: _Place, offset: int, question: _Question) -> _Range | None:
        found = self._ranges.covering(place, offset)
        if found is not None or offset >= self._reached.get(place, _MAX_NUMBER):
            return found
        if not question.may_read():
            return None
        try:
            record = next(range_records(self._objects, *place, holding=offset), None)
        except RecordMalformed as e:
            _logger.error("%s/%s: %s", place.topic, place.partition, e)  # noqa: TRY400 - the traceback adds nothing
            return None
        if record is None:
            return None
        found = self._ranges.remember(place, record)
        return found if found.first <= offset < found.end else None

    def _holds(self, asked: Asked) -> bool:
        """Whether the log holds the very record, though the ranges list another one there.

        Then an operator has yet to open the next generation, which will cover it. Sending it again
        would only add a copy for each answer.
        """
        try:
            held = self._log.read(asked.topic, asked.partition, asked.offset, 1)
        except OffsetOutOfRange:
            return False
        return (
            bool(held)
            and held[0].offset == asked.offset
            and int(short_digest(held[0].value), 16) == asked.digest
        )


class Archived:
    """Answers questions and keeps the look at late partitions fresh.

    `answer` runs in an event loop; `late` may be called from any thread.
    """

    def __init__(
        self, platform: Platform, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._coverage = _Coverage(platform)
        self._thread = ThreadPoolExecutor(1, "archived")
        self._late: frozenset[tuple[str, int]] = frozenset()
        self._looked = -LOOK_SECONDS
        self._looking = False
        self._has_looked = False

    def close(self) -> None:
        """Wait for the look or answer in hand, then stop the thread. Idempotent."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def late(self) -> frozenset[tuple[str, int]]:
        """(topic, partition) that take nothing until they are archived, by the last look.

        Starts another look when the last one is old; never waits for it.
        """
        if not self._looking and self._monotonic() - self._looked >= LOOK_SECONDS:
            self._looking = True
            self._thread.submit(self._try_to_look)
        return self._late

    def generation(self) -> Generation | None:
        """The newest log generation by the last look; None when there is none, or none was seen.

        Waits for the very first look, but not long: ingest goes on without the object store.
        """
        if not self._has_looked:
            self._has_looked = True
            first = self._thread.submit(self._try_to_look)
            with contextlib.suppress(TimeoutError):
                first.result(FIRST_LOOK_SECONDS)
        self.late()  # no body gets further than this while the generation is another one
        return self._coverage.newest

    async def answer(self, data: bytes) -> bytes:
        """The answer (JSON) to a question: a state for each record, in order.

        Raises `Problem`: `bad_question`, or 503 when objects or log do not answer.
        """
        asked = parse_question(data)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answer, asked)

    def _answer(self, asked: Sequence[Asked]) -> bytes:
        try:
            if self._monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
            return orjson.dumps({"states": self._coverage.states(asked)})
        except AuditPlatformError as e:
            raise Problem(
                "archive_unknown",
                f"range records cannot be compared now: {e.reason}",
                remedy="ask again later; keep the events until then",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from e

    def _look(self) -> None:
        self._late = self._coverage.look()
        self._looked = self._monotonic()

    def _try_to_look(self) -> None:
        try:
            if self._monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
        except AuditPlatformError as e:
            _logger.warning("it is not known how far the archive has come: %s", e)
        except Exception:
            _logger.exception("it is not known how far the archive has come")
        finally:
            # A failed look counts too: the next body must not start one at once.
            self._looked = self._monotonic()
            self._looking = False
