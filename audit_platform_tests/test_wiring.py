"""The wiring: settings become one working platform, which closes cleanly and opens again."""

from __future__ import annotations

import threading
from dataclasses import fields
from pathlib import Path

import pytest

from audit_platform.adapters.clock import ScaledClock, SystemClock
from audit_platform.errors import LogUnavailable, MetadataUnavailable
from audit_platform.ports import NewRecord, Platform, Role
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform.settings import Settings
from audit_platform.wiring import open_keys, open_metadata, open_platform
from audit_platform_tests.clocks import START_MS, ManualClock


def _settings(home: Path, **names: str) -> Settings:
    return Settings.from_environment({"AUDIT_HOME": str(home), **names})


def _use(platform: Platform) -> None:
    """Something through every port."""
    now = platform.clock.now_ms()
    platform.metadata.add_tenant("north", now)
    key, secret = platform.metadata.add_api_key("north", Role.EDGE, now)
    assert platform.metadata.api_key_of(secret) == key
    platform.keys.new("manifest", now)
    assert platform.keys.sign("manifest", b"day")
    (offset,) = platform.log.append(EVENTS_TOPIC, [NewRecord(0, b"value")])
    assert platform.log.read(EVENTS_TOPIC, 0, offset, 1)[0].value == b"value"
    put = platform.objects.put(f"cold/v1/x-{offset}", b"body", retain_until_ms=0, if_absent=True)
    assert platform.objects.get(put.key, put.version_id) == b"body"


def test_an_embedded_platform_works_through_every_port_and_again_after_a_restart(
    tmp_path: Path,
) -> None:
    settings = _settings(tmp_path / "new" / "home", AUDIT_PARTITIONS="3")
    for opened in range(1, 3):
        platform = open_platform(settings)
        assert isinstance(platform.clock, SystemClock)
        assert platform.objects.lock == "advisory"
        assert [platform.log.describe(t).partitions for t in (EVENTS_TOPIC, DLQ_TOPIC)] == [3, 3]
        _use(platform)
        assert len(platform.metadata.api_keys()) == len(platform.keys.public_keys()) == opened
        assert platform.log.bounds(EVENTS_TOPIC, 0) == (0, opened)
        platform.close()
    # `dagster/` is Dagster's own to make.
    assert sorted(p.name for p in settings.home.iterdir()) == [
        "keys",
        "log",
        "metadata.db",
        "metadata.db.opening",
        "objects",
    ]


def test_every_port_is_wired(tmp_path: Path) -> None:
    with_all = {
        "AUDIT_INGEST_EVENTS_PER_SECOND": "1000",
        "AUDIT_OIDC_ISSUER": "http://127.0.0.1:1",  # it need not answer
    }
    platform = open_platform(_settings(tmp_path, **with_all))
    assert all(getattr(platform, f.name) is not None for f in fields(Platform))
    platform.close()


def test_closing_ends_every_thread_and_may_be_repeated(tmp_path: Path) -> None:
    before = threading.active_count()
    platform = open_platform(_settings(tmp_path))
    _use(platform)
    platform.close()
    platform.close()
    assert threading.active_count() == before


def test_a_part_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    before = threading.active_count()
    (tmp_path / "log").write_bytes(b"a file where the folder should be")
    with pytest.raises(LogUnavailable):
        open_platform(_settings(tmp_path))
    assert threading.active_count() == before
    # SQLite removes its log when the last connection is closed.
    assert not (tmp_path / "metadata.db-wal").exists()


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MetadataUnavailable) as caught:
        open_platform(_settings(tmp_path / "file" / "home"))
    assert str(tmp_path / "file") in caught.value.reason


def test_the_clock_is_the_one_of_the_settings_or_the_one_that_is_given(tmp_path: Path) -> None:
    settings = _settings(tmp_path, AUDIT_CLOCK=f"scaled:{START_MS}:1:2")
    platform = open_platform(settings)
    assert platform.clock == ScaledClock(START_MS, 1, 2)
    platform.close()
    clock = ManualClock()
    platform = open_platform(settings, clock=clock)
    assert platform.clock is clock
    put = platform.objects.put("cold/v1/x", b"", retain_until_ms=0, if_absent=True)
    assert put.created_ms == START_MS
    platform.close()


def test_metadata_and_keys_open_alone_and_are_the_platforms_own(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    metadata = open_metadata(settings)
    metadata.add_tenant("north", 1)
    metadata.close()
    key = open_keys(settings).new("edge", 1)
    assert not (tmp_path / "log").exists()
    platform = open_platform(settings)
    assert [t.tenant_id for t in platform.metadata.tenants()] == ["north"]
    assert platform.keys.public_keys() == [key]
    platform.close()
