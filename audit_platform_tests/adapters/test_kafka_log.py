"""What the log on Kafka promises beyond the port: topics, health, its end. On the run's Kafka."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource

from audit_platform.adapters.faulty import Fault, Faults, faulty
from audit_platform.adapters.kafka.connection import KafkaServers
from audit_platform.adapters.kafka.log import KafkaLog
from audit_platform.adapters.kafka.members import Lease
from audit_platform.adapters.kafka.probes import node_trouble, probe_write
from audit_platform.adapters.kafka.writer import _Call
from audit_platform.errors import LogUnavailable, NotAssigned, OffsetOutOfRange, UnknownTopic
from audit_platform.ports import GroupMember, NewRecord
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, INTEGRITY_TOPIC
from audit_platform_tests.bad_servers import answering
from audit_platform_tests.ports import free_port
from audit_platform_tests.servers import stack_settings

LEASE = Lease(session_seconds=1.2, call_seconds=1.2)


@pytest.fixture(scope="module")
def servers() -> KafkaServers:
    """The run's Kafka."""
    return KafkaServers(stack_settings("kafka")["AUDIT_KAFKA"])


@pytest.fixture
def prefix() -> str:
    """Of topics that nobody else has."""
    return f"log-{uuid.uuid4().hex[:12]}-"


@pytest.fixture
def log(servers: KafkaServers, prefix: str) -> Iterator[KafkaLog]:
    """A log with empty topics of two partitions."""
    with closing(KafkaLog(servers, prefix, lease=LEASE)) as opened:
        opened.make_topics(2)
        yield opened


@pytest.fixture
def admin(servers: KafkaServers) -> AdminClient:
    """Kafka's administrator."""
    return AdminClient({"bootstrap.servers": servers.addresses})


def threads() -> int:
    """How many threads this process has, the client library's too."""
    return len(list(Path("/proc/self/task").iterdir()))


def delete(admin: AdminClient, name: str) -> None:
    """Delete a topic; Kafka does not know it on return."""
    for future in admin.delete_topics([name], operation_timeout=10).values():
        future.result(timeout=10)
    deadline = time.monotonic() + 20
    while name in admin.list_topics(timeout=5).topics:
        assert time.monotonic() < deadline, "the topic does not go"


def join_alone(log: KafkaLog) -> GroupMember:
    """A member that holds all partitions."""
    member = log.join("readers", EVENTS_TOPIC, "one")
    deadline = time.monotonic() + 20
    while len(member.assignment()) < 2:
        assert time.monotonic() < deadline, "no assignment"
    return member


# ---------------------------------------------------------------------------------------- topics


def test_topics_are_made_as_the_record_needs_them(
    log: KafkaLog, admin: AdminClient, prefix: str
) -> None:
    resources = [
        ConfigResource(ConfigResource.Type.TOPIC, prefix + t) for t in (EVENTS_TOPIC, DLQ_TOPIC)
    ]
    for future in admin.describe_configs(resources).values():
        found = future.result(timeout=10)
        assert {
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": "604800000",
            "retention.bytes": "-1",
            "cleanup.policy": "delete",
            "max.message.bytes": "2097152",
            "min.insync.replicas": "1",
            "unclean.leader.election.enable": "false",
        }.items() <= {name: entry.value for name, entry in found.items()}.items()


def test_making_the_topics_again_changes_nothing(log: KafkaLog) -> None:
    before = [log.describe(t) for t in (EVENTS_TOPIC, DLQ_TOPIC, INTEGRITY_TOPIC)]
    assert [t.partitions for t in before] == [2, 2, 1]
    log.append(EVENTS_TOPIC, [NewRecord(0, b"kept")])
    assert log.make_topics(7) == before
    assert log.bounds(EVENTS_TOPIC, 0) == (0, 1)


def test_a_topic_that_was_made_anew_has_another_id_and_none_of_the_old_records(
    log: KafkaLog, admin: AdminClient, prefix: str
) -> None:
    before = log.describe(EVENTS_TOPIC)
    log.append(EVENTS_TOPIC, [NewRecord(0, b"old %d" % n) for n in range(5)])
    assert len(log.read(EVENTS_TOPIC, 0, 0, 1)) == 1  # four more were fetched ahead
    delete(admin, prefix + EVENTS_TOPIC)
    with pytest.raises(UnknownTopic, match="log init"):
        log.describe(EVENTS_TOPIC)
    log.make_topics(2)
    after = log.describe(EVENTS_TOPIC)
    assert after.topic_id != before.topic_id
    assert log.bounds(EVENTS_TOPIC, 0) == (0, 0)
    with pytest.raises(OffsetOutOfRange):
        log.read(EVENTS_TOPIC, 0, 1, 100)
    new = [b"new %d" % n for n in range(5)]
    assert log.append(EVENTS_TOPIC, [NewRecord(0, value) for value in new]) == [0, 1, 2, 3, 4]
    # Where the reading of the old one stopped.
    assert [r.value for r in log.read(EVENTS_TOPIC, 0, 1, 100)] == new[1:]


