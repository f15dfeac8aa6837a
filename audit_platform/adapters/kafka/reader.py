"""Reading from Kafka at an offset that the caller names: no group, no position kept in Kafka.

Belongs here: where a partition begins and ends, records from an offset on. Does not: who reads what
(`members.py`).
Source: `ports.Log.read`, `ports.Log.bounds`.

A partition that is read has a consumer of its own, which fetches ahead until it is at the end: a
reader that goes on where it was finds its records in memory. Every read asks Kafka first where the
end is, so an empty answer means "at the end" and never "not yet fetched".
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from audit_platform.adapters.kafka.connection import KafkaServers, Watch, error_of
from audit_platform.adapters.kafka.topics import MAX_MESSAGE_BYTES, UNKNOWN, Topics
from audit_platform.errors import LogUnavailable, OffsetOutOfRange
from audit_platform.ports import LogRecord

#: Consumers that are kept. Each has a thread for every broker and fetches ahead: so many are
#: 32 MiB at most. An archive-writer's own partitions; a query's tail comes and goes.
_KEPT: Final = 12

#: What one consumer fetches ahead.
_AHEAD_KIB: Final = 4 << 10

#: How long to wait for records that are known to be there.
_READ_SECONDS: Final = 8.0

_CONFIG: Final[dict[str, Any]] = {
    # Needed to make a consumer; it never joins.
    "group.id": "audit-platform-reader",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "check.crcs": True,
    "fetch.message.max.bytes": MAX_MESSAGE_BYTES,
    "fetch.max.bytes": 2 * MAX_MESSAGE_BYTES,
    "queued.max.messages.kbytes": _AHEAD_KIB,
    # The default (1 s) would be waited after each time that enough was fetched ahead.
    "fetch.queue.backoff.ms": 10,
    # A fetch at the end is waited for by whoever asks for another place next.
    "fetch.wait.max.ms": 10,
    "fetch.error.backoff.ms": 100,
}

_OUT_OF_RANGE: Final = frozenset(
    {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}  # noqa: SLF001 - the library's own name
)

#: The broker that was asked says so of what is not there, and of what it has not heard of yet.
_NOT_THERE: Final = frozenset({*UNKNOWN, KafkaError._UNKNOWN_PARTITION})  # noqa: SLF001 - the library's own name

#: What passes while a partition gets another leader; the library does not ask again by itself.
_PASSES: Final = _NOT_THERE | {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError._TRANSPORT,  # noqa: SLF001 - the library's own name
    KafkaError._TIMED_OUT,  # noqa: SLF001 - the same
}

_AGAIN_SECONDS: Final = 0.05

#: How long one broker is asked for a partition's end before another may lead it, and all of them.
_TRY_SECONDS: Final = 1.5
_BOUNDS_SECONDS: Final = 6.0


class _Cursor:
    """A consumer that stands in one partition."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.next: int | None = None
        self.guard = threading.Lock()
        self.used_at = 0.0


