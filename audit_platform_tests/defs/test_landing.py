"""`landing_upkeep` walks every tenant, shows what it did, and a refused day holds up no other."""

import dagster as dg

from audit_platform.record import layout
from audit_platform_tests.defs.conftest import Orchestra
from audit_platform_tests.world import DAY


def test_proved_landing_goes_and_an_unsealed_day_is_kept(orchestra: Orchestra) -> None:
    world = orchestra.world
    edges = [world.edge(tenant) for tenant in ("north", "south")]
    for edge in edges:
        now = world.clock.now_ms()
        world.ingest(edge.tenant_id, [edge.start(now), *edge.heartbeats(2, 2, now)])
    world.archive()
    world.close(DAY)
    world.seal("north", DAY)
    world.clock.advance(36 * layout.MS_PER_DAY)
    done = orchestra.definitions.resolve_job_def("landing_upkeep").execute_in_process(
        instance=orchestra.instance, raise_on_error=False
    )
    assert done.success
    output = next(e for e in done.all_events if e.event_type_value == "STEP_OUTPUT")
    shown = output.step_output_data.metadata["days"]
    assert isinstance(shown, dg.TableMetadataValue)
    rows = {(r.data["tenant"], r.data["what"]): r.data["why"] for r in shown.records}
    assert rows["north", "expired"] == "5 events, each is sealed"
    assert rows["south", "kept"] == "the day is not sealed"
    assert rows["south", "refused"]
