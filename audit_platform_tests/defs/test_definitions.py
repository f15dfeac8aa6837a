"""What Dagster sees: a snapshot of all names, and that loading it does nothing else."""

import os
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
import yaml

from audit_platform.adapters.clock import ScaledClock
from audit_platform.defs.build import build_definitions
from audit_platform.defs.partitions import SCALED_DAYS_AHEAD, days_ahead, tenant_days
from audit_platform.defs.pools import POOL_TAG
from audit_platform.record import layout
from audit_platform.settings import Settings

ROOT = Path(__file__).parents[2]

#: The limit is 6 s; a machine shared with other tests gets more in wall time, not in CPU time.
LOAD_CPU_SECONDS = 6.0


def test_the_names_are_these() -> None:
    repository = build_definitions().get_repository_def()
    graph = repository.asset_graph
    deps = {
        node.key.to_user_string(): sorted(k.to_user_string() for k in node.parent_keys)
        for node in graph.asset_nodes
    }
    assert deps == {
        "landing_coverage": [],
        "cold_day": ["landing_coverage"],
        "cold_manifest": ["cold_day"],
        "hot_index": ["cold_manifest"],
        "hot_snapshot": ["hot_index"],
    }
    assert sorted(k.to_user_string() for k in graph.asset_check_keys) == [
        "cold_day:chain_unbroken",
        "cold_day:nothing_missing",
        "cold_day:read_again_within_90_days",
        "cold_day:sealed_objects_are_as_signed",
        "cold_day:the_lock_refuses_whoever_asks",
        "cold_manifest:every_closed_day_is_sealed_and_sound",
        "cold_manifest:manifest_signed_by_known_key",
        "hot_index:hot_holds_exactly_the_day",
        "hot_index:no_index_is_stuck",
        "hot_snapshot:snapshot_is_fresh",
        "landing_coverage:archive_keeps_up",
        "landing_coverage:nothing_acknowledged_is_lost",
        "landing_coverage:ranges_follow_on_each_other",
    ]
    jobs = [n for n in repository.job_names if not n.startswith("__")]
    assert sorted(jobs) == [
        "accept_gap",
        "ask_lift_hold",
        "count_archive",
        "hold_day",
        "hot_life",
        "inventory",
        "keep_holds",
        "landing_upkeep",
        "lift_hold",
        "probe_lock",
        "rearchive_day",
        "rebuild_hot",
        "rebuild_metadata",
        "reconcile",
        "replay_dlq",
        "restore_drill",
        "restore_hot",
        "seal_day",
        "snapshot_hot",
        "verify_day",
        "verify_hot",
        "verify_rolling",
    ]
    sensors = sorted(s.name for s in repository.sensor_defs)
    assert sensors == [
        "archive_watch",
        "day_closing",
        "hot_repair",
        "integrity_repair",
        "lost_runs",
        "run_failed",
        "snapshot_stale",
    ]
    schedules = [(s.name, s.cron_schedule, s.execution_timezone) for s in repository.schedule_defs]
    assert sorted(schedules) == [
        ("drill_weekly", "0 8 * * 2", "UTC"),
        ("holds_nightly", "0 4 * * *", "UTC"),
        ("hot_life_nightly", "45 4 * * *", "UTC"),
        ("inventory_nightly", "0 6 * * *", "UTC"),
        ("landing_nightly", "15 4 * * *", "UTC"),
        ("probe_lock_daily", "30 5 * * *", "UTC"),
        ("reconcile_nightly", "15 1 * * *", "UTC"),
        ("rolling_nightly", "0 3 * * *", "UTC"),
        ("snapshot_six_hourly", "20 */6 * * *", "UTC"),
        ("verify_hot_yesterday", "45 2 * * *", "UTC"),
        ("verify_yesterday", "30 2 * * *", "UTC"),
    ]
    for name in sensors:
        assert repository.get_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING


def test_every_asset_has_an_owner_a_group_words_and_a_freshness_policy() -> None:
    for node in build_definitions().get_repository_def().asset_graph.asset_nodes:
        assert node.owners == ["team:audit-platform"]
        assert node.group_name in {"landing", "cold", "hot"}
        assert node.description
        assert node.kinds
        assert node.freshness_policy is not None
        if node.is_executable:
            assert node.backfill_policy == dg.BackfillPolicy.single_run()


def test_jobs_by_day_take_a_tenant_and_a_day_and_run_in_one_process() -> None:
    definitions = build_definitions()
    for name in ("seal_day", "verify_day", "verify_hot"):
        job = definitions.resolve_job_def(name)
        assert isinstance(job.partitions_def, dg.MultiPartitionsDefinition)
        assert job.partitions_def.partition_dimension_names == ["day", "tenant"]
        assert job.executor_def is dg.in_process_executor
    steps = {n.name for n in definitions.resolve_job_def("verify_day").nodes}
    assert steps == {"verification"}  # nothing is materialized again


