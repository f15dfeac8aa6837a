"""A hold is put on by one person and lifted by two, on every object of the day."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.errors import ObjectLocked, RecordMalformed, SealRefused
from audit_platform.operations import legal_hold
from audit_platform.operations.legal_hold import (
    approve_lift,
    ask_lift,
    held_days,
    hold_day,
    hold_of,
    keep_holds,
)
from audit_platform.operations.manifests import named_objects, read_history
from audit_platform.ports import ObjectVersion
from audit_platform.record import layout
from audit_platform.record.hold import HoldAct
from audit_platform_tests import attackers
from audit_platform_tests.world import DAY, World, open_world, sealed_day

WHY = "order of the court, file 4711, all pumps of ward 3"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path, partitions=1) as opened:
        sealed_day(opened)
        yield opened


def versions(world: World) -> list[ObjectVersion]:
    """The day's manifest and the objects that it names, as stored now."""
    objects = world.platform.objects
    manifest = read_history(world.platform, "north").counting[DAY]
    key = objects.oldest(layout.manifest_key("north", 1))
    assert key is not None
    return [key, *(objects.head(o.key, o.version_id) for o in named_objects(manifest))]


def test_one_person_puts_a_hold_on_every_object_of_the_day(world: World) -> None:
    done = hold_day(world.platform, "north", DAY, "counsel-2", WHY)
    held = versions(world)
    assert done.objects == len(held) == 2
    assert all(v.legal_hold for v in held)
    world.clock.advance(3 * 366 * layout.MS_PER_DAY)
    with pytest.raises(ObjectLocked):
        world.platform.objects.delete(held[1].key, held[1].version_id)
    assert list(held_days(world.platform)) == [("north", DAY)]


def test_one_person_alone_lifts_nothing_however_the_name_is_typed(world: World) -> None:
    hold_day(world.platform, "north", DAY, "counsel-2", WHY)
    with pytest.raises(SealRefused, match="nobody asked"):
        approve_lift(world.platform, "north", DAY, "auditor-7", WHY)
    ask_lift(world.platform, "north", DAY, "auditor-7", WHY)
    for name in ("auditor-7", " Auditor-7 ", "\uff41uditor-7"):
        with pytest.raises(SealRefused, match="cannot lift it as well"):
            approve_lift(world.platform, "north", DAY, name, WHY)
    assert all(v.legal_hold for v in versions(world))


def test_a_second_person_lifts_it_and_the_locks_stay(world: World) -> None:
    hold_day(world.platform, "north", DAY, "counsel-2", WHY)
    ask_lift(world.platform, "north", DAY, "auditor-7", WHY)
    done = approve_lift(world.platform, "north", DAY, "counsel-2", WHY)
    assert (done.record.person, done.objects) == ("counsel-2", 2)
    left = versions(world)
    assert not any(v.legal_hold for v in left)
    assert all(v.retain_until_ms > world.clock.now_ms() for v in left)
    found = hold_of(world.platform, "north", DAY)
    assert found is not None
    assert not found.stands
    again = hold_day(world.platform, "north", DAY, "counsel-2", WHY)
    assert again.record.number == 2
    with pytest.raises(SealRefused, match="nobody asked"):  # an old request lifts no new hold
        approve_lift(world.platform, "north", DAY, "auditor-9", WHY)


def test_who_asks_first_counts(world: World) -> None:
    hold_day(world.platform, "north", DAY, "counsel-2", WHY)
    ask_lift(world.platform, "north", DAY, "auditor-7", WHY)
    assert ask_lift(world.platform, "north", DAY, "auditor-8", WHY).person == "auditor-7"


def test_a_hold_that_was_killed_half_way_is_finished_by_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(legal_hold, "_set", _dies)
        with pytest.raises(KeyboardInterrupt):
            hold_day(world.platform, "north", DAY, "counsel-2", WHY)
    assert not any(v.legal_hold for v in versions(world))
    assert keep_holds(world.platform) == [("north", DAY, 2)]
    assert all(v.legal_hold for v in versions(world))
    ask_lift(world.platform, "north", DAY, "auditor-7", WHY)
    with monkeypatch.context() as patched:
        patched.setattr(legal_hold, "_set", _dies)
        with pytest.raises(KeyboardInterrupt):
            approve_lift(world.platform, "north", DAY, "counsel-2", WHY)
    assert approve_lift(world.platform, "north", DAY, "counsel-2", WHY).objects == 2
    assert not any(v.legal_hold for v in versions(world))


def _dies(*_arguments: object, **_named: object) -> int:
    raise KeyboardInterrupt


def test_a_standing_hold_keeps_locks_from_running_out(world: World) -> None:
    hold_day(world.platform, "north", DAY, "counsel-2", WHY)
    world.clock.ms = versions(world)[1].retain_until_ms - layout.MS_PER_DAY
    keep_holds(world.platform)
    assert all(
        v.retain_until_ms > world.clock.now_ms() + 700 * layout.MS_PER_DAY for v in versions(world)
    )


def test_what_says_too_little_and_a_day_without_a_manifest_are_refused(world: World) -> None:
    for person, reason in (("", WHY), ("counsel-2", "too short"), ("c" * 129, WHY)):
        with pytest.raises(SealRefused):
            hold_day(world.platform, "north", DAY, person, reason)
    with pytest.raises(SealRefused, match="no manifest"):
        hold_day(world.platform, "north", layout.next_day(DAY), "counsel-2", WHY)
    with pytest.raises(SealRefused, match="no hold stands"):
        ask_lift(world.platform, "north", DAY, "counsel-2", WHY)
    assert list(held_days(world.platform)) == []


def test_a_forged_request_lifts_nothing(world: World) -> None:
    hold_day(world.platform, "north", DAY, "counsel-2", WHY)
    ask_lift(world.platform, "north", DAY, "auditor-7", WHY)
    key = layout.hold_key("north", DAY, 1, HoldAct.LIFT_ASKED)
    attackers.flip(world.objects_folder / key, 30)
    with pytest.raises(RecordMalformed):
        approve_lift(world.platform, "north", DAY, "auditor-7", WHY)
    assert all(v.legal_hold for v in versions(world))
