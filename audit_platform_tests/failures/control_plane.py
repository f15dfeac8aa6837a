"""Dagster as an operator runs it, over an installation on real servers, and as one speaks to it.

Code server, webserver and daemon are processes of their own, with their storage in PostgreSQL;
whatever a test wants it asks for by GraphQL, as the UI does. Belongs here: starting, killing,
asking. Does not: any test, the servers (`on_servers.py`), our services (`installation.py`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import urllib3

from audit_platform.demo import setup
from audit_platform.demo.programs import dagster_commands, storage_command
from audit_platform.settings import Settings
from audit_platform.stack.dagster_storage import VARIABLE
from audit_platform.stack.s3_access import keeper_settings
from audit_platform_tests.databases import new_database
from audit_platform_tests.failures.installation import Installation, wait_for
from audit_platform_tests.ports import free_port
from audit_platform_tests.servers import run_place

#: What loads the definitions, by the program's own module unless a test has one around it.
DEFINITIONS: Final = "audit_platform.definitions"

#: Three programs that import for seconds, on two cores that others use as well.
UP_SECONDS: Final = 300.0

#: A run has to be dequeued (5 s), to start (10 s alone) and to work; minutes where others work too.
RUN_SECONDS: Final = 600.0

#: Dagster's own tag of a run that follows another one.
PARENT_TAG: Final = "dagster/parent_run_id"

_ENDED: Final = frozenset({"SUCCESS", "FAILURE", "CANCELED"})

_LAUNCH: Final = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on UnauthorizedError { message }
    ... on InvalidSubsetError { message }
  }
}
"""

_RUNS: Final = """
query($filter: RunsFilter!) {
  runsOrError(filter: $filter) {
    ... on Runs { results { runId jobName status tags { key value } } }
  }
}
"""

_LOGS: Final = """
query($run: ID!, $limit: Int!) {
  logsForRun(runId: $run, limit: $limit) {
    ... on EventConnection {
      events {
        __typename
        ... on MessageEvent { message timestamp stepKey }
        ... on MaterializationEvent { assetKey { path } partition metadataEntries { ...shown } }
        ... on ObservationEvent { assetKey { path } partition metadataEntries { ...shown } }
        ... on ExecutionStepOutputEvent { metadataEntries { ...shown } }
        ... on AssetCheckEvaluationEvent {
          evaluation { checkName success metadataEntries { ...shown } }
        }
      }
    }
  }
}
fragment shown on MetadataEntry {
  label
  ... on IntMetadataEntry { intValue }
  ... on FloatMetadataEntry { floatValue }
  ... on TextMetadataEntry { text }
  ... on JsonMetadataEntry { jsonString }
  ... on BoolMetadataEntry { boolValue }
}
"""

_SENSORS: Final = """
query($repository: RepositorySelector!) {
  sensorsOrError(repositorySelector: $repository) {
    ... on Sensors { results { name sensorState { id status } } }
  }
}
"""

_STOP_SENSOR: Final = """
mutation($id: String!) {
  stopSensor(id: $id) {
    __typename
    ... on PythonError { message }
  }
}
"""

_REPOSITORY: Final = {
    "repositoryLocationName": setup.CODE_LOCATION,
    "repositoryName": "__repository__",
}


@dataclass(frozen=True, slots=True)
class Run:
    """A run as Dagster has it. `parent` is the run that it follows, or ""."""

    run_id: str
    job: str
    status: str
    parent: str
    tags: Mapping[str, str]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in _ENDED


