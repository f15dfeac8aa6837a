"""The log on Kafka: `ports.Log` over one producer, consumers that name their offset, and groups.

Belongs here: what the port promises, put together. Does not: the client library's ways
(`writer.py`, `reader.py`, `members.py`, `topics.py`), its set-up and errors (`connection.py`).
Source: `ports.Log`; design sections 4 and 5; `README.md` beside this file.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from audit_platform.adapters.kafka.connection import (
    Health,
    KafkaServers,
    Watch,
    error_of,
    is_wrong,
    unavailable,
)
from audit_platform.adapters.kafka.groups import Groups
from audit_platform.adapters.kafka.members import KafkaGroupMember, Lease
from audit_platform.adapters.kafka.reader import Reader
from audit_platform.adapters.kafka.topics import Topics
from audit_platform.adapters.kafka.writer import Writer
from audit_platform.errors import LogUnavailable
from audit_platform.ports import GroupMember, LogRecord, NewRecord, TopicInfo

#: The largest value: as on the embedded log (design section 4).
MAX_VALUE_BYTES: Final = 1 << 20

#: How long opening waits for the first answer; it comes in 0.1 s where all is well.
_OPEN_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.25

#: How long a partition count is believed. It never changes but with a new log generation.
_COUNT_SECONDS: Final = 60.0


class KafkaLog:
    """`ports.Log` on Kafka. Thread safe; `close` ends all threads and connections.

    `prefix` stands before the names of topics and groups. Opening refuses what waiting does not
    help: a wrong secret, another protocol, something that is not Kafka. A Kafka that is away is no
    reason to refuse: every call says so until it is back.
    """

    def __init__(
        self, servers: KafkaServers, prefix: str = "", *, lease: Lease | None = None
    ) -> None:
        self._servers = servers
        self._watch = Watch(servers)
        self._lease = lease or Lease()
        _refuse_what_is_wrong(servers, self._watch)
        self._topics = Topics(servers, prefix, self._watch)
        self._prefix = prefix
        self._guard = threading.Lock()
        self._infos: dict[str, tuple[TopicInfo, float]] = {}
        self._members: list[KafkaGroupMember] = []
        self._reader = Reader(servers, self._topics, self._watch)
        self._writer = Writer(servers, self._watch)
        self._groups = Groups(servers, self._topics, self._watch)
        # Also at the end of a process that never closes: the library would wait for ever for a
        # member that was told something and did not listen.
        self._end = weakref.finalize(
            self, _end, self._members, self._writer, self._reader, self._groups, self._topics
        )

    # -------------------------------------------------------------------------------- the port

    def describe(self, topic: str) -> TopicInfo:
        """See `ports.Log.describe`. The id is Kafka's own."""
        info = self._topics.describe(topic)
        with self._guard:
            before = self._infos.get(topic)
            self._infos[topic] = (info, time.monotonic())
        if before is not None and before[0].topic_id != info.topic_id:
            self._reader.forget(topic)
        return info

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[int]:
        """See `ports.Log.append`."""
        for record in records:
            if len(record.value) > MAX_VALUE_BYTES:
                raise ValueError(
                    f"a value of {len(record.value)} bytes; at most {MAX_VALUE_BYTES} are kept"
                )
        partitions = self._partitions(topic)
        for record in records:
            if not 0 <= record.partition < partitions:
                raise ValueError(f"{topic} has no partition {record.partition}")
        if not records:
            return []
        return self._writer.append(self._topics.name(topic), records)

    def read(self, topic: str, partition: int, offset: int, max_bytes: int) -> list[LogRecord]:
        """See `ports.Log.read`."""
        return self._reader.read(topic, partition, offset, max_bytes)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `ports.Log.bounds`."""
        return self._reader.bounds(topic, partition)

    def now_ms(self) -> int:
        """See `ports.Log.now_ms`. Brokers keep real time."""
        return time.time_ns() // 1_000_000

    def join(self, group: str, topic: str, member: str) -> GroupMember:
        """See `ports.Log.join`. Kafka's group is `<prefix><group>.<topic>`."""
        if not self._end.alive:
            raise LogUnavailable("the log is closed", remedy="open it again")
        made = KafkaGroupMember(
            self._servers,
            self._watch,
            self._topics.name(topic),
            self.group_name(group, topic),
            member,
            self._lease,
        )
        self._members.append(made)
        return made

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """See `ports.Log.committed`."""
        return self._groups.committed(self.group_name(group, topic), topic)

    # --------------------------------------------------------------------------- beyond the port

    def make_topics(self, partitions: int) -> list[TopicInfo]:
        """Make what is missing of our topics and of the probes'. Raises `LogUnavailable`."""
        return self._topics.make(partitions)

    def group_name(self, group: str, topic: str) -> str:
        """Kafka's name of a group: members of different topics do not share one."""
        return f"{self._prefix}{group}.{topic}"

    def health(self) -> Health:
        """What the clients meet, also in the background; asks nobody."""
        return self._watch.health()

    def close(self) -> None:
        """Finish what is handed over, leave the groups, end all threads. Idempotent."""
        self._end()

    def _partitions(self, topic: str) -> int:
        known = self._infos.get(topic)
        if known is not None and time.monotonic() - known[1] < _COUNT_SECONDS:
            return known[0].partitions
        return self.describe(topic).partitions


def _end(
    members: list[KafkaGroupMember], writer: Writer, reader: Reader, groups: Groups, topics: Topics
) -> None:
    for member in members:
        member.leave()
    writer.close()
    reader.close()
    groups.close()
    topics.close()


def _refuse_what_is_wrong(servers: KafkaServers, watch: Watch) -> None:
    """Ask once. Raises `LogUnavailable` when the answer is that waiting will not help."""
    admin = AdminClient(servers.config(watch))
    deadline = time.monotonic() + _OPEN_SECONDS
    while time.monotonic() < deadline:
        try:
            admin.list_topics(timeout=_LOOK_SECONDS)
        except KafkaException as e:
            # Hands the reasons over. "All are down" may come a moment before why.
            admin.poll(_LOOK_SECONDS)
            error = watch.wrong() or error_of(e)
            if is_wrong(error):
                raise unavailable("open the log", error, servers) from e
            if watch.health().trouble:
                return  # it is away: nothing to find out by waiting
        else:
            watch.on_success()
            return
