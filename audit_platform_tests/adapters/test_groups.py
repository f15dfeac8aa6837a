"""Consumer groups on their files: leases end with their time and with their boot."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from audit_platform.adapters.embedded.files import FsyncSite, mkdirs, write_file
from audit_platform.adapters.embedded.groups import LEASE_SECONDS, EmbeddedGroupMember
from audit_platform.errors import LogUnavailable, NotAssigned
from audit_platform_tests.powercut import PowerCutFiles

FOLDER: Final = Path("/log/topic")
ALL: Final = frozenset(range(5))


class Hall:
    """A topic of five partitions, and the lease clock."""

    def __init__(self) -> None:
        self.files = PowerCutFiles()
        mkdirs(self.files, FOLDER, FsyncSite.LOG_FOLDER)
        self.seconds = 50.0
        self.boot = "first boot"

    def join(self, member: str) -> EmbeddedGroupMember:
        """A member of the group `readers`."""
        return EmbeddedGroupMember(
            self.files,
            FOLDER,
            "readers",
            member,
            partitions=len(ALL),
            monotonic=lambda: self.seconds,
            boot=self.boot,
        )


@pytest.fixture
def hall() -> Hall:
    """An empty group."""
    return Hall()


def test_a_lease_is_kept_by_asking_and_ends_to_the_second(hall: Hall) -> None:
    one = hall.join("one")
    assert one.assignment() == ALL
    for _ in range(5):
        hall.seconds += LEASE_SECONDS - 0.001
        one.commit(0, 1)
        assert one.assignment() == ALL
    hall.seconds += LEASE_SECONDS
    with pytest.raises(NotAssigned):
        one.commit(0, 2)
    assert one.committed(0) == 1
    assert one.assignment() == ALL  # nobody else came
    one.commit(0, 2)


def test_a_partition_moves_only_when_its_owner_has_been_told(hall: Hall) -> None:
    one, two = hall.join("one"), hall.join("two")
    assert one.assignment() == {0, 1, 2}  # two is there already, and waits
    assert two.assignment() == {3, 4}
    three = hall.join("three")
    assert three.assignment() == frozenset()
    one.commit(2, 7)
    assert one.assignment() == {0, 1}
    with pytest.raises(NotAssigned):
        one.commit(2, 8)
    assert three.assignment() == {2}
    assert two.assignment() == {3, 4}
    assert three.committed(2) == 7


def test_more_members_than_partitions_leave_some_without(hall: Hall) -> None:
    members = [hall.join(f"m{i}") for i in range(7)]
    held = [member.assignment() for member in members]
    assert sorted(len(h) for h in held) == [0, 0, 1, 1, 1, 1, 1]
    members[0].leave()
    assert sorted(p for m in members[1:] for p in m.assignment()) == sorted(ALL)


def test_an_older_instance_of_a_name_holds_nothing(hall: Hall) -> None:
    old = hall.join("one")
    assert old.assignment() == ALL
    new = hall.join("one")
    assert old.assignment() == frozenset()
    with pytest.raises(NotAssigned):
        old.commit(0, 1)
    old.leave()  # and does not take the new one along
    assert new.assignment() == ALL
    new.commit(0, 1)


def test_asking_often_writes_seldom(hall: Hall) -> None:
    one = hall.join("one")
    one.assignment()
    before = hall.files.operations
    for _ in range(100):
        hall.seconds += LEASE_SECONDS / 1000
        one.assignment()
    assert hall.files.operations == before
    hall.seconds += LEASE_SECONDS / 3
    one.assignment()
    assert hall.files.operations > before


def test_a_reboot_ends_every_lease_and_keeps_the_offsets(hall: Hall) -> None:
    one = hall.join("one")
    one.assignment()
    one.commit(3, 9)
    hall.files.end_process()  # in good order: the leases are on the disk
    hall.boot, hall.seconds = "second boot", 1.0
    two = hall.join("two")
    assert two.assignment() == ALL
    assert two.committed(3) == 9


def test_leases_that_a_power_cut_left_unfinished_count_as_none(hall: Hall) -> None:
    hall.join("one").assignment()
    for garbage in (b"", b"{", b"[1]", b"\x00" * 50):
        write_file(hall.files, FOLDER / "groups" / "readers.leases", garbage, None)
        two = hall.join("two")
        assert two.assignment() == ALL


def test_a_failing_disk_is_unavailable_and_changes_nothing(hall: Hall) -> None:
    one = hall.join("one")
    one.assignment()
    one.commit(0, 1)
    for number in range(1, 5):
        hall.files.fail_at = hall.files.operations + number
        with pytest.raises(LogUnavailable):
            one.commit(0, 1 + number)
        assert hall.join("reader").committed(0) in (number, 1 + number)
        one.commit(0, 1 + number)


@pytest.mark.parametrize(("group", "member"), [("", "m"), ("../x", "m"), ("a/b", "m"), ("g", "")])
def test_a_malformed_name_is_refused(hall: Hall, group: str, member: str) -> None:
    with pytest.raises(ValueError, match="not a group"):
        EmbeddedGroupMember(
            hall.files, FOLDER, group, member, partitions=1, monotonic=lambda: 0.0, boot=""
        )