@dataclass
class ControlPlane:
    """Dagster's three programs, and one person's questions."""

    made: Installation
    folder: Path
    environment: dict[str, str]
    commands: dict[str, list[str]]
    code_port: int
    ui_port: int
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pool = urllib3.PoolManager(retries=False)

    # ------------------------------------------------------------------------------ processes

    def start(self, name: str, **more: str) -> None:
        """Start one of `code`, `webserver`, `daemon`, with more in its environment."""
        with (self.folder / f"dagster-{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.commands[f"dagster-{name}"],
                env=self.environment | more,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL to one program, not to runs that it has started."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def restart_code(self, **more: str) -> None:
        """Another code server in the place of the one that is dead or running; it listens."""
        if "code" in self.running:
            self.kill("code")
        self.start("code", **more)
        wait_for("the code server to listen", self._is_code_there, UP_SECONDS)

    def _is_code_there(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.code_port)) == 0

    def worker_of(self, run_id: str) -> int:
        """The number of a run's process, which its log says."""
        said = [e["message"] for e in self.log(run_id) if "(pid: " in e.get("message", "")]
        assert said, f"no process of run {run_id} is named"
        return int(said[0].rpartition("(pid: ")[2].partition(")")[0])

    def steps_of(self, run_id: str) -> list[tuple[float, str]]:
        """(when it began, in wall seconds; its name) of each step of a run."""
        starts = [e for e in self.log(run_id) if e["__typename"] == "ExecutionStepStartEvent"]
        return [(float(e["timestamp"]) / 1000, e["stepKey"]) for e in starts]

    def wait_until_loaded(self) -> None:
        """Wait until the webserver answers and has the definitions."""

        def is_loaded() -> bool:
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended: {self.said(name)}"
            with suppress(urllib3.exceptions.HTTPError, AssertionError, KeyError):
                return bool(self.sensors())
            return False

        wait_for("Dagster's webserver", is_loaded, UP_SECONDS)

    def said(self, name: str) -> str:
        """The end of a program's own log."""
        return (self.folder / f"dagster-{name}.log").read_text(errors="replace")[-3000:]

    # -------------------------------------------------------------------------------- asking

    def ask(self, query: str, **variables: Any) -> Any:
        """GraphQL's `data`. Fails on errors, and raises urllib3's when nobody answers."""
        answer = self._pool.request(
            "POST",
            f"http://127.0.0.1:{self.ui_port}/graphql",
            body=orjson.dumps({"query": query, "variables": variables}),
            headers={"Content-Type": "application/json"},
            timeout=60.0,
        )
        said = orjson.loads(answer.data)
        assert "errors" not in said, said["errors"]
        return said["data"]

    def launch(
        self,
        job: str,
        config: Mapping[str, Any] | None = None,
        *,
        partition: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Launch a job as the launchpad does; the run's id. `config` is that of its one op."""
        wanted = dict(tags or {})
        if partition:
            key = "|".join(value for _, value in sorted(partition.items()))
            wanted["dagster/partition"] = key
            wanted |= {f"dagster/partition/{name}": value for name, value in partition.items()}
        params = {
            "selector": _REPOSITORY | {"jobName": job},
            "runConfigData": dict(config or {}),
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in wanted.items()]},
        }
        said = self.ask(_LAUNCH, params=params)["launchRun"]
        assert said["__typename"] == "LaunchRunSuccess", said
        return str(said["run"]["runId"])

    def runs(self, job: str = "", **tags: str) -> list[Run]:
        """Runs of a job with these tags, newest first."""
        wanted: dict[str, Any] = {"tags": [{"key": k, "value": v} for k, v in tags.items()]}
        if job:
            wanted["pipelineName"] = job
        return list(map(_run, self.ask(_RUNS, filter=wanted)["runsOrError"]["results"]))

    def run(self, run_id: str) -> Run:
        """One run as it is now."""
        (found,) = self.ask(_RUNS, filter={"runIds": [run_id]})["runsOrError"]["results"]
        return _run(found)

    def wait_for_end(self, *run_ids: str, seconds: float = RUN_SECONDS) -> list[str]:
        """Wait until runs have ended; their statuses."""

        def all_ended() -> bool:
            return all(self.run(run_id).has_ended for run_id in run_ids)

        try:
            wait_for(f"{len(run_ids)} runs to end", all_ended, seconds)
        except AssertionError as e:
            states = [(r.job, r.status) for r in map(self.run, run_ids)]
            raise AssertionError(f"{e}: {states}; daemon: {self.said('daemon')}") from e
        return [self.run(run_id).status for run_id in run_ids]

    def child_of(self, run_id: str, seconds: float = RUN_SECONDS) -> Run:
        """Wait for the run that follows another one."""
        found: list[Run] = []

        def is_there() -> bool:
            found[:] = [r for r in self.runs() if r.parent == run_id]
            return bool(found)

        wait_for(f"a run that follows {run_id}", is_there, seconds)
        (child,) = found
        return child

    def log(self, run_id: str) -> list[dict[str, Any]]:
        """All events of a run, oldest first."""
        found: list[dict[str, Any]] = self.ask(_LOGS, run=run_id, limit=1000)["logsForRun"][
            "events"
        ]
        return found

    def messages(self, run_id: str) -> list[str]:
        """What a run said."""
        return [e["message"] for e in self.log(run_id) if e.get("message")]

    def why(self, run_id: str) -> str:
        """The end of what a run said, for a test that fails."""
        return "\n".join(self.messages(run_id)[-12:])

    def metadata(self, run_id: str, asset: str) -> dict[str, Any]:
        """Metadata of a run's materialization or observation of an asset."""
        for event in self.log(run_id):
            if event.get("assetKey") == {"path": [asset]}:
                return _values(event["metadataEntries"])
        raise AssertionError(f"run {run_id} told nothing of {asset}")

    def outputs(self, run_id: str) -> dict[str, Any]:
        """Metadata of the outputs of a run's steps."""
        found: dict[str, Any] = {}
        for event in self.log(run_id):
            if event["__typename"] == "ExecutionStepOutputEvent":
                found |= _values(event["metadataEntries"])
        return found

    # ------------------------------------------------------------------------------- sensors

    def sensors(self) -> dict[str, dict[str, str]]:
        """Name -> its state's id and status."""
        results = self.ask(_SENSORS, repository=_REPOSITORY)["sensorsOrError"]["results"]
        return {r["name"]: r["sensorState"] for r in results}

    def stop_sensors(self, names: Sequence[str] = ()) -> None:
        """Switch sensors off (all, without names), as a person would."""
        for name, state in self.sensors().items():
            if not names or name in names:
                said = self.ask(_STOP_SENSOR, id=state["id"])["stopSensor"]
                assert said["__typename"] == "StopSensorMutationResult", said


