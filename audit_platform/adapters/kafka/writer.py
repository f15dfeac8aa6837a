"""Appending to Kafka: one idempotent producer for all threads, an answer for each call.

Belongs here: handing records over, waiting for their acknowledgement. Does not: which partitions
there are (`log.py`).
Source: `ports.Log.append`; design section 4 (acks=all); KIP-98 (idempotent producer).

Order: an idempotent producer keeps the order in which `produce` was called, also over retries.
A call hands all its records over and waits for them together, so a batch costs one round trip.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from audit_platform.adapters.kafka.connection import KafkaServers, Watch, error_of
from audit_platform.adapters.kafka.topics import MAX_MESSAGE_BYTES, UNKNOWN, unknown_topic
from audit_platform.errors import AuditPlatformError, LogUnavailable
from audit_platform.ports import NewRecord

_log: Final = logging.getLogger(__name__)

#: After this a record is given up: a client waits no longer than this for its 503. A leader that
#: died or hangs is replaced in 3 to 9 s.
DELIVERY_TIMEOUT_MS: Final = 10_000

#: How long a broker may take over one request, so that one that hangs does not use up all of it.
_REQUEST_TIMEOUT_MS: Final = 3_000

#: Delivery's own limit and room for a busy machine: its callbacks come by then.
_WAIT_SECONDS: Final = DELIVERY_TIMEOUT_MS / 1000 + 2.0

#: What may wait in the producer; ingest bounds what it holds itself.
_QUEUE_KIB: Final = 64 << 10

#: How long to wait for room in a full queue before looking again.
_ROOM_SECONDS: Final = 0.05

#: How often the thread that serves callbacks looks whether it is to end.
_POLL_SECONDS: Final = 0.2

_CONFIG: Final[dict[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
    "request.timeout.ms": _REQUEST_TIMEOUT_MS,
    "linger.ms": 0,  # records are batches already
    "compression.type": "zstd",
    "compression.level": 1,
    "message.max.bytes": MAX_MESSAGE_BYTES,
    "queue.buffering.max.kbytes": _QUEUE_KIB,
    "retry.backoff.ms": 50,
    "retry.backoff.max.ms": 500,
}


class _Call:
    """One append under way: which offsets have come, and the first error."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._guard = threading.Lock()
        self.offsets = [-1] * count
        self.error: KafkaError | None = None
        self.done = threading.Event()

    def of(self, number: int) -> Callable[[KafkaError | None, Message], None]:
        """What is called when record `number` is decided."""

        def decided(error: KafkaError | None, message: Message) -> None:
            offset = message.offset()
            if error is None and (offset is None or offset < 0):
                # Kafka had it already from a try that it did not answer in time, and does not say
                # where. Nothing may be promised at a place that nobody knows.
                error = KafkaError(KafkaError.DUPLICATE_SEQUENCE_NUMBER)
            with self._guard:
                if error is None:
                    assert offset is not None, "looked at above"
                    self.offsets[number] = offset
                elif self.error is None:
                    self.error = error
                self._left -= 1
                if self._left == 0:
                    self.done.set()

        return decided


class Writer:
    """`ports.Log.append` over one producer. Thread safe."""

    def __init__(self, servers: KafkaServers, watch: Watch) -> None:
        self._servers = servers
        self._watch = watch
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._producer = self._make()
        self._thread = threading.Thread(target=self._serve, name="kafka-writer", daemon=True)
        self._thread.start()

    def append(self, name: str, records: Sequence[NewRecord]) -> list[int]:
        """Append to Kafka's topic of that name; all partitions exist. See `ports.Log.append`."""
        deadline = time.monotonic() + _WAIT_SECONDS
        call = _Call(len(records))
        producer = self._the_producer()
        try:
            for number, record in enumerate(records):
                self._hand_over(producer, name, record, call.of(number), deadline)
        except KafkaException as e:
            raise self._failed(name, error_of(e), producer) from e
        if not call.done.wait(max(deadline - time.monotonic(), 0.0)):
            raise self._failed(name, KafkaError(KafkaError._TIMED_OUT), producer)  # noqa: SLF001 - the library's own name
        if call.error is not None:
            raise self._failed(name, call.error, producer)
        self._watch.on_success()
        return call.offsets

    def close(self) -> None:
        """End the threads; what was handed over is decided first. Idempotent."""
        with self._guard:
            self._closed.set()
        self._thread.join()

    def _hand_over(
        self,
        producer: Producer,
        name: str,
        record: NewRecord,
        decided: Callable[[KafkaError | None, Message], None],
        deadline: float,
    ) -> None:
        headers: list[tuple[str, str | bytes | None]] = list(record.headers.items())
        while True:
            try:
                producer.produce(
                    name,
                    value=record.value,
                    partition=record.partition,
                    headers=headers,
                    on_delivery=decided,
                )
            except BufferError as e:
                if time.monotonic() > deadline:
                    raise LogUnavailable(
                        f"append to {name}: {_QUEUE_KIB >> 10} MiB wait for Kafka already",
                        remedy="keep the data and try again",
                    ) from e
                producer.poll(_ROOM_SECONDS)
            else:
                return

    def _failed(self, name: str, error: KafkaError, producer: Producer) -> AuditPlatformError:
        if error.code() in UNKNOWN:
            return unknown_topic(name)
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001 - the library's own name
            self._replace(producer, error)
        return self._watch.failed(f"append to {name}", error)

    def _the_producer(self) -> Producer:
        with self._guard:
            if self._closed.is_set():
                raise LogUnavailable("the log is closed", remedy="open it again")
            return self._producer

    def _replace(self, broken: Producer, error: KafkaError) -> None:
        """A producer whose sequence does not fit the log any more is of no use; make another.

        Nothing is doubled by it that was acknowledged; what was not may be, and is known by its
        hash.
        """
        with self._guard:
            if not self._closed.is_set() and self._producer is broken:
                _log.error("kafka: the producer is given up: %s", error.str())
                self._producer = self._make()

    def _make(self) -> Producer:
        return Producer({**self._servers.config(self._watch), **_CONFIG})

    def _serve(self) -> None:
        """Serve callbacks until closed and nothing is under way."""
        while not self._closed.is_set():
            self._producer.poll(_POLL_SECONDS)
        self._producer.flush(_WAIT_SECONDS)
        del self._producer  # its threads end with the last call that has it
