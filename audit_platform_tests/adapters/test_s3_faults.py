"""A store of the test's own that is full, frozen, or gone: nothing is lost, nothing half there."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.adapters.s3.client import Endpoint
from audit_platform.adapters.s3.objects import S3Objects
from audit_platform.errors import ObjectExists, StoreUnavailable
from audit_platform.stack import children, registry, supervision, volumes
from audit_platform.stack.model import Place
from audit_platform.stack.s3_access import WRITER, access
from audit_platform.stack.versitygw import servers
from audit_platform_tests.servers import free_base

MEBIBYTE = 1 << 20
VOLUME_MEBIBYTES = 24


@pytest.fixture
def place() -> Iterator[Place]:
    """A stack of one store, on a small disk of its own."""
    me = children.identify(os.getpid())
    with free_base() as base:
        home = Path(tempfile.mkdtemp(prefix="audit-store-"))
        home.chmod(0o755)
        made = Place(home, registry.default_cache(), base, "small")
        try:
            supervision.up(
                made,
                servers("small"),
                tell=lambda _: None,
                bounded={"versitygw": VOLUME_MEBIBYTES},
                owner=me,
            )
            yield made
        finally:
            supervision.wipe(made.home, tell=lambda _: None)
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def writer(place: Place) -> Endpoint:
    return access(place).endpoint(place.address("versitygw"), WRITER)


def put(store: S3Objects, key: str, body: bytes) -> str:
    until = time.time_ns() // 1_000_000 + 3_600_000
    return store.put(key, body, retain_until_ms=until, if_absent=True).version_id


def test_a_full_store_keeps_no_half_object_and_works_again_with_space(
    place: Place, writer: Endpoint
) -> None:
    store = S3Objects(writer)
    first = put(store, "a/first", b"1" * MEBIBYTE)
    volumes.fill(place.folder("versitygw"))
    for n in range(3):
        with pytest.raises(StoreUnavailable) as caught:
            put(store, f"a/refused-{n}", b"2" * MEBIBYTE)
        assert "try again" in caught.value.remedy
    assert [v.key for v in store.versions("a/")] == ["a/first"]
    assert store.get("a/first", first) == b"1" * MEBIBYTE
    volumes.empty(place.folder("versitygw"), VOLUME_MEBIBYTES)
    second = put(store, "a/refused-0", b"2" * MEBIBYTE)
    assert store.get("a/refused-0", second) == b"2" * MEBIBYTE
    store.close()


def test_a_frozen_store_is_unavailable_within_the_time_limit_and_works_thawed(
    place: Place, writer: Endpoint
) -> None:
    seconds = 1.0
    store = S3Objects(writer, read_seconds=seconds)
    first = put(store, "a/first", b"first")
    supervision.freeze(place.home, "versitygw")
    try:
        for act in (
            lambda: put(store, "a/second", b"second"),
            lambda: store.get("a/first", first),
            lambda: store.oldest("a/first"),
        ):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                act()
            # One wait, not one for each try.
            assert time.monotonic() - began < seconds * 2.5
    finally:
        supervision.thaw(place.home, "versitygw")
    patient = S3Objects(writer)
    # What was sent into the silence may stand: read before putting again.
    if patient.oldest("a/second") is None:
        put(patient, "a/second", b"second")
    with pytest.raises(ObjectExists):
        put(patient, "a/second", b"other")
    assert patient.get("a/first", first) == b"first"
    for opened in (store, patient):
        opened.close()


def test_a_store_that_was_killed_and_started_has_everything(place: Place, writer: Endpoint) -> None:
    store = S3Objects(writer)
    versions = {f"a/{n}": put(store, f"a/{n}", b"%d" % n) for n in range(5)}
    supervision.kill(place.home, "versitygw")
    with pytest.raises(StoreUnavailable):
        put(store, "a/5", b"5")
    supervision.up(place, servers("small"), tell=lambda _: None)
    assert {v.key: v.version_id for v in store.versions("a/")} == versions
    for key, version_id in versions.items():
        assert store.get(key, version_id) == key[2:].encode()
        assert store.head(key, version_id).retain_until_ms > 0
    store.close()


def test_a_changed_secret_degrades_and_names_the_setting(writer: Endpoint) -> None:
    store = S3Objects(writer)
    wrong = S3Objects(writer)
    wrong._client.close()
    wrong._client._request_signer._credentials.secret_key = "other"  # noqa: S105 - it must be
    with pytest.raises(StoreUnavailable, match="403") as caught:
        wrong.oldest("a")
    assert "AUDIT_S3_ACCESS_KEY" in caught.value.remedy
    assert writer.secret_key not in str(caught.value)
    for opened in (store, wrong):
        opened.close()
