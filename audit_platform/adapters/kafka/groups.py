"""What a consumer group has committed, asked by somebody who is none of its members.

Belongs here: that question. Does not: membership (`members.py`), how far behind a group is (the
exporter).
Source: `ports.Log.committed`; Kafka 4.3, OffsetFetch; librdkafka 2.16.

A consumer that names the group and subscribes to nothing asks, not the AdminClient: that one ends
the process (SIGSEGV) when the broker that it asks is no longer the group's coordinator, as when
Kafka has just started or a broker has died.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from audit_platform.adapters.kafka.connection import ASK_SECONDS, KafkaServers, Watch, error_of
from audit_platform.adapters.kafka.topics import Topics

_CONFIG: Final = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
}


#: The group is on its way to another broker, or was never heard of until now.
_PASSES: Final = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
    }
)
_AGAIN_SECONDS: Final = 0.1


class Groups:
    """Asks about groups, by one consumer for each that was asked about. Thread safe."""

    def __init__(self, servers: KafkaServers, topics: Topics, watch: Watch) -> None:
        self._servers = servers
        self._topics = topics
        self._watch = watch
        self._guard = threading.Lock()
        self._askers: dict[str, Consumer] = {}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """See `ports.Log.committed`; `group` is Kafka's name of it.

        While its coordinator moves (4 to 12 s after a broker's death) it may be empty.
        """
        name = self._topics.name(topic)
        count = self._topics.describe(topic).partitions
        asked = [TopicPartition(name, partition) for partition in range(count)]
        asker = self._asker(group)
        deadline = time.monotonic() + ASK_SECONDS
        while True:
            found, error = _ask(asker, asked)
            if error is None:
                self._watch.on_success()
                return {p.partition: p.offset for p in found if p.offset >= 0}
            if error.code() not in _PASSES or time.monotonic() > deadline:
                raise self._watch.failed(f"ask what {group} committed", error)
            asker.poll(_AGAIN_SECONDS)  # hands the reasons over

    def close(self) -> None:
        """Give the consumers up. Idempotent."""
        with self._guard:
            self._askers = {}

    def _asker(self, group: str) -> Consumer:
        with self._guard:
            asker = self._askers.get(group)
            if asker is None:
                config = {**self._servers.config(self._watch), **_CONFIG, "group.id": group}
                asker = self._askers[group] = Consumer(config)
            return asker


def _ask(
    asker: Consumer, asked: list[TopicPartition]
) -> tuple[list[TopicPartition], KafkaError | None]:
    """The answer, and what is wrong with it or with any partition of it."""
    try:
        found = asker.committed(asked, timeout=ASK_SECONDS)
    except KafkaException as e:
        return [], error_of(e)
    return found, next((p.error for p in found if p.error is not None), None)
