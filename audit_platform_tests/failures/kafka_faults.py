"""Kafka of the full stack, for tests that break it: its shape, its answers, its administrator.

Belongs here: what several rows ask of Kafka beside `lab.Servers`. Does not: any test.
"""

from __future__ import annotations

from typing import Final

from confluent_kafka import ElectionType
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from audit_platform.adapters.kafka.connection import KafkaServers, Watch
from audit_platform.adapters.kafka.probes import node_trouble
from audit_platform_tests.failures.installation import wait_for
from audit_platform_tests.failures.lab import ALERT_SECONDS, LOOK_SECONDS, Servers

BROKERS: Final = ("kafka-1", "kafka-2", "kafka-3")
CONTROLLERS: Final = ("kafka-controller-1", "kafka-controller-2", "kafka-controller-3")

#: All three brokers say what they lead, and all copies of it are in sync.
IN_SYNC: Final = (
    "count(kafka_server_replicamanager_underreplicatedpartitions) == 3"
    " and sum(kafka_server_replicamanager_underreplicatedpartitions) == 0"
)

#: For one question to Kafka's administrator.
ADMIN_SECONDS: Final = 60

#: For one question to one broker.
NODE_SECONDS: Final = 5.0

#: Kafka's own number of rounds of a SCRAM secret.
SCRAM_ROUNDS: Final = 4096


def wait_until_whole(servers: Servers) -> None:
    """The shape before a fault: three controllers, three brokers, every copy in sync."""
    nodes = (*BROKERS, *CONTROLLERS)

    def is_whole() -> bool:
        states = servers.running(*nodes)
        return {states[name] for name in nodes} == {"up"}

    wait_for("three brokers and three controllers", is_whole, ALERT_SECONDS, every=LOOK_SECONDS)
    servers.wait_for_metric(IN_SYNC, ALERT_SECONDS)


def kafka_of(servers: Servers) -> KafkaServers:
    """As a service sees it: by the fault proxy, as a SCRAM user."""
    of = servers.settings
    return KafkaServers(of["AUDIT_KAFKA"], of["AUDIT_KAFKA_USER"], of["AUDIT_KAFKA_PASSWORD"])


def admin_of(servers: Servers) -> AdminClient:
    """Kafka's administrator; keep it in a variable while it is asked."""
    kafka = kafka_of(servers)
    return AdminClient(kafka.config(Watch(kafka, quiet=True)))


def leader_of(servers: Servers, topic: str, partition: int) -> str:
    """The broker that leads a partition of Kafka's topic of that name."""
    admin = admin_of(servers)
    found = admin.list_topics(topic, timeout=ADMIN_SECONDS).topics[topic]
    return f"kafka-{found.partitions[partition].leader}"


def prefer_leaders(servers: Servers) -> None:
    """Every partition is led by its first broker again: nobody connects to one that leads none."""
    admin = admin_of(servers)
    admin.elect_leaders(ElectionType.PREFERRED).result(timeout=ADMIN_SECONDS)


def set_secret(servers: Servers, user: str, secret: str) -> None:
    """Make a user, or change its secret. Live connections are not touched."""
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ROUNDS)
    _alter(servers, UserScramCredentialUpsertion(user, info, secret.encode()))


def drop_user(servers: Servers, user: str) -> None:
    """A user that Kafka does not know any more."""
    _alter(servers, UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512))


def _alter(servers: Servers, change: UserScramCredentialAlteration) -> None:
    admin = admin_of(servers)
    for future in admin.alter_user_scram_credentials([change]).values():
        future.result(timeout=ADMIN_SECONDS)


def wait_until_known(servers: Servers, user: str, secret: str) -> None:
    """Brokers hear of a user one after the other: wait for the last."""
    asked = [(servers.place.address(name), servers.place.front(name)) for name in BROKERS]

    def is_known() -> bool:
        return not any(
            node_trouble(address, front, NODE_SECONDS, user=user, password=secret)
            for address, front in asked
        )

    wait_for(f"every broker to know {user}", is_known, ALERT_SECONDS, every=LOOK_SECONDS)
