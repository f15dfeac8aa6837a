"""Objects over power cuts: every version told of is there with its bytes and its lock.

Also that each fsync is needed: with any one left out, the same check finds something lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from audit_platform.adapters.embedded.files import FsyncSite
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.errors import ObjectExists, ObjectNotFound
from audit_platform.ports import ObjectVersion
from audit_platform_tests.adapters.lives import broken_promises
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.powercut import PowerCutFiles

ROOT: Final = Path("/srv/audit/cold")
SITES: Final = [s for s in FsyncSite if s.startswith("object_")]
KEYS: Final = ("cold/v1/a-1.parquet", "cold/v1/a-2.parquet", "cold/v1/m/1.json", "cold/gone.bin")
LATER: Final = START_MS + 1000


class ObjectsScript:
    """Puts, versions, locks, markers and removals by two processes that take turns."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], ObjectVersion] = {}
        self.bodies: dict[tuple[str, str], bytes] = {}
        self.removed: set[tuple[str, str]] = set()
        self.removing: set[tuple[str, str]] = set()

    def run(self, files: PowerCutFiles) -> None:
        """See `Script.run`."""
        one = EmbeddedObjects(ROOT, files, ManualClock())
        two = EmbeddedObjects(ROOT, files, ManualClock())
        first = self._put(one, KEYS[0], b"first" * 20)
        self._put(two, KEYS[1], b"second", until=LATER)
        self._put(one, KEYS[0], b"newer", if_absent=False)
        self._told(one.extend(KEYS[0], first.version_id, LATER))
        self._told(two.extend(KEYS[0], first.version_id, LATER + 5))
        self._put(two, KEYS[2], b"{}", until=LATER)
        self._put(one, KEYS[2], b"too late")
        gone = self._put(one, KEYS[3], b"gone" * 10)
        one.delete(KEYS[0])
        self._list(two)
        one.set_legal_hold(KEYS[1], self._only(KEYS[1]), hold=True)
        self._told(two.head(KEYS[1], self._only(KEYS[1])))
        self._remove(two, gone)

    def look(self, files: PowerCutFiles) -> None:
        """See `Script.look`."""
        store = EmbeddedObjects(ROOT, files, ManualClock())
        self._list(store)
        for key, version_id in list(self.versions):
            version = self.versions[key, version_id]
            if not version.is_delete_marker and (key, version_id) not in self.removing:
                self._told(store.extend(key, version_id, version.retain_until_ms))
        for key in KEYS:
            self._put(store, key, b"after the crash")

    def broken(self, files: PowerCutFiles) -> list[str]:
        """See `Script.broken`."""
        found = []
        store = EmbeddedObjects(ROOT, files, ManualClock())
        listed = {(v.key, v.version_id): v for v in store.versions("")}
        for at, told in self.versions.items():
            if at not in self.removing and not _kept(told, listed.get(at)):
                found.append(f"{told} is {listed.get(at)}")
        for at, version in listed.items():
            if not version.is_delete_marker:
                found += self._wrong_body(store, *at, version.size)
        for key, version_id in self.removed:
            if (key, version_id) in listed:
                found.append(f"{key} {version_id} was removed for good")
            if files.stat(ROOT / key) is not None:
                found.append(f"the bytes of {key} were removed for good")
        for key in KEYS:
            self._put(store, key, b"and it goes on")
        return found

    def _wrong_body(
        self, store: EmbeddedObjects, key: str, version_id: str, size: int
    ) -> Iterator[str]:
        try:
            body = store.get(key, version_id)
        except ObjectNotFound:
            yield f"{key} {version_id} has a record and no body"
            return
        if body != self.bodies.get((key, version_id), body) or len(body) != size:
            yield f"{key} {version_id} has other bytes"

    def _told(self, version: ObjectVersion) -> None:
        self.versions[version.key, version.version_id] = version

    def _only(self, key: str) -> str:
        (version_id,) = [v for k, v in self.versions if k == key]
        return version_id

    def _put(
        self,
        store: EmbeddedObjects,
        key: str,
        body: bytes,
        *,
        until: int = 0,
        if_absent: bool = True,
    ) -> ObjectVersion:
        try:
            version = store.put(key, body, retain_until_ms=until, if_absent=if_absent)
        except ObjectExists:
            # The loser adopts the winner: from here on it counts.
            version = next(iter(store.versions(key)))
            self.bodies[key, version.version_id] = store.get(key, version.version_id)
        else:
            self.bodies[key, version.version_id] = body
        self._told(version)
        return version

    def _list(self, store: EmbeddedObjects) -> None:
        for version in store.versions(""):
            self._told(version)
            if not version.is_delete_marker:
                body = store.get(version.key, version.version_id)
                self.bodies[version.key, version.version_id] = body

    def _remove(self, store: EmbeddedObjects, version: ObjectVersion) -> None:
        at = version.key, version.version_id
        self.removing.add(at)
        store.delete(*at)
        self.removed.add(at)


def _kept(told: ObjectVersion, now: ObjectVersion | None) -> bool:
    """The same version, locked at least as told (a change under way may have come through)."""
    if (
        now is None
        or now.retain_until_ms < told.retain_until_ms
        or told.legal_hold > now.legal_hold
    ):
        return False
    until, hold = told.retain_until_ms, told.legal_hold
    return replace(now, retain_until_ms=until, legal_hold=hold) == told


def test_nothing_told_is_lost_whenever_the_power_goes() -> None:
    assert list(broken_promises(ObjectsScript)) == []


def test_nothing_told_is_lost_when_a_part_of_the_rest_survives() -> None:
    assert list(broken_promises(ObjectsScript, seeds=range(4))) == []


@pytest.mark.parametrize("site", SITES)
def test_each_fsync_left_out_loses_something(site: FsyncSite) -> None:
    assert next(broken_promises(ObjectsScript, omit={site}), None) is not None


def test_the_script_comes_to_every_fsync_of_objects() -> None:
    files = PowerCutFiles()
    ObjectsScript().run(files)
    assert files.synced == set(SITES)