def _run(found: Mapping[str, Any]) -> Run:
    tags = {t["key"]: t["value"] for t in found["tags"]}
    # `parentRunId` is of runs that a person repeats, not of those that a sensor asked for.
    parent = tags.get(PARENT_TAG, "")
    return Run(found["runId"], found["jobName"], found["status"], parent, tags)


def _values(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Label -> value."""
    return {e["label"]: next((v for k, v in e.items() if k != "label"), None) for e in entries}


@contextmanager
def control_plane(
    made: Installation, *, definitions: str = DEFINITIONS, **more: str
) -> Iterator[ControlPlane]:
    """Code server and webserver, loaded; no daemon yet: nothing runs by itself.

    The clock stands behind the day and its grace; `more` are settings. All are gone at the end.
    """
    folder = made.folder / "dagster"
    code_port, ui_port = free_port(), free_port()
    with new_database(made.servers["AUDIT_DATABASE"]) as database:
        place, _ = run_place()
        own = {**keeper_settings(place), **more, "AUDIT_UI_PORT": str(ui_port)}
        given = made.environment(after_day=True) | own
        settings = Settings.from_environment({k: v for k, v in given.items() if k[:6] == "AUDIT_"})
        workspace = setup.prepare_dagster(folder, code_port, "stack")
        environment = given | {
            "DAGSTER_HOME": str(folder),
            "DAGSTER_FOLDER": str(folder),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "DAGSTER_GRPC_TIMEOUT_SECONDS": str(int(UP_SECONDS)),
            "PYTHONUNBUFFERED": "1",
            VARIABLE: database,
        }
        commands = dagster_commands(settings, code_port, workspace)
        commands["dagster-code"] = [
            definitions if word == DEFINITIONS else word for word in commands["dagster-code"]
        ]
        plane = ControlPlane(made, folder, environment, commands, code_port, ui_port)
        try:
            plane.start("code")
            subprocess.run(storage_command(), env=environment, check=True, capture_output=True)
            plane.start("webserver")
            plane.wait_until_loaded()
            yield plane
        finally:
            _end(plane)


def _end(plane: ControlPlane) -> None:
    """Kill the programs and whatever runs they have started: they carry this folder's name."""
    for process in plane.running.values():
        process.kill()
        process.wait()
    mark = f"DAGSTER_HOME={plane.folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
