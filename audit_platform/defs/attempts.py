"""How often, and how soon again, a sensor asks for the same run.

An *incident* is one thing that is wrong with one target; its id stands in tags and in the
`run_key`. Runs of one incident follow each other after rests, up to a number; then a person has to
look. The same trouble after a good run is another incident. Belongs here: that rule. Does not:
what is wrong (the sensors). Source: Dagster: a `run_key` is taken once, for good.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg

#: Runs of one incident before a person has to look. A store that was away for a few minutes is
#: back by then; what fails five times fails for a reason.
MAX_ATTEMPTS: Final = 5

#: Wait after the first failure; twice as long after each further one (1, 2, 4, 8 minutes).
RETRY_SECONDS: Final = 60.0

#: When this process began. The default launcher cannot say whether a run lives, and a run whose
#: code server died stays "started" for ever; one that began before us has lost its code server.
PROCESS_STARTED: Final = time.time()

INCIDENT_TAG: Final = "audit/incident"
ATTEMPT_TAG: Final = "audit/attempt"
CAUSE_TAG: Final = "audit/cause"
TENANT_TAG: Final = "audit/tenant"
DAY_TAG: Final = "audit/day"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that a sensor wants. `tags` tell its incident from all others of the job.

    `label` is its target in words. `partition_key` and `run_config` go into the request.
    """

    job: str
    label: str
    incident: str
    cause: str
    tags: Mapping[str, str]
    partition_key: str | None = None
    run_config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be asked for now, and why. `gave_up`: only a person helps."""

    words: str
    gave_up: bool = False


def next_attempt(instance: dg.DagsterInstance, wanted: Wanted) -> dg.RunRequest | Wait:
    """The request for the next run of an incident, or what it waits for."""
    runs = instance.get_run_records(dg.RunsFilter(job_name=wanted.job, tags=dict(wanted.tags)))
    for record in runs:
        if not record.dagster_run.is_finished and not abandoned(instance, record):
            return Wait(f"{wanted.label}: run {record.dagster_run.run_id} is under way")
    tried = len(runs)
    if tried >= MAX_ATTEMPTS:
        return Wait(
            f"{wanted.label}: gave up after {tried} runs; mend the cause, then run {wanted.job}",
            gave_up=True,
        )
    if tried:
        last = max(r.end_time or r.update_timestamp.timestamp() for r in runs)
        rest = last + RETRY_SECONDS * 2 ** (tried - 1) - time.time()
        if rest > 0:
            return Wait(f"{wanted.label}: run {tried} failed, trying again in {rest:.0f} s")
    attempt = str(tried + 1)
    return dg.RunRequest(
        run_key=f"{wanted.label}:{wanted.incident}:{attempt}",
        partition_key=wanted.partition_key,
        run_config=dict(wanted.run_config),
        tags={**wanted.tags, ATTEMPT_TAG: attempt, CAUSE_TAG: wanted.cause},
        job_name=wanted.job,
    )


def abandoned(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Has the run lost its code server? Then it is marked failed. Repeating it must be safe."""
    run = record.dagster_run
    begun = record.start_time or record.create_timestamp.timestamp()
    started = run.status in {dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED}
    if instance.run_launcher.supports_check_run_worker_health or not started:
        return False
    if begun >= PROCESS_STARTED:
        return False
    instance.report_run_failed(run, "Its code server is gone; the sensor starts another run.")
    return True
