"""The whole path on the real servers: Kafka, S3 with object lock, OpenSearch, PostgreSQL, Redis.

Once plain, on the run's servers, and once with TLS between services and servers of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import redis
import urllib3

from audit_platform.adapters.kafka.probes import node_trouble
from audit_platform.stack import registry
from audit_platform.stack.model import Place
from audit_platform_tests.failures.installation import (
    DAY,
    PATIENCE_SECONDS,
    TENANT,
    Installation,
    installation,
)
from audit_platform_tests.failures.on_servers import SMALL, own_names, servers_of_a_test
from audit_platform_tests.own_stack import own_stack

#: An hour of the excerpt.
TO_MS = 3_600_000

BAD_REQUEST = 400


def now_ms() -> int:
    """When the day has an hour left: on a busy machine the last minute is over too soon."""
    return int(time.time() * 1000)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    """A new installation on the run's servers."""
    with servers_of_a_test() as servers, installation(tmp_path, servers) as started:
        yield started


def test_what_devices_say_is_sealed_and_found_on_the_real_servers(made: Installation) -> None:
    say_seal_and_find(made)


def test_what_devices_say_is_sealed_and_found_when_all_servers_speak_tls(tmp_path: Path) -> None:
    with own_stack(*SMALL, "oidc", tls=True) as stack:
        settings = registry.settings(stack.place, stack.servers)
        # So that Redis is asked.
        settings["AUDIT_INGEST_EVENTS_PER_SECOND"] = "100000"
        with (
            own_names(stack.place, settings, "versitygw") as servers,
            installation(tmp_path, servers) as made,
        ):
            say_seal_and_find(made)
        plain = plainly_answered(stack.place)
    assert plain == []
    urls = {name: settings[name].partition(":")[0] for name in settings if "://" in settings[name]}
    assert urls == {
        "AUDIT_S3": "https",
        "AUDIT_OPENSEARCH": "https",
        "AUDIT_OIDC_ISSUER": "https",
        "AUDIT_REDIS": "rediss",
        "AUDIT_DATABASE": "postgresql",
    }


def plainly_answered(place: Place) -> list[str]:
    """Servers that let somebody in who speaks no TLS."""
    found = []
    for name in ("versitygw", "opensearch-1", "oidc"):
        with suppress(urllib3.exceptions.HTTPError):
            answer = urllib3.request("GET", f"http://{place.front(name)}/", retries=False)
            if answer.status != BAD_REQUEST:  # Go's own word to who speaks no TLS
                found.append(name)
    with suppress(psycopg.OperationalError):
        settings = registry.settings(place, [registry.servers_at(place)["postgres"]])
        psycopg.connect(settings["AUDIT_DATABASE"], sslmode="disable").close()
        found.append("postgres")
    with suppress(redis.RedisError):
        redis.Redis(port=place.front_port("redis")).ping()
        found.append("redis")
    if not node_trouble(place.front("kafka-1"), place.front("kafka-1"), 2.0):
        found.append("kafka-1")
    return found


def say_seal_and_find(made: Installation) -> None:
    """Devices speak; what they said is sealed, judged by their receipts, and in HOT."""
    for name in ("ingest-gateway", "edge-gateway", "archive-writer", "search-indexer"):
        made.launch(name)
    for name in ("ingest-gateway", "edge-gateway", "archive-writer", "search-indexer"):
        made.wait_until_healthy(name)
    devices = made.start_devices(TO_MS)
    assert devices.wait(timeout=PATIENCE_SECONDS) == 0
    made.wait_for_the_edge()
    made.wait_for_the_index()
    for name in ("edge-gateway", "ingest-gateway", "search-indexer"):
        made.stop(name)
    judged = made.finish_and_judge()
    assert judged.report.exit_code == 0
    assert judged.receipts["clean"]
    assert judged.receipts["lost"] == 0
    sealed = made.sealed_hashes()
    assert len(sealed) == judged.sealed.rows > 0
    with made.platform(after_day=True) as opened:
        assert opened.objects.lock == "enforced"
        (index,) = (i for i in opened.hot.indexes(TENANT) if i.is_read)
        hashes = opened.hot.hashes(TENANT, DAY, index.generation)
    assert {bytes(h) for h in hashes} == sealed
