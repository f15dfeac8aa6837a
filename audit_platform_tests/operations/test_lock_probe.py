"""A store whose lock does not hold is found out by the canary; one that does refuses all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit_platform.errors import AccessDenied
from audit_platform.operations.lock_probe import LockProbe, probe_lock
from audit_platform.ports import ObjectVersion
from audit_platform.record import layout
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.world import World, open_world


class Weak:
    """A store that does what its lock should refuse, in one respect."""

    lock = "enforced"

    def __init__(self, world: World, weak: str) -> None:
        self._objects, self._weak, self._clock = world.platform.objects, weak, world.clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def delete(self, key: str, version_id: str | None = None) -> None:
        """Done, whatever the lock says."""
        if self._weak == "rights":
            raise AccessDenied("you may not delete anything")
        if self._weak == "delete":
            self._clock.advance(2 * layout.MS_PER_DAY)
        self._objects.delete(key, version_id)

    def extend(self, key: str, version_id: str, retain_until_ms: int) -> ObjectVersion:
        """Done, shorter or not."""
        if self._weak == "shorten":
            return self._objects.head(key, version_id)
        return self._objects.extend(key, version_id, retain_until_ms)

    def head(self, key: str, version_id: str) -> ObjectVersion:
        """Without its lock."""
        seen = self._objects.head(key, version_id)
        return replace(seen, retain_until_ms=0) if self._weak == "no lock" else seen

    def get(self, key: str, version_id: str) -> bytes:
        """Other bytes."""
        body = self._objects.get(key, version_id)
        return body[:-1] + b"?" if self._weak == "body" else body


def failed(probe: LockProbe) -> list[str]:
    return [a.what for a in probe.attempts if not a.held]


def test_every_attempt_is_refused_and_the_store_says_how_strong_its_lock_is(
    tmp_path: Path,
) -> None:
    with open_world(tmp_path, partitions=1) as world:
        probe = probe_lock(world.platform)
        assert (probe.held, probe.enforced, len(probe.attempts)) == (True, False, 5)
        stored = list(world.platform.objects.versions("probes/v1/"))
        assert [v.key for v in stored] == [probe.key]


@pytest.mark.parametrize(
    ("weak", "what"),
    [
        ("delete", ["delete the version", "read the body back"]),
        ("shorten", ["shorten the lock"]),
        ("no lock", ["read the lock back"]),
        ("body", ["read the body back"]),
        ("rights", ["delete the version"]),
    ],
)
def test_a_lock_that_does_not_hold_is_found_out(tmp_path: Path, weak: str, what: list[str]) -> None:
    with open_world(tmp_path, partitions=1) as world:
        platform = replace(world.platform, objects=Weak(world, weak))
        assert failed(probe_lock(platform)) == what


def test_there_is_one_canary_a_day_and_its_lock_grows(tmp_path: Path) -> None:
    with open_world(tmp_path, partitions=1) as world:
        first = probe_lock(world.platform)
        world.clock.advance(3_600_000)
        assert probe_lock(world.platform).key == first.key
        (version,) = world.platform.objects.versions("probes/v1/")
        assert version.retain_until_ms == START_MS + 3_600_000 + layout.MS_PER_DAY
        world.clock.advance(layout.MS_PER_DAY)
        assert probe_lock(world.platform).key != first.key
