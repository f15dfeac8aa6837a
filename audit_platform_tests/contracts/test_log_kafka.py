"""The log port's contract on a real Kafka.

Leases are real time here: no clock of a test moves Kafka's. They are as short as can be.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from audit_platform.adapters.kafka.connection import KafkaServers
from audit_platform.adapters.kafka.log import KafkaLog
from audit_platform.adapters.kafka.members import Lease
from audit_platform.ports import Log
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.contracts.log_contract import LogContract, LogWorld
from audit_platform_tests.servers import stack_settings

PARTITIONS = 4

#: A member that does not call is out after both; Kafka looks for dead members when it is told of
#: none, so a little more is waited.
LEASE = Lease(session_seconds=1.2, call_seconds=1.2)
LEASE_PASSES_SECONDS = 3.0
MOMENT_SECONDS = 0.03


def open_kafka(servers: KafkaServers, prefix: str) -> Log:
    """A client in another process."""
    return KafkaLog(servers, prefix, lease=LEASE)


def wait(seconds: float) -> None:
    """Let real time pass: Kafka's leases know no other."""
    threading.Event().wait(seconds)


class KafkaLogWorld:
    """Topics of its own on the run's Kafka."""

    topic = EVENTS_TOPIC
    partitions = PARTITIONS

    def __init__(self) -> None:
        self._servers = KafkaServers(stack_settings("kafka")["AUDIT_KAFKA"])
        self._prefix = f"contract-{uuid.uuid4().hex[:12]}-"
        self._clients: list[KafkaLog] = []
        self._open().make_topics(PARTITIONS)

    def client(self) -> Log:
        """See `LogWorld`."""
        return self._open()

    def opener(self) -> Callable[[], Log]:
        """See `LogWorld`."""
        return partial(open_kafka, self._servers, self._prefix)

    def pass_lease(self) -> None:
        """See `LogWorld`."""
        wait(LEASE_PASSES_SECONDS)

    def pass_moment(self) -> None:
        """See `LogWorld`."""
        wait(MOMENT_SECONDS)

    def close(self) -> None:
        """End all clients."""
        for log in self._clients:
            log.close()

    def _open(self) -> KafkaLog:
        log = KafkaLog(self._servers, self._prefix, lease=LEASE)
        self._clients.append(log)
        return log


class TestKafkaLog(LogContract):
    """On Kafka."""

    @pytest.fixture
    def world(self) -> Iterator[LogWorld]:
        """Topics that are empty."""
        world = KafkaLogWorld()
        yield world
        world.close()
