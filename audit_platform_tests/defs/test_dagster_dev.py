"""`dagster dev` at the top of the clone: the sensor seals a day, and a restart still knows the run.

The real thing: webserver, daemon, code server, run worker, with the clone's own `workspace.yaml`,
`dagster.yaml` and `.env`. On loopback, on a free port that Linux lends to nobody.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import urllib3

from audit_platform.operations.manifests import read_history
from audit_platform.record import layout
from audit_platform.settings import Settings
from audit_platform.wiring import open_platform
from audit_platform_tests.ports import free_port
from audit_platform_tests.world import DAY, GRACE_MS, open_world

ROOT = Path(__file__).parents[2]

#: Quiet, 30 s altogether; two cores that run all tests at once take three times as long.
PATIENCE_SECONDS = 200.0
LOOK_SECONDS = 0.25

RUNS = """
{ runsOrError { ... on Runs { results { runId jobName status tags { key value } } } } }
"""


class Dev:
    """A running `dagster dev`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.log = process, log
        self._url = f"http://127.0.0.1:{port}/graphql"
        self._pool = urllib3.PoolManager(retries=False)

    def ask(self, query: str) -> Any:
        """GraphQL's answer, or None while nobody answers."""
        try:
            answer = self._pool.request(
                "POST",
                self._url,
                body=orjson.dumps({"query": query}),
                headers={"Content-Type": "application/json"},
                timeout=20.0,
            )
            return orjson.loads(answer.data)["data"]
        except (urllib3.exceptions.HTTPError, orjson.JSONDecodeError):
            return None

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first."""
        data = self.ask(RUNS)
        return data["runsOrError"]["results"] if data else []

    def wait_for(self, what: str, look: Callable[[], bool]) -> None:
        """Look until it is so; fail with the program's own words when it ends or takes too long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause = threading.Event()
        while not look():
            said = self.log.read_text(errors="replace")[-4000:]
            assert self.process.poll() is None, f"it ended, waiting for {what}: {said}"
            assert time.monotonic() < deadline, f"too slow, waiting for {what}: {said}"
            pause.wait(LOOK_SECONDS)


@contextmanager
def dagster_dev(home: Path, log: Path) -> Iterator[Dev]:
    """Start it as a person would, stop it with Ctrl-C."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("AUDIT_", "DAGSTER"))}
    port, now_ms = free_port(), time.time_ns() // 1_000_000
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)],
            cwd=ROOT,
            env=keep
            | {
                "AUDIT_HOME": str(home),
                "AUDIT_PARTITIONS": "2",
                "AUDIT_CLOSING_SECONDS": "5",
                # Just past the day's grace: one day is due, and no other for a day.
                "AUDIT_CLOCK": f"scaled:{layout.day_end_ms(DAY) + GRACE_MS}:{now_ms}:1",
            },
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Dev(process, port, log)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.timeout(500)
def test_the_sensor_seals_a_day_and_after_a_restart_the_run_is_still_there(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_world(home) as world:
        edge = world.edge("north")
        start = edge.start(world.clock.now_ms())
        world.ingest("north", [start, *edge.heartbeats(3, 10, world.clock.now_ms())])
        world.archive()
    with dagster_dev(home, tmp_path / "first.log") as dev:
        dev.wait_for("the sensor's run", lambda: sealed_run(dev) is not None)
        first = sealed_run(dev)
        dev.wait_for("its end", lambda: (sealed_run(dev) or {})["status"] in ("SUCCESS", "FAILURE"))
        ended = sealed_run(dev) or {}
        assert ended["status"] == "SUCCESS"
    assert first is not None
    tags = {t["key"]: t["value"] for t in first["tags"]}
    assert tags["dagster/sensor_name"] == "day_closing"
    assert tags["audit/attempt"] == "1"
    assert not list(ROOT.glob(".tmp_dagster_home_*/history"))  # nothing is kept beside AUDIT_HOME
    with dagster_dev(home, tmp_path / "second.log") as dev:
        dev.wait_for("the first run", lambda: bool(dev.runs()))
        assert first["runId"] in {r["runId"] for r in dev.runs()}
    with sealed_days(home) as days:
        assert days == [DAY]


def sealed_run(dev: Dev) -> dict[str, Any] | None:
    """The run that sealed the day."""
    wanted = {"key": "dagster/partition", "value": f"{DAY}|north"}
    found = [r for r in dev.runs() if r["jobName"] == "seal_day" and wanted in r["tags"]]
    return found[-1] if found else None


@contextmanager
def sealed_days(home: Path) -> Iterator[list[str]]:
    """Sealed days of the installation, in manifest order."""
    settings = Settings.from_environment({"AUDIT_HOME": str(home), "AUDIT_PARTITIONS": "2"})
    with closing(open_platform(settings)) as platform:
        yield [m.day for m in read_history(platform, "north").manifests]
