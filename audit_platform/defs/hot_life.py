"""The life cycle of HOT's indexes under Dagster: every night, each index as far as it may go.

Belongs here: the job, its schedule, the check that no index is stuck. Does not: states and steps
(`operations/hot_life.py`). Source: the mission (HOT 30 d, WARM to 90 d); failures 17 and 30.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import dagster as dg

from audit_platform.defs.cold import RETRY
from audit_platform.defs.hot import HOT_INDEX
from audit_platform.defs.metadata import MAX_LISTED, explained
from audit_platform.defs.pools import REPAIR
from audit_platform.defs.record_action import record_action
from audit_platform.defs.schedules import RUN_BY_ITSELF
from audit_platform.operations.hot_life import Life, LifeStep, State, bring_on, lives
from audit_platform.ports import Platform

HOT_LIFE: Final = "hot_life"
NOT_STUCK: Final = "no_index_is_stuck"

_SCHEMA: Final = dg.TableSchema(
    [
        dg.TableColumn("tenant"),
        dg.TableColumn("day"),
        dg.TableColumn("state"),
        dg.TableColumn("due"),
        dg.TableColumn("error"),
    ]
)


def _table(found: Sequence[Life]) -> dg.MetadataValue:
    rows = [
        dg.TableRecord(
            {
                "tenant": life.index.tenant_id,
                "day": life.index.day,
                "state": life.state.value,
                "due": life.due.value,
                "error": life.error,
            }
        )
        for life in sorted(found, key=lambda f: (not f.error, f.index.day))[:MAX_LISTED]
    ]
    return dg.MetadataValue.table(rows, schema=_SCHEMA)


@dg.op(
    name="bring_on",
    out=dg.Out(dg.Nothing),
    retry_policy=RETRY,
    description="Merges what is older than 30 days, deletes what is older than 90 and proved.",
)
def bring_all_on(
    context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
    """An index whose step fails is shown with its reason, and holds up no other."""
    begun = time.monotonic()
    after: list[Life] = []
    with explained():
        for life in lives(platform):
            now = bring_on(platform, life) if life.due is not LifeStep.NONE else life
            after.append(now)
            if now.state is State.DELETED:
                record_action(context, platform, "hot delete", life.index.tenant_id, life.index.day)
    evaluation = _evaluation(after)
    yield evaluation
    if not evaluation.passed:
        raise dg.Failure(
            evaluation.description or "",
            metadata={"indexes": _table([life for life in after if life.error])},
            allow_retries=False,
        )
    context.log.info("%d indexes in %.1f s", len(after), time.monotonic() - begun)
    yield dg.Output(None)


def _evaluation(found: Sequence[Life]) -> dg.AssetCheckEvaluation:
    stuck = [life for life in found if life.error]
    states = Counter(life.state.value for life in found)
    words = ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "no index"
    first = f"; {stuck[0].index.tenant_id} {stuck[0].index.day}: {stuck[0].error}" if stuck else ""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(HOT_INDEX),
        check_name=NOT_STUCK,
        passed=not stuck,
        description=f"{words}; {len(stuck)} stuck{first}",
        metadata={
            "indexes": _table(found),
            "stuck": dg.MetadataValue.int(len(stuck)),
            **{f"indexes_{state}": dg.MetadataValue.int(n) for state, n in states.items()},
        },
    )


@dg.asset_check(
    asset=HOT_INDEX,
    name=NOT_STUCK,
    description="No index failed at the step of its life cycle that is due.",
)
def no_index_is_stuck(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    """Reads the state and the error that each index keeps of itself."""
    with explained():
        said = _evaluation(lives(platform))
    return dg.AssetCheckResult(
        passed=said.passed, description=said.description, metadata=said.metadata
    )


@dg.job(
    name=HOT_LIFE,
    tags=REPAIR,
    description=(
        "Bring each search index on in its life: merged after 30 days, deleted after 90 where its "
        "day is sealed and proved. What is stuck is shown and tried again. May be stopped and "
        "started at any time."
    ),
    executor_def=dg.in_process_executor,
)
def hot_life_job() -> None:
    """One step."""
    bring_all_on()


hot_life_nightly: Final = dg.ScheduleDefinition(
    name="hot_life_nightly",
    job=hot_life_job,
    cron_schedule="45 4 * * *",
    execution_timezone="UTC",
    default_status=RUN_BY_ITSELF,
    description="After the night's verification and landing's upkeep.",
)

defs = dg.Definitions(
    asset_checks=[no_index_is_stuck], jobs=[hot_life_job], schedules=[hot_life_nightly]
)
