"""A run whose process is gone is started anew as a child; a failed run is on record."""

import time

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from audit_platform.defs import attempts
from audit_platform.defs.runs import LOST_RUNS, run_failed
from audit_platform_tests.defs.conftest import Orchestra
from audit_platform_tests.test_operator_actions import actions


def begun(orchestra: Orchestra, **tags: str) -> dg.DagsterRun:
    """A run of `landing_upkeep` that is under way, as another process would see it."""
    run = orchestra.instance.create_run_for_job(
        orchestra.definitions.resolve_job_def("landing_upkeep"),
        tags={"audit/pool": "repair", **tags},
    )
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, job_name=run.job_name)
    orchestra.instance.report_dagster_event(event, run.run_id)
    return run


def look(orchestra: Orchestra) -> SensorExecutionData:
    """One tick, as the daemon has it: requests for jobs that are not the sensor's are refused."""
    repository = orchestra.definitions.get_repository_def()
    sensor = repository.get_sensor_def(LOST_RUNS)
    with dg.build_sensor_context(orchestra.instance, repository_def=repository) as context:
        return sensor.evaluate_tick(context)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code server was started anew since."""
    monkeypatch.setattr(attempts, "PROCESS_STARTED", time.time() + 60)


def test_a_run_that_has_its_process_is_left_alone(orchestra: Orchestra) -> None:
    run = begun(orchestra)
    assert look(orchestra).skip_message == "every run that is under way has its process"
    kept = orchestra.instance.get_run_by_id(run.run_id)
    assert kept is not None
    assert kept.status is dg.DagsterRunStatus.STARTED


@pytest.mark.usefixtures("later")
def test_a_run_that_lost_its_process_fails_and_gets_a_child(orchestra: Orchestra) -> None:
    run = begun(orchestra)
    (request,) = look(orchestra).run_requests or []
    assert request.job_name == "landing_upkeep"
    assert request.run_key == f"lost:{run.run_id}"
    assert request.tags["dagster/parent_run_id"] == run.run_id
    assert request.tags["audit/pool"] == "repair"
    assert request.tags["audit/attempt"] == "2"
    kept = orchestra.instance.get_run_by_id(run.run_id)
    assert kept is not None
    assert kept.status is dg.DagsterRunStatus.FAILURE


def test_a_run_whose_worker_was_found_dead_gets_one_child(orchestra: Orchestra) -> None:
    run = begun(orchestra)
    orchestra.instance.report_run_failed(run)  # as the code server does
    (request,) = look(orchestra).run_requests or []
    assert request.tags["dagster/parent_run_id"] == run.run_id
    begun(orchestra, **request.tags)
    assert not look(orchestra).run_requests


def test_a_run_that_failed_by_a_step_gets_no_child(orchestra: Orchestra) -> None:
    done = orchestra.definitions.resolve_job_def("rebuild_metadata").execute_in_process(
        instance=orchestra.instance, raise_on_error=False
    )
    assert not done.success
    assert not look(orchestra).run_requests


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"audit/incident": "0" * 16}, "its own sensor asks again"),
        ({"audit/attempt": "5"}, "gave up after 5 runs"),
    ],
)
def test_what_another_sensor_repeats_and_what_failed_often_gets_no_child(
    orchestra: Orchestra, tags: dict[str, str], words: str
) -> None:
    begun(orchestra, **tags)
    asked = look(orchestra)
    assert not asked.run_requests
    assert words in (asked.skip_message or "")


def test_a_failed_run_is_on_record(orchestra: Orchestra) -> None:
    done = orchestra.definitions.resolve_job_def("rebuild_metadata").execute_in_process(
        instance=orchestra.instance, raise_on_error=False
    )
    assert not done.success
    (entry,) = orchestra.instance.all_logs(done.run_id, dg.DagsterEventType.RUN_FAILURE)
    failure = entry.dagster_event
    assert failure is not None
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failed",
        dagster_event=failure,
        dagster_instance=orchestra.instance,
        dagster_run=done.dagster_run,
        resources={"platform": orchestra.world.platform},
    ).for_run_failure()
    run_failed(context)
    assert [a for a in actions(orchestra.world) if a["action"] == "run failed"] == [
        {
            "action": "run failed",
            "actor": f"run-{done.run_id[:8]}",
            "tenant": "platform",
            "subject": "rebuild_metadata",
        }
    ]