def test_what_retention_took_is_out_of_range(
    log: KafkaLog, admin: AdminClient, prefix: str
) -> None:
    log.append(EVENTS_TOPIC, [NewRecord(0, b"%d" % n) for n in range(5)])
    assert log.read(EVENTS_TOPIC, 0, 0, 1)
    (future,) = admin.delete_records([TopicPartition(prefix + EVENTS_TOPIC, 0, 3)]).values()
    future.result(timeout=10)
    assert log.bounds(EVENTS_TOPIC, 0) == (3, 5)
    with pytest.raises(OffsetOutOfRange) as caught:
        log.read(EVENTS_TOPIC, 0, 1, 100)
    assert (caught.value.start, caught.value.end) == (3, 5)
    assert [r.value for r in log.read(EVENTS_TOPIC, 0, 3, 100)] == [b"3", b"4"]


def test_many_large_records_are_acknowledged_together(log: KafkaLog) -> None:
    values = [bytes([n]) * (1 << 20) for n in range(12)]
    records = [NewRecord(n % 2, value) for n, value in enumerate(values)]
    assert log.append(EVENTS_TOPIC, records) == [n // 2 for n in range(12)]
    for partition in (0, 1):
        found = log.read(EVENTS_TOPIC, partition, 0, 1 << 30)
        assert [r.value for r in found] == values[partition::2]


def test_more_partitions_than_are_kept_open_are_all_read(servers: KafkaServers) -> None:
    with closing(KafkaLog(servers, f"many-{uuid.uuid4().hex[:8]}-")) as log:
        log.make_topics(16)
        log.append(
            EVENTS_TOPIC, [NewRecord(p, b"%d %d" % (p, n)) for n in (0, 1) for p in range(16)]
        )
        for n in (0, 1):
            for p in range(16):
                assert log.read(EVENTS_TOPIC, p, n, 1)[0].value == b"%d %d" % (p, n)


class Delivered:
    """A message as the library hands it to a delivery callback."""

    def __init__(self, offset: int | None) -> None:
        self._offset = offset

    def offset(self) -> int | None:
        """Where it is."""
        return self._offset


@pytest.mark.parametrize("unknown", [None, -1, -1001])
def test_a_record_whose_place_nobody_knows_is_not_promised(unknown: int | None) -> None:
    call = _Call(2)
    call.of(0)(None, cast("Message", Delivered(7)))
    assert not call.done.is_set()
    call.of(1)(None, cast("Message", Delivered(unknown)))
    assert call.done.is_set()
    assert call.error is not None
    assert call.error.name() == "DUPLICATE_SEQUENCE_NUMBER"


# ---------------------------------------------------------------------------------------- groups


def test_a_member_that_was_silent_too_long_commits_nothing_even_into_an_empty_group(
    log: KafkaLog,
) -> None:
    member = join_alone(log)
    member.commit(0, 3)
    threading.Event().wait(LEASE.session_seconds + LEASE.call_seconds + 0.6)
    with pytest.raises(NotAssigned):
        member.commit(0, 9)
    assert member.committed(0) == 3


def test_a_member_that_was_silent_too_long_goes_on_once_it_calls_again(log: KafkaLog) -> None:
    member = join_alone(log)
    for offset in range(1, 4):
        threading.Event().wait(LEASE.call_seconds + 0.4)
        # As a service does whose work took too long: the commit is its first call.
        with suppress(NotAssigned):
            member.commit(0, offset)
        deadline = time.monotonic() + 20
        while member.assignment() != {0, 1}:
            assert time.monotonic() < deadline, "it is out for good"
        member.commit(0, offset)
        assert member.committed(0) == offset


def test_a_process_that_joined_and_never_closes_comes_to_its_end(
    log: KafkaLog, servers: KafkaServers, prefix: str
) -> None:
    assert log.describe(EVENTS_TOPIC).partitions == 2
    code = (
        "import sys, time\n"
        "from audit_platform.adapters.kafka.connection import KafkaServers\n"
        "from audit_platform.adapters.kafka.log import KafkaLog\n"
        "log = KafkaLog(KafkaServers(sys.argv[1]), sys.argv[2])\n"
        f"member = log.join('readers', {EVENTS_TOPIC!r}, 'one')\n"
        "time.sleep(0.5)\n"  # it is told its partitions and does not listen
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, servers.addresses, prefix], timeout=60, check=False
    )
    assert ended.returncode == 0


# ---------------------------------------------------------------------------------- health, probes


