"""Group membership: Kafka says whose a partition is, and keeps the committed offsets.

Belongs here: joining, leases, commits, leaving. Does not: reading (`reader.py`): a member's own
consumer is paused and fetches nothing.
Source: `ports.GroupMember`; KIP-345 (static membership), KIP-429 (cooperative rebalancing).

The classic protocol, since a client chooses its own session time-out there; in the newer one the
servers do, and theirs is 45 s. A member's name is its `group.instance.id`: who joins again under it
takes over at once, and the former one is fenced. Kafka also fences who only asked twice: a join
whose answer was lost with the coordinator, sent again, is a newer instance to it. So who is fenced
joins anew once nobody of the name is there: who does not live is gone after the session time-out.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import OFFSET_INVALID as NO_OFFSET
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from audit_platform.adapters.kafka.connection import ASK_SECONDS, KafkaServers, Watch, error_of
from audit_platform.errors import AuditPlatformError, LogUnavailable, NotAssigned

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

#: What Kafka takes in a `group.instance.id` besides letters and digits.
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a member keeps its partitions: without a heartbeat, and without a call.

    A killed or frozen process is replaced after `session_seconds`. One that lives but does not call
    (a store that hangs) after `session_seconds + call_seconds`: longer than a step whose calls all
    run into their time limits, else it would lose its partitions for another member to run into the
    same, and what it had done would not be committed: two members could pass them on for ever.
    """

    session_seconds: float = 8.0
    call_seconds: float = 120.0


#: Kafka's words for: not (any more) yours.
_NOT_OURS: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001 - the library's own name
        KafkaError._FENCED,  # noqa: SLF001 - the same
        KafkaError._FATAL,  # noqa: SLF001 - the same
    }
)

#: It can do nothing more. What `poll` says of a fatal error has this code and is not marked fatal.
_FENCED: Final = frozenset(
    {
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError._FENCED,  # noqa: SLF001 - the library's own name
        KafkaError._FATAL,  # noqa: SLF001 - the same
    }
)

#: The members are being told their partitions: ask again.
_SOON: Final = frozenset({KafkaError.REBALANCE_IN_PROGRESS})

#: How often a fenced member looks whether an instance of its name is there.
_LOOK_AGAIN_SECONDS: Final = 2.0

#: A callback does not end a wait for messages: so long is lost at most.
_ASK_AGAIN_SECONDS: Final = 0.005


