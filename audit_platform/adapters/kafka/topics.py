"""Topics of Kafka: made on purpose, described with Kafka's own id.

Belongs here: names, configuration, partitions, ids. Does not: records.
Source: design sections 4 and 5; Kafka 4.3 documentation, "Topic Configs"; KIP-516 (topic ids).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from audit_platform.adapters.kafka.connection import (
    ASK_SECONDS,
    KafkaServers,
    Watch,
    error_of,
)
from audit_platform.errors import UnknownTopic
from audit_platform.ports import TopicInfo
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, INTEGRITY_TOPIC

_Answer = TypeVar("_Answer")

#: Where probes write, so that no probe is ever among the events.
PROBE_TOPIC: Final = "audit.probe.v1"

#: A value is at most 1 MiB; its headers, and what Kafka puts around it, fit in as much again.
MAX_MESSAGE_BYTES: Final = 2 << 20

#: Kept so long after it was archived, for repair (design section 5). Ingest refuses before the
#: unarchived reaches it (section 4).
RETENTION_MS: Final = 7 * 86_400_000
_PROBE_RETENTION_MS: Final = 3_600_000

#: So many copies, of which so many must have a record before it is acknowledged.
COPIES: Final = 3
_IN_SYNC: Final = 2

#: The first try is short, for its client may hang; both together are `ASK_SECONDS`.
_KEPT_SECONDS: Final = 2.0
_FRESH_SECONDS: Final = ASK_SECONDS - _KEPT_SECONDS

#: Making a topic on a busy machine.
_MAKE_SECONDS: Final = 20.0

UNKNOWN: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the library's own name
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.TOPIC_EXCEPTION,  # a name that cannot be one
    }
)


def unknown_topic(name: str) -> UnknownTopic:
    """The error for a topic that Kafka does not have."""
    return UnknownTopic(f"Kafka has no topic {name!r}", remedy="audit-platform log init makes it")


class Topics:
    """Asks about topics. Thread safe."""

    def __init__(self, servers: KafkaServers, prefix: str, watch: Watch) -> None:
        self._servers = servers
        self._prefix = prefix
        self._watch = watch
        self._guard = threading.Lock()
        self._admin: AdminClient | None = None

    def name(self, topic: str) -> str:
        """A topic's name in Kafka."""
        return self._prefix + topic

    def describe(self, topic: str) -> TopicInfo:
        """See `ports.Log.describe`."""
        name = self.name(topic)

        def question(admin: AdminClient, seconds: float) -> TopicInfo | None:
            names = TopicCollection([name])
            (future,) = admin.describe_topics(names, request_timeout=seconds).values()
            try:
                found = future.result(timeout=seconds)
            except KafkaException as e:
                if error_of(e).code() in UNKNOWN:
                    return None
                raise
            return TopicInfo(topic, str(found.topic_id), len(found.partitions))

        info = self._ask(f"describe {name}", question)
        if info is None:
            raise unknown_topic(name)
        return info

    def make(self, partitions: int) -> list[TopicInfo]:
        """Make what is missing of our topics; durable on return. Those that are there stay so.

        The number of copies is 3 where there are three brokers, else Kafka's own default: so a
        cluster of three with one down makes no topic with fewer. Raises `LogUnavailable`.
        """
        ours = {EVENTS_TOPIC: partitions, DLQ_TOPIC: partitions, INTEGRITY_TOPIC: 1}
        self.create({**ours, PROBE_TOPIC: 1})
        return [self._described(topic) for topic in ours]

    def create(self, topics: dict[str, int]) -> None:
        """Make topics (ours by default configuration) that are not there yet."""
        copies = self._copies()
        new = [
            NewTopic(
                self.name(topic),
                num_partitions=partitions,
                replication_factor=copies,
                config=_configuration(topic, copies),
            )
            for topic, partitions in topics.items()
        ]

        def question(admin: AdminClient, _seconds: float) -> None:
            futures = admin.create_topics(
                new, operation_timeout=_MAKE_SECONDS, request_timeout=_MAKE_SECONDS
            )
            for future in futures.values():
                try:
                    future.result(timeout=_MAKE_SECONDS)
                except KafkaException as e:
                    if error_of(e).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise

        self._ask("make topics", question)

    def close(self) -> None:
        """Give the client up."""
        with self._guard:
            self._admin = None

    def _described(self, topic: str) -> TopicInfo:
        """A topic that was made just now: a broker may not have heard of it yet."""
        deadline = time.monotonic() + _MAKE_SECONDS
        while True:
            try:
                return self.describe(topic)
            except UnknownTopic:
                if time.monotonic() > deadline:
                    raise

    def _copies(self) -> int:
        def question(admin: AdminClient, seconds: float) -> int:
            brokers = admin.list_topics(timeout=seconds).brokers
            if len(brokers) >= COPIES:
                return COPIES
            resource = ConfigResource(ConfigResource.Type.BROKER, str(min(brokers)))
            (future,) = admin.describe_configs([resource], request_timeout=seconds).values()
            return int(future.result(timeout=seconds)["default.replication.factor"].value)

        return self._ask("look at the brokers", question)

    def _ask(self, doing: str, question: Callable[[AdminClient, float], _Answer]) -> _Answer:
        """Ask by the client that is kept; when that fails, by a fresh one.

        A client was seen to hang for a minute after the broker that it had asked before died.
        """
        kept = self._kept()
        try:
            answer = question(kept, _KEPT_SECONDS)
        except (KafkaException, FutureTimeoutError):
            kept.poll(0)  # hands the reasons over
            fresh = self._replace(kept)
            try:
                answer = question(fresh, _FRESH_SECONDS)
            except (KafkaException, FutureTimeoutError) as e:
                fresh.poll(0)
                timed_out = KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - the library's own name
                error = error_of(e) if isinstance(e, KafkaException) else timed_out
                raise self._watch.failed(doing, error) from e
        self._watch.on_success()
        return answer

    def _kept(self) -> AdminClient:
        with self._guard:
            if self._admin is None:
                self._admin = AdminClient(self._servers.config(self._watch))
            return self._admin

    def _replace(self, failed: AdminClient) -> AdminClient:
        with self._guard:
            if self._admin is failed:
                self._admin = None
        return self._kept()


def _configuration(topic: str, copies: int) -> dict[str, str]:
    retention = _PROBE_RETENTION_MS if topic == PROBE_TOPIC else RETENTION_MS
    return {
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(retention),
        "retention.bytes": "-1",
        "cleanup.policy": "delete",
        "compression.type": "producer",
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        "min.insync.replicas": str(_IN_SYNC if copies >= COPIES else 1),
        "unclean.leader.election.enable": "false",
    }