def test_closing_ends_every_thread_and_nothing_works_after_it(
    servers: KafkaServers, prefix: str
) -> None:
    # Once before, for threads that a library starts once a process.
    KafkaLog(servers, prefix).close()
    before = threads()
    log = KafkaLog(servers, prefix, lease=LEASE)
    log.make_topics(2)
    log.append(EVENTS_TOPIC, [NewRecord(0, b"x")])
    log.read(EVENTS_TOPIC, 0, 0, 1)
    member = join_alone(log)
    member.commit(0, 1)
    assert threads() > before
    log.close()
    log.close()
    del member
    deadline = time.monotonic() + 20
    while threads() > before:  # the kernel takes a moment to bury them
        assert time.monotonic() < deadline, "threads are left"
    for call in (
        lambda: log.append(EVENTS_TOPIC, [NewRecord(0, b"x")]),
        lambda: log.read(EVENTS_TOPIC, 0, 0, 1),
        lambda: log.join("readers", EVENTS_TOPIC, "one"),
    ):
        with pytest.raises(LogUnavailable, match="closed"):
            call()


def test_something_that_is_not_kafka_is_refused_by_setting_found_wanted_remedy() -> None:
    with (
        answering(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as address,
        pytest.raises(LogUnavailable) as caught,
    ):
        KafkaLog(KafkaServers(address))
    assert f"AUDIT_KAFKA {address!r} does not answer as Kafka" in caught.value.reason
    assert "Invalid response size" in caught.value.reason
    assert caught.value.remedy == "wanted: a broker's client listener; correct AUDIT_KAFKA"


def test_another_protocol_than_kafkas_is_refused(servers: KafkaServers) -> None:
    with pytest.raises(LogUnavailable, match="AUDIT_KAFKA_USER 'nobody-here'"):
        KafkaLog(KafkaServers(servers.addresses, "nobody-here", "wrong"))


def test_a_kafka_that_is_away_is_no_reason_not_to_open_but_every_call_says_so() -> None:
    address = f"127.0.0.1:{free_port()}"
    with closing(KafkaLog(KafkaServers(address))) as log:
        assert "_ALL_BROKERS_DOWN" in log.health().trouble or address in log.health().trouble
        with ThreadPoolExecutor() as pool:  # at once: each takes its time limit
            answers: list[Future[Any]] = [
                pool.submit(log.describe, EVENTS_TOPIC),
                pool.submit(log.append, EVENTS_TOPIC, [NewRecord(0, b"x")]),
                pool.submit(log.bounds, EVENTS_TOPIC, 0),
            ]
            for answer in answers:
                error = answer.exception(timeout=30)
                assert isinstance(error, LogUnavailable)
                assert f"AUDIT_KAFKA {address!r}" in error.reason
                assert "brokers run" in error.remedy
        assert log.health().errors["_ALL_BROKERS_DOWN"] > 0


def test_all_is_well_on_a_healthy_kafka(log: KafkaLog, servers: KafkaServers, prefix: str) -> None:
    log.append(EVENTS_TOPIC, [NewRecord(0, b"x")])
    assert log.health().trouble == ""
    assert probe_write(servers, prefix) == ""
    assert node_trouble(servers.addresses, servers.addresses, 5.0) == ""
    assert log.bounds(EVENTS_TOPIC, 0) == (0, 1)  # the probe is not among the events


def test_a_probe_says_what_is_wrong(servers: KafkaServers, prefix: str) -> None:
    assert probe_write(servers, prefix) in {
        "UNKNOWN_TOPIC_OR_PART",
        "_UNKNOWN_TOPIC",
        "_MSG_TIMED_OUT",
    }
    nowhere = f"127.0.0.1:{free_port()}"
    assert nowhere in node_trouble(nowhere, nowhere, 1.0)


# ---------------------------------------------------------------------------------------- faulty


def test_planned_faults_come_before_after_and_amid_what_kafka_does(log: KafkaLog) -> None:
    faults = Faults({2: Fault.BEFORE, 3: Fault.AFTER, 4: Fault.PARTIAL, 8: Fault.BEFORE})
    wrapped = faulty(log, LogUnavailable, faults)
    batch = [NewRecord(0, b"a"), NewRecord(0, b"b")]
    assert wrapped.append(EVENTS_TOPIC, batch) == [0, 1]
    for _ in range(3):
        with pytest.raises(LogUnavailable, match="planned"):
            wrapped.append(EVENTS_TOPIC, batch)
    assert wrapped.bounds(EVENTS_TOPIC, 0) == (0, 5)
    values = [r.value for r in wrapped.read(EVENTS_TOPIC, 0, 0, 1 << 20)]
    assert values == [b"a", b"b", b"a", b"b", b"a"]
    member = wrapped.join("readers", EVENTS_TOPIC, "one")
    with pytest.raises(LogUnavailable, match="planned"):
        member.committed(0)
    assert member.committed(0) is None
    assert [(number, name) for number, name, _ in faults.happened] == [
        (2, "append"),
        (3, "append"),
        (4, "append"),
        (8, "committed"),
    ]