class KafkaGroupMember:
    """`ports.GroupMember` over a consumer of its own. One thread at a time."""

    def __init__(
        self, servers: KafkaServers, watch: Watch, name: str, group: str, member: str, lease: Lease
    ) -> None:
        if not _NAME.fullmatch(group) or not member:
            raise ValueError(f"not a group and member: {group!r}, {member!r}")
        self._servers = servers
        self._watch = watch
        self._name = name
        self._group = group
        self._member = member
        self._lease = lease
        self._held: frozenset[int] = frozenset()
        self._fenced = False
        self._lapsed = False
        self._look_at = 0.0
        self._left = False
        #: (partition, offset) -> what became of that commit.
        self._decided: dict[tuple[int, int], KafkaError | None] = {}
        self._consumer = self._joined()

    def assignment(self) -> frozenset[int]:
        """See `ports.GroupMember.assignment`."""
        if not self._left:
            self._serve(0.0)
            if self._lapsed:
                self._join_again()
            elif self._fenced and time.monotonic() >= self._look_at:
                self._come_back()
        return self._held

    def commit(self, partition: int, offset: int) -> None:
        """See `ports.GroupMember.commit`."""
        deadline = time.monotonic() + ASK_SECONDS
        # Who has not called for longer than the lease is joining again, and a commit of its old
        # membership, sent now, would fence its new one: for good, since that is fatal.
        self.assignment()
        while True:
            if self._left or partition not in self._held:
                raise self._not_assigned(partition)
            error = self._committed_once(partition, offset, deadline)
            if error is None:
                self._watch.on_success()
                return
            if error.code() in _NOT_OURS:
                raise self._not_assigned(partition)
            if error.code() not in _SOON or time.monotonic() > deadline:
                doing = f"commit {offset} of {self._name}/{partition}"
                raise self._watch.failed(doing, error)
            self._serve(_ASK_AGAIN_SECONDS)

    def committed(self, partition: int) -> int | None:
        """See `ports.GroupMember.committed`. Raises `LogUnavailable`."""
        doing = f"ask for what {self._group} committed of {self._name}/{partition}"
        try:
            (found,) = self._consumer.committed(
                [TopicPartition(self._name, partition)], timeout=ASK_SECONDS
            )
        except KafkaException as e:
            raise self._watch.failed(doing, error_of(e)) from e
        except RuntimeError as e:
            raise LogUnavailable(f"{doing}: it has left", remedy="join again") from e
        if found.error is not None:
            raise self._watch.failed(doing, found.error)
        self._watch.on_success()
        return None if found.offset == NO_OFFSET else found.offset

    def leave(self) -> None:
        """See `ports.GroupMember.leave`."""
        if self._left:
            return
        self._left = True
        self._held = frozenset()
        # A member with a name keeps its partitions over `close`; `unsubscribe` gives them up.
        try:
            self._consumer.unsubscribe()
            self._serve(_ASK_AGAIN_SECONDS)
        except KafkaException as e:
            self._watch.on_error(error_of(e))
        self._consumer.close()

    # ------------------------------------------------------------------------------- inside

    def _joined(self) -> Consumer:
        """A consumer that asks for its share of the partitions."""
        consumer = Consumer({**self._servers.config(self._watch), **self._config()})
        consumer.subscribe(
            [self._name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )
        return consumer

    def _come_back(self) -> None:
        """Join anew, unless an instance of our name is in the group (or nobody says)."""
        self._look_at = time.monotonic() + _LOOK_AGAIN_SECONDS
        admin = AdminClient(self._servers.config(self._watch))
        (asked,) = admin.describe_consumer_groups(
            [self._group], request_timeout=ASK_SECONDS
        ).values()
        try:
            members = asked.result(timeout=ASK_SECONDS).members
        except KafkaException as e:
            self._watch.on_error(error_of(e))
            return
        except TimeoutError:
            return
        name = self._config()["group.instance.id"]
        if any(m.group_instance_id == name for m in members):
            return
        self._join_again()

    def _join_again(self) -> None:
        """Give the consumer up for a new one: nothing of the old membership can come any more."""
        with suppress(KafkaException):
            self._consumer.close()
        self._fenced, self._lapsed, self._held = False, False, frozenset()
        self._decided.clear()
        self._consumer = self._joined()

    def _config(self) -> dict[str, Any]:
        session_ms = int(self._lease.session_seconds * 1000)
        return {
            "group.id": self._group,
            "group.instance.id": _NOT_IN_A_NAME.sub("_", self._member),
            "group.protocol": "classic",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": session_ms // 4,
            "max.poll.interval.ms": int(self._lease.call_seconds * 1000),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            # It never reads: nothing is to be fetched before the pause takes hold.
            "fetch.message.max.bytes": 1,
            "queued.max.messages.kbytes": 1,
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
        }

    def _serve(self, seconds: float) -> None:
        """Let the library call us back about what has happened; wait so long for the first."""
        while True:
            message = self._consumer.poll(seconds)
            if message is None:
                return
            error = message.error()
            if error is not None:
                self._on_error(error)
            seconds = 0.0

    def _committed_once(self, partition: int, offset: int, deadline: float) -> KafkaError | None:
        """Send one commit and wait for the answer. Its error, or None."""
        self._decided.pop((partition, offset), None)
        try:
            self._consumer.commit(
                offsets=[TopicPartition(self._name, partition, offset)], asynchronous=True
            )
            while (partition, offset) not in self._decided:
                if time.monotonic() > deadline:
                    return KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - the library's own name
                self._serve(_ASK_AGAIN_SECONDS)
        except KafkaException as e:
            return error_of(e)
        return self._decided.pop((partition, offset))

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # An offset that is named is not asked for; nothing is read from it.
        given = [TopicPartition(p.topic, p.partition, 0) for p in partitions]
        consumer.incremental_assign(given)
        consumer.pause(given)
        self._held |= {p.partition for p in partitions}

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._held -= {p.partition for p in partitions}
        consumer.incremental_unassign(partitions)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            self._decided[p.partition, p.offset] = p.error or error

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in _FENCED:
            # Another instance of our name is there, or it seems so: that is no fault of Kafka's.
            self._fenced, self._held = True, frozenset()
        elif error.code() == KafkaError._MAX_POLL_EXCEEDED:  # noqa: SLF001 - the library's own name
            # The lease is over. The library joins again by itself, but after several of these two
            # members were seen that held nothing for ever, each counted by Kafka as an owner.
            self._lapsed, self._held = True, frozenset()
            self._watch.on_error(error)
        elif error.code() not in _NOT_OURS:
            self._watch.on_error(error)

    def _not_assigned(self, partition: int) -> AuditPlatformError:
        why = "a newer instance of its name is there" if self._fenced else "it is another's now"
        return NotAssigned(
            f"partition {partition} of {self._name} is not held by {self._member}: {why}",
            remedy="drop what was read of it; another member goes on",
        )
