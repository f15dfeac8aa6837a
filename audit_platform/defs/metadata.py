"""What runs show of their work: metadata of materializations and checks, failures with a remedy.

Belongs here: turning results of `operations/` into Dagster's values, and our errors into Dagster's
failures. Does not: the results themselves, pictures (`plots.py`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import dagster as dg

from audit_platform.defs.plots import hours_markdown
from audit_platform.errors import AuditPlatformError, Recoverable
from audit_platform.operations.coverage import Coverage, DayInputs, Missing
from audit_platform.operations.judgement import Answer, DayJudgement
from audit_platform.operations.seal import SealResult
from audit_platform.record.layout import DLQ_TOPIC, PREFIX_OF_TOPIC
from audit_platform.record.ranges import Closing
from audit_platform.record.report import Entry

Metadata = dict[str, dg.MetadataValue[Any]]

#: Findings and holes that are listed; the rest is counted. An event in Dagster's log stays small.
MAX_LISTED: Final = 20

#: Events of one cell are counted by Dagster's own charts under this name.
ROW_COUNT: Final = "dagster/row_count"


# ------------------------------------------------------------------------------------- failures


@contextmanager
def explained() -> Iterator[None]:
    """Our errors as Dagster failures with their remedy; only what may pass later is retried."""
    try:
        yield
    except AuditPlatformError as e:
        raise dg.Failure(
            description=str(e),
            metadata={"reason": e.reason, "remedy": e.remedy or "see the reason"},
            allow_retries=isinstance(e, Recoverable),
        ) from e


def closing_digest(closing: Closing) -> str:
    """Which closing a run worked on: first 16 hex of the record's SHA-256."""
    return hashlib.sha256(closing.to_bytes()).hexdigest()[:16]


def hole_text(hole: Missing) -> str:
    """One hole, for a person."""
    kind = "dead letters" if hole.topic == DLQ_TOPIC else "events"
    size = hole.end_offset - hole.first_offset
    return f"partition {hole.partition} of {kind} is {size} offsets short ({hole.reason})"


def require_coverage(found: Coverage, inputs: DayInputs | None) -> None:
    """Fail the run where ranges do not reach the closing's ends, or a named object is absent."""
    if found.missing:
        waits = all(hole.reason == "not archived yet" for hole in found.missing)
        raise dg.Failure(
            description=f"{found.day}: " + "; ".join(map(hole_text, found.missing[:MAX_LISTED])),
            metadata={"holes": _holes(found.missing)},
            allow_retries=waits,  # the archive-writer may still come; a hole inside stays
        )
    if inputs is not None and inputs.absent:
        names = ", ".join(o.object.key for o in inputs.absent[:MAX_LISTED])
        raise dg.Failure(
            description=f"{len(inputs.absent)} objects that range records name are absent: {names}",
            metadata={"remedy": "repair the range from the log (7 days), then seal"},
            allow_retries=False,
        )


def _holes(missing: Sequence[Missing]) -> dg.MetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "topic": hole.topic,
                    "generation": hole.generation,
                    "partition": hole.partition,
                    "first offset": hole.first_offset,
                    "end offset": hole.end_offset,
                    "reason": hole.reason,
                }
            )
            for hole in missing[:MAX_LISTED]
        ]
    )


# ------------------------------------------------------------------------------ materializations


def coverage_metadata(found: Coverage, inputs: DayInputs) -> Metadata:
    """What the ranges hold of a tenant's day."""
    landing = [o.object for o in inputs.landing]
    quarantine = [o.object for o in inputs.quarantine]
    return {
        ROW_COUNT: dg.MetadataValue.int(sum(o.rows for o in landing)),
        "objects": dg.MetadataValue.int(len(landing)),
        "bytes": dg.MetadataValue.int(sum(o.size for o in landing)),
        "quarantine_objects": dg.MetadataValue.int(len(quarantine)),
        "quarantine_entries": dg.MetadataValue.int(sum(o.events for o in quarantine)),
        "ranges_of_all_tenants": dg.MetadataValue.int(len(found.ranges)),
        "closing": dg.MetadataValue.text(closing_digest(found.closing)),
        "closed_at": dg.MetadataValue.timestamp(found.closing.closed_ms / 1000),
        "ends": dg.MetadataValue.json(
            {
                f"{PREFIX_OF_TOPIC[p.topic]} g{p.generation} p{p.partition}": p.end_offset
                for p in found.closing.partitions
            }
        ),
    }


