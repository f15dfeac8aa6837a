"""Questions to Kafka whose answers the ordinary clients hide or give too late.

Belongs here: one short question each, by a client made for it. Does not: the platform's own
reading and writing.
Source: issue "The same path on the real servers" (probes for what librdkafka hides).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from audit_platform.adapters.kafka.connection import KafkaServers, Watch, error_of
from audit_platform.adapters.kafka.topics import PROBE_TOPIC

#: How long one look for reasons takes.
_LOOK_SECONDS: Final = 0.25

_PROBE: Final = b"probe"


def node_trouble(
    address: str,
    known_as: str,
    seconds: float,
    *,
    user: str = "",
    password: str = "",
    ca_file: Path | None = None,
) -> str:
    """Ask one node whether it knows itself as a broker of a cluster with a controller. "" if so.

    `known_as` is the host:port that the cluster tells its clients of that broker.
    """
    servers = KafkaServers(address, user, password, ca_file)
    watch = Watch(servers, quiet=True)
    admin = AdminClient(servers.config(watch))
    deadline = time.monotonic() + seconds
    why = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            found = admin.list_topics(timeout=min(_LOOK_SECONDS, left))
        except KafkaException as e:
            admin.poll(0)  # hands the reasons over
            why = watch.health().trouble or error_of(e).str()
            continue
        if known_as not in {f"{b.host}:{b.port}" for b in found.brokers.values()}:
            return f"{known_as} is not (yet) among the brokers of its cluster"
        return "" if found.controller_id >= 0 else "there is no controller"
    return why


def probe_write(servers: KafkaServers, prefix: str, seconds: float = 2.0) -> str:
    """Write one record to the probes' topic with acks=all. "" if Kafka took it, else its error.

    A producer that retries hears `NOT_ENOUGH_REPLICAS` and says nothing until its time is up; this
    one does not retry. The name is Kafka's (`NOT_ENOUGH_REPLICAS`, `_MSG_TIMED_OUT`, ...).
    """
    watch = Watch(servers, quiet=True)
    milliseconds = int(seconds * 1000)
    producer = Producer(
        {
            **servers.config(watch),
            "enable.idempotence": False,
            "acks": "all",
            "retries": 0,
            "linger.ms": 0,
            "request.timeout.ms": milliseconds,
            "delivery.timeout.ms": milliseconds,
        }
    )
    said: list[KafkaError | None] = []

    def decided(error: KafkaError | None, _message: Message) -> None:
        said.append(error)

    producer.produce(prefix + PROBE_TOPIC, value=_PROBE, partition=0, on_delivery=decided)
    deadline = time.monotonic() + seconds
    while not said and (left := deadline - time.monotonic()) > 0:
        producer.poll(left)
    error = said[0] if said else KafkaError(KafkaError._MSG_TIMED_OUT)  # noqa: SLF001 - the library's own name
    if error is None:
        return ""
    return (watch.wrong() or error).name()
