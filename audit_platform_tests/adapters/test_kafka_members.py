"""A member that Kafka fenced comes back by itself, unless another instance of its name is there.

Seen when a cluster came back from having lost two brokers of three: each member's second join had
fenced its first, and every consumer of the platform stood still for good.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer

from audit_platform.adapters.kafka.connection import KafkaServers
from audit_platform.adapters.kafka.log import KafkaLog
from audit_platform.adapters.kafka.members import Lease
from audit_platform.adapters.opensearch.server import WRITE_SECONDS
from audit_platform.adapters.s3.client import READ_SECONDS, TRIES
from audit_platform.errors import NotAssigned
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.servers import stack_settings

BOTH = frozenset({0, 1})
PATIENCE_SECONDS = 60.0


@pytest.fixture
def prefix() -> str:
    """Of topics and groups that nobody else has."""
    return f"members-{uuid.uuid4().hex[:12]}-"


@pytest.fixture
def log(prefix: str) -> Iterator[KafkaLog]:
    """A log of its own on the run's Kafka, with empty topics of two partitions."""
    servers = KafkaServers(stack_settings("kafka")["AUDIT_KAFKA"])
    lease = Lease(session_seconds=1.2, call_seconds=30.0)
    with closing(KafkaLog(servers, prefix, lease=lease)) as opened:
        opened.make_topics(2)
        yield opened


def until(holds: Callable[[], bool]) -> None:
    """Ask until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"


def test_a_fenced_member_stays_away_from_a_newer_one_and_comes_back_when_that_is_gone(
    log: KafkaLog,
) -> None:
    member = log.join("readers", EVENTS_TOPIC, "one")
    until(lambda: member.assignment() == BOTH)
    newer = log.join("readers", EVENTS_TOPIC, "one")
    until(lambda: (member.assignment(), newer.assignment()) == (frozenset(), BOTH))
    with pytest.raises(NotAssigned):
        member.commit(0, 1)
    watched_until = time.monotonic() + 5.0
    while time.monotonic() < watched_until:
        assert member.assignment() == frozenset()
        assert newer.assignment() == BOTH
    newer.commit(0, 7)
    newer.leave()
    until(lambda: member.assignment() == BOTH)
    assert member.committed(0) == 7
    member.commit(0, 9)
    assert member.committed(0) == 9


def test_a_fenced_member_comes_back_when_the_newer_one_has_died_without_leaving(
    log: KafkaLog, prefix: str
) -> None:
    member = log.join("readers", EVENTS_TOPIC, "one")
    until(lambda: member.assignment() == BOTH)
    # What its own library leaves behind when the answer to a join is lost: somebody who is silent.
    silent = Consumer(
        {
            "bootstrap.servers": KafkaServers(stack_settings("kafka")["AUDIT_KAFKA"]).addresses,
            "group.id": log.group_name("readers", EVENTS_TOPIC),
            "group.instance.id": "one",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 1200,
            "heartbeat.interval.ms": 300,
        }
    )
    silent.subscribe([prefix + EVENTS_TOPIC])
    until(lambda: silent.poll(0.05) is None and member.assignment() == frozenset())
    silent.close()
    until(lambda: member.assignment() == BOTH)
    member.commit(1, 3)
    assert member.committed(1) == 3


def test_a_member_outlasts_a_step_whose_calls_run_into_their_time_limits() -> None:
    slowest = max(WRITE_SECONDS, TRIES * READ_SECONDS)
    assert Lease().call_seconds > 3 * slowest
