"""Random histories of a tenant: COLD gives what a naive reading of the log gives."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.operations.query.model import Tier, TimelineQuery
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.search import search
from audit_platform.operations.query.timeline import timeline
from audit_platform.ports import EventClock, EventQuery
from audit_platform.record import layout
from audit_platform_tests.operations.query.story import DAYS, TENANT, at, counting, expected
from audit_platform_tests.world import Edge, World, open_world

STEP_MS = 4 * 3_600_000


@dataclass(frozen=True)
class Step:
    """One thing that happens; `kind` is one of those in `steps`."""

    kind: str
    device: str
    skew_hours: int


def steps() -> st.SearchStrategy[list[Step]]:
    kinds = ["say", "say", "lose", "fork", "again", "again", "late", "archive", "seal", "restart"]
    step = st.builds(
        Step,
        st.sampled_from(kinds),
        st.sampled_from(["pump-000", "pump-001", "pump-004"]),
        st.sampled_from([0, 0, -30, 1, 900_000, -900_000]),
    )
    return st.lists(step, min_size=6, max_size=16)


class History:
    """Plays steps, four hours apart, on at most three days."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.clock.ms = at(0, 0)
        self.edge: Edge = world.edge(TENANT)
        self.said: list[bytes] = []
        self.sealed = 0
        self._send([self.edge.start(world.clock.ms)])

    def _send(self, lines: list[bytes], back_ms: int = 0) -> None:
        self.world.ingest(TENANT, lines, at_ms=self.world.clock.ms - back_ms)
        self.said += lines

    def _event(self, step: Step, edge: Edge) -> bytes:
        ms = self.world.clock.ms + step.skew_hours * 3_600_000
        return edge.event(step.device, "heartbeat", {"n": len(self.said)}, ms)

    def play(self, step: Step) -> None:
        """One step."""
        self.world.clock.ms = min(self.world.clock.ms + STEP_MS, at(2, 22))
        if step.kind == "say":
            self._send([self._event(step, self.edge)])
        elif step.kind == "lose":
            self._event(step, self.edge)
        elif step.kind == "fork":
            other = copy.deepcopy(self.edge)
            self._send([self._event(step, self.edge)])
            self._send([self._event(step, other)])
        elif step.kind == "again":
            self._send(self.said[-3:])
        elif step.kind == "late":
            # Not before the first day: that would be a day of its own, to be sealed first.
            back_ms = min(6 * STEP_MS, self.world.clock.ms - at(0, 0))
            self._send([self._event(step, self.edge)], back_ms=back_ms)
        elif step.kind == "restart":
            self._send([self.edge.start(self.world.clock.ms)])
        elif step.kind == "archive":
            self.world.archive()
        elif self.sealed < 2 and self.world.clock.ms > at(self.sealed + 1, 1):
            self.world.archive()
            self.world.close(DAYS[self.sealed])
            self.world.seal(TENANT, DAYS[self.sealed])
            self.sealed += 1


@settings(max_examples=6)
@given(steps())
def test_cold_gives_what_a_naive_reading_of_the_log_gives(told: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder, open_world(Path(folder)) as world:
        history = History(world)
        for step in told:
            history.play(step)
        world.archive()
        reader = Reader(world.platform)
        for clock in EventClock:
            # By the device's clock: centuries.
            wide = 200 * 366 * layout.MS_PER_DAY
            margin = wide if clock is EventClock.EVENT else layout.MS_PER_DAY
            query = EventQuery(
                TENANT, at(0, 0) - margin, at(2, 23) + margin, clock=clock, limit=500
            )
            found = search(reader, query, tier=Tier.COLD)
            hashes = found.rows["event_hash"].to_pylist()
            assert hashes == expected(world, query)
            assert len(set(hashes)) == len(hashes) > 0
            page, paged = search(reader, replace(query, limit=3), tier=Tier.COLD), list[bytes]()
            while True:
                paged += page.rows["event_hash"].to_pylist()
                if page.next is None:
                    break
                page = search(reader, replace(query, limit=3, after=page.next), tier=Tier.COLD)
            assert paged == hashes
        for device in ("pump-000", "pump-001", "pump-004"):
            asked = TimelineQuery(
                TENANT, device, at(0, 0) - layout.MS_PER_DAY, at(2, 23) + layout.MS_PER_DAY
            )
            line = timeline(reader, asked, tier=Tier.COLD)
            mine = {s.event_hash for s in counting(world) if s.event["deviceId"] == device}
            copies = {bytes.fromhex(c.event_hash) for e in line.entries for c in e.copies}
            assert set(line.rows["event_hash"].to_pylist()) | copies == mine
