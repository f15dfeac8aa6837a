"""Dagster over many tenants' days: what loading, ticks, pages, backfills and the daemon cost.

Makes an embedded installation in which every tenant has every day sealed (empty days: what is
measured is counting, not sealing) and Dagster knows each materialization, then asks as a person and
the daemon would. Run: `python -m benchmarks.dagster_scale [tenants] [days]` (default 100, 730).
Targets: definitions 6 s, a tick 30 s, daemon 500 MB; pages and launching backfills are told.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import urllib3

from audit_platform.demo.dagster_ui import DagsterUi
from audit_platform.demo.programs import dagster_commands, environment_of, storage_command
from audit_platform.demo.setup import prepare_dagster
from audit_platform.operations.generations import ensure_generation
from audit_platform.operations.manifests import SEALED_LOCK_MS, sign
from audit_platform.ports import Platform
from audit_platform.record import layout, merkle
from audit_platform.record.manifest import SEALED, Manifest
from audit_platform.record.ranges import ClosedPartition, Closing
from audit_platform.settings import Settings
from audit_platform.wiring import open_platform

if TYPE_CHECKING:
    from audit_platform.defs.partitions import TenantDay

LAST_DAY: Final = "2026-09-30"
BASE_PORT: Final = 27_000
ASSETS: Final = ("landing_coverage", "cold_day", "cold_manifest")

#: How long a program may take to answer, or a tick to come, on a loaded machine.
PATIENCE_SECONDS: Final = 600.0

#: The ticks of sensors that look every half minute, a few times over.
DAEMON_SECONDS: Final = 120.0

#: What the page of an asset's partitions asks for.
PAGE: Final = """
query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionKeysByDimension { name partitionKeys }
  assetPartitionStatuses { ... on MultiPartitionStatuses { ranges {
    primaryDimStartKey primaryDimEndKey
    secondaryDim {
      ... on TimePartitionStatuses { ranges { status startKey endKey } }
      ... on DefaultPartitionStatuses {
        materializedPartitions failedPartitions unmaterializedPartitions } } } } } } } }
