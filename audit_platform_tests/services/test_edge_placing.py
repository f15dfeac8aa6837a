"""Placing: what a device says together gets the places that it would get one by one."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.schemas import registry
from audit_platform.services import edge_entry
from audit_platform.services.edge_entry import Ready
from audit_platform.services.edge_memory import Memory
from audit_platform.services.edge_placing import DeviceAnswer, EdgeIdentity, Job, Placer
from audit_platform.services.edge_reading import Batch, Reader
from audit_platform_tests.services.edge_world import line

IDENTITY = EdgeIdentity("north", "h-1", "edge-1", "north")
READER = Reader(registry(), IDENTITY.tenant_id, IDENTITY.hospital_id, IDENTITY.device_id)

#: Bodies of events: (sequence, device), often one after the other, sometimes not.
bodies = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["pump-1", "pump-2", "m-1"])), max_size=9)
    | st.integers(0, 9).map(lambda first: [(n, "pump-1") for n in range(first, first + 4)]),
    max_size=6,
)


class OneByOne(Placer):
    """Places each event by itself."""

    def _go_on(self, _job: Job, _device_id: str, _events: list[Ready], _window: int) -> bool:
        return False


def memory_of_an_epoch() -> Memory:
    chains = iter(range(1000))
    return Memory("a" * 16, "b" * 64, {}, lambda: f"{next(chains):016x}")


def batch_of(body: list[tuple[int, str]]) -> Batch:
    found = READER.read([line(number, device) for number, device in body], lambda: "")
    assert all(isinstance(event, Ready) for event in found.found)
    return found


def by_device(job: Job) -> dict[str, list[tuple[str, list[bytes]]]]:
    """The entries of each device, in order, as what is read of them again; all lines agree."""
    found: dict[str, list[tuple[str, list[bytes]]]] = {}
    for entry, lines in job.entries():
        assert edge_entry.lines_of(entry) == lines
        assert entry.count == len(lines)
        found.setdefault(entry.device_id, []).append((entry.event_class, lines))
    return found


@given(bodies)
def test_placing_together_is_placing_one_by_one(given_bodies: list[list[tuple[int, str]]]) -> None:
    together, alone = memory_of_an_epoch(), memory_of_an_epoch()
    for now_ms, body in enumerate(given_bodies):
        answers: list[list[DeviceAnswer]] = []
        entries = []
        for placer, memory in ((Placer, together), (OneByOne, alone)):
            job = Job(now_ms)
            answers.append(placer(IDENTITY, memory).place_all(job, batch_of(body)))
            entries.append(by_device(job))
        assert answers[0] == answers[1]
        assert entries[0] == entries[1]
        assert together.devices == alone.devices


@given(bodies.filter(bool), st.integers(0, 5))
def test_what_was_placed_together_can_be_taken_back(
    given_bodies: list[list[tuple[int, str]]], kept: int
) -> None:
    memory = memory_of_an_epoch()
    jobs, before = [], deepcopy(memory.devices)
    for n, body in enumerate(given_bodies):
        if n == kept:
            before = deepcopy(memory.devices)
        job = Job(n)
        Placer(IDENTITY, memory).place_all(job, batch_of(body))
        jobs.append(job)
    for job in reversed(jobs[kept:]):
        job.undo(memory)
    if kept < len(jobs):
        assert memory.devices == before
