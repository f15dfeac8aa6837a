"""The archive-writer as a process: it answers for its health, and ends with all committed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from audit_platform.errors import SettingInvalid
from audit_platform.operations.coverage import range_records
from audit_platform.ports import NewRecord
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform.services.archive_http import serve
from audit_platform.services.archive_writer import METRICS
from audit_platform.settings import Settings
from audit_platform.telemetry import Telemetry
from audit_platform.wiring import open_platform
from audit_platform_tests.ports import free_port
from audit_platform_tests.services.archive_world import stored

PROGRAM = [sys.executable, "-m", "audit_platform.cli", "archive-writer"]


def get(port: int, path: str) -> tuple[int, str, bytes]:
    """(status, content type, body)."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers["Content-Type"], e.read()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home of its own; ranges close late, so only the end commits."""
    given = {
        "AUDIT_HOME": str(tmp_path / "home"),
        "AUDIT_ARCHIVE_PORT": str(free_port()),
        "AUDIT_RANGE_SECONDS": "300",
        "AUDIT_POLL_SECONDS": "0.01",
    }
    (tmp_path / "home").mkdir()
    return Settings.from_environment(given)


@pytest.fixture
def process(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """The program, once it has said that it started."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AUDIT_")}
    with subprocess.Popen(
        PROGRAM, env=kept | settings.to_environment(), stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            assert started.stderr is not None
            told = (json.loads(line) for line in started.stderr)
            assert any(line["message"] == "started" for line in told)
            yield started
        finally:
            started.kill()


def test_it_tells_its_health_and_lag_and_commits_all_on_sigterm(
    settings: Settings, process: subprocess.Popen[str]
) -> None:
    part = stored(3)
    value = b"".join(line + b"\n" for line in part.lines)
    headers = {"v": "1", "tenant": "north", "count": "3"}
    platform = open_platform(settings)
    platform.log.append(EVENTS_TOPIC, [NewRecord(0, value, headers)])
    port = settings.archive_port
    lag = 'kafka_consumergroup_lag_events{group="archive-writer",partition="0",topic="'
    wanted = f'{lag}{EVENTS_TOPIC}"}} 3.0'
    while wanted not in get(port, "/metrics")[2].decode():
        assert process.poll() is None
    status, _, body = get(port, "/healthz")
    assert (status, json.loads(body)) == (200, {"status": "ok", "waitingFor": "", "stopped": {}})
    assert list(range_records(platform.objects, EVENTS_TOPIC, 1, 0)) == []
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    (record,) = range_records(platform.objects, EVENTS_TOPIC, 1, 0)
    assert (record.end_offset, record.events) == (1, 3)
    platform.close()


Facts = tuple[bool, Mapping[str, object]]


def answering(health: Callable[[], Facts]) -> Iterator[int]:
    with serve("127.0.0.1", 0, Telemetry(METRICS), health) as port:
        yield port


def test_health_is_503_when_the_loop_is_stuck_and_says_what_it_waits_for() -> None:
    for port in answering(lambda: (False, {"waitingFor": "the store"})):
        status, kind, body = get(port, "/healthz")
        assert (status, kind) == (503, "application/json")
        assert json.loads(body) == {"status": "stuck", "waitingFor": "the store"}


def test_metrics_are_prometheus_text_and_other_paths_are_not_found() -> None:
    for port in answering(lambda: (True, {})):
        status, kind, body = get(port, "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert b"# HELP kafka_consumergroup_lag " in body
        assert get(port, "/")[0] == 404


def test_a_port_that_is_taken_is_named_as_a_wrong_setting() -> None:
    for port in answering(lambda: (True, {})):
        with (
            pytest.raises(SettingInvalid, match="AUDIT_ARCHIVE_PORT"),
            serve("127.0.0.1", port, Telemetry(METRICS), lambda: (True, {})),
        ):
            pytest.fail("not reached")
