"""Tenants in three code locations: each tenant in exactly one, the house in the first."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.cli import main
from audit_platform.defs import partitions
from audit_platform.defs.groups import TenantGroup
from audit_platform_tests.world import DAY, open_world

TENANTS = ["north", "south", "east", "west", "hill", "shore", "lake"]


@given(st.text(alphabet="abcdefghij-0123456789", min_size=1, max_size=63), st.integers(1, 64))
def test_each_tenant_is_in_exactly_one_group(tenant: str, of: int) -> None:
    assert sum(TenantGroup(n, of).has(tenant) for n in range(1, of + 1)) == 1


def test_one_group_has_plain_names_and_more_have_names_of_their_own() -> None:
    assert TenantGroup.parse("1/1").name("cold_day") == "cold_day"
    names = {TenantGroup(n, of).name("cold_day") for of in (2, 3) for n in range(1, of + 1)}
    assert len(names) == 5


def test_a_tenant_of_another_location_is_refused_with_the_one_that_has_it() -> None:
    of = [TenantGroup(n, 3) for n in (1, 2, 3)]
    (own,) = [g for g in of if g.has("north")]
    own.require("north")
    for other in of:
        if other != own:
            with pytest.raises(dg.Failure, match=rf"north is in group {own.number} of 3"):
                other.require("north")


#: What a code server does with its entry of the workspace, and then a tick of `day_closing`.
LOCATION = """
import json, sys
import dagster as dg
from dagster._core.code_pointer import ModuleCodePointer

module, attribute, folder = sys.argv[1:]
repository = ModuleCodePointer(module, attribute).load_target().get_repository_def()
from audit_platform.defs.resources import PlatformResource
from audit_platform.defs.sensors import day_closing
with dg.DagsterInstance.from_config(folder) as instance:
    given = {"platform": PlatformResource(profile="embedded")}
    with dg.build_sensor_context(instance, resources=given) as context:
        tick = day_closing(context)
print(json.dumps({
    "assets": [k.to_user_string() for k in repository.asset_graph.get_all_asset_keys()],
    "sensors": [s.name for s in repository.sensor_defs],
    "sets": sorted({r.partitions_def_name for r in tick.dynamic_partitions_requests}),
    "tenants": [k for r in tick.dynamic_partitions_requests for k in r.partition_keys],
    "days": [str(r.partition_key) for r in tick.run_requests],
}))
"""


def locations(count: int) -> list[dict[str, str]]:
    """The entries of the workspace that an operator makes."""
    made = CliRunner().invoke(main, ["locations", str(count)])
    assert made.exit_code == 0
    return [entry["python_module"] for entry in yaml.safe_load(made.output)["load_from"]]


def test_three_locations_share_the_tenants_and_one_has_the_house(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "dagster"
    folder.mkdir()
    with open_world(home) as world:
        for tenant in TENANTS:
            edge = world.edge(tenant)
            world.ingest(tenant, [edge.start(world.clock.now_ms())])
        world.archive()
        world.close()
        now = world.clock.now_ms()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AUDIT_", "DAGSTER"))}
    environment |= {
        "AUDIT_HOME": str(home),
        "AUDIT_PARTITIONS": "2",
        "AUDIT_CLOCK": f"scaled:{now}:0:0.000001",
    }
    seen = {}
    for entry in locations(3):
        ran = subprocess.run(
            [
                *(sys.executable, "-c", LOCATION),
                *(entry["module_name"], entry["attribute"], str(folder)),
            ],
            env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-2000:]
        seen[entry["location_name"]] = json.loads(ran.stdout.splitlines()[-1])
    assert list(seen) == [f"audit-platform-{n}-of-3" for n in (1, 2, 3)]
    assert Counter(t for told in seen.values() for t in told["tenants"]) == Counter(TENANTS)
    for number, told in enumerate(seen.values(), 1):
        assert told["tenants"], "each location has a tenant of these"
        assert told["sets"] == [f"tenant_{number}of3"]
        assert sorted(told["days"]) == sorted(f"{DAY}|{t}" for t in told["tenants"])
    assets = Counter(a for told in seen.values() for a in told["assets"])
    assert set(assets.values()) == {1}, "two locations with one asset"
    assert assets["cold_day_2of3"] == 1
    every, once = {"day_closing", "hot_repair", "lost_runs"}, {"archive_watch", "snapshot_stale"}
    first, *others = (set(told["sensors"]) for told in seen.values())
    assert every | once <= first
    assert all(every <= sensors and not once & sensors for sensors in others)
    assert all("run_failed" in sensors for sensors in (first, *others))


def test_a_process_is_one_group_for_good() -> None:
    script = (
        "from audit_platform.defs.locations import group_2_of_3 as defs\n"
        "import json\n"
        "from audit_platform.defs import locations\n"
        "try:\n    locations.group_1_of_3\n    again = True\n"
        "except AttributeError as e:\n    again = str(e)\n"
        "print(json.dumps([again, hasattr(locations, 'group_0_of_3')]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(ran.stdout) == ["group_1_of_3: this process is group 2 of 3", False]
    assert TenantGroup(1, 1) == partitions.GROUP
