"""The embedded log: `ports.Log` on segment files, for several processes of one machine at once.

Belongs here: topics, and gathering what concurrent callers append into shared commits. Does not:
the files of a partition (`partition.py`), bytes (`segments.py`), consumer groups (`groups.py`).
Source: `ports.Log`; design sections 4 and 9; `README.md` beside this file.

Group commit: each partition that this process appends to has one committer thread. A caller leaves
its records in the partition's queue and waits. The committer takes *all* that waits there, up to
one frame, writes it with one fsync and wakes the callers; meanwhile the next ones gather. So a
single caller pays one fsync at once, a crowd shares them, and no timer makes anybody wait. A call
that spans partitions has them fsynced side by side.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from audit_platform.adapters.embedded import segments
from audit_platform.adapters.embedded.files import (
    Files,
    FsyncSite,
    mkdirs,
    read_whole,
    write_file,
)
from audit_platform.adapters.embedded.groups import (
    EmbeddedGroupMember,
    boot_id,
    committed_offsets,
)
from audit_platform.adapters.embedded.partition import OutOfRange, Partition
from audit_platform.adapters.embedded.segments import Damage
from audit_platform.errors import LogUnavailable, OffsetOutOfRange, UnknownTopic
from audit_platform.ports import Clock, GroupMember, LogRecord, NewRecord, TopicInfo
from audit_platform.record import layout

_logger: Final = logging.getLogger(__name__)

#: A segment is scanned once when a process first opens a partition after a power cut, and is the
#: unit of retention: 64 MiB is under 0.2 s to check and about a million events.
SEGMENT_BYTES: Final = 64 << 20

_TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TOPIC_FILE: Final = "topic.json"
_REMEDY: Final = "keep the data and try again; look at the disk if it goes on"


@contextlib.contextmanager
def _disk(doing: str) -> Iterator[None]:
    """Turn an `OSError` into `LogUnavailable`."""
    try:
        yield
    except OSError as e:
        raise LogUnavailable(f"{doing}: {e}", remedy=_REMEDY) from e


@dataclass(slots=True)
class _Batch:
    """Records of one caller for one partition that fit into a frame, waiting to be written."""

    records: list[NewRecord]
    raw_bytes: int
    first_offset: Future[int] = field(default_factory=Future)


class _Committer:
    """The thread that appends to one partition."""

    def __init__(self, name: str, partition: Partition, clock: Clock) -> None:
        self._partition = partition
        self._clock = clock
        self._waiting: deque[_Batch] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, batches: list[_Batch]) -> None:
        """Queue batches; each one's `first_offset` is set, or fails, when it is decided."""
        with self._changed:
            if self._closed:
                raise LogUnavailable("the log is closed", remedy="open it again")
            self._waiting.extend(batches)
            self._changed.notify()

    def close(self) -> None:
        """Finish what waits and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batches := self._take():
            try:
                with _disk("append"):
                    first = self._commit(batches)
            except Exception as e:  # noqa: BLE001 - any error belongs to the callers, not to this thread
                for batch in batches:
                    batch.first_offset.set_exception(e)
                continue
            for batch in batches:
                batch.first_offset.set_result(first)
                first += len(batch.records)

    def _take(self) -> list[_Batch]:
        """What fits into the next frame, waiting for it; nothing when closed and empty."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            batches = [self._waiting.popleft()]
            raw_bytes, count = batches[0].raw_bytes, len(batches[0].records)
            while self._waiting:
                raw_bytes += self._waiting[0].raw_bytes
                count += len(self._waiting[0].records)
                if raw_bytes > segments.MAX_FRAME_BYTES or count > segments.MAX_FRAME_RECORDS:
                    break
                batches.append(self._waiting.popleft())
            return batches

    def _commit(self, batches: list[_Batch]) -> int:
        now_ms = self._clock.now_ms()
        encode = segments.encode_record
        body = segments.compress(
            [encode(now_ms, r.headers, r.value) for batch in batches for r in batch.records]
        )
        return self._partition.append(body)


