"""A sealed day whose bytes were changed is made whole again, leaf by leaf, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from audit_platform.adapters.directory import DirectorySource
from audit_platform.errors import RecordMalformed, SealRefused
from audit_platform.operations.judgement import judge_day
from audit_platform.operations.late import close_again
from audit_platform.operations.manifests import read_history
from audit_platform.operations.rearchive import rearchive_day
from audit_platform.operations.verify import trusted_keys
from audit_platform.ports import Objects
from audit_platform.record import fsck, layout
from audit_platform.record.manifest import Manifest
from audit_platform.record.revisions import replaced_parts
from audit_platform_tests import attackers
from audit_platform_tests.world import DAY, World, open_world

NEXT = layout.next_day(DAY)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two sealed days; the second one repeats some events of the first, and one came late."""
    with open_world(tmp_path / "home") as opened:
        edge = opened.edge("north")
        now = opened.clock.now_ms()
        first = [edge.start(now), *edge.heartbeats(3, 6, now)]
        opened.ingest("north", first)
        opened.archive()
        opened.close(DAY)
        opened.seal("north", DAY)
        opened.ingest("north", [*first[2:6], *edge.heartbeats(3, 2, opened.clock.now_ms())])
        opened.archive()
        opened.close(NEXT)
        opened.seal("north", NEXT)
        yield opened


def standing(world: World, day: str = DAY) -> Manifest:
    """The manifest that counts."""
    return read_history(world.platform, "north").counting[day]


def part_file(world: World, day: str = DAY) -> Path:
    """The file of the day's one part."""
    (part,) = standing(world, day).parts
    return world.objects_folder / part.object.key


def is_green(world: World, day: str) -> bool:
    """Every check of a day, its bytes read again."""
    return all(a.passed for a in judge_day(world.platform, "north", day).answers)


@pytest.mark.parametrize("day", [DAY, NEXT])
def test_a_flipped_bit_is_repaired_out_of_landing_under_the_same_root(
    world: World, day: str
) -> None:
    before = standing(world, day)
    file = part_file(world, day)
    attackers.flip(file, file.stat().st_size // 2)
    assert not is_green(world, day)
    done = rearchive_day(world.platform, "north", day)
    after = standing(world, day)
    assert [r.source for r in done.repaired] == ["landing"]
    assert (after.root, after.rows, after.chains) == (before.root, before.rows, before.chains)
    assert (after.number, after.revision) == (3, 2)
    assert done.repaired[0].old_key == before.parts[0].object.key
    assert done.repaired[0].new_key == after.parts[0].object.key != before.parts[0].object.key
    assert is_green(world, DAY)
    assert is_green(world, NEXT)
    # The damaged version is evidence: it is still there.
    assert file.is_file()


class Strict:
    """A store that looks at what it hands out, as S3 with checksums does."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.refused: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def get(self, key: str, version_id: str) -> bytes:
        """Refused where the bytes have changed; `open` gives them as they are."""
        data = self._objects.get(key, version_id)
        if hashlib.sha256(data).hexdigest()[:16] not in key and "/part-" in key:
            self.refused.append(key)
            raise RecordMalformed(key, "sha256", "its bytes have changed")
        return data


def test_a_store_that_finds_the_damage_itself_is_repaired_too(world: World) -> None:
    file = part_file(world)
    attackers.flip(file, file.stat().st_size // 2)
    strict = Strict(world.platform.objects)
    platform = replace(world.platform, objects=cast("Objects", strict))
    done = rearchive_day(platform, "north", DAY)
    assert strict.refused == [done.repaired[0].old_key]
    assert [r.source for r in done.repaired] == ["landing"]
    assert is_green(world, DAY)


def test_a_day_that_is_whole_is_left_alone(world: World) -> None:
    done = rearchive_day(world.platform, "north", DAY)
    assert (done.repaired, done.manifest_number) == ((), 1)
    assert len(read_history(world.platform, "north").manifests) == 2


def test_a_second_repair_finds_nothing_to_do(world: World) -> None:
    attackers.flip(part_file(world), 100)
    rearchive_day(world.platform, "north", DAY)
    assert rearchive_day(world.platform, "north", DAY).repaired == ()


def test_a_part_that_is_gone_comes_back(world: World) -> None:
    part_file(world).unlink()
    assert rearchive_day(world.platform, "north", DAY).repaired
    assert is_green(world, DAY)


def test_what_landing_cannot_prove_any_more_is_refused_and_nothing_changes(world: World) -> None:
    attackers.flip(part_file(world), 100)
    landed = sorted((world.objects_folder / "landing/v1/tenant=north" / f"day={DAY}").iterdir())
    attackers.flip(landed[0], landed[0].stat().st_size // 2)
    with pytest.raises(SealRefused):
        rearchive_day(world.platform, "north", DAY)
    assert len(read_history(world.platform, "north").manifests) == 2


def test_landing_that_is_gone_in_part_does_not_pass_for_the_day(world: World) -> None:
    attackers.flip(part_file(world), 100)
    landed = world.objects_folder / "landing/v1/tenant=north" / f"day={DAY}"
    min(landed.iterdir()).unlink()
    with pytest.raises(SealRefused, match="cannot be made again"):
        rearchive_day(world.platform, "north", DAY)
    assert len(read_history(world.platform, "north").manifests) == 2


def test_another_version_with_the_signed_bytes_is_the_nearest_proof(world: World) -> None:
    file = part_file(world)
    (part,) = standing(world).parts
    whole = file.read_bytes()
    until = world.clock.now_ms() + 1000
    world.platform.objects.put(part.object.key, whole, retain_until_ms=until, if_absent=False)
    attackers.flip(file, 100)
    (repaired,) = rearchive_day(world.platform, "north", DAY).repaired
    assert repaired.source == "another stored version"
    assert (world.objects_folder / repaired.new_key).read_bytes() == whole
    assert is_green(world, DAY)


def test_an_outsider_finds_the_repaired_record_clean(world: World) -> None:
    attackers.flip(part_file(world), 100)
    rearchive_day(world.platform, "north", DAY)
    report = fsck.check(DirectorySource(world.objects_folder), trusted_keys(world.platform))
    assert report.findings == []
    assert "a repair has put the same leaves anew" in " ".join(e.message for e in report.entries)


def test_a_replaced_part_with_another_root_is_no_repair(world: World) -> None:
    """The rule by roots must not excuse a revision that lost a row."""
    before = standing(world)
    (part,) = before.parts
    other = replace(part, root="0" * 64)
    assert replaced_parts([before, replace(before, parts=(other,))]) == set()
    moved = replace(part, object=replace(part.object, version_id="2-x"))
    place = (part.object.key, part.object.version_id)
    assert replaced_parts([before, replace(before, parts=(moved,))]) == {place}


def test_late_rows_of_a_revision_are_repaired_with_it(world: World) -> None:
    edge = world.edge("north", seed=1)
    at_ms = layout.day_end_ms(DAY) - 1
    world.ingest("north", [edge.start(at_ms), *edge.heartbeats(2, 2, at_ms)], at_ms=at_ms)
    world.archive()
    assert close_again(world.platform, DAY) is not None
    world.seal("north", DAY)
    before = standing(world)
    assert before.revision == 2
    attackers.flip(part_file(world), 100)
    done = rearchive_day(world.platform, "north", DAY)
    assert [r.source for r in done.repaired] == ["landing"]
    assert (standing(world).root, standing(world).revision) == (before.root, 3)
    assert is_green(world, DAY)
