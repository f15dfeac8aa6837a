"""What every `ports.Objects` keeps. Subclass it and give the fixture `world`.

Not here: how a store keeps it (`audit_platform_tests/adapters/`), how its servers fail.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from operator import methodcaller
from typing import Protocol

import pytest

from audit_platform.errors import ObjectExists, ObjectLocked, ObjectNotFound
from audit_platform.ports import Objects, ObjectVersion
from audit_platform_tests.actor import ActorError, actor
from audit_platform_tests.contracts.log_contract import run_processes


class ObjectsWorld(Protocol):
    """A fresh, empty store, and what the contract needs to do to it."""

    def client(self) -> Objects:
        """The store as another process has it."""
        ...

    def opener(self) -> Callable[[], Objects]:
        """Makes a client in another OS process: picklable."""
        ...

    def soon_ms(self) -> int:
        """A time so near that a test can wait for it, not so near that it passes by itself."""
        ...

    def pass_until(self, ms: int) -> None:
        """Return once the store's wall clock is past `ms`."""
        ...


def claim_all(
    ready: Barrier, opener: Callable[[], Objects], body: bytes, wins: str, keys: list[str]
) -> None:
    """In a process of its own: try to be the first of every key, and write down where we were."""
    store = opener()
    ready.wait()
    won = []
    for key in keys:
        try:
            store.put(key, body, retain_until_ms=0, if_absent=True)
        except ObjectExists:
            continue
        won.append(key)
    store.put(wins, "\n".join(won).encode(), retain_until_ms=0, if_absent=True)


def claimed(store: Objects, key: str, body: bytes) -> bool:
    """Whether we were the first under a key."""
    try:
        store.put(key, body, retain_until_ms=0, if_absent=True)
    except ObjectExists:
        return False
    return True


def put(store: Objects, key: str, body: bytes = b"body", until: int = 0) -> ObjectVersion:
    """A first version."""
    return store.put(key, body, retain_until_ms=until, if_absent=True)


