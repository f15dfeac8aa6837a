"""`verify_rolling` as the schedule runs it: green, red with an incident, and never green unread."""

from typing import Any

import dagster as dg

from audit_platform.operations.incidents import incidents
from audit_platform.operations.manifests import read_history
from audit_platform_tests import attackers
from audit_platform_tests.defs.conftest import Orchestra, evaluations
from audit_platform_tests.world import DAY, sealed_day


def run(orchestra: Orchestra, **config: int) -> dict[str, dg.AssetCheckEvaluation]:
    done = orchestra.definitions.resolve_job_def("verify_rolling").execute_in_process(
        instance=orchestra.instance,
        run_config={"ops": {"rolling_verification": {"config": config}}},
        raise_on_error=False,
    )
    assert done.success  # one check is told beside the other; a red one turns no run red
    return {name: e for (name, _), e in evaluations(done).items()}


def shown(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {k: v.value for k, v in evaluation.metadata.items()}


def test_a_night_shows_what_it_read_and_a_flipped_bit_is_red_and_an_incident(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    sealed_day(world)
    found = run(orchestra)
    assert {name: e.passed for name, e in found.items()} == {
        "sealed_objects_are_as_signed": True,
        "read_again_within_90_days": True,
    }
    seen = shown(found["sealed_objects_are_as_signed"])
    assert (seen["objects_read"], seen["derived_again"]) == (2, [f"north {DAY}"])
    (part,) = read_history(world.platform, "north").counting[DAY].parts
    attackers.flip(world.objects_folder / part.object.key, 100)
    red = run(orchestra, sample_days=0)["sealed_objects_are_as_signed"]
    assert (red.passed, red.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert part.object.key in (red.description or "")
    assert [i.is_open for i in incidents(world.platform, "north")] == [True]


def test_a_budget_that_is_too_small_is_red_and_says_what_to_raise(orchestra: Orchestra) -> None:
    sealed_day(orchestra.world)
    late = run(orchestra, budget_bytes=1)["read_again_within_90_days"]
    assert not late.passed
    assert "AUDIT_VERIFY_BYTES" in (late.description or "")


def test_nothing_read_is_never_green(orchestra: Orchestra) -> None:
    found = run(orchestra)
    assert [e.passed for e in found.values()] == [False, False]
    assert {e.severity for e in found.values()} == {dg.AssetCheckSeverity.WARN}
