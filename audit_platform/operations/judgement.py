"""Three answers about a sealed day, as an operator asks for them, each from bytes read again.

`chain_unbroken`, `manifest_signed_by_known_key`, `nothing_missing`: which numbered steps of a
verification stand behind each, and that a check which read nothing where something had to be has
failed. Belongs here: that grouping. Does not: the steps (`record/fsck.py`), how a screen shows
them (`defs/`). Source: issue of the walking skeleton, step 3.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from audit_platform.errors import AuditPlatformError, Recoverable
from audit_platform.operations.completeness import Completeness, completeness
from audit_platform.operations.manifests import named_objects, read_valid
from audit_platform.operations.verify import verify_day
from audit_platform.ports import Platform
from audit_platform.record.manifest import Manifest
from audit_platform.record.report import Entry, Report, Step
from audit_platform.record.revisions import replaced_parts

CHAIN_UNBROKEN: Final = "chain_unbroken"
MANIFEST_SIGNED: Final = "manifest_signed_by_known_key"
NOTHING_MISSING: Final = "nothing_missing"

#: Steps that speak for each answer. A day that could not be read (READ) fails all three; HEAD needs
#: a head from outside and has none here.
STEPS: Final = {
    CHAIN_UNBROKEN: frozenset({Step.READ, Step.ROWS, Step.ROOTS, Step.CHAINS, Step.LINKS}),
    MANIFEST_SIGNED: frozenset(
        {
            Step.READ,
            Step.FORM,
            Step.SIGNATURE,
            Step.SEQUENCE,
            Step.DAYS,
            Step.OBJECTS,
            Step.EDGES,
        }
    ),
    NOTHING_MISSING: frozenset({Step.READ, Step.QUARANTINE, Step.REVISIONS}),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One check of one day. `found` names findings of the verification, `problems` says others."""

    name: str
    found: tuple[Entry, ...]
    problems: tuple[str, ...]
    summary: str

    @property
    def passed(self) -> bool:
        """Nothing speaks against it."""
        return not self.found and not self.problems


@dataclass(frozen=True, slots=True)
class DayJudgement:
    """What was read of a tenant's day, and the three answers. `seconds` is real time."""

    tenant_id: str
    day: str
    manifests: int
    objects: int
    rows: int
    bytes: int
    seconds: float
    answers: tuple[Answer, ...]


def judge_day(platform: Platform, tenant_id: str, day: str) -> DayJudgement:
    """Read a sealed day again and answer. Bad bytes are findings; raises `Recoverable` errors."""
    start = time.monotonic()
    report = verify_day(platform, tenant_id, day)
    # Oldest first; a manifest that is not sound is not among them, and the report has the finding.
    revisions = [m for m in read_valid(platform, tenant_id) if m.day == day]
    manifest = revisions[-1] if revisions else None
    answers = (
        _chain(report, manifest),
        _signed(report, revisions),
        _nothing_missing(platform, tenant_id, day, report, manifest),
    )
    return DayJudgement(
        tenant_id=tenant_id,
        day=day,
        manifests=report.manifests,
        objects=report.objects,
        rows=report.rows,
        bytes=report.bytes,
        seconds=time.monotonic() - start,
        answers=answers,
    )


def _answer(name: str, report: Report, problems: list[str], summary: str) -> Answer:
    found = tuple(e for e in report.findings if e.step in STEPS[name])
    if not found and not problems:
        return Answer(name, (), (), summary)
    return Answer(name, found, tuple(problems), f"{len(found) + len(problems)} findings")


_UNSOUND: Final = "the day has no sound manifest, so there is nothing to compare its bytes with"


def _chain(report: Report, manifest: Manifest | None) -> Answer:
    problems = []
    if manifest is None:
        problems.append(_UNSOUND)
    elif report.rows != manifest.rows:
        problems.append(f"{report.rows} rows were read, the manifest holds {manifest.rows}")
    summary = f"{report.rows} rows read again and rebuilt"
    if manifest is not None and not manifest.rows:
        summary = "an empty day: no rows, and the manifest says so"
    return _answer(CHAIN_UNBROKEN, report, problems, summary)


def _signed(report: Report, revisions: Sequence[Manifest]) -> Answer:
    problems = []
    if not revisions:
        problems.append(_UNSOUND)
    else:
        places = {place for m in revisions for place in _places(m)}
        named = len(places - (replaced_parts(revisions) - _places(revisions[-1])))
        if report.objects != named:
            problems.append(f"{report.objects} objects were read, {named} are named")
    summary = f"{report.manifests} manifests and {report.objects} objects are as they were signed"
    if len(revisions) > 1:
        summary += f"; revision {revisions[-1].revision} keeps what the ones before it held"
    if revisions and not revisions[-1].rows:
        summary = f"an empty day: {summary}"
    return _answer(MANIFEST_SIGNED, report, problems, summary)


def _places(manifest: Manifest) -> set[tuple[str, str]]:
    return {(o.key, o.version_id) for o in named_objects(manifest)}


def _nothing_missing(
    platform: Platform, tenant_id: str, day: str, report: Report, manifest: Manifest | None
) -> Answer:
    problems: list[str] = []
    summary = ""
    try:
        found = completeness(platform, tenant_id, day)
    except Recoverable:
        raise
    except (AuditPlatformError, OSError, pa.ArrowException) as e:
        problems.append(f"landing and the sealed day could not be compared: {e}")
    else:
        if found is None or manifest is None:
            problems.append(_UNSOUND)
        else:
            problems += _lacking(found, manifest)
            summary = f"{found.landed} events landed, each is sealed"
            if not found.landed and not found.sealed:
                summary = "an empty day: nothing landed, nothing is sealed"
            if found.waiting:
                summary += f"; {found.waiting} rows came after the seal and wait for a revision"
            if found.expired:
                summary += f"; {found.expired} landing objects have expired and were not compared"
    return _answer(NOTHING_MISSING, report, problems, summary)


def _lacking(found: Completeness, manifest: Manifest) -> list[str]:
    problems = []
    if found.sealed != manifest.rows:
        problems.append(f"{found.sealed} events were read, the manifest holds {manifest.rows}")
    if found.missing_count:
        names = ", ".join(found.missing)
        problems.append(f"{found.missing_count} landed events are in no manifest: {names}")
    if found.unexplained_count:
        names = ", ".join(found.unexplained)
        problems.append(f"{found.unexplained_count} sealed events never landed: {names}")
    return problems
