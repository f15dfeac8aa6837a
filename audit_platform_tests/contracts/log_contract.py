"""What every `ports.Log` keeps. Subclass it and give the fixture `world`.

Not here: how a log keeps it (`audit_platform_tests/adapters/`), how its servers fail.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Protocol

import pytest

from audit_platform.errors import NotAssigned, OffsetOutOfRange, UnknownTopic
from audit_platform.ports import GroupMember, Log, LogRecord, NewRecord
from audit_platform_tests.actor import Actor, ActorError, actor

#: Enough to be asked for until members agree; an adapter that needs more does not converge.
ROUNDS = 200


class LogWorld(Protocol):
    """A fresh, empty log, and what the contract needs to do to it."""

    topic: str
    partitions: int

    def client(self) -> Log:
        """A log as another process has it. The world closes it."""
        ...

    def opener(self) -> Callable[[], Log]:
        """Makes a client in another OS process: picklable."""
        ...

    def pass_lease(self) -> None:
        """Let so much lease time pass that a member which did not call is out of its group."""
        ...

    def pass_moment(self) -> None:
        """Let members hear of each other, well within a lease."""
        ...


def read_all(log: Log, topic: str, partition: int, max_bytes: int = 1 << 20) -> list[LogRecord]:
    """Every record of a partition, read on from the last one until there is no more."""
    offset, _ = log.bounds(topic, partition)
    records: list[LogRecord] = []
    while more := log.read(topic, partition, offset, max_bytes):
        records += more
        offset = more[-1].offset + 1
    return records


def agree(world: LogWorld, *members: GroupMember) -> list[frozenset[int]]:
    """Ask members in turn until all partitions are assigned, each once, and every member has some.

    There are no more members than partitions: who has none has not been heard of yet.
    """
    everything = set(range(world.partitions))
    for _ in range(ROUNDS):
        held = [member.assignment() for member in members]
        if all(held) and sorted(p for h in held for p in h) == sorted(everything):
            return held
        world.pass_moment()
    raise AssertionError(f"no agreement after {ROUNDS} rounds")


def append_numbered(
    ready: Barrier, opener: Callable[[], Log], topic: str, writer: str, count: int
) -> None:
    """In a process of its own: append `count` records, one call each."""
    log = opener()
    ready.wait()
    for i in range(count):
        log.append(topic, [NewRecord(0, f"{writer} {i}".encode(), {"writer": writer})])


class Consumer:
    """In a process of its own: a log and a member of a group of it."""

    def __init__(self, opener: Callable[[], Log], topic: str, member: str) -> None:
        self._log = opener()
        self._topic = topic
        self._member = self._log.join("readers", topic, member)

    def assignment(self) -> frozenset[int]:
        """See `GroupMember`."""
        return self._member.assignment()

    def commit(self, partition: int, offset: int) -> None:
        """See `GroupMember`."""
        self._member.commit(partition, offset)

    def committed(self, partition: int) -> int | None:
        """See `GroupMember`."""
        return self._member.committed(partition)

    def leave(self) -> None:
        """See `GroupMember`."""
        self._member.leave()

    def append(self, value: bytes) -> int:
        """Append one record to partition 0; its offset."""
        return self._log.append(self._topic, [NewRecord(0, value)])[0]


class RemoteMember:
    """A `GroupMember` whose consumer is an actor's."""

    def __init__(self, process: Actor) -> None:
        self._process = process

    def assignment(self) -> frozenset[int]:
        """See `GroupMember`."""
        held: frozenset[int] = self._process.ask(Consumer.assignment)
        return held

    def commit(self, partition: int, offset: int) -> None:
        """See `GroupMember`; what is raised is an `ActorError`."""
        self._process.ask(Consumer.commit, partition, offset)

    def committed(self, partition: int) -> int | None:
        """See `GroupMember`."""
        found: int | None = self._process.ask(Consumer.committed, partition)
        return found

    def leave(self) -> None:
        """See `GroupMember`."""
        self._process.ask(Consumer.leave)


