"""`probe_lock`, and legal holds as people put them on and take them off."""

import dagster as dg

from audit_platform.operations.legal_hold import hold_of
from audit_platform.operations.manifests import named_objects, read_history
from audit_platform_tests.defs.conftest import Orchestra, evaluations
from audit_platform_tests.test_operator_actions import actions
from audit_platform_tests.world import DAY, World, sealed_day

WHY = "order of the court, file 4711, all pumps of ward 3"


def run(orchestra: Orchestra, job: str, op: str = "", **config: str) -> bool:
    done = orchestra.definitions.resolve_job_def(job).execute_in_process(
        instance=orchestra.instance,
        run_config={"ops": {op: {"config": {"tenant": "north", "day": DAY} | config}}}
        if op
        else {},
        raise_on_error=False,
    )
    return done.success


def are_held(world: World) -> list[bool]:
    manifest = read_history(world.platform, "north").counting[DAY]
    objects = world.platform.objects
    return [objects.head(o.key, o.version_id).legal_hold for o in named_objects(manifest)]


def test_an_advisory_lock_passes_with_a_warning_and_says_what_it_is(orchestra: Orchestra) -> None:
    done = orchestra.definitions.resolve_job_def("probe_lock").execute_in_process(
        instance=orchestra.instance, raise_on_error=False
    )
    (found,) = evaluations(done).values()
    assert (found.passed, found.severity) == (True, dg.AssetCheckSeverity.WARN)
    assert "advisory" in (found.description or "")
    assert found.metadata["lock"].value == "advisory"


def test_two_people_lift_what_one_put_on_and_each_act_is_on_record(orchestra: Orchestra) -> None:
    world = orchestra.world
    sealed_day(world)
    assert run(orchestra, "hold_day", "hold", person="counsel-2", reason=WHY)
    assert are_held(world) == [True]
    assert run(orchestra, "keep_holds")
    assert run(orchestra, "ask_lift_hold", "ask_lift", person="auditor-7", reason=WHY)
    assert not run(orchestra, "lift_hold", "lift", person="auditor-7", reason=WHY)
    assert are_held(world) == [True]
    assert run(orchestra, "lift_hold", "lift", person="counsel-2", reason=WHY)
    assert are_held(world) == [False]
    found = hold_of(world.platform, "north", DAY)
    assert found is not None
    assert found.lifted is not None
    done = sorted(a["action"] for a in actions(world))
    assert done == ["hold lift", "hold lift", "hold lift asked", "hold set"]
