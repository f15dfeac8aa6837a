"""`rebuild_metadata` as an operator would run it."""

import dagster as dg

from audit_platform.defs.partitions import TENANT
from audit_platform_tests.defs.conftest import Orchestra


def run(orchestra: Orchestra) -> dg.ExecuteInProcessResult:
    return orchestra.definitions.resolve_job_def("rebuild_metadata").execute_in_process(
        instance=orchestra.instance, raise_on_error=False
    )


def test_the_job_brings_tenants_back_as_partitions_and_shows_them(orchestra: Orchestra) -> None:
    world = orchestra.world
    edge = world.edge("north")
    now = world.clock.now_ms()
    world.ingest("north", [edge.start(now), *edge.heartbeats(1, 1, now)])
    world.archive()
    done = run(orchestra)
    assert done.success
    assert set(orchestra.instance.get_dynamic_partitions(TENANT)) == {"north"}
    output = next(e for e in done.all_events if e.event_type_value == "STEP_OUTPUT")
    shown = output.step_output_data.metadata["tenants"]
    assert isinstance(shown, dg.TableMetadataValue)
    (row,) = shown.records
    assert (row.data["tenant"], row.data["was known"], row.data["days with landing"]) == (
        "north",
        True,
        1,
    )


def test_a_bucket_without_a_tenant_fails_the_run(orchestra: Orchestra) -> None:
    assert not run(orchestra).success
