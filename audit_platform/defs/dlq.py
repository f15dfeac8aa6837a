"""Dead letters under Dagster: what two operators decided is carried out, and may be stopped.

Belongs here: the job with its launchpad and what it shows. Does not: deciding (query-api), the work
(`operations/dlq/replay.py`). Source: the mission's row 12; design section 7.
"""

import time
from typing import Final

import dagster as dg
from pydantic import Field

from audit_platform.defs.attempts import TENANT_TAG
from audit_platform.defs.cold import RETRY
from audit_platform.defs.metadata import explained
from audit_platform.defs.pools import REPAIR
from audit_platform.defs.record_action import record_action
from audit_platform.operations.dlq.replay import EVENTS_PER_SECOND, Replay, replay
from audit_platform.operations.query.reader import Reader
from audit_platform.ports import Platform
from audit_platform.record.schemas import registry

REPLAY_DLQ: Final = "replay_dlq"

#: Which proposal a run carried out, or tried to.
PROPOSAL_TAG: Final = "audit/proposal"


class ReplayDlq(dg.Config):
    """Which approved proposal to carry out, and how fast."""

    tenant: str = Field(description="The tenant.")
    proposal: str = Field(description="The proposal's id: 16 hex digits.")
    events_per_second: int = Field(
        default=EVENTS_PER_SECOND,
        ge=1,
        le=100_000,
        description="At most so many events a second: what devices send goes first.",
    )


@dg.op(
    name="replay_letters",
    retry_policy=RETRY,
    description="Chunk by chunk: judged again, appended to the log, written down.",
)
def replay_letters(
    context: dg.OpExecutionContext, config: ReplayDlq, platform: dg.ResourceParam[Platform]
) -> dg.Output[None]:
    """Goes on behind the last chunk that is written down. Fails where it stopped by itself."""
    tags = {TENANT_TAG: config.tenant, PROPOSAL_TAG: config.proposal}
    context.instance.add_run_tags(context.run_id, tags)
    begun = time.monotonic()
    with explained():
        record_action(context, platform, "dlq replay", config.tenant, config.proposal)
        told = replay(
            Reader(platform),
            config.tenant,
            config.proposal,
            registry(),
            events_per_second=config.events_per_second,
        )
    shown = _metadata(told, time.monotonic() - begun)
    if told.stopped:
        raise dg.Failure(
            f"stopped behind chunk {told.skipped + told.done} of {told.chunks}: {told.stopped}",
            metadata=shown
            | {
                "remedy": "see what changed since the dry run (devices, release); run it again when"
                " that is mended, or propose the rest anew"
            },
            allow_retries=False,
        )
    context.log.info(
        "%s chunks were done before, %s now: %s", told.skipped, told.done, dict(told.counts)
    )
    return dg.Output(None, metadata=shown)


def _metadata(told: Replay, seconds: float) -> dict[str, dg.MetadataValue]:
    rows = [
        dg.TableRecord({"outcome": outcome, "lines": count})
        for outcome, count in sorted(told.counts.items())
    ]
    return {
        "outcomes": dg.MetadataValue.table(rows) if rows else dg.MetadataValue.text("none yet"),
        "chunks": dg.MetadataValue.int(told.chunks),
        "chunks_done_before": dg.MetadataValue.int(told.skipped),
        "chunks_done_now": dg.MetadataValue.int(told.done),
        "events_appended": dg.MetadataValue.int(told.appended),
        "replay_seconds": dg.MetadataValue.float(round(seconds, 3)),
    }


@dg.job(
    name=REPLAY_DLQ,
    tags=REPAIR,
    description=(
        "Carry out an approved proposal about dead letters. May be stopped at any moment: the next "
        "run goes on with the first chunk that is not written down."
    ),
    executor_def=dg.in_process_executor,
)
def replay_dlq_job() -> None:
    """One step."""
    replay_letters()


defs = dg.Definitions(jobs=[replay_dlq_job])
