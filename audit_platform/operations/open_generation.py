"""Opening the next log generation: when the log is not the one that was archived, or on purpose.

The old generation is closed partition by partition: an empty range record `closed` where its ranges
end, put if absent, so that no writer of the old one can go on behind it. Then the first offset that
differs is looked for in each partition, and the record of the next generation is claimed. Safe to
repeat, by several at once, and after death at any step: nothing is written over, and who loses a
claim takes what stands. Belongs here: those steps. Does not: seeing that something is wrong
(`log_check.py`). Source: design section 5 (log generation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from audit_platform.errors import GenerationRefused, LogTrouble
from audit_platform.killpoints import Killpoint, reach
from audit_platform.operations.claims import claim
from audit_platform.operations.coverage import address_of
from audit_platform.operations.generations import TOPICS, generations
from audit_platform.operations.log_check import (
    WINDOW,
    Broken,
    check,
    digests_before,
    first_other,
    last_range,
    of_topic,
    start_of,
)
from audit_platform.ports import Platform
from audit_platform.record.layout import generation_key
from audit_platform.record.ranges import (
    ClosedPartition,
    Generation,
    RangeRecord,
    RecordDigest,
    TopicStart,
)


class Purpose(StrEnum):
    """Why a generation is opened. `broken` needs something to be wrong; the others are planned."""

    BROKEN = "broken"
    PARTITIONS = "partitions"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Opened:
    """The generation that is open now, what was found wrong, and whether another opened it."""

    generation: Generation
    broken: tuple[Broken, ...]
    ours: bool


def open_generation(platform: Platform, purpose: Purpose = Purpose.BROKEN) -> Opened:
    """Close the open generation and open the next one at the first offset that differs.

    Durable on return. Raises `GenerationRefused` (nothing changed) when nothing is wrong and
    nothing was planned, or before the first generation; `RecordMalformed`, `LogUnavailable`,
    `UnknownTopic`, `StoreUnavailable`: call again, it goes on where it stood.
    """
    opened = list(generations(platform))
    if not opened:
        raise GenerationRefused(
            "no log generation is open yet", remedy="start the archive-writer: it opens the first"
        )
    broken = check(platform)
    if not broken and purpose is Purpose.BROKEN:
        raise GenerationRefused(
            f"the log is the one that log generation {opened[-1].number} means",
            remedy="nothing is to be done; for a planned change say which: --reason partitions or"
            " store",
        )
    now_ms = platform.clock.now_ms()
    closed = tuple(
        _close(platform, opened[-1], topic.topic, number, now_ms)
        for topic in opened[-1].topics
        for number in range(len(topic.start_offsets))
    )
    reach(Killpoint.GENERATION_CLOSED)
    ends = {(p.topic, p.partition): p.end_offset for p in closed}
    topics = tuple(_start(platform, opened, topic, ends) for topic in TOPICS)
    wrong = sorted({b.trouble for b in broken} - {LogTrouble.CLOSED})  # that is how far we came
    why = ",".join(wrong) if wrong else purpose
    number = opened[-1].number + 1
    offered = Generation(number, topics, str(why), now_ms, closed)
    won = claim(platform.objects, generation_key(number), offered.to_bytes(), now_ms)
    reach(Killpoint.GENERATION_OPENED)
    return Opened(Generation.from_bytes(won.key, won.data), tuple(broken), won.ours)


def _close(
    platform: Platform, generation: Generation, topic: str, number: int, now_ms: int
) -> ClosedPartition:
    """Close one partition where its ranges end; a writer that is quicker moves that end."""
    start = start_of(generation, topic, number)
    assert start is not None, "the generation names the partition"
    while True:
        last = last_range(platform, generation, topic, number)
        if last is not None and last.closed:
            return ClosedPartition(topic, generation.number, number, last.end_offset)
        end = start if last is None else last.end_offset
        last_ms = 0 if last is None else last.last_ms
        empty = RangeRecord(
            topic=topic,
            generation=generation.number,
            partition=number,
            first_offset=end,
            end_offset=end,
            records=(),
            objects=(),
            events=0,
            undecodable=0,
            written_ms=now_ms,
            first_ms=last_ms,
            last_ms=last_ms,
            closed=True,
        )
        claim(platform.objects, address_of(empty).record_key, empty.to_bytes(), now_ms)
        reach(Killpoint.PARTITION_CLOSED)


def _start(
    platform: Platform,
    opened: Sequence[Generation],
    topic: str,
    ends: dict[tuple[str, int], int],
) -> TopicStart:
    """A topic as the log has it now, and where the next generation starts in its partitions."""
    info = platform.log.describe(topic)
    old = opened[-1].topic(topic)
    is_same = old is not None and old.topic_id == info.topic_id
    starts: list[int] = []
    for number in range(info.partitions):
        first, end = platform.log.bounds(topic, number)
        start = first  # of a topic, or a partition, that is new
        if is_same and (topic, number) in ends:
            start = _first_difference(platform, opened, topic, number, ends[topic, number])
        starts.append(min(max(start, first), end))
    return TopicStart(topic, info.topic_id, tuple(starts))


def _first_difference(
    platform: Platform, opened: Sequence[Generation], topic: str, number: int, covered: int
) -> int:
    """The first offset below `covered` whose log record is not the archived one, or `covered`.

    By halves, since a log that lost its tail is the same before it, in a few requests each; then
    backwards from there, for as long as something differs within a window: records that were sent
    again may stand at their old offsets behind the first difference. Such a record is in both
    generations, and counts once.
    """
    # Nothing before it can be compared. An older generation may have begun further down.
    begun = [start_of(generation, topic, number) for generation in of_topic(opened, topic)]
    first = platform.log.bounds(topic, number)[0]
    low = max(first, min((start for start in begun if start is not None), default=0))

    def other_before(offset: int, most: int) -> RecordDigest | None:
        wanted = digests_before(platform.objects, opened, topic, number, offset, most)
        return first_other(platform.log, topic, number, [w for w in wanted if w.offset >= low])

    same, other = low, covered + 1  # before `same` all is, before `other` the last is another
    while other - same > 1:
        middle = (same + other) // 2
        if other_before(middle, 1) is None:
            same = middle
        else:
            other = middle
    found = same
    while (earlier := other_before(found, WINDOW)) is not None:
        found = earlier.offset
    if found == covered:
        return covered
    before = digests_before(platform.objects, opened, topic, number, found, 1)
    return max(low, before[0].offset + 1) if before else low