@dataclass(slots=True)
class _Topic:
    info: TopicInfo
    folder: Path
    partitions: list[Partition]
    committers: dict[int, _Committer] = field(default_factory=dict)


class EmbeddedLog:
    """`ports.Log` under one folder. Close it to end its threads; appended records need no close.

    `monotonic` and `boot` are the lease clock (seconds) and what tells one boot's from another's.
    """

    def __init__(
        self,
        root: Path,
        files: Files,
        clock: Clock,
        partitions: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        boot: str | None = None,
    ) -> None:
        self._root = root
        self._files = files
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._monotonic = monotonic
        self._boot = boot_id() if boot is None else boot
        self._topics: dict[str, _Topic] = {}
        self._guard = threading.Lock()
        self._closed = False
        self._damage: dict[tuple[str, int, str, int], Damage] = {}
        for topic in (layout.EVENTS_TOPIC, layout.DLQ_TOPIC):
            self.ensure_topic(topic, partitions)
        self.ensure_topic(layout.INTEGRITY_TOPIC, 1)

    def close(self) -> None:
        """Write what waits, end the threads, close the files; nothing works after it."""
        with self._guard:
            self._closed = True
            topics, self._topics = self._topics, {}
        for topic in topics.values():
            for committer in topic.committers.values():
                committer.close()
            for partition in topic.partitions:
                partition.close()

    # ---------------------------------------------------------------------------------- topics

    def ensure_topic(self, topic: str, partitions: int) -> TopicInfo:
        """The topic, made with this many partitions when missing; durable on return.

        Of two that make it at once one wins, and both get the winner's id and partition count.
        Raises `ValueError`, `LogUnavailable`.
        """
        if not _TOPIC_NAME.fullmatch(topic) or partitions < 1:
            raise ValueError(f"not a topic: {topic!r} with {partitions} partitions")
        folder = self._root / topic
        path = folder / _TOPIC_FILE
        with _disk(f"make topic {topic}"):
            mkdirs(self._files, folder, FsyncSite.LOG_FOLDER)
            if self._files.stat(path) is None:
                value = {"topic": topic, "topicId": uuid.uuid4().hex, "partitions": partitions}
                made = folder / f".draft-{uuid.uuid4().hex}"
                write_file(self._files, made, orjson.dumps(value), FsyncSite.TOPIC_RECORD)
                with contextlib.suppress(FileExistsError):
                    self._files.link(made, path)
                self._files.unlink(made)
            # Also when it was there: its maker may not have come to this yet.
            self._files.fsync_dir(folder, FsyncSite.TOPIC_NAME)
        return self.describe(topic)

    def describe(self, topic: str) -> TopicInfo:
        """See `ports.Log.describe`."""
        path = self._root / topic / _TOPIC_FILE
        if not _TOPIC_NAME.fullmatch(topic) or self._files.stat(path) is None:
            raise UnknownTopic(f"no topic {topic!r}", remedy="check the profile's log folder")
        with _disk(f"read topic {topic}"):
            data = read_whole(self._files, path)
        try:
            value = orjson.loads(data)
            return TopicInfo(topic, str(value["topicId"]), int(value["partitions"]))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as e:
            raise LogUnavailable(
                f"{path} is not a topic record: {e!r}", remedy="restore it from a copy"
            ) from e

    def _topic(self, topic: str) -> _Topic:
        known = self._topics.get(topic)
        if known is not None:
            return known
        with self._guard:
            if topic in self._topics:
                return self._topics[topic]
            if self._closed:
                raise LogUnavailable("the log is closed", remedy="open it again")
            info = self.describe(topic)
            folder = self._root / topic
            partitions = []
            with _disk(f"open topic {topic}"):
                for p in range(info.partitions):
                    path = folder / f"p{p}"
                    mkdirs(self._files, path, FsyncSite.LOG_FOLDER, below=folder)
                    report = _Reporter(self._damage, topic, p)
                    partitions.append(Partition(self._files, path, self._segment_bytes, report))
            self._topics[topic] = _Topic(info, folder, partitions)
            return self._topics[topic]

    def _partition(self, topic: str, partition: int) -> Partition:
        known = self._topic(topic)
        if not 0 <= partition < known.info.partitions:
            raise ValueError(f"{topic} has no partition {partition}")
        return known.partitions[partition]

    # ---------------------------------------------------------------------------------- append

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[int]:
        """See `ports.Log.append`. Also `ValueError` for a value or headers over their limit."""
        by_partition: dict[int, list[_Batch]] = {}
        place: list[tuple[_Batch, int]] = []
        for record in records:
            self._partition(topic, record.partition)
            size = segments.record_bytes(record.headers, record.value)
            batches = by_partition.setdefault(record.partition, [])
            batch = batches[-1] if batches else None
            if (
                batch is None
                or batch.raw_bytes + size > segments.MAX_FRAME_BYTES
                or len(batch.records) == segments.MAX_FRAME_RECORDS
            ):
                batch = _Batch([], 0)
                batches.append(batch)
            place.append((batch, len(batch.records)))
            batch.records.append(record)
            batch.raw_bytes += size
        for partition, batches in by_partition.items():
            self._committer(topic, partition).submit(batches)
        # Wait for all of them before raising for one: the caller may then send everything again
        # without its own first try still under way behind it.
        waiting = [b.first_offset for batches in by_partition.values() for b in batches]
        if failed := next((e for f in waiting if (e := f.exception()) is not None), None):
            raise failed
        return [batch.first_offset.result() + i for batch, i in place]

    def _committer(self, topic: str, partition: int) -> _Committer:
        known = self._topic(topic)
        with self._guard:
            committer = known.committers.get(partition)
            if committer is None:
                name = f"commit {topic}/{partition}"
                committer = _Committer(name, known.partitions[partition], self._clock)
                known.committers[partition] = committer
            return committer

    # ------------------------------------------------------------------------------------ read

    def read(self, topic: str, partition: int, offset: int, max_bytes: int) -> list[LogRecord]:
        """See `ports.Log.read`."""
        source = self._partition(topic, partition)
        try:
            with _disk(f"read {topic}/{partition}"):
                found = source.read(offset, max_bytes)
        except OutOfRange as e:
            raise OffsetOutOfRange(topic, partition, offset, e.start, e.end) from None
        return [
            LogRecord(topic, partition, r.offset, r.appended_ms, r.value, r.headers) for r in found
        ]

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `ports.Log.bounds`."""
        source = self._partition(topic, partition)
        with _disk(f"read {topic}/{partition}"):
            return source.bounds()

    def drop_before(self, topic: str, partition: int, offset: int) -> int:
        """Retention: delete whole segments with only records before `offset`; returns how many."""
        source = self._partition(topic, partition)
        with _disk(f"drop segments of {topic}/{partition}"):
            return source.drop_before(offset)

    def damage(self) -> list[Damage]:
        """What this process has met that is not as it was written, each place once."""
        return list(self._damage.values())

    def now_ms(self) -> int:
        """See `ports.Log.now_ms`."""
        return self._clock.now_ms()

    def join(self, group: str, topic: str, member: str) -> GroupMember:
        """See `ports.Log.join`."""
        known = self._topic(topic)
        return EmbeddedGroupMember(
            self._files,
            known.folder,
            group,
            member,
            partitions=known.info.partitions,
            monotonic=self._monotonic,
            boot=self._boot,
        )

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """See `ports.Log.committed`."""
        with _disk(f"read what {group} committed of {topic}"):
            return committed_offsets(self._files, self._topic(topic).folder, group)


@dataclass(frozen=True, slots=True)
class _Reporter:
    """Keeps and logs what a partition finds damaged, each place once."""

    found: dict[tuple[str, int, str, int], Damage]
    topic: str
    partition: int

    def __call__(self, damage: Damage) -> None:
        key = (self.topic, self.partition, damage.segment, damage.position)
        if self.found.setdefault(key, damage) is damage:
            _logger.error(
                "corrupt: %s/%d %s bytes %d..%d, records %s",
                self.topic,
                self.partition,
                damage.segment,
                damage.position,
                damage.end,
                "unknown" if damage.count is None else f"{damage.first_offset} +{damage.count}",
            )
