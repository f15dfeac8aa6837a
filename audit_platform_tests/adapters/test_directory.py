"""A folder as fsck's source sees what the embedded store's version records say lies over an object.

The record here is a real store's, changed through the store itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.adapters.directory import DirectorySource
from audit_platform.record import fsck, layout
from audit_platform_tests.world import World, open_world, sealed_day

TENANT = "north"
MANIFEST = layout.manifest_key(TENANT, 1)


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as world:
        sealed_day(world, TENANT)
        yield world


def _findings(world: World) -> list[tuple[str, str]]:
    keys = [fsck.TrustedKey(k.key_id, k.public_key) for k in world.platform.keys.public_keys()]
    report = fsck.check(DirectorySource(world.objects_folder), keys)
    assert report.manifests
    return [(e.key, e.verdict) for e in report.findings]


def _part(world: World) -> str:
    keys = DirectorySource(world.objects_folder).keys(f"{layout.COLD}/")
    return next(key for key in keys if layout.parse_part(key))


def test_nothing_lies_over_an_untouched_record(world: World) -> None:
    source = DirectorySource(world.objects_folder)
    keys = list(source.keys(""))
    assert len(keys) > 3
    assert {source.hidden(key) for key in keys} == {""}
    assert _findings(world) == []


def test_a_delete_marker_over_a_manifest_or_a_part_is_found(world: World) -> None:
    for key in (MANIFEST, _part(world)):
        world.platform.objects.delete(key)
        assert DirectorySource(world.objects_folder).hidden(key) == (
            "a delete marker lies over the object"
        )
        assert (key, "hidden") in _findings(world)


def test_a_newer_version_is_found_when_its_bytes_differ_and_only_then(world: World) -> None:
    key = _part(world)
    oldest = world.platform.objects.oldest(key)
    assert oldest is not None
    same = world.platform.objects.get(key, oldest.version_id)
    world.platform.objects.put(key, same, retain_until_ms=0, if_absent=False)
    assert _findings(world) == []
    world.platform.objects.put(key, b"other", retain_until_ms=0, if_absent=False)
    assert "number 3" in DirectorySource(world.objects_folder).hidden(key)
    assert (key, "hidden") in _findings(world)


def test_a_newer_version_that_was_removed_for_good_lies_over_nothing(world: World) -> None:
    key = _part(world)
    put = world.platform.objects.put(key, b"other", retain_until_ms=0, if_absent=False)
    world.platform.objects.delete(key, put.version_id)
    assert _findings(world) == []


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"removed": false, "number": "x"}'])
def test_a_version_record_that_cannot_be_read_is_a_finding_and_no_crash(
    world: World, damage: bytes
) -> None:
    record = world.objects_folder / ".meta" / f"{MANIFEST}@1.json"
    assert record.exists()
    record.chmod(0o600)
    record.write_bytes(damage)
    assert "cannot be read" in DirectorySource(world.objects_folder).hidden(MANIFEST)
    assert (MANIFEST, "hidden") in _findings(world)
