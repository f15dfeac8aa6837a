"""Planned faults: each happens where it is planned, and without any a port is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.adapters.embedded.metadata import open_sqlite
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.adapters.faulty import CLOCK_ERROR_MS, Fault, Faults, FaultyClock, faulty
from audit_platform.errors import (
    KeysUnavailable,
    LogUnavailable,
    MetadataUnavailable,
    StoreUnavailable,
)
from audit_platform.ports import Keys, Log, Metadata, NewRecord, Objects
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.contracts.keys_contract import KeysContract
from audit_platform_tests.contracts.log_contract import LogContract, read_all
from audit_platform_tests.contracts.metadata_contract import MetadataContract
from audit_platform_tests.contracts.objects_contract import ObjectsContract, put
from audit_platform_tests.contracts.test_log import EmbeddedLogWorld
from audit_platform_tests.contracts.test_objects import EmbeddedObjectsWorld

# ------------------------------------------------------------- without faults: the same contracts


class LogWorldWithoutFaults(EmbeddedLogWorld):
    """The embedded log, wrapped."""

    def client(self) -> Log:
        """See `LogWorld`."""
        return faulty(super().client(), LogUnavailable, Faults())


class TestLogWithoutFaults(LogContract):
    """The wrapper keeps what the log keeps; processes of their own have the log itself."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[LogWorldWithoutFaults]:
        """A log that is not there yet."""
        world = LogWorldWithoutFaults(tmp_path / "platform" / "log", RealFiles())
        yield world
        world.close()

    test_two_processes_append_to_one_partition_at_once = None  # type: ignore[assignment] # the log's own
    test_a_consumer_process_frozen_past_its_lease_and_thawed_changes_nothing = None  # type: ignore[assignment] # the log's own
    test_a_writer_process_frozen_between_appends_keeps_its_order = None  # type: ignore[assignment] # the log's own


class ObjectsWorldWithoutFaults(EmbeddedObjectsWorld):
    """The embedded store, wrapped."""

    def client(self) -> Objects:
        """See `ObjectsWorld`."""
        return faulty(super().client(), StoreUnavailable, Faults())


