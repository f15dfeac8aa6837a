"""What Dagster's webserver answers becomes metrics; an answer that says nothing is a failure."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.dagster.state import DagsterProbe, read_state
from audit_platform.errors import Recoverable
from audit_platform.ports import DagsterState, Probes
from audit_platform.services.exporter import metrics_of
from audit_platform.services.exporter_dagster import DagsterHealth
from audit_platform.telemetry import Telemetry
from audit_platform_tests.ports import free_port
from audit_platform_tests.services.test_exporter import shown

NOW = 1_800_000_000.0


def sensor(name: str, status: str, *ticks: str) -> dict[str, Any]:
    return {
        "name": name,
        "sensorState": {"status": status, "ticks": [{"status": t} for t in ticks]},
    }


def answer() -> dict[str, Any]:
    """As the webserver gives it."""
    daemons = [
        {"daemonType": "SENSOR", "required": True, "lastHeartbeatTime": NOW - 7},
        {"daemonType": "SCHEDULER", "required": True, "lastHeartbeatTime": None},
        {"daemonType": "ASSET", "required": False, "lastHeartbeatTime": None},
    ]
    schedule = {"status": "RUNNING", "ticks": [{"status": "SUCCESS"}]}
    runs = [{"creationTime": NOW - 90}, {"creationTime": NOW - 20}]
    return {
        "instance": {"daemonHealth": {"allDaemonStatuses": daemons}},
        "queued": {"count": 2, "results": runs},
        "failed": {"results": [{"jobName": "seal_day"}, {"jobName": "seal_day"}]},
        "assetNodes": [
            {
                "assetKey": {"path": ["cold_day"]},
                "freshnessStatusInfo": {"freshnessStatus": "DEGRADED"},
            },
            {
                "assetKey": {"path": ["hot_index"]},
                "freshnessStatusInfo": {"freshnessStatus": "HEALTHY"},
            },
            {"assetKey": {"path": ["other"]}, "freshnessStatusInfo": None},
        ],
        "repositoriesOrError": {
            "nodes": [
                {
                    "sensors": [
                        sensor("day_closing", "RUNNING", "FAILURE"),
                        sensor("hot_repair", "RUNNING", "SKIPPED"),
                        sensor("off", "STOPPED", "FAILURE"),
                        sensor("new", "RUNNING"),
                    ],
                    "schedules": [{"name": "nightly", "scheduleState": schedule}],
                }
            ]
        },
    }


def read(told: dict[str, Any]) -> DagsterState:
    return read_state(json.dumps({"data": told}).encode(), NOW)


def test_an_answer_is_read_whole() -> None:
    assert read(answer()) == DagsterState(
        heartbeat_ages={"SENSOR": 7.0, "SCHEDULER": NOW},
        queued=2,
        queue_age_seconds=90.0,
        failed={"seal_day": 2},
        ticks_failed={"day_closing": True, "hot_repair": False, "nightly": False},
        stale={"cold_day": True, "hot_index": False},
    )


@pytest.mark.parametrize("gone", sorted(answer()))
def test_an_answer_that_lacks_a_part_is_a_failure_and_not_a_healthy_dagster(gone: str) -> None:
    told = answer()
    told[gone] = {"__typename": "PythonError", "message": "no database"}
    with pytest.raises(Recoverable, match="does not say how it is"):
        read(told)


@given(st.binary(max_size=64))
def test_bytes_that_are_no_answer_are_a_failure(data: bytes) -> None:
    with pytest.raises(Recoverable):
        read_state(data, NOW)


def test_no_webserver_is_a_failure() -> None:
    probe = DagsterProbe(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Recoverable, match="webserver"):
        probe.state()
    probe.close()


def test_metrics_follow_the_state_and_what_is_not_told_any_more_is_zero() -> None:
    states = [
        read(answer()),
        dataclasses.replace(read(answer()), failed={}, queued=0, queue_age_seconds=0.0),
    ]
    told = Telemetry(metrics_of(Probes(close=lambda: None, dagster=lambda: states[0])))
    health = DagsterHealth(lambda: states.pop(0), told)
    health.tell()
    assert shown(told, "audit_dagster_failed_runs") == {("seal_day",): 2}
    assert shown(told, "audit_dagster_queue_age_seconds") == {(): 90}
    assert shown(told, "audit_dagster_tick_failed")["day_closing",] == 1
    assert shown(told, "audit_dagster_asset_stale") == {("cold_day",): 1, ("hot_index",): 0}
    assert shown(told, "audit_dagster_heartbeat_age_seconds")["SENSOR",] == 7
    health.tell()
    assert shown(told, "audit_dagster_failed_runs") == {("seal_day",): 0}
    assert shown(told, "audit_dagster_queued_runs") == {(): 0}
