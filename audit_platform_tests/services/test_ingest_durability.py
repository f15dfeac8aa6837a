"""Proved by strace: each 202 is sent after the fsync of all that it acknowledges has returned."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3

from audit_platform.ports import Role
from audit_platform.settings import Settings
from audit_platform.wiring import open_platform
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.cutdisk import Fsync
from audit_platform_tests.services.ingest_world import TENANT, body_of, event, free_socket
from audit_platform_tests.tracing import Trace, assert_answer_after_fsync, log_values, running

#: Bodies of one run: good ones, one with a refused line, one of nothing but refused lines.
BODIES = [
    *(body_of(*(event(n, f"d{k}") for n in range(3))) for k in range(6)),
    body_of(event(9, "d9"), b"not json"),
    body_of(b"bad", b"worse"),
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trace, dict[bytes, list[bytes]]]:
    """The trace of a gateway that took `BODIES`, and what each of its 202s acknowledged."""
    folder = tmp_path_factory.mktemp("traced")
    home = folder / "home"
    with free_socket() as probe:
        port = probe.getsockname()[1]
    own = {
        "AUDIT_HOME": str(home),
        "AUDIT_PARTITIONS": "1",
        "AUDIT_INGEST_PORT": str(port),
    }
    platform = open_platform(Settings.from_environment(own))
    platform.metadata.add_tenant(TENANT, START_MS)
    _, secret = platform.metadata.add_api_key(TENANT, Role.EDGE, START_MS)
    platform.close()
    command = [sys.executable, "-m", "audit_platform.cli", "ingest-gateway"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AUDIT_")} | own
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/x-ndjson"}
    acknowledged: dict[bytes, list[bytes]] = {}
    with running(command, home, log=folder / "strace.log", env=environment) as run:
        pool = urllib3.HTTPConnectionPool("127.0.0.1", port, timeout=60)
        _wait_until_healthy(pool)
        for body in BODIES:
            answer = pool.request("POST", "/v1/events", body=body, headers=headers)
            assert answer.status == 202
            receipt = answer.json()
            name = hashlib.sha256(body).hexdigest().encode()
            assert receipt["batchId"].encode() == name
            ids = [line[line.index(b'"eventId":"') :][:47] for line in body.split(b"\n")
                   if b'"eventId":"' in line]  # fmt: skip
            assert len(ids) == receipt["accepted"]
            entries = [f'"entryId":"{r["entryId"]}"'.encode() for r in receipt["refused"]]
            acknowledged[name] = ids + entries
        pool.close()
        run.terminate()
    return run.trace, acknowledged


def _wait_until_healthy(pool: urllib3.HTTPConnectionPool) -> None:
    retry = urllib3.Retry(total=400, backoff_factor=0.1, backoff_max=0.2)
    assert pool.request("GET", "/healthz", retries=retry).status == 200


def test_each_202_is_sent_after_its_fsync_returned(
    traced: tuple[Trace, dict[bytes, list[bytes]]], tmp_path: Path
) -> None:
    trace, acknowledged = traced
    held = log_values("log", tmp_path)
    assert assert_answer_after_fsync(trace, acknowledged, held) == len(BODIES)


def _is_segment(fsync: Fsync) -> bool:
    return fsync.path.startswith("log/") and not fsync.is_folder


def _is_log_folder(fsync: Fsync) -> bool:
    return fsync.path.startswith("log/") and fsync.is_folder


@pytest.mark.parametrize("omit", [_is_segment, _is_log_folder])
def test_with_any_kind_of_fsync_left_out_the_proof_fails(
    traced: tuple[Trace, dict[bytes, list[bytes]]], tmp_path: Path, omit: Callable[[Fsync], bool]
) -> None:
    trace, acknowledged = traced
    assert any(omit(fsync) for fsync in trace.fsyncs())
    with pytest.raises(AssertionError):
        assert_answer_after_fsync(trace, acknowledged, log_values("log", tmp_path), omit)
