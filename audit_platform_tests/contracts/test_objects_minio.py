"""The objects port's contract over six MinIO nodes, and what the port says when some die."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.adapters.s3.objects import S3Objects
from audit_platform.errors import StoreUnavailable
from audit_platform.stack import children, registry, supervision
from audit_platform.stack.minio import NODES, node, servers
from audit_platform.stack.model import Place
from audit_platform.stack.s3_access import WRITER, access
from audit_platform_tests.contracts.objects_contract import ObjectsContract, ObjectsWorld
from audit_platform_tests.contracts.test_objects_s3 import S3World
from audit_platform_tests.servers import free_base
from audit_platform_tests.stores import fresh_bucket

pytestmark = pytest.mark.full_stack


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Six nodes of the full stack, without anything else of it."""
    with free_base() as base:
        home = Path(tempfile.mkdtemp(prefix="audit-minio-"))
        home.chmod(0o755)
        made = Place(home, registry.default_cache(), base, "full")
        try:
            start(made)
            yield made
        finally:
            supervision.wipe(made.home, tell=lambda _: None)
            shutil.rmtree(home, ignore_errors=True)


def start(place: Place) -> None:
    owner = children.identify(os.getpid())
    supervision.up(place, servers("full"), tell=lambda _: None, owner=owner)


class TestMinioObjects(ObjectsContract):
    """On the full stack's primary store."""

    @pytest.fixture
    def world(self, place: Place) -> ObjectsWorld:
        """A bucket of its own."""
        return S3World(fresh_bucket(place, place.address(node(1)), in_policy=False))


def put(store: S3Objects, key: str) -> str:
    until = time.time_ns() // 1_000_000 + 3_600_000
    return store.put(key, key.encode(), retain_until_ms=until, if_absent=True).version_id


def test_two_dead_nodes_of_six_are_not_noticed_and_three_are_unavailable(place: Place) -> None:
    assert NODES == 6
    writer = access(place).endpoint(place.address(node(1)), WRITER)
    store, brief = S3Objects(writer), S3Objects(writer, read_seconds=2.0)
    versions = {"a/0": put(store, "a/0")}
    for number in (5, 6):
        supervision.kill(place.home, node(number))
    versions["a/1"] = put(store, "a/1")
    assert store.get("a/0", versions["a/0"]) == b"a/0"
    supervision.kill(place.home, node(4))
    with pytest.raises(StoreUnavailable):
        put(brief, "a/2")
    start(place)
    # What was sent into the silence may stand: read before putting again.
    if store.oldest("a/2") is None:
        put(store, "a/2")
    for key, version_id in versions.items():
        assert store.get(key, version_id) == key.encode()
        assert store.head(key, version_id).retain_until_ms > 0
    for opened in (store, brief):
        opened.close()
