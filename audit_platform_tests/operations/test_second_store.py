"""Two stores come to hold the same evidence, whatever was interrupted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.adapters.faulty import Fault, Faults, faulty
from audit_platform.errors import StoreUnavailable
from audit_platform.operations.second_store import copy_missing
from audit_platform.ports import Objects
from audit_platform_tests.clocks import ManualClock

KEYS = (
    "cold/v1/tenant=a/manifests/1.json",
    "dlq/v1/tenant=a/proposals/p.json",
    "incidents/v1/i.json",
    "landing/v1/ranges/g0/p0/o1.json",
    "quarantine/v1/tenant=a/x.parquet",
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def make(tmp_path: Path, clock: ManualClock) -> Callable[[str], EmbeddedObjects]:
    return lambda name: EmbeddedObjects(tmp_path / name, RealFiles(), clock)


def put(store: Objects, key: str, body: bytes, until: int) -> str:
    return store.put(key, body, retain_until_ms=until, if_absent=False).version_id


def sets_of(store: Objects) -> dict[str, set[tuple[str, int]]]:
    """For each key its bodies and locks."""
    found: dict[str, set[tuple[str, int]]] = {}
    for v in store.versions(""):
        if not v.is_delete_marker:
            found.setdefault(v.key, set()).add((v.sha256, v.retain_until_ms))
    return found


def test_both_stores_hold_the_same_bodies_as_long_locked(
    make: Callable[[str], EmbeddedObjects], clock: ManualClock
) -> None:
    first, second = make("first"), make("second")
    soon, late = clock.now_ms() + 1000, clock.now_ms() + 9000
    for n, key in enumerate(KEYS):
        put(first, key, b"body %d" % n, late)
    put(first, KEYS[0], b"newer", soon)
    put(second, KEYS[0], b"body 0", soon)
    put(second, "landing/v1/ranges/g1/p0/o1.json", b"written after the fail-over", late)
    first.delete(KEYS[1])
    put(first, "other/not-ours", b"x", 0)
    done = copy_missing(first, second)
    assert (done.keys, done.bodies, done.copied, done.lengthened) == (5, 6, 5, 1)
    back = copy_missing(second, first)
    assert (back.copied, back.lengthened) == (1, 0)
    assert (done.other, done.damaged, back.other, back.damaged) == ([], [], [], [])
    ours = sets_of(first)
    assert ours.pop("other/not-ours")
    assert sets_of(second) == ours
    assert len(ours) == 6
    again = copy_missing(first, second)
    assert (again.copied, again.lengthened, again.bodies) == (0, 0, 7)


def test_a_walk_that_was_cut_off_goes_on_behind_the_last_key(
    make: Callable[[str], EmbeddedObjects], clock: ManualClock
) -> None:
    first, second = make("first"), make("second")
    for n, key in enumerate(KEYS):
        put(first, key, b"body %d" % n, clock.now_ms() + 9000)
    told: list[str] = []
    cut = faulty(second, StoreUnavailable, Faults({7: Fault.BEFORE}))
    with pytest.raises(StoreUnavailable):
        copy_missing(first, cut, tell=told.append)
    assert 0 < len(told) < len(KEYS)
    done = copy_missing(first, second, after_key=told[-1], tell=told.append)
    assert done.keys < len(KEYS)
    assert tuple(told) == KEYS
    assert sets_of(second) == sets_of(first)


def test_every_call_may_fail_once_and_the_walk_repeated_ends_equal(
    make: Callable[[str], EmbeddedObjects], clock: ManualClock
) -> None:
    first = make("first")
    for n, key in enumerate(KEYS):
        put(first, key, b"body %d" % n, clock.now_ms() + 9000)
    counted = Faults()
    copy_missing(first, faulty(make("counted"), StoreUnavailable, counted))
    assert len(counted.calls) >= 3 * len(KEYS)
    for number in range(1, len(counted.calls) + 1):
        for fault in (Fault.BEFORE, Fault.AFTER):
            second = make(f"second-{number}-{fault}")
            with pytest.raises(StoreUnavailable):
                copy_missing(first, faulty(second, StoreUnavailable, Faults({number: fault})))
            copy_missing(first, second)
            assert sets_of(second) == sets_of(first)


def test_a_damaged_body_is_told_and_not_copied(
    make: Callable[[str], EmbeddedObjects], clock: ManualClock, tmp_path: Path
) -> None:
    first, second = make("first"), make("second")
    version = put(first, KEYS[0], b"evidence", clock.now_ms() + 9000)
    (tmp_path / "first" / KEYS[0]).write_bytes(b"evidencE")
    done = copy_missing(first, second)
    assert done.damaged == [f"{KEYS[0]} {version}"]
    assert sets_of(second) == {}


def test_a_key_whose_oldest_body_differs_is_told_and_both_are_kept(
    make: Callable[[str], EmbeddedObjects], clock: ManualClock
) -> None:
    first, second = make("first"), make("second")
    put(first, KEYS[0], b"ours", clock.now_ms() + 9000)
    put(second, KEYS[0], b"theirs", clock.now_ms() + 9000)
    done = copy_missing(first, second)
    assert done.other == [KEYS[0]]
    oldest = second.oldest(KEYS[0])
    assert oldest is not None
    assert oldest.sha256 == hashlib.sha256(b"theirs").hexdigest()
    assert len(sets_of(second)[KEYS[0]]) == 2


def test_a_copy_whose_lock_reads_back_shorter_is_not_taken_for_done(
    make: Callable[[str], EmbeddedObjects], clock: ManualClock
) -> None:
    first, second = make("first"), make("second")
    put(first, KEYS[0], b"evidence", clock.now_ms() + 9000)

    class Forgetful(EmbeddedObjects):
        """Takes every body, keeps no lock."""

        def put(self, key: str, data: bytes, *, retain_until_ms: int, if_absent: bool):  # type: ignore[no-untyped-def] # noqa: ANN202 - as its base
            assert retain_until_ms
            return super().put(key, data, retain_until_ms=0, if_absent=if_absent)

    second.__class__ = Forgetful
    with pytest.raises(StoreUnavailable, match="reads back"):
        copy_missing(first, second)
    assert methodcaller("oldest", KEYS[0])(second).retain_until_ms == 0
