"""A world with refused lines, and two operators who decide about them.

Belongs here: refusing, proposing, approving, replaying, what the log and the record hold then. Does
not: any test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from audit_platform.operations.dlq.clusters import clusters_of
from audit_platform.operations.dlq.decide import Wanted, approve, propose
from audit_platform.operations.dlq.records import Case
from audit_platform.operations.dlq.replay import Replay, replay
from audit_platform.operations.query.reader import Reader
from audit_platform.record import layout
from audit_platform.record.decision import Action, Person
from audit_platform.record.event import canonical_of_stored
from audit_platform.record.schemas import SchemaRegistry, registry
from audit_platform_tests.world import Edge, World

TENANT = "st-anna"
ANN = Person("a" * 16)
BOB = Person("b" * 16, "bob")
REASON = "the release of today knows what these devices say"
SCHEMA = "heartbeat/1"


@dataclass
class Dlq:
    """The desk of two operators over a world."""

    world: World
    edge: Edge
    start: bytes

    @classmethod
    def open(cls, world: World) -> Dlq:
        """The tenant's epoch has begun."""
        edge = world.edge(TENANT)
        start = edge.start(world.clock.now_ms())
        world.ingest(TENANT, [start])
        return cls(world, edge, start)

    @property
    def reader(self) -> Reader:
        """A process that has just started."""
        return Reader(self.world.platform)

    def refused(self, count: int, devices: int = 2) -> list[bytes]:
        """Good events that an older gateway refused, archived."""
        lines = self.refuse(count, devices)
        self.world.archive()
        return lines

    def refuse(self, count: int, devices: int = 2) -> list[bytes]:
        """The same, in the log only."""
        now = self.world.clock.now_ms()
        lines = [
            self.edge.event(f"pump-{n % devices:03}", "heartbeat", {"uptimeSeconds": n}, now)
            for n in range(count)
        ]
        self.world.refuse(TENANT, lines)
        return lines

    def entries(self) -> list[str]:
        """Ids of all that is in quarantine."""
        now = self.world.clock.now_ms()
        found = clusters_of(self.reader, TENANT, now - 3 * layout.MS_PER_DAY, now + 1)
        return [entry for cluster in found.clusters for entry in cluster.entries]

    def wanted(self, entries: Sequence[str] = (), **changes: Any) -> Wanted:
        """A proposal of everything, unless said otherwise."""
        now = self.world.clock.now_ms()
        said: dict[str, Any] = {
            "action": Action.REPLAY,
            "entry_ids": entries or self.entries(),
            "from_ms": now - 3 * layout.MS_PER_DAY,
            "to_ms": now + 1,
            "reason": REASON,
            "schema_ref": SCHEMA,
        }
        return Wanted(**(said | changes))

    def propose(
        self, wanted: Wanted, by: Person = ANN, schemas: SchemaRegistry | None = None
    ) -> Case:
        """Propose and try dry."""
        return propose(self.reader, TENANT, wanted, by, schemas or registry())

    def approve(self, case: Case, by: Person = BOB) -> Case:
        """Approve what a case shows."""
        assert case.dry_run is not None
        return approve(
            self.reader,
            TENANT,
            case.proposal.proposal_id,
            by,
            set_sha256=case.proposal.set_sha256,
            dry_run_sha256=case.dry_run.sha256,
        )

    def approved(self, wanted: Wanted | None = None) -> str:
        """The id of an approved proposal."""
        return self.approve(self.propose(wanted or self.wanted())).proposal.proposal_id

    def replay(self, proposal_id: str, **more: Any) -> Replay:
        """Carry out, without waiting."""
        more.setdefault("wait", lambda _seconds: None)
        more.setdefault("schemas", registry())
        return replay(self.reader, TENANT, proposal_id, **more)

    def in_log(self) -> list[bytes]:
        """Canonical events of the tenant in the log, copies too."""
        return [
            canonical_of_stored(line)
            for value in self._values()
            for line in value[:-1].split(b"\n")
        ]

    def _values(self) -> Iterator[bytes]:
        log = self.world.platform.log
        for partition in range(log.describe(layout.EVENTS_TOPIC).partitions):
            at, _ = log.bounds(layout.EVENTS_TOPIC, partition)
            while records := log.read(layout.EVENTS_TOPIC, partition, at, 1 << 20):
                yield from (r.value for r in records if r.headers["tenant"] == TENANT)
                at = records[-1].offset + 1
