"""What only a store with object lock can show: its lock, its identities, parts, broken disks."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from audit_platform.adapters.s3 import upload
from audit_platform.adapters.s3 import versions as versions_module
from audit_platform.adapters.s3.client import Endpoint, make_client
from audit_platform.adapters.s3.objects import LEAST_LOCK_MS, S3Objects
from audit_platform.adapters.s3.versions import LaterVersion
from audit_platform.errors import (
    AccessDenied,
    ObjectExists,
    ObjectLocked,
    RecordMalformed,
    StoreUnavailable,
)
from audit_platform.ports import ObjectVersion
from audit_platform.stack.s3_access import KEEPER, READER, WRITER
from audit_platform_tests.stores import as_other, fresh_bucket, small_store

HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def owner() -> Endpoint:
    return fresh_bucket(*small_store())


@pytest.fixture
def store(owner: Endpoint) -> Iterator[S3Objects]:
    opened = S3Objects(owner)
    yield opened
    opened.close()


def calls_of(store: S3Objects) -> list[str]:
    """The operations that the client is asked for from now on, as they come."""
    seen: list[str] = []
    events = store._client.meta.events
    events.register("before-call.s3", lambda model, **_: seen.append(model.name))
    return seen


def put(store: S3Objects, key: str, body: bytes = b"body", *, locked: bool = True) -> ObjectVersion:
    until = now_ms() + HOUR_MS if locked else 0
    return store.put(key, body, retain_until_ms=until, if_absent=True)


def test_a_lock_is_sent_in_whole_seconds_and_never_shorter_than_asked(store: S3Objects) -> None:
    wanted = now_ms() // 1000 * 1000 + HOUR_MS + 1
    version = store.put("a/b", b"body", retain_until_ms=wanted, if_absent=True)
    assert version.retain_until_ms == wanted + 999


def test_a_clock_behind_the_real_one_still_gets_a_real_lock(store: S3Objects) -> None:
    version = store.put("a/b", b"body", retain_until_ms=now_ms() - HOUR_MS, if_absent=True)
    assert version.retain_until_ms > now_ms() + LEAST_LOCK_MS // 2
    with pytest.raises(ObjectLocked):
        store.delete("a/b", version.version_id)
    unlocked = put(store, "a/c", locked=False)
    longer = store.extend("a/c", unlocked.version_id, now_ms() - HOUR_MS)
    assert longer.retain_until_ms > now_ms() + LEAST_LOCK_MS // 2


def test_a_put_whose_lock_was_not_kept_is_not_believed(store: S3Objects) -> None:
    def take_off(params: dict[str, Any], **_: Any) -> None:
        for name in [n for n in params["headers"] if "object-lock" in n]:
            del params["headers"][name]

    store._client.meta.events.register("before-call.s3.PutObject", take_off)
    with pytest.raises(StoreUnavailable, match="reads back otherwise"):
        put(store, "a/b")


def test_a_body_that_breaks_on_its_way_is_not_stored(store: S3Objects, owner: Endpoint) -> None:
    def break_a_bit(params: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**params, "Body": b"bodY"}

    other = S3Objects(owner)
    other._client.meta.events.register(
        "provide-client-params.s3.PutObject",
        break_a_bit,
    )
    with pytest.raises(StoreUnavailable, match="BadDigest"):
        put(other, "a/b")
    other.close()
    assert store.oldest("a/b") is None


def test_a_version_that_was_there_first_wins_under_its_delete_marker(
    store: S3Objects, owner: Endpoint
) -> None:
    theirs = make_client(owner)

    def be_first(**_: Any) -> None:
        theirs.put_object(Bucket=owner.bucket, Key="a/b", Body=b"theirs")
        theirs.delete_object(Bucket=owner.bucket, Key="a/b")

    # After our look, before our put: what lies on top then is a delete marker.
    store._client.meta.events.register("before-call.s3.PutObject", be_first)
    with pytest.raises(ObjectExists):
        put(store, "a/b", b"ours")
    oldest = store.oldest("a/b")
    assert oldest is not None
    assert store.get("a/b", oldest.version_id) == b"theirs"
    theirs.close()


def without_condition(params: dict[str, Any], **_: Any) -> None:
    """The store then takes every put, as one does that sees nothing under a delete marker."""
    assert params["headers"].pop("If-None-Match") == "*"


def test_a_taken_key_is_not_put_again_where_the_condition_does_not_see_it(
    store: S3Objects,
) -> None:
    version = put(store, "a/b", b"first")
    store._client.meta.events.register("before-call.s3.PutObject", without_condition)
    with pytest.raises(ObjectExists):
        put(store, "a/b", b"second")
    assert list(store.versions("a/b")) == [version]


def test_a_claim_that_was_overtaken_unseen_does_not_hold(store: S3Objects, owner: Endpoint) -> None:
    theirs = make_client(owner)

    def be_first(params: dict[str, Any], **_: Any) -> None:
        theirs.put_object(Bucket=owner.bucket, Key="a/b", Body=b"theirs")
        without_condition(params)

    store._client.meta.events.register("before-call.s3.PutObject", be_first)
    with pytest.raises(ObjectExists):
        put(store, "a/b", b"ours")
    oldest = store.oldest("a/b")
    assert oldest is not None
    assert store.get("a/b", oldest.version_id) == b"theirs"
    theirs.close()


def test_a_key_with_nothing_but_a_delete_marker_can_be_claimed(store: S3Objects) -> None:
    store.delete("a/b")
    version = put(store, "a/b", b"ours")
    assert store.oldest("a/b") == version
    with pytest.raises(ObjectExists):
        put(store, "a/b", b"theirs")


# ------------------------------------------------------------------------------------ identities


def test_the_writer_writes_and_can_neither_delete_nor_lift(owner: Endpoint) -> None:
    place, _ = small_store()
    writer = S3Objects(as_other(owner, place, WRITER))
    locked = put(writer, "a/b", b"evidence")
    unlocked = put(writer, "a/c", b"evidence", locked=False)
    with pytest.raises(ObjectLocked):
        writer.delete("a/b", locked.version_id)
    with pytest.raises(ObjectLocked):
        writer.extend("a/b", locked.version_id, locked.retain_until_ms - 1000)
    acts: list[Callable[[], object]] = [
        lambda: writer.delete("a/c", unlocked.version_id),
        lambda: writer.delete("a/b"),
        lambda: writer.set_legal_hold("a/b", locked.version_id, hold=True),
    ]
    for act in acts:
        with pytest.raises(AccessDenied):
            act()
    assert list(writer.versions("a/")) == [locked, unlocked]
    assert writer.get("a/b", locked.version_id) == b"evidence"
    until = locked.retain_until_ms + 1000
    assert writer.extend("a/b", locked.version_id, until).retain_until_ms == until
    writer.close()


def test_the_reader_reads_and_cannot_put(owner: Endpoint, store: S3Objects) -> None:
    place, _ = small_store()
    version = put(store, "a/b", b"evidence")
    reader = S3Objects(as_other(owner, place, READER))
    assert reader.get("a/b", version.version_id) == b"evidence"
    assert list(reader.versions("")) == [version]
    with pytest.raises(StoreUnavailable, match="403") as caught:
        put(reader, "a/c")
    assert "AUDIT_S3_ACCESS_KEY" in caught.value.remedy
    with pytest.raises(StoreUnavailable):
        reader.extend("a/b", version.version_id, version.retain_until_ms + 1000)
    assert list(store.versions("")) == [version]
    reader.close()


def test_the_keeper_holds_and_lets_go_but_ends_nothing_that_is_locked(
    owner: Endpoint, store: S3Objects
) -> None:
    place, _ = small_store()
    locked, unlocked = put(store, "a/b"), put(store, "a/c", locked=False)
    keeper = S3Objects(as_other(owner, place, KEEPER))
    with pytest.raises(ObjectLocked):
        keeper.delete("a/b", locked.version_id)
    with pytest.raises(ObjectLocked):
        keeper.extend("a/b", locked.version_id, locked.retain_until_ms - HOUR_MS // 2)
    keeper.set_legal_hold("a/c", unlocked.version_id, hold=True)
    with pytest.raises(ObjectLocked):
        keeper.delete("a/c", unlocked.version_id)
    keeper.set_legal_hold("a/c", unlocked.version_id, hold=False)
    keeper.delete("a/c", unlocked.version_id)
    put(keeper, "a/d")
    assert [v.key for v in store.versions("")] == ["a/b", "a/d"]
    keeper.close()


# ----------------------------------------------------------------------------------------- parts


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "ONE_PIECE_BYTES", 6 << 20)
    monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)


def test_a_large_body_goes_in_parts_with_its_lock(store: S3Objects, small_parts: None) -> None:
    body = bytes(range(256)) * (11 << 12)  # 11 MiB: two parts and a rest
    seen = calls_of(store)
    version = put(store, "a/large", body)
    assert seen.count("UploadPart") == 3
    assert "PutObject" not in seen
    assert version.sha256 == hashlib.sha256(body).hexdigest()
    assert version.retain_until_ms > now_ms()
    with pytest.raises(ObjectLocked):
        store.delete("a/large", version.version_id)
    with pytest.raises(ObjectExists):
        put(store, "a/large", body)
    # The store has no digest of the whole: it is made from the body, once it is looked at.
    del seen[:]
    head = store.head("a/large", version.version_id)
    assert head.retain_until_ms == version.retain_until_ms
    assert "GetObject" not in seen
    assert head == version
    assert store.get("a/large", version.version_id) == body


def test_parts_of_a_lost_race_leave_no_version(
    store: S3Objects, owner: Endpoint, small_parts: None
) -> None:
    theirs = make_client(owner)

    def be_first(**_: Any) -> None:
        theirs.put_object(Bucket=owner.bucket, Key="a/large", Body=b"theirs")

    store._client.meta.events.register("before-call.s3.CompleteMultipartUpload", be_first)
    with pytest.raises(ObjectExists):
        put(store, "a/large", bytes(7 << 20))
    (only,) = store.versions("a/large")
    assert only.size == 6
    uploads = theirs.list_multipart_uploads(Bucket=owner.bucket)
    assert not uploads.get("Uploads")
    theirs.close()


# --------------------------------------------------------------------------------------- listing


def test_a_walk_over_names_asks_for_no_version(store: S3Objects) -> None:
    for n in range(5):
        put(store, f"a/{n}", locked=False)
    seen = calls_of(store)
    found = list(store.versions("a/"))
    assert [v.key for v in found] == [f"a/{n}" for n in range(5)]
    assert seen == ["ListObjectVersions"]
    assert found[0].sha256 == hashlib.sha256(b"body").hexdigest()
    assert seen.count("HeadObject") == 1


def test_small_pages_give_each_version_once_and_in_order(
    store: S3Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        for body in (b"1", b"22", b"333"):
            store.put(f"a/{n}", body, retain_until_ms=0, if_absent=False)
    store.delete("a/2")
    whole = [(v.key, v.version_id, v.size) for v in store.versions("a/")]
    assert [size for _, _, size in whole] == [1, 2, 3, 1, 2, 3, 1, 2, 3, 0, 1, 2, 3]
    for limit in (2, 3, 4, 5):
        monkeypatch.setattr(versions_module, "FIRST_PAGE", limit)
        monkeypatch.setattr(versions_module, "PAGE", limit)
        assert [(v.key, v.version_id, v.size) for v in store.versions("a/")] == whole


def test_a_store_whose_pages_do_not_go_on_is_not_asked_for_ever() -> None:
    page = {"IsTruncated": True, "NextKeyMarker": "a", "Versions": []}
    with pytest.raises(StoreUnavailable, match="for ever"):
        list(versions_module.rows_of(lambda **_: page, ""))


def test_a_later_version_is_equal_to_the_plain_one_and_travels_as_it(store: S3Objects) -> None:
    version = put(store, "a/b")
    (listed,) = store.versions("a/b")
    assert isinstance(listed, LaterVersion)
    assert listed == version
    assert version == listed
    assert hash(listed) == hash(version)
    assert type(pickle.loads(pickle.dumps(listed))) is ObjectVersion  # noqa: S301 - our own bytes
    assert listed != dataclasses.replace(version, size=9)
    assert "a/b" in repr(listed)


# ------------------------------------------------------------------------------------------ disk


def test_a_bit_that_rotted_is_noticed_by_get_and_shown_by_open(
    store: S3Objects, owner: Endpoint
) -> None:
    place, _ = small_store()
    body = bytes(range(256)) * 16
    version = put(store, "a/b", body)
    file = place.folder("versitygw") / "data" / owner.bucket / "a" / "b"
    broken = bytearray(file.read_bytes())
    assert bytes(broken) == body
    broken[1000] ^= 1
    with file.open("r+b") as opened:
        opened.write(broken)
    with pytest.raises(RecordMalformed, match="have changed"):
        store.get("a/b", version.version_id)
    with store.open("a/b", version.version_id) as reader:
        assert reader.read() == bytes(broken)