class Reader:
    """`ports.Log.read` and `bounds`. Thread safe."""

    def __init__(self, servers: KafkaServers, topics: Topics, watch: Watch) -> None:
        self._servers = servers
        self._topics = topics
        self._watch = watch
        self._guard = threading.Lock()
        self._cursors: dict[tuple[str, int], _Cursor] = {}
        self._asker: Consumer | None = None
        self._closed = False

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `ports.Log.bounds`."""
        asker = self._the_asker()
        name = self._topics.name(topic)
        deadline = time.monotonic() + _BOUNDS_SECONDS
        while True:
            try:
                found = asker.get_watermark_offsets(
                    TopicPartition(name, partition), timeout=_TRY_SECONDS, cached=False
                )
            except KafkaException as e:
                error = error_of(e)
                asker.poll(_AGAIN_SECONDS)  # hands the reasons over
                self._refuse_what_is_not_there(topic, partition, error)
                if error.code() not in _PASSES or time.monotonic() > deadline:
                    doing = f"ask for the end of {topic}/{partition}"
                    raise self._watch.failed(doing, error) from e
                with contextlib.suppress(KafkaException):
                    asker.list_topics(name, timeout=_TRY_SECONDS)  # who leads it now
            else:
                self._watch.on_success()
                return found

    def read(self, topic: str, partition: int, offset: int, max_bytes: int) -> list[LogRecord]:
        """See `ports.Log.read`."""
        start, end = self.bounds(topic, partition)
        if not start <= offset <= end:
            raise OffsetOutOfRange(topic, partition, offset, start, end)
        if offset == end:
            return []
        cursor = self._cursor(topic, partition)
        with cursor.guard:
            try:
                messages = self._take(cursor, topic, partition, offset, end, max_bytes)
            except _Moved as e:
                cursor.next = None
                start, end = self.bounds(topic, partition)
                raise OffsetOutOfRange(topic, partition, offset, start, end) from e
            except BaseException:
                cursor.next = None
                raise
        return [_record(topic, message) for message in messages]

    def forget(self, topic: str) -> None:
        """Give the consumers of a topic up: it is another one now."""
        with self._guard:
            self._cursors = {k: cursor for k, cursor in self._cursors.items() if k[0] != topic}
            self._asker = None

    def close(self) -> None:
        """End all consumers: each as soon as nobody reads with it any more. Idempotent."""
        with self._guard:
            self._closed = True
            self._cursors, self._asker = {}, None

    def _take(
        self, cursor: _Cursor, topic: str, partition: int, offset: int, end: int, max_bytes: int
    ) -> list[Message]:
        """Messages from `offset` up to `end`, about `max_bytes` long; at least one, if any."""
        consumer = cursor.consumer
        if cursor.next != offset:
            consumer.assign([TopicPartition(self._topics.name(topic), partition, offset)])
            cursor.next = offset
        deadline = time.monotonic() + _READ_SECONDS
        messages: list[Message] = []
        size = 0
        while size < max_bytes and cursor.next < end:
            message = consumer.poll(max(deadline - time.monotonic(), 0.0))
            if message is None:
                if messages:
                    break
                raise self._watch.failed(
                    f"read {topic}/{partition} from {offset}",
                    KafkaError(KafkaError._TIMED_OUT),  # noqa: SLF001 - the library's own name
                )
            error = message.error()
            if error is None:
                messages.append(message)
                size += len(message)
                cursor.next = _offset(message) + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's own name
                if _offset(message) >= end:
                    break  # a hole up to the end
            elif error.code() in _OUT_OF_RANGE:
                raise _Moved
            else:
                self._refuse_what_is_not_there(topic, partition, error)
                raise self._watch.failed(f"read {topic}/{partition}", error)
        self._watch.on_success()
        if cursor.next >= end:
            # At the end it would ask Kafka over and over; who reads on assigns it again.
            consumer.unassign()
            cursor.next = None
        return messages

    def _cursor(self, topic: str, partition: int) -> _Cursor:
        key = (topic, partition)
        with self._guard:
            if self._closed:
                raise LogUnavailable("the log is closed", remedy="open it again")
            cursor = self._cursors.get(key)
            if cursor is None:
                if len(self._cursors) >= _KEPT:
                    least = min(self._cursors, key=lambda k: self._cursors[k].used_at)
                    del self._cursors[least]  # who reads with it still has it
                cursor = self._cursors[key] = _Cursor(self._make())
            cursor.used_at = time.monotonic()
            return cursor

    def _the_asker(self) -> Consumer:
        with self._guard:
            if self._closed:
                raise LogUnavailable("the log is closed", remedy="open it again")
            if self._asker is None:
                self._asker = self._make()
            return self._asker

    def _make(self) -> Consumer:
        return Consumer({**self._servers.config(self._watch), **_CONFIG})

    def _refuse_what_is_not_there(self, topic: str, partition: int, error: KafkaError) -> None:
        """Raises `UnknownTopic`, `ValueError` if the topic or the partition is really not there."""
        if error.code() in _NOT_THERE:
            partitions = self._topics.describe(topic).partitions
            if not 0 <= partition < partitions:
                raise ValueError(f"{topic} has no partition {partition}, but {partitions}")


class _Moved(Exception):
    """The offset is not in the log any more."""


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None, "a message that was read has an offset"
    return offset


def _record(topic: str, message: Message) -> LogRecord:
    _, appended_ms = message.timestamp()
    partition = message.partition()
    assert partition is not None, "a message that was read has a partition"
    return LogRecord(
        topic,
        partition,
        _offset(message),
        appended_ms,
        message.value() or b"",
        _headers(message),
    )


def _headers(message: Message) -> dict[str, str]:
    """Headers as text; what is not our form is shown, and refused by who reads it."""
    found = message.headers() or ()
    return {
        name: value.decode("ascii", errors="replace") if isinstance(value, bytes) else value or ""
        for name, value in (found.items() if isinstance(found, dict) else found)
    }