class TestObjectsWithoutFaults(ObjectsContract):
    """The wrapper keeps what the store keeps."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> ObjectsWorldWithoutFaults:
        """A store that is not there yet."""
        return ObjectsWorldWithoutFaults(tmp_path / "platform" / "cold")

    test_of_two_processes_that_claim_a_key_exactly_one_wins = None  # type: ignore[assignment] # the store's own
    test_a_process_frozen_and_thawed_may_write_and_changes_nothing = None  # type: ignore[assignment] # the store's own


# ------------------------------------------------------------------------------------ with faults


def objects_with(tmp_path: Path, plan: dict[int, Fault]) -> tuple[Objects, Objects, Faults]:
    """(wrapped, bare, what happens)."""
    bare = EmbeddedObjects(tmp_path / "objects", RealFiles(), ManualClock())
    faults = Faults(plan)
    return faulty(bare, StoreUnavailable, faults), bare, faults


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    opened = EmbeddedLog(tmp_path / "log", RealFiles(), ManualClock(), 1)
    yield opened
    opened.close()


def test_a_fault_before_leaves_nothing_and_one_after_leaves_everything(tmp_path: Path) -> None:
    store, bare, faults = objects_with(tmp_path, {1: Fault.BEFORE, 2: Fault.AFTER})
    with pytest.raises(StoreUnavailable, match="call 1, before"):
        put(store, "a/b", b"one")
    assert bare.oldest("a/b") is None
    with pytest.raises(StoreUnavailable, match="call 2, after"):
        put(store, "a/b", b"two")
    version = bare.oldest("a/b")
    assert version is not None
    assert store.get("a/b", version.version_id) == b"two"
    assert faults.calls == ["put", "put", "get"]
    assert faults.happened == [(1, "put", Fault.BEFORE), (2, "put", Fault.AFTER)]


def test_a_partial_append_leaves_some_records_and_promises_none(log: EmbeddedLog) -> None:
    wrapped: Log = faulty(log, LogUnavailable, Faults({1: Fault.PARTIAL}))
    records = [NewRecord(0, b"%d" % n) for n in range(4)]
    with pytest.raises(LogUnavailable):
        wrapped.append(EVENTS_TOPIC, records)
    assert [r.value for r in read_all(log, EVENTS_TOPIC, 0)] == [b"0", b"1"]
    wrapped.append(EVENTS_TOPIC, records)
    assert len(read_all(log, EVENTS_TOPIC, 0)) == 6


def test_a_listing_ends_early_or_fails_at_its_end(tmp_path: Path) -> None:
    store, bare, _ = objects_with(tmp_path, {1: Fault.PARTIAL, 2: Fault.AFTER, 3: Fault.BEFORE})
    for n in range(3):
        put(bare, f"a/{n}")
    for expected in (1, 3, 0):
        seen = []
        with pytest.raises(StoreUnavailable):  # noqa: PT012 - the listing fails on its way
            for version in store.versions("a/"):
                seen.append(version.key)  # noqa: PERF401 - what came before the error counts
        assert len(seen) == expected
    assert len(list(store.versions("a/"))) == 3


def test_a_reader_fails_when_it_is_closed(tmp_path: Path) -> None:
    store, bare, faults = objects_with(tmp_path, {1: Fault.AFTER})
    version = put(bare, "a/b", b"body")
    with (
        pytest.raises(StoreUnavailable),
        store.open("a/b", version.version_id) as file,
    ):
        assert file.read() == b"body"
    with store.open("a/b", version.version_id) as file:
        assert file.read() == b"body"
    assert faults.calls == ["open", "open"]


def test_a_group_members_calls_are_calls_of_the_log(log: EmbeddedLog) -> None:
    faults = Faults({2: Fault.BEFORE, 4: Fault.AFTER})
    wrapped: Log = faulty(log, LogUnavailable, faults)
    member = wrapped.join("readers", EVENTS_TOPIC, "one")
    with pytest.raises(LogUnavailable):
        member.assignment()
    assert member.assignment() == frozenset({0})
    with pytest.raises(LogUnavailable):
        member.commit(0, 7)
    assert member.committed(0) == 7
    assert faults.calls == ["join", "assignment", "assignment", "commit", "committed"]


def test_each_port_raises_its_own_error(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "metadata.db")
    metadata: Metadata = faulty(store, MetadataUnavailable, Faults({1: Fault.BEFORE}))
    with pytest.raises(MetadataUnavailable):
        metadata.tenants()
    assert metadata.tenants() == []
    store.close()
    keys: Keys = faulty(FileKeys(tmp_path / "keys"), KeysUnavailable, Faults({1: Fault.AFTER}))
    with pytest.raises(KeysUnavailable):
        keys.new("manifest", START_MS)
    assert len(keys.public_keys()) == 1


def test_a_delayed_call_waits_and_then_does_as_ever(tmp_path: Path) -> None:
    waited: list[int] = []
    bare = EmbeddedObjects(tmp_path / "objects", RealFiles(), ManualClock())
    faults = Faults({1: Fault.DELAY}, wait=lambda: waited.append(len(list(bare.versions("")))))
    store: Objects = faulty(bare, StoreUnavailable, faults)
    put(store, "a/b")
    put(store, "a/c")
    assert waited == [0]  # before the call's effect, and only there
    assert faults.happened == [(1, "put", Fault.DELAY)]


def test_a_part_of_what_has_no_parts_is_a_mistake_of_the_plan(tmp_path: Path) -> None:
    store, _, _ = objects_with(tmp_path, {1: Fault.PARTIAL})
    with pytest.raises(ValueError, match="no parts"):
        put(store, "a/b")


def test_a_clock_is_an_hour_wrong_for_one_reading() -> None:
    clock = FaultyClock(ManualClock(), Faults({1: Fault.BEFORE, 3: Fault.AFTER}))
    assert [clock.now_ms() - START_MS for _ in range(4)] == [
        -CLOCK_ERROR_MS,
        0,
        CLOCK_ERROR_MS,
        0,
    ]


def test_what_is_no_call_of_the_port_is_not_counted(tmp_path: Path) -> None:
    store, bare, faults = objects_with(tmp_path, {1: Fault.BEFORE})
    assert store.lock == bare.lock
    metadata = open_sqlite(tmp_path / "metadata.db")
    faulty(metadata, MetadataUnavailable, faults).close()
    assert faults.calls == []


# ------------------------------------------------ metadata and keys, without faults, in one process


class TestMetadataWithoutFaults(MetadataContract):
    """The wrapper keeps what the store keeps."""

    @pytest.fixture
    def metadata(self, tmp_path: Path) -> Iterator[Metadata]:
        """A new store."""
        store = open_sqlite(tmp_path / "metadata.db")
        yield faulty(store, MetadataUnavailable, Faults())
        store.close()

    test_two_processes_change_one_store_at_once_and_lose_nothing = None  # type: ignore[assignment] # the store's own
    test_a_process_frozen_and_thawed_sees_what_was_changed_meanwhile = None  # type: ignore[assignment] # the store's own


class TestKeysWithoutFaults(KeysContract):
    """The wrapper keeps what the keys keep."""

    @pytest.fixture
    def keys(self, tmp_path: Path) -> Keys:
        """No key yet."""
        return faulty(FileKeys(tmp_path / "keys"), KeysUnavailable, Faults())

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Callable[[], Keys]:
        """The same keys in another OS process."""
        return partial(FileKeys, tmp_path / "keys")