def day_metadata(result: SealResult, seconds: float, hours: Sequence[int]) -> Metadata:
    """The sealed rows of a day."""
    shown: Metadata = {
        ROW_COUNT: dg.MetadataValue.int(result.rows),
        "duplicates_removed": dg.MetadataValue.int(result.duplicates),
        "objects": dg.MetadataValue.int(result.parts),
        "bytes": dg.MetadataValue.int(result.bytes),
        "merkle_root": dg.MetadataValue.text(result.root),
        "seal_seconds": dg.MetadataValue.float(round(seconds, 3)),
        "events_per_hour": dg.MetadataValue.md(hours_markdown(hours)),
        "sealed_before": dg.MetadataValue.bool(result.adopted),
        "parts_skipped": dg.MetadataValue.json(list(result.skipped)),
        "landing_skipped": dg.MetadataValue.bool(result.landing_skipped),
    }
    if result.rows:
        each = round(result.bytes / result.rows, 1)
        shown["bytes_per_event"] = dg.MetadataValue.float(each)
    return shown


def manifest_metadata(result: SealResult) -> Metadata:
    """The head that outsiders are given, and what the manifest says of the rows."""
    head = f"{result.tenant_id}:{result.manifest_number}:{result.manifest_sha256}"
    return {
        ROW_COUNT: dg.MetadataValue.int(result.rows),
        "number": dg.MetadataValue.int(result.manifest_number),
        "revision": dg.MetadataValue.int(result.revision),
        "sha256": dg.MetadataValue.text(result.manifest_sha256),
        "trusted_head": dg.MetadataValue.text(head),
        "key": dg.MetadataValue.text(result.manifest_key),
        "merkle_root": dg.MetadataValue.text(result.root),
        "quarantined_links": dg.MetadataValue.int(result.quarantined_links),
        "verdicts": dg.MetadataValue.json(dict(sorted(result.verdicts.items()))),
    }


# --------------------------------------------------------------------------------------- checks


def read_metadata(checked: DayJudgement) -> Metadata:
    """What a verification read, and how long it took."""
    return {
        ROW_COUNT: dg.MetadataValue.int(checked.rows),
        "objects": dg.MetadataValue.int(checked.objects),
        "manifests": dg.MetadataValue.int(checked.manifests),
        "bytes": dg.MetadataValue.int(checked.bytes),
        "verify_seconds": dg.MetadataValue.float(round(checked.seconds, 3)),
    }


def answer_metadata(answer: Answer, checked: DayJudgement) -> Metadata:
    """What was read, and the first findings by object, row, device and sequence."""
    shown: Metadata = {
        "rows_read": dg.MetadataValue.int(checked.rows),
        "objects_read": dg.MetadataValue.int(checked.objects),
        "manifests_read": dg.MetadataValue.int(checked.manifests),
        "findings": dg.MetadataValue.int(len(answer.found) + len(answer.problems)),
    }
    if not answer.passed:
        rows = [*map(_finding, answer.found), *map(_problem, answer.problems)]
        shown["first_findings"] = dg.MetadataValue.table(rows[:MAX_LISTED])
    return shown


def _finding(entry: Entry) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "step": int(entry.step),
            "finding": entry.message,
            "day": entry.day,
            "object": entry.key,
            "row": "" if entry.row is None else str(entry.row),
            "device": entry.device_id or "",
            "chain": entry.chain_id or "",
            "sequence": "" if entry.sequence is None else str(entry.sequence),
        }
    )


def _problem(text: str) -> dg.TableRecord:
    row: dict[str, str | int | float | bool | None] = {"step": 0, "finding": text}
    names = ("day", "object", "row", "device", "chain", "sequence")
    return dg.TableRecord(row | dict.fromkeys(names, ""))
