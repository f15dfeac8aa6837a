"""What holds while brokers die, hang and forget a secret: three brokers, broken for real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka import ElectionType, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from audit_platform.adapters.kafka.connection import KafkaServers, Watch
from audit_platform.adapters.kafka.log import KafkaLog
from audit_platform.adapters.kafka.probes import probe_write
from audit_platform.errors import LogUnavailable
from audit_platform.ports import NewRecord
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.adapters.kafka_cluster import BROKERS, Cluster, cluster

PARTITIONS = 3

#: No call of the log takes longer: a delivery is given up after 10 s.
CALL_SECONDS = 15.0

#: For a state that comes by itself, on a machine that does much else.
PATIENCE_SECONDS = 60.0


pytestmark = pytest.mark.full_stack


@pytest.fixture(scope="module")
def one_cluster() -> Iterator[Cluster]:
    """For all tests of this file."""
    with cluster() as made:
        with closing(KafkaLog(made.servers)) as log:
            log.make_topics(PARTITIONS)
        yield made


@pytest.fixture
def kafka(one_cluster: Cluster) -> Cluster:
    """All of it answers."""
    one_cluster.start()
    return one_cluster


@pytest.fixture
def log(kafka: Cluster) -> Iterator[KafkaLog]:
    """A log whose connections are open."""
    with closing(KafkaLog(kafka.servers)) as opened:
        until(lambda: all(appends(opened, b"first", p) for p in range(PARTITIONS)))
        yield opened


def admin_of(kafka: Cluster) -> AdminClient:
    """The cluster's administrator."""
    return AdminClient(kafka.servers.config(Watch(kafka.servers)))


def leader_of(kafka: Cluster, partition: int) -> str:
    """The broker that leads a partition of the events."""
    topics = admin_of(kafka).list_topics(EVENTS_TOPIC, timeout=10).topics
    leader: int = topics[EVENTS_TOPIC].partitions[partition].leader
    return f"kafka-{leader}"