"""
#: What the page of runs asks for.
RUNS: Final = """
{ runsOrError(limit: 25) { ... on Runs { results { runId status jobName tags { key value } } } } }
"""
LAUNCH: Final = """
mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
BACKFILL: Final = """
query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
  status numPartitions runs { runId } error { message } } } }
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """How many tenants, and which days."""

    tenants: tuple[str, ...]
    days: tuple[str, ...]

    @classmethod
    def of(cls, tenants: int, days: int) -> Scale:
        """So many, with the same last day always."""
        last = date.fromisoformat(LAST_DAY)
        names = tuple(f"clinic-{n:03}" for n in range(tenants))
        back = range(days - 1, -1, -1)
        return cls(names, tuple((last - timedelta(days=n)).isoformat() for n in back))

    def settings(self, home: Path) -> Settings:
        """Just past the grace of the last day."""
        wall = layout.day_end_ms(self.days[-1]) + 600_000
        return Settings.from_environment(
            {
                "AUDIT_HOME": str(home),
                "AUDIT_CLOCK": f"scaled:{wall}:{int(time.time() * 1000)}:1",
                "AUDIT_FIRST_DAY": self.days[0],
                "AUDIT_UI_PORT": str(BASE_PORT),
            }
        )


# ----------------------------------------------------------------------------------- what is there


def fill(platform: Platform, scale: Scale) -> None:
    """Closings of all days, and a manifest for each tenant and day."""
    platform.keys.new("manifest", layout.day_start_ms(scale.days[0]))
    ensure_generation(platform)
    for tenant_id in scale.tenants:
        platform.metadata.add_tenant(tenant_id, layout.day_start_ms(scale.days[0]))
    info = {t: platform.log.describe(t) for t in (layout.EVENTS_TOPIC, layout.DLQ_TOPIC)}
    ends = tuple(ClosedPartition(t, 1, p, 0) for t, i in info.items() for p in range(i.partitions))
    root = merkle.day_root([]).hex()
    previous = dict.fromkeys(scale.tenants, layout.ZERO_HASH)
    for number, day in enumerate(scale.days, 1):
        closed_ms = layout.day_end_ms(day) + 600_000
        until = closed_ms + SEALED_LOCK_MS
        put(platform, layout.closing_key(day), Closing(day, closed_ms, ends).to_bytes(), until)
        for tenant_id in scale.tenants:
            manifest = sign(platform.keys, empty(tenant_id, day, number, previous[tenant_id], root))
            put(platform, layout.manifest_key(tenant_id, number), manifest.raw, until)
            previous[tenant_id] = manifest.sha256


def put(platform: Platform, key: str, data: bytes, until: int) -> None:
    """A record, as it would have been claimed."""
    platform.objects.put(key, data, retain_until_ms=until, if_absent=True)


def empty(tenant_id: str, day: str, number: int, previous: str, root: str) -> Manifest:
    """A day on which nothing came, unsigned."""
    return Manifest(
        tenant_id=tenant_id, day=day, number=number, previous=previous, revision=1, status=SEALED,
        sealed_ms=layout.day_end_ms(day) + 660_000, software="audit-platform benchmark",
        lock="advisory", rows=0, duplicates=0, root=root, parts=(), chains=(), starts=(),
        losses=(), verdicts={}, quarantine=(), links=(), undecodable=(), edge_keys={}, inputs=(),
    )  # fmt: skip


def remember(scale: Scale) -> int:
    """Dagster's memory of every materialization; runs in a child that has DAGSTER_HOME.

    One of each asset is reported as Dagster does it; the others are copies of its rows. Returns how
    many there are.
    """
    import dagster as dg  # noqa: PLC0415 - only in the child
    from sqlalchemy import text  # noqa: PLC0415 - only in the child

    from audit_platform.defs.partitions import TENANT, TenantDay  # noqa: PLC0415 - only in the child

    instance = dg.DagsterInstance.get()
    instance.add_dynamic_partitions(TENANT, list(scale.tenants))
    first = TenantDay(scale.days[0], scale.tenants[0])
    for asset in ASSETS:
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=first.key))
    storage: Any = instance.event_log_storage
    columns = "run_id, event, dagster_event_type, timestamp, step_key, asset_key"
    with storage.index_connection() as connection:
        rows = connection.execute(
            text(f"SELECT {columns}, partition FROM event_logs WHERE partition IS NOT NULL")  # noqa: S608 - names of ours
        ).fetchall()
        for row in rows:
            given = dict(zip((*columns.split(", "), "partition"), row, strict=True))
            keys = [TenantDay(d, t) for t in scale.tenants for d in scale.days]
            others = [
                given | {"partition": str(k.key), "event": moved(given["event"], first, k)}
                for k in keys
                if k != first
            ]
            names = ", ".join(f":{c}" for c in columns.split(", "))
            connection.execute(
                text(f"INSERT INTO event_logs ({columns}, partition) VALUES ({names}, :partition)"),  # noqa: S608 - names of ours
                others,
            )
        connection.commit()
    return len(instance.get_materialized_partitions(dg.AssetKey(ASSETS[-1])))


def moved(event: str, first: TenantDay, other: TenantDay) -> str:
    """The event of another partition."""
    return (
        event.replace(str(first.key), str(other.key))
        .replace(first.day, other.day)
        .replace(first.tenant_id, other.tenant_id)
    )


# ------------------------------------------------------------------------------------ what it costs


def load() -> dict[str, float]:
    """CPU seconds of loading the definitions, in this process."""
    begun = time.process_time()
    from audit_platform.definitions import defs  # noqa: PLC0415 - what is measured

    defs.get_repository_def()
    return {"cpu": time.process_time() - begun}


def ticks(settings: Settings) -> dict[str, Any]:
    """Each sensor's first tick and one that has the cursor of the first: CPU and wall seconds."""
    import dagster as dg  # noqa: PLC0415 - only in the child

    from audit_platform.defs.build import build_definitions  # noqa: PLC0415 - only in the child

    told: dict[str, Any] = {}
    instance = dg.DagsterInstance.get()
    with closing(open_platform(settings)) as platform:
        repository = build_definitions(platform=platform).get_repository_def()
        for sensor in repository.sensor_defs:
            if isinstance(sensor, dg.RunStatusSensorDefinition):
                continue  # it looks at runs, not at partitions
            cursor: str | None = None
            for name in ("first", "second"):
                before, wall = time.process_time(), time.monotonic()
                with dg.build_sensor_context(
                    instance,
                    cursor=cursor,
                    repository_def=repository,
                    resources={"platform": platform},
                ) as context:
                    tick = sensor.evaluate_tick(context)
                cursor = tick.cursor
                told[f"{sensor.name} {name}"] = {
                    "cpu": time.process_time() - before,
                    "wall": time.monotonic() - wall,
                    "requests": len(tick.run_requests or []),
                    "words": (tick.skip_message or "")[:80],
                }
    return told | {"peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}


@contextmanager
def dagster(settings: Settings) -> Iterator[dict[str, int]]:
    """Code server, webserver and daemon, as an installation runs them; yields their process ids."""
    workspace = prepare_dagster(settings.dagster_folder, BASE_PORT + 1, "embedded")
    file = settings.dagster_folder / "dagster.yaml"
    # Runs are asked for and wait: what they do is not what is measured here.
    held, found = re.subn(r"max_concurrent_runs: \d+", "max_concurrent_runs: 0", file.read_text())
    if found != 1:
        raise SystemExit("dagster.yaml has no max_concurrent_runs")
    file.write_text(held)
    environment = environment_of(settings, {})
    running = {}
    try:
        for name, command in dagster_commands(settings, BASE_PORT + 1, workspace).items():
            with (settings.home / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603 - our own programs
        yield {name: process.pid for name, process in running.items()}
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


class Page:
    """The webserver's GraphQL, with a stop-watch."""

    def __init__(self, settings: Settings) -> None:
        self.url = f"http://127.0.0.1:{settings.ui_port}"
        self._pool = urllib3.PoolManager(retries=False, timeout=PATIENCE_SECONDS)

    def ask(self, query: str, **variables: object) -> tuple[float, Any]:
        """(seconds, data). An error ends the benchmark: a quick refusal is no figure."""
        begun = time.monotonic()
        answer = self._pool.request(
            "POST", f"{self.url}/graphql", json={"query": query, "variables": variables}
        )
        seconds, body = time.monotonic() - begun, answer.json()
        if "errors" in body:
            raise SystemExit(str(body["errors"])[:2000])
        return seconds, body["data"]


def until(what: str, look: Any) -> float:
    """Seconds until it is so."""
    begun = time.monotonic()
    while not look():
        if time.monotonic() - begun > PATIENCE_SECONDS:
            raise SystemExit(f"{what}: not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.5)
    return time.monotonic() - begun


def memory_mb(pid: int) -> int:
    """The most that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def launch(page: Page, what: str, params: dict[str, Any]) -> None:
    """A backfill: answered, then seen to have its runs in the queue."""
    seconds, data = page.ask(LAUNCH, params=params)
    done = data["launchPartitionBackfill"]
    if done["__typename"] != "LaunchBackfillSuccess":
        raise SystemExit(str(done)[:2000])
    last: dict[str, Any] = {}

    def has_runs() -> bool:
        last.update(page.ask(BACKFILL, id=done["backfillId"])[1]["partitionBackfillOrError"])
        if last["error"]:
            raise SystemExit(str(last["error"])[:2000])
        return bool(last["runs"])

    waited = until(what, has_runs)
    print(f"  {what}: {last['numPartitions']:,} partitions, answered in {seconds:.1f} s,")
    print(f"    {len(last['runs'])} runs in the queue after {waited:.1f} s more")


def served(settings: Settings, scale: Scale) -> None:
    """Ask the running programs."""
    page, ui = Page(settings), DagsterUi(f"http://127.0.0.1:{settings.ui_port}")
    with dagster(settings) as pids:
        print(f"programs up in {until('the webserver', ui.is_up):.0f} s")
        # The webserver answers before it has loaded the code location.
        key = {"path": [ASSETS[-1]]}
        loaded = until("the code location", lambda: page.ask(PAGE, key=key)[1]["assetNodeOrError"])
        print(f"code location loaded in {loaded:.0f} s more")
        for asset in ASSETS[-1:]:
            for turn in ("first", "second"):
                seconds, data = page.ask(PAGE, key={"path": [asset]})
                ranges = data["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]
                if not ranges:
                    raise SystemExit("the page shows no materialized partition")
                print(f"  partitions page, {turn} time: {seconds:.2f} s, {len(ranges)} ranges")
        seal = {
            "assetSelection": [{"path": [a]} for a in ASSETS],
            "forceSynchronousSubmission": False,
        }
        one = [f"{day}|{scale.tenants[0]}" for day in scale.days]
        launch(page, "backfill of one tenant", seal | {"partitionNames": one})
        launch(page, "backfill of all tenants", seal | {"allPartitions": True})
        seconds, _ = page.ask(RUNS)
        print(f"  page of runs: {seconds:.2f} s")
        time.sleep(DAEMON_SECONDS)
        for name, pid in pids.items():
            print(
                f"  {name}: {memory_mb(pid)} MB at most"
                + (" (<= 500)" * (name == "dagster-daemon"))
            )


def child(step: str, scale: Scale, settings: Settings) -> Any:
    """One step in a process of its own."""
    environment = environment_of(settings, {})
    arguments = [str(len(scale.tenants)), str(len(scale.days))]
    ran = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "benchmarks.dagster_scale", *arguments, "--child", step],
        env=environment,
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    """Fill, then measure; or one step, in a child."""
    given = sys.argv[1:]
    scale = Scale.of(*(int(a) for a in given[:2])) if len(given) > 1 else Scale.of(100, 730)
    if "--child" in given:
        settings = Settings.from_environment(os.environ)
        step = given[-1]
        steps: dict[str, Callable[[], Any]] = {
            "remember": lambda: remember(scale),
            "load": load,
            "ticks": lambda: ticks(settings),
        }
        print(json.dumps(steps[step]()))
        return
    with tempfile.TemporaryDirectory(prefix="audit-scale-") as folder:
        settings = scale.settings(Path(folder))
        begun = time.monotonic()
        with closing(open_platform(settings)) as platform:
            fill(platform, scale)
        prepare_dagster(settings.dagster_folder, BASE_PORT + 1, "embedded")
        subprocess.run(  # noqa: S603 - Dagster's own program
            storage_command(),
            env=environment_of(settings, {}),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        known = child("remember", scale, settings)
        wanted = len(scale.tenants) * len(scale.days)
        if known != wanted:
            raise SystemExit(f"Dagster knows {known} partitions of {wanted}")
        print(f"{wanted:,} partitions made in {time.monotonic() - begun:.0f} s", flush=True)
        print(
            f"definitions: {child('load', scale, settings)['cpu']:.2f} s of CPU (<= 6)", flush=True
        )
        for name, told in child("ticks", scale, settings).items():
            print(f"  tick of {name}: {told}", flush=True)
        served(settings, scale)


if __name__ == "__main__":
    main()