def test_every_job_but_sealing_waits_in_a_pool_so_that_sealing_finds_a_place() -> None:
    repository = build_definitions().get_repository_def()
    without = [j.name for j in repository.get_all_jobs() if POOL_TAG not in j.tags]
    assert sorted(without) == ["__ASSET_JOB", "seal_day"]


#: What an operator wants to know of a job, in this order.
SAID_OF_A_JOB = [
    "**When.**",
    "**What it does.**",
    "**How long it took last.**",
    "**How to stop it.**",
]


def headings_of_jobs() -> dict[str, str]:
    """Text under each heading of the runbooks that is a job's name."""
    found: dict[str, str] = {}
    for page in sorted((ROOT / "deploy" / "runbooks").glob("*.md")):
        for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
            heading, _, text = section.partition("\n")
            if re.fullmatch(r"`[a-z_]+`", heading):
                name = heading.strip("`")
                assert name not in found, f"{name} has two headings"
                found[name] = text
    return found


def test_every_job_has_a_runbook_heading_that_says_when_what_how_long_and_how_to_stop() -> None:
    repository = build_definitions().get_repository_def()
    said = headings_of_jobs()
    assert sorted(said) == sorted(n for n in repository.job_names if not n.startswith("__"))
    for name, text in said.items():
        places = [text.find(f"\n{words}" if n else words) for n, words in enumerate(SAID_OF_A_JOB)]
        assert -1 not in places, f"{name} lacks {SAID_OF_A_JOB[places.index(-1)]}"
        assert places == sorted(places), name


#: Loads the definitions while every file that Python opens, makes or lists is noted.
LOADER = """
import json, sys, time
home, touched = sys.argv[1], []

def note(event, args):
    if event in {"open", "os.mkdir", "os.listdir", "os.scandir", "sqlite3.connect"}:
        touched.append(str(args[0]))
    elif event.startswith("socket."):
        touched.append(event)

sys.addaudithook(note)
begin = time.process_time()
import dagster as dg
from audit_platform.definitions import defs
dg.Definitions.validate_loadable(defs)
seconds = time.process_time() - begin
inside = [t for t in touched if t.startswith((home, "socket."))]
adapters = [m for m in sys.modules if m.startswith("audit_platform.adapters.")]
print(json.dumps({"seconds": seconds, "inside": inside, "adapters": adapters}))
"""


def test_loading_is_quick_touches_nothing_and_imports_no_adapter_but_the_clock(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AUDIT_")}
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADER, str(home)],
        env=environment | {"AUDIT_HOME": str(home)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answer = yaml.safe_load(loaded.stdout)
    assert answer["inside"] == []
    assert answer["adapters"] == ["audit_platform.adapters.clock"]
    assert list(tmp_path.iterdir()) == []
    assert answer["seconds"] < LOAD_CPU_SECONDS


def test_a_wrong_setting_stops_the_load_with_its_name() -> None:
    failed = subprocess.run(
        [sys.executable, "-c", "import audit_platform.definitions"],
        env=dict(os.environ) | {"AUDIT_FIRST_DAY": "yesterday"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert failed.returncode == 1
    assert "AUDIT_FIRST_DAY is 'yesterday'" in failed.stderr


def test_dagster_dev_dg_and_the_workspace_agree_on_module_and_location() -> None:
    """Dagster keeps a sensor's state by its location's name: one name, however it is started."""
    import tomllib  # noqa: PLC0415 - used here alone

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    (entry,) = workspace["load_from"]
    assert entry["python_module"] == {
        "module_name": project["code_location_target_module"],
        "location_name": project["code_location_name"],
    }


def test_partitions_end_with_yesterday_and_go_ahead_only_with_a_scaled_clock() -> None:
    plain = Settings.from_environment({})
    today = date(2026, 3, 1)
    assert days_ahead(plain, today) == 0
    start = layout.day_start_ms("2026-03-11")
    scaled = Settings.from_environment({"AUDIT_CLOCK": f"scaled:{start}:{now_ms()}:0.001"})
    assert days_ahead(scaled, today) == 10 + SCALED_DAYS_AHEAD
    past = Settings.from_environment({"AUDIT_CLOCK": f"scaled:0:{now_ms()}:0.001"})
    assert days_ahead(past, today) == SCALED_DAYS_AHEAD


def test_a_scaled_clock_years_ahead_still_has_partitions() -> None:
    clock = ScaledClock(layout.day_start_ms("2031-05-05"), now_ms(), 1.0)
    text = f"scaled:{clock.wall_start_ms}:{clock.real_start_ms}:{clock.rate}"
    partitions = tenant_days(Settings.from_environment({"AUDIT_CLOCK": text}))
    days = partitions.get_partitions_def_for_dimension("day")
    assert days.has_partition_key("2031-05-05")


def now_ms() -> int:
    """The real time."""
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize("name", ["DAGSTER_FOLDER", "DAGSTER_DISABLE_TELEMETRY"])
def test_the_env_file_has_only_what_dagster_needs(name: str) -> None:
    lines = (ROOT / ".env").read_text().splitlines()
    names = [line.split("=")[0] for line in lines if line and not line.startswith("#")]
    assert name in names
    assert len(names) == 2