class ObjectsContract:
    """The promises of the port, one test each."""

    def test_a_version_comes_back_as_it_was_put(self, world: ObjectsWorld) -> None:
        store = world.client()
        body = bytes(range(256)) * 40
        version = put(store, "cold/v1/tenant=a/x.bin", body)
        assert version == ObjectVersion(
            key="cold/v1/tenant=a/x.bin",
            version_id=version.version_id,
            size=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            created_ms=version.created_ms,
            is_delete_marker=False,
            retain_until_ms=0,
            legal_hold=False,
        )
        other = world.client()
        assert other.get(version.key, version.version_id) == body
        assert other.head(version.key, version.version_id) == version
        assert other.oldest(version.key) == version

    def test_a_reader_can_seek(self, world: ObjectsWorld) -> None:
        store = world.client()
        version = put(store, "a", b"0123456789")
        with store.open("a", version.version_id) as reader:
            assert reader.seek(-3, io.SEEK_END) == 7
            assert reader.read() == b"789"
            assert reader.seek(2) == 2
            assert reader.read(3) == b"234"

    def test_an_empty_body_is_a_body(self, world: ObjectsWorld) -> None:
        store = world.client()
        version = put(store, "a/empty", b"")
        assert store.get("a/empty", version.version_id) == b""
        assert store.oldest("a/empty") == version

    def test_what_is_not_there_is_not_found(self, world: ObjectsWorld) -> None:
        store = world.client()
        version = put(store, "a/b")
        for key, version_id in (("a/c", version.version_id), ("a/b", "1-0000000000000000")):
            with pytest.raises(ObjectNotFound):
                store.get(key, version_id)
            with pytest.raises(ObjectNotFound):
                store.open(key, version_id)
            with pytest.raises(ObjectNotFound):
                store.head(key, version_id)
            with pytest.raises(ObjectNotFound):
                store.delete(key, version_id)
        assert store.oldest("a/c") is None
        assert list(store.versions("a/c")) == []

    def test_put_if_absent_refuses_a_second_and_changes_nothing(self, world: ObjectsWorld) -> None:
        store = world.client()
        version = put(store, "a/b", b"first")
        with pytest.raises(ObjectExists) as caught:
            put(world.client(), "a/b", b"second")
        assert caught.value.key == "a/b"
        assert list(store.versions("a/b")) == [version]
        assert store.get("a/b", version.version_id) == b"first"

    def test_versions_are_listed_oldest_first_and_the_oldest_counts(
        self, world: ObjectsWorld
    ) -> None:
        store = world.client()
        versions = [
            store.put("a/b", body, retain_until_ms=0, if_absent=False)
            for body in (b"one", b"two", b"three")
        ]
        assert list(store.versions("a/b")) == versions
        assert store.oldest("a/b") == versions[0]
        bodies = [store.get("a/b", v.version_id) for v in versions]
        assert bodies == [b"one", b"two", b"three"]

    def test_a_delete_marker_hides_nothing_from_us(self, world: ObjectsWorld) -> None:
        store = world.client()
        version = put(store, "a/b", b"first")
        store.delete("a/b")
        listed, marker = store.versions("a/b")
        assert listed == version
        assert (marker.is_delete_marker, marker.size, marker.sha256) == (True, 0, "")
        assert store.oldest("a/b") == version
        assert store.get("a/b", version.version_id) == b"first"
        with pytest.raises(ObjectNotFound):
            store.get("a/b", marker.version_id)
        with pytest.raises(ObjectExists):
            put(store, "a/b", b"second")

    def test_a_version_under_a_delete_marker_alone_is_not_the_oldest(
        self, world: ObjectsWorld
    ) -> None:
        store = world.client()
        store.delete("a/b")
        assert store.oldest("a/b") is None
        later = store.put("a/b", b"later", retain_until_ms=0, if_absent=False)
        assert store.oldest("a/b") == later

    def test_a_removed_version_is_gone_and_the_key_is_free_again(self, world: ObjectsWorld) -> None:
        store = world.client()
        version = put(store, "a/b", b"first")
        store.delete("a/b", version.version_id)
        with pytest.raises(ObjectNotFound):
            store.get("a/b", version.version_id)
        with pytest.raises(ObjectNotFound):
            store.delete("a/b", version.version_id)
        assert list(store.versions("a/")) == []
        assert store.oldest("a/b") is None
        again = put(store, "a/b", b"second")
        assert again.version_id != version.version_id
        assert store.get("a/b", again.version_id) == b"second"
        with pytest.raises(ObjectNotFound):
            store.get("a/b", version.version_id)

    def test_the_next_oldest_counts_when_the_oldest_was_removed(self, world: ObjectsWorld) -> None:
        store = world.client()
        first = put(store, "a/b", b"first")
        second = store.put("a/b", b"second", retain_until_ms=0, if_absent=False)
        store.delete("a/b", first.version_id)
        assert store.oldest("a/b") == second
        assert list(store.versions("a/b")) == [second]

    # ----------------------------------------------------------------------------------- locks

    def test_the_lock_is_named(self, world: ObjectsWorld) -> None:
        assert world.client().lock in ("enforced", "advisory")

    def test_a_locked_version_is_not_removed_until_its_time(self, world: ObjectsWorld) -> None:
        store = world.client()
        until = world.soon_ms()
        version = put(store, "a/b", b"evidence", until)
        assert store.head("a/b", version.version_id).retain_until_ms == until
        with pytest.raises(ObjectLocked):
            store.delete("a/b", version.version_id)
        assert store.head("a/b", version.version_id) == version
        assert store.get("a/b", version.version_id) == b"evidence"
        world.pass_until(until)
        store.delete("a/b", version.version_id)
        assert store.oldest("a/b") is None

    def test_a_lock_is_lengthened_and_never_shortened(self, world: ObjectsWorld) -> None:
        store = world.client()
        until = world.soon_ms()
        version = put(store, "a/b", b"evidence", until)
        longer = store.extend("a/b", version.version_id, until + 5000)
        assert longer.retain_until_ms == until + 5000
        assert store.extend("a/b", version.version_id, until + 5000) == longer
        for shorter in (until + 4999, until, 0):
            with pytest.raises(ObjectLocked):
                store.extend("a/b", version.version_id, shorter)
        assert world.client().head("a/b", version.version_id) == longer
        assert store.get("a/b", version.version_id) == b"evidence"

    def test_an_unlocked_version_can_be_locked_later(self, world: ObjectsWorld) -> None:
        store = world.client()
        version = put(store, "a/b")
        store.extend("a/b", version.version_id, world.soon_ms())
        with pytest.raises(ObjectLocked):
            store.delete("a/b", version.version_id)

    def test_a_locked_version_stays_readable_under_new_versions_and_markers(
        self, world: ObjectsWorld
    ) -> None:
        store = world.client()
        version = put(store, "a/b", b"evidence", world.soon_ms())
        store.put("a/b", b"forged", retain_until_ms=0, if_absent=False)
        store.delete("a/b")
        assert store.oldest("a/b") == version
        assert store.get("a/b", version.version_id) == b"evidence"

    def test_a_legal_hold_keeps_a_version_beyond_its_time(self, world: ObjectsWorld) -> None:
        store = world.client()
        until = world.soon_ms()
        version = put(store, "a/b", b"evidence", until)
        store.set_legal_hold("a/b", version.version_id, hold=True)
        world.pass_until(until)
        assert store.head("a/b", version.version_id).legal_hold
        with pytest.raises(ObjectLocked):
            store.delete("a/b", version.version_id)
        assert store.get("a/b", version.version_id) == b"evidence"
        store.set_legal_hold("a/b", version.version_id, hold=False)
        assert not store.head("a/b", version.version_id).legal_hold
        store.delete("a/b", version.version_id)
        assert store.oldest("a/b") is None

    def test_locks_of_what_is_not_there_are_not_found(self, world: ObjectsWorld) -> None:
        store = world.client()
        with pytest.raises(ObjectNotFound):
            store.extend("a/b", "1-0000000000000000", world.soon_ms())
        with pytest.raises(ObjectNotFound):
            store.set_legal_hold("a/b", "1-0000000000000000", hold=True)

    # ------------------------------------------------------------------------------------ keys

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            ".",
            "a/.b",
            ".meta/a",
            "a b",
            "a@1",
            "ä",
            "a\n",
            "a\\b",
            "a\x00b",
            "x" * 1025,
        ],
    )
    def test_a_malformed_key_is_refused(self, world: ObjectsWorld, key: str) -> None:
        store = world.client()
        with pytest.raises(ValueError, match="key"):
            put(store, key)
        with pytest.raises(ValueError, match="key"):
            store.oldest(key)
        assert list(store.versions("")) == []

    def test_keys_are_listed_in_key_order_with_their_versions(self, world: ObjectsWorld) -> None:
        store = world.client()
        keys = ["b", "a-b", "a/c/d", "a/c.x", "a/b", "a.b", "a0", "a/c-", "a/c0", "a_b/x", "A/z"]
        for key in keys:
            put(store, key, key.encode())
        second = store.put("a/b", b"2", retain_until_ms=0, if_absent=False)
        expected = sorted([*keys, "a/b"])
        assert [v.key for v in store.versions("")] == expected
        assert [v for v in store.versions("") if v.key == "a/b"][1] == second
        assert [v.key for v in store.versions("a/")] == [k for k in expected if k[:2] == "a/"]
        assert [v.key for v in store.versions("a/c/")] == ["a/c/d"]
        assert [v.key for v in store.versions("a/c.x")] == ["a/c.x"]
        assert list(store.versions("no/such/")) == []
        for after in [*expected, "", "a/", "a/c", "a/c/", "zzz", "a/c/d/e", "0"]:
            listed = [v.key for v in store.versions("", after_key=after)]
            assert listed == [k for k in expected if k > after]
            listed = [v.key for v in store.versions("a/", after_key=after)]
            assert listed == [k for k in expected if k[:2] == "a/" and k > after]

    # ------------------------------------------------------------------------------- processes

    def test_of_two_processes_that_claim_a_key_exactly_one_wins(self, world: ObjectsWorld) -> None:
        keys = [f"claims/{i}" for i in range(30)]
        run_processes(
            [
                (claim_all, (world.opener(), who.encode(), f"wins/{who}", keys))
                for who in ("one", "two")
            ]
        )
        store = world.client()
        won = {}
        for who in ("one", "two"):
            version = store.oldest(f"wins/{who}")
            assert version is not None
            won[who] = store.get(version.key, version.version_id).decode().split()
        assert sorted(won["one"] + won["two"]) == sorted(keys)
        for who, theirs in won.items():
            for key in theirs:
                (only,) = store.versions(key)
                assert store.get(key, only.version_id) == who.encode()

    def test_a_process_frozen_and_thawed_may_write_and_changes_nothing(
        self, world: ObjectsWorld
    ) -> None:
        store = world.client()
        until = world.soon_ms()
        with actor(world.opener()) as process:
            assert process.ask(claimed, "claims/theirs", b"theirs")
            process.freeze()
            assert not claimed(store, "claims/theirs", b"ours")
            assert claimed(store, "claims/ours", b"ours")
            kept = put(store, "evidence", b"ours", until)
            store.delete("claims/theirs")
            process.thaw()
            assert not process.ask(claimed, "claims/ours", b"theirs")
            assert process.ask(claimed, "claims/new", b"theirs")
            with pytest.raises(ActorError) as caught:
                process.ask(methodcaller("delete", kept.key, kept.version_id))
            assert caught.value.name == ObjectLocked.__name__
            process.ask(methodcaller("put", kept.key, b"x", retain_until_ms=0, if_absent=False))
        for key, body in (("ours", b"ours"), ("theirs", b"theirs"), ("new", b"theirs")):
            oldest = store.oldest(f"claims/{key}")
            assert oldest is not None
            assert store.get(oldest.key, oldest.version_id) == body
        assert store.oldest("evidence") == kept
        assert store.get("evidence", kept.version_id) == b"ours"