def until(holds: Callable[[], bool]) -> None:
    """Ask until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"


def appends(log: KafkaLog, value: bytes, partition: int = 0) -> bool:
    """Whether the log takes a record now."""
    try:
        log.append(EVENTS_TOPIC, [NewRecord(partition, value)])
    except LogUnavailable:
        return False
    return True


class Sender:
    """Appends numbered records one by one, each until it is acknowledged, as an edge does."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._stop = threading.Event()
        self.acknowledged: dict[int, bytes] = {}
        self.longest = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait_for(self, more: int) -> None:
        """Until so many more are acknowledged."""
        wanted = len(self.acknowledged) + more
        until(lambda: len(self.acknowledged) >= wanted)

    def stop(self) -> None:
        """Finish the one in hand."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            value = b"numbered %d" % number
            started = time.monotonic()
            try:
                (offset,) = self._log.append(EVENTS_TOPIC, [NewRecord(0, value)])
            except LogUnavailable:
                continue
            finally:
                self.longest = max(self.longest, time.monotonic() - started)
            self.acknowledged[offset] = value
            number += 1


def all_read(log: KafkaLog, partition: int) -> dict[int, bytes]:
    """Every record by its offset."""
    offset, end = log.bounds(EVENTS_TOPIC, partition)
    found: dict[int, bytes] = {}
    while offset < end:
        records = log.read(EVENTS_TOPIC, partition, offset, 1 << 20)
        found |= {r.offset: r.value for r in records}
        offset = records[-1].offset + 1
    return found


def check_nothing_lost(log: KafkaLog, sender: Sender) -> None:
    """Each acknowledged record is at its offset, and they are in the order they were sent in."""
    assert sender.acknowledged
    found = all_read(log, 0)
    assert sender.acknowledged.items() <= found.items()
    assert list(sender.acknowledged) == sorted(sender.acknowledged)
    assert sender.longest < CALL_SECONDS


def test_topics_have_three_copies_and_two_of_them_acknowledge(kafka: Cluster) -> None:
    admin = admin_of(kafka)
    (described,) = admin.describe_topics(TopicCollection([EVENTS_TOPIC])).values()
    partitions = described.result(timeout=10).partitions
    assert [len(p.replicas) for p in partitions] == [3] * PARTITIONS
    (future,) = admin.describe_configs(
        [ConfigResource(ConfigResource.Type.TOPIC, EVENTS_TOPIC)]
    ).values()
    found = future.result(timeout=10)
    assert found["min.insync.replicas"].value == "2"
    assert found["unclean.leader.election.enable"].value == "false"


def test_a_wrong_secret_is_refused_at_once_with_what_to_do(kafka: Cluster) -> None:
    right = kafka.servers
    started = time.monotonic()
    with pytest.raises(LogUnavailable) as caught:
        KafkaLog(KafkaServers(right.addresses, right.user, "not-the-secret"))
    assert time.monotonic() - started < 5
    assert "AUDIT_KAFKA_USER 'audit'" in caught.value.reason
    assert "set AUDIT_KAFKA_USER and AUDIT_KAFKA_PASSWORD" in caught.value.remedy
    assert "not-the-secret" not in str(caught.value)


def test_a_killed_leader_loses_nothing_that_was_acknowledged(kafka: Cluster, log: KafkaLog) -> None:
    sender = Sender(log)
    try:
        sender.wait_for(20)
        leader = leader_of(kafka, 0)
        kafka.kill(leader)
        sender.wait_for(20)
        assert leader_of(kafka, 0) != leader
        assert log.describe(EVENTS_TOPIC).partitions == PARTITIONS
        kafka.start(leader)
        sender.wait_for(20)
    finally:
        sender.stop()
    check_nothing_lost(log, sender)


def test_a_frozen_leader_loses_nothing_and_no_call_hangs(kafka: Cluster, log: KafkaLog) -> None:
    member = log.join("readers", EVENTS_TOPIC, "one")
    until(lambda: len(member.assignment()) == PARTITIONS)
    sender = Sender(log)
    try:
        sender.wait_for(5)
        leader = leader_of(kafka, 0)
        kafka.freeze(leader)
        for call in (
            lambda: log.describe(EVENTS_TOPIC),
            lambda: log.bounds(EVENTS_TOPIC, 0),
            lambda: log.read(EVENTS_TOPIC, 0, 0, 1),
            member.assignment,
            lambda: member.committed(0),
        ):
            started = time.monotonic()
            try:
                call()
            except LogUnavailable as e:
                assert "AUDIT_KAFKA" in e.reason  # noqa: PT017 - it may succeed as well
            assert time.monotonic() - started < CALL_SECONDS
        sender.wait_for(5)  # another leads now
        kafka.thaw(leader)
        sender.wait_for(5)
    finally:
        sender.stop()
        kafka.thaw(leader)
    check_nothing_lost(log, sender)


def test_a_secret_that_was_changed_shows_in_health_when_a_broker_restarts(kafka: Cluster) -> None:
    admin = admin_of(kafka)

    def set_secret(secret: str) -> None:
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion("service", info, secret.encode())
        for future in admin.alter_user_scram_credentials([change]).values():
            future.result(timeout=20)

    set_secret("old")
    service = KafkaServers(kafka.servers.addresses, "service", "old")
    until(lambda: probe_write(service, "") == "")  # brokers hear of it one after another
    with closing(KafkaLog(service)) as log:
        until(lambda: all(appends(log, b"x", p) for p in range(PARTITIONS)))
        set_secret("new")
        assert appends(log, b"its connections live on")
        leader = leader_of(kafka, 0)
        kafka.kill(leader)
        kafka.start(leader)
        # Nobody connects to it before it leads again.
        admin.elect_leaders(ElectionType.PREFERRED).result(timeout=20)
        until(lambda: not appends(log, b"x") or leader_of(kafka, 0) != leader)
        assert "AUDIT_KAFKA_USER 'service'" in log.health().trouble
        assert log.health().errors["_AUTHENTICATION"] > 0
        set_secret("old")
        until(lambda: appends(log, b"x") and log.health().trouble == "")


def test_too_few_brokers_are_told_by_a_probe_at_once_and_refused_in_time(
    kafka: Cluster, log: KafkaLog
) -> None:
    left = leader_of(kafka, 0)
    for name in BROKERS:
        if name != left:
            kafka.kill(name)
    said = []

    def says_so() -> bool:
        started = time.monotonic()
        found = probe_write(kafka.servers, "")
        said.append((found, time.monotonic() - started))
        return found == "NOT_ENOUGH_REPLICAS"

    until(says_so)
    assert said[-1][1] < 2.0
    started = time.monotonic()
    with pytest.raises(LogUnavailable, match="_MSG_TIMED_OUT"):
        log.append(EVENTS_TOPIC, [NewRecord(0, b"two copies are needed")])
    assert time.monotonic() - started < CALL_SECONDS
    assert log.health().trouble
    kafka.start()
    until(lambda: appends(log, b"again"))