class LogContract:
    """The promises of the port, one test each."""

    def test_records_come_back_in_order_as_they_were_given(self, world: LogWorld) -> None:
        log = world.client()
        offsets = log.append(
            world.topic, [NewRecord(0, b"one", {"v": "1", "tenant": "north"}), NewRecord(0, b"two")]
        )
        offsets += log.append(world.topic, [NewRecord(0, b"")])
        records = read_all(log, world.topic, 0)
        assert [(r.topic, r.partition) for r in records] == [(world.topic, 0)] * 3
        assert [r.offset for r in records] == offsets == sorted(set(offsets))
        assert [r.value for r in records] == [b"one", b"two", b""]
        assert [dict(r.headers) for r in records] == [{"v": "1", "tenant": "north"}, {}, {}]
        assert 0 < records[0].appended_ms <= records[1].appended_ms <= records[2].appended_ms

    def test_offsets_are_returned_in_the_order_of_the_records(self, world: LogWorld) -> None:
        log = world.client()
        given = [NewRecord(p, f"{p} {i}".encode()) for i in range(3) for p in (1, 0)]
        offsets = log.append(world.topic, given)
        for record, offset in zip(given, offsets, strict=True):
            (read, *_) = log.read(world.topic, record.partition, offset, 1)
            assert (read.offset, read.value) == (offset, record.value)

    def test_an_append_of_nothing_does_nothing(self, world: LogWorld) -> None:
        log = world.client()
        assert log.append(world.topic, []) == []
        assert log.bounds(world.topic, 0) == (0, 0)

    def test_an_empty_partition_has_nothing_to_read(self, world: LogWorld) -> None:
        log = world.client()
        assert log.bounds(world.topic, 0) == (0, 0)
        assert log.read(world.topic, 0, 0, 1 << 20) == []

    def test_reading_at_the_end_is_empty_and_beyond_it_is_an_error(self, world: LogWorld) -> None:
        log = world.client()
        (offset,) = log.append(world.topic, [NewRecord(0, b"one")])
        start, end = log.bounds(world.topic, 0)
        assert (start, end) == (offset, offset + 1)
        assert log.read(world.topic, 0, end, 100) == []
        with pytest.raises(OffsetOutOfRange) as caught:
            log.read(world.topic, 0, end + 1, 100)
        assert (caught.value.offset, caught.value.start, caught.value.end) == (end + 1, start, end)

    def test_a_read_gives_about_as_much_as_asked_and_at_least_one(self, world: LogWorld) -> None:
        log = world.client()
        log.append(world.topic, [NewRecord(0, bytes([i]) * 1000) for i in range(10)])
        assert len(log.read(world.topic, 0, 0, 1)) == 1
        some = log.read(world.topic, 0, 0, 3500)
        assert 3 <= len(some) <= 5
        assert [r.value[0] for r in read_all(log, world.topic, 0, 1500)] == list(range(10))
        assert [r.value[0] for r in log.read(world.topic, 0, 7, 1 << 20)] == [7, 8, 9]

    def test_the_largest_value_is_kept_and_a_larger_one_is_refused(self, world: LogWorld) -> None:
        log = world.client()
        largest = bytes(range(256)) * 4096
        log.append(world.topic, [NewRecord(0, largest)])
        with pytest.raises(ValueError, match="1048576"):
            log.append(world.topic, [NewRecord(0, b"fine"), NewRecord(0, largest + b"x")])
        assert [r.value for r in read_all(log, world.topic, 0)] == [largest]

    def test_an_unknown_topic_or_partition_writes_nothing(self, world: LogWorld) -> None:
        log = world.client()
        with pytest.raises(UnknownTopic):
            log.append("no.such.topic", [NewRecord(0, b"x")])
        with pytest.raises(UnknownTopic):
            log.describe("no.such.topic")
        for partition in (-1, world.partitions):
            with pytest.raises(ValueError, match="partition"):
                log.append(world.topic, [NewRecord(0, b"x"), NewRecord(partition, b"y")])
        assert read_all(log, world.topic, 0) == []

    def test_a_topic_has_the_same_id_for_everybody(self, world: LogWorld) -> None:
        one, two = world.client(), world.client()
        info = one.describe(world.topic)
        assert (info.name, info.partitions) == (world.topic, world.partitions)
        assert info.topic_id
        assert two.describe(world.topic) == info

    def test_what_was_acknowledged_is_read_by_others_at_once(self, world: LogWorld) -> None:
        one, two = world.client(), world.client()
        for i in range(5):
            one.append(world.topic, [NewRecord(0, f"one {i}".encode())])
            two.append(world.topic, [NewRecord(0, f"two {i}".encode())])
            for log in (one, two, world.client()):
                records = read_all(log, world.topic, 0)
                assert len(records) == 2 * (i + 1) == log.bounds(world.topic, 0)[1]
                assert [r.value for r in records[-2:]] == [b"one %d" % i, b"two %d" % i]

    def test_threads_share_a_client_and_each_keeps_its_order(self, world: LogWorld) -> None:
        log = world.client()
        told: dict[int, list[int]] = defaultdict(list)

        def write(writer: int) -> None:
            for i in range(20):
                records = [NewRecord(p, b"%d %d %d" % (writer, i, p)) for p in (0, 1)]
                told[writer] += log.append(world.topic, records)[:1]

        threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for partition in (0, 1):
            values = [r.value.split() for r in read_all(log, world.topic, partition)]
            assert len(values) == 6 * 20
            for writer in range(6):
                mine = [int(i) for w, i, _ in values if int(w) == writer]
                assert mine == list(range(20))
        assert len({o for offsets in told.values() for o in offsets}) == 6 * 20
        assert all(offsets == sorted(offsets) for offsets in told.values())

    # ---------------------------------------------------------------------------------- groups

    def test_a_lone_member_has_all_partitions(self, world: LogWorld) -> None:
        member = world.client().join("readers", world.topic, "one")
        assert agree(world, member) == [frozenset(range(world.partitions))]

    def test_members_share_the_partitions_evenly(self, world: LogWorld) -> None:
        members = [world.client().join("readers", world.topic, f"m{i}") for i in range(3)]
        assert sorted(len(held) for held in agree(world, *members)) == [1, 1, 2]
        members.pop().leave()
        assert sorted(len(held) for held in agree(world, *members)) == [2, 2]

    def test_groups_do_not_share(self, world: LogWorld) -> None:
        everything = frozenset(range(world.partitions))
        one = world.client().join("readers", world.topic, "one")
        two = world.client().join("indexers", world.topic, "one")
        assert agree(world, one) == agree(world, two) == [everything]
        one.commit(0, 5)
        assert (one.committed(0), two.committed(0)) == (5, None)

    def test_a_member_that_does_not_call_loses_its_partitions(self, world: LogWorld) -> None:
        one = world.client().join("readers", world.topic, "one")
        two = world.client().join("readers", world.topic, "two")
        held, _ = agree(world, one, two)
        mine = min(held)
        one.commit(mine, 3)
        world.pass_lease()
        assert agree(world, two) == [frozenset(range(world.partitions))]
        with pytest.raises(NotAssigned):
            one.commit(mine, 9)
        assert two.committed(mine) == 3

    def test_only_what_is_assigned_can_be_committed(self, world: LogWorld) -> None:
        one = world.client().join("readers", world.topic, "one")
        two = world.client().join("readers", world.topic, "two")
        ours, theirs = agree(world, one, two)
        one.commit(min(ours), 1)
        with pytest.raises(NotAssigned):
            one.commit(min(theirs), 1)
        assert two.committed(min(theirs)) is None
        assert two.committed(min(ours)) == 1

    def test_who_leaves_gives_up_at_once_and_may_leave_twice(self, world: LogWorld) -> None:
        one = world.client().join("readers", world.topic, "one")
        two = world.client().join("readers", world.topic, "two")
        held, _ = agree(world, one, two)
        one.leave()
        one.leave()
        assert agree(world, two) == [frozenset(range(world.partitions))]
        with pytest.raises(NotAssigned):
            one.commit(min(held), 1)

    def test_who_joins_again_goes_on_from_what_was_committed(self, world: LogWorld) -> None:
        first = world.client().join("readers", world.topic, "one")
        agree(world, first)
        first.commit(1, 42)
        again = world.client().join("readers", world.topic, "one")
        assert agree(world, again) == [frozenset(range(world.partitions))]
        assert again.committed(1) == 42
        assert again.committed(0) is None
        with pytest.raises(NotAssigned):
            first.commit(1, 43)

    def test_anybody_is_told_what_a_group_committed_and_is_no_member_for_it(
        self, world: LogWorld
    ) -> None:
        log = world.client()
        assert log.committed("readers", world.topic) == {}
        one = log.join("readers", world.topic, "one")
        held = agree(world, one)
        one.commit(1, 42)
        assert world.client().committed("readers", world.topic) == {1: 42}
        assert world.client().committed("indexers", world.topic) == {}
        assert agree(world, one) == held
        one.leave()
        assert log.committed("readers", world.topic) == {1: 42}

    def test_a_record_gets_the_time_that_the_log_says_it_is(self, world: LogWorld) -> None:
        log = world.client()
        before = log.now_ms()
        log.append(world.topic, [NewRecord(0, b"x")])
        (record,) = log.read(world.topic, 0, 0, 1)
        assert before - 1000 <= record.appended_ms <= log.now_ms() + 1000

    # ------------------------------------------------------------------------------- processes

    def test_two_processes_append_to_one_partition_at_once(self, world: LogWorld) -> None:
        writers = ("one", "two")
        run_processes(
            [(append_numbered, (world.opener(), world.topic, writer, 40)) for writer in writers]
        )
        records = read_all(world.client(), world.topic, 0)
        offsets = [r.offset for r in records]
        assert len(offsets) == 80
        assert offsets == sorted(set(offsets))
        for writer in writers:
            mine = [r.value.decode() for r in records if r.headers["writer"] == writer]
            assert mine == [f"{writer} {i}" for i in range(40)]

    def test_a_consumer_process_frozen_past_its_lease_and_thawed_changes_nothing(
        self, world: LogWorld
    ) -> None:
        opener, topic = world.opener(), world.topic
        with (
            actor(partial(Consumer, opener, topic, "one")) as one,
            actor(partial(Consumer, opener, topic, "two")) as two,
        ):
            frozen, other = RemoteMember(one), RemoteMember(two)
            held, _ = agree(world, frozen, other)
            mine = min(held)
            frozen.commit(mine, 3)
            one.freeze()
            world.pass_lease()
            assert agree(world, other) == [frozenset(range(world.partitions))]
            other.commit(mine, 9)
            two.ask(Consumer.append, b"while frozen")
            one.thaw()
            with pytest.raises(ActorError) as caught:
                frozen.commit(mine, 5)
            assert caught.value.name == NotAssigned.__name__
            assert [m.committed(mine) for m in (frozen, other)] == [9, 9]
            # It may still write, as any writer may; nothing that others wrote is changed by it.
            one.ask(Consumer.append, b"thawed")
            values = [r.value for r in read_all(world.client(), topic, 0)]
            assert values == [b"while frozen", b"thawed"]
            for _ in range(ROUNDS):
                if frozen.assignment():  # it joins again by asking, and gets what the other gives
                    break
                world.pass_moment()
                other.assignment()
            both = agree(world, other, frozen)
            assert all(both)

    def test_a_writer_process_frozen_between_appends_keeps_its_order(self, world: LogWorld) -> None:
        consumer = partial(Consumer, world.opener(), world.topic, "one")
        log = world.client()
        with actor(consumer) as writer:
            for n in range(4):
                writer.ask(Consumer.append, b"theirs %d" % n)
                writer.freeze()
                log.append(world.topic, [NewRecord(0, b"ours %d" % n)])
                writer.thaw()
        values = [r.value for r in read_all(log, world.topic, 0)]
        assert values == [who % n for n in range(4) for who in (b"theirs %d", b"ours %d")]


def run_processes(work: Sequence[tuple[Callable[..., None], tuple[object, ...]]]) -> None:
    """Run functions each in a fresh OS process at once; all must end well.

    Each is given a barrier first, to wait at when it is ready: so they really run side by side.
    """
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(len(work))
    processes = [context.Process(target=target, args=(ready, *args)) for target, args in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
