"""Rolling verification: every sealed object is hashed again at least every 90 days.

Each night the days that were read longest ago are read, within a budget of bytes; chains of a
sample are derived again. What was read is a signed record in the store, so a Dagster that lost its
storage goes on where it was. Belongs here: which days are due, reading them, that record. Does not:
judging a whole day (`judgement.py`), incidents (`incidents.py`).
Source: issue "a rolling one that re-hashes every sealed object at least every 90 days".
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from audit_platform.errors import RecordMalformed, SealRefused
from audit_platform.operations.claims import read_claim
from audit_platform.operations.incidents import open_incident
from audit_platform.operations.judgement import judge_day
from audit_platform.operations.manifests import named_objects, read_history, read_valid
from audit_platform.operations.rebuild_metadata import tenants_in
from audit_platform.operations.signed_records import claim_signed, read_signed
from audit_platform.operations.verify import ObjectsSource
from audit_platform.ports import Objects, Platform
from audit_platform.record import layout
from audit_platform.record.daycheck import DayCheck
from audit_platform.record.manifest import Manifest, NamedObject
from audit_platform.record.report import Report
from audit_platform.record.revisions import replaced_parts
from audit_platform.record.verified import FORM, Verified, VerifiedDay

#: The promise.
WITHIN_DAYS: Final = 90

#: What a night aims at: everything within this time, so that fifteen nights may fail.
AIM_DAYS: Final = 75

#: Work between two records: a run that is killed reads at most this much again.
CHUNK_BYTES: Final = 64 << 30

#: Findings of a night that are told; the incidents and the days' own checks tell all.
MAX_PROBLEMS: Final = 100


@dataclass(frozen=True, slots=True)
class SealedDay:
    """A sealed day as it stands. `since_ms`: when its objects were read last (or sealed).

    `manifests`: number and hex SHA-256 of each of its manifests, oldest first.
    """

    tenant_id: str
    day: str
    manifests: tuple[tuple[int, str], ...]
    objects: int
    bytes: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class Due:
    """What a night reads, oldest first, of how much there is. `unsound`: manifests not to go by."""

    tonight: tuple[SealedDay, ...]
    later: tuple[SealedDay, ...]
    total_bytes: int
    unsound: tuple[str, ...]


@dataclass(slots=True)
class Rolled:
    """What a night read and found.

    `objects` counts manifests too. `oldest_days`: the age of what was read longest ago, after this
    night. `met`: no object is older than 90 days, and the budget is enough to keep it so.
    """

    night: str
    days: int = 0
    objects: int = 0
    bytes: int = 0
    rederived: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    total_bytes: int = 0
    needed_bytes: int = 0
    oldest_days: float = 0.0
    met: bool = True

    def problem(self, text: str) -> None:
        """Note what is wrong, up to a number."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)


def verified_before(platform: Platform) -> dict[tuple[str, str, int], int]:
    """(tenant, day, manifest) -> when its objects were read last, by the records of 90 nights.

    A record that is not ours is passed over: its days are read again. Raises `StoreUnavailable`.
    """
    first = layout.next_day(layout.day_of(platform.clock.now_ms()), -WITHIN_DAYS - 1)
    found: dict[tuple[str, str, int], int] = {}
    for key, _chunk in _records(platform.objects, first):
        try:
            said = read_signed(platform, FORM, key)
            record = Verified.of(key, said) if said is not None else None
        except RecordMalformed:
            continue
        for day in record.days if record else ():
            place = (day.tenant_id, day.day, day.manifest)
            found[place] = max(found.get(place, 0), record.verified_ms if record else 0)
    return found


def _records(objects: Objects, first: str) -> Iterable[tuple[str, int]]:
    seen = ""
    after = layout.verified_key(first, 0)[: -len("000000.json")]
    for version in objects.versions(f"{layout.VERIFIED}/", after_key=after):
        parsed = layout.parse_verified(version.key)
        if parsed is not None and version.key != seen:
            seen = version.key
            yield version.key, parsed[1]


def due(platform: Platform, budget_bytes: int) -> Due:
    """What is to be read tonight: the oldest first, at least a 75th of all, within the budget.

    The first one is read whatever its size. Reads every manifest, one tenant at a time. Raises
    `StoreUnavailable`, `KeysUnavailable`.
    """
    before = verified_before(platform)
    found: list[SealedDay] = []
    unsound: list[str] = []
    for tenant_id in tenants_in(platform.objects):
        try:
            manifests = read_history(platform, tenant_id).manifests
        except (SealRefused, RecordMalformed) as e:
            unsound.append(str(e))
            manifests = tuple(read_valid(platform, tenant_id))
        found += _sealed_days(tenant_id, manifests, before)
    found.sort(key=lambda d: (d.since_ms, d.day, d.tenant_id))
    total = sum(d.bytes for d in found)
    aim_ms = platform.clock.now_ms() - AIM_DAYS * layout.MS_PER_DAY
    wanted = max(-(-total // AIM_DAYS), sum(d.bytes for d in found if d.since_ms <= aim_ms))
    limit, taken, size = min(wanted, budget_bytes), 0, 0
    for day in found:
        if taken and (size >= limit or size + day.bytes > budget_bytes):
            break
        taken, size = taken + 1, size + day.bytes
    return Due(tuple(found[:taken]), tuple(found[taken:]), total, tuple(unsound))


def _sealed_days(
    tenant_id: str,
    manifests: Sequence[Manifest],
    before: dict[tuple[str, str, int], int],
) -> list[SealedDay]:
    by_day: dict[str, list[Manifest]] = {}
    for m in manifests:
        by_day.setdefault(m.day, []).append(m)
    found = []
    for day, revisions in by_day.items():
        newest = revisions[-1]
        objects = _objects(revisions)
        since = before.get((tenant_id, day, newest.number), newest.sealed_ms)
        size = sum(o.size for o in objects) + sum(len(m.raw) for m in revisions)
        named = tuple((m.number, m.sha256) for m in revisions)
        found.append(SealedDay(tenant_id, day, named, len(objects) + len(named), size, since))
    return found


def _objects(revisions: Sequence[Manifest]) -> list[NamedObject]:
    """Each object that a manifest of the day names, but for parts that a repair replaced."""
    replaced = replaced_parts(revisions)
    named = {(o.key, o.version_id): o for m in revisions for o in named_objects(m)}
    kept = {(o.key, o.version_id) for o in named_objects(revisions[-1])}
    return [o for place, o in named.items() if place in kept or place not in replaced]


def verify_rolling(
    platform: Platform,
    budget_bytes: int,
    sample: int,
    progress: Callable[[str], None] = lambda _text: None,
) -> Rolled:
    """Read what is due tonight, derive `sample` of its days again, and record what was read.

    What is red becomes an incident. Killed, the next run goes on behind the last chunk. Raises
    `StoreUnavailable`, `KeysUnavailable`, `LogUnavailable`.
    """
    plan = due(platform, budget_bytes)
    night = layout.day_of(platform.clock.now_ms())
    done = Rolled(night, total_bytes=plan.total_bytes)
    for text in plan.unsound:
        done.problem(text)
    rng = secrets.SystemRandom()  # whoever could tell the sample could spare it
    whole = set(rng.sample(plan.tonight, min(sample, len(plan.tonight))))
    chunk: list[VerifiedDay] = []
    for day in plan.tonight:
        chunk.append(_read(platform, day, done, is_whole=day in whole))
        progress(f"{day.tenant_id} {day.day}: {done.objects} objects, {done.bytes} bytes so far")
        if sum(d.bytes for d in chunk) >= CHUNK_BYTES:
            _record(platform, night, chunk)
            chunk = []
    if chunk:
        _record(platform, night, chunk)
    _promise(platform, plan, budget_bytes, done)
    return done


def _read(platform: Platform, day: SealedDay, done: Rolled, *, is_whole: bool) -> VerifiedDay:
    """Hash the objects of one day again; what differs, or is of the sample, is judged whole."""
    source, report = ObjectsSource(platform.objects), Report()
    revisions = _manifests(platform, day, report)
    if len(revisions) == len(day.manifests):
        check = DayCheck(source, report, revisions[-1])
        for named in _objects(revisions):
            check.object(named)
        if source.outage is not None:
            raise source.outage
    else:
        done.problem(f"{day.tenant_id} {day.day}: a manifest is not what it was an hour ago")
    for entry in report.findings:
        done.problem(f"{day.tenant_id} {day.day} {entry.key}: {entry.message}")
    red = bool(report.findings) or len(revisions) < len(day.manifests)
    if red or is_whole:
        red = _judge(platform, day, done) or red
    done.days += 1
    done.objects += report.objects
    done.bytes += report.bytes
    number = day.manifests[-1][0]
    return VerifiedDay(day.tenant_id, day.day, number, report.objects, report.bytes, red)


def _manifests(platform: Platform, day: SealedDay, report: Report) -> list[Manifest]:
    """The day's manifests read again; one with other bytes than were checked just now is left out.

    Not all manifests of the tenant: a night reads hundreds of its days.
    """
    found = []
    for number, sha256 in day.manifests:
        key = layout.manifest_key(day.tenant_id, number)
        claimed = read_claim(platform.objects, key)
        if claimed is not None and hashlib.sha256(claimed.data).hexdigest() == sha256:
            report.objects += 1
            report.bytes += len(claimed.data)
            found.append(Manifest.from_bytes(key, claimed.data))
    return found


def _judge(platform: Platform, day: SealedDay, done: Rolled) -> bool:
    """Judge a day whole and open what has to be opened. True where it is red."""
    judged = judge_day(platform, day.tenant_id, day.day)
    done.rederived.append(f"{day.tenant_id} {day.day}")
    failed = [a for a in judged.answers if not a.passed]
    for answer in failed:
        done.problem(f"{day.tenant_id} {day.day} {answer.name}: {answer.summary}")
    incident = open_incident(platform, judged)
    if incident is not None:
        done.incidents.append(incident.incident_id)
    return bool(failed)


def _record(platform: Platform, night: str, days: Sequence[VerifiedDay]) -> None:
    """Claim the next free chunk of the night; another run's records are beside ours."""
    numbers = [
        chunk
        for key, chunk in _records(platform.objects, night)
        if layout.parse_verified(key) == (night, chunk)
    ]
    chunk = max(numbers, default=-1) + 1
    while True:
        record = Verified(night, chunk, platform.clock.now_ms(), tuple(days))
        key = layout.verified_key(night, chunk)
        if claim_signed(platform, FORM, key, record.said()) == record.said():
            return
        chunk += 1


def _promise(platform: Platform, plan: Due, budget_bytes: int, done: Rolled) -> None:
    now_ms = platform.clock.now_ms()
    done.needed_bytes = -(-plan.total_bytes // WITHIN_DAYS)
    oldest = min((d.since_ms for d in plan.later), default=now_ms)
    done.oldest_days = round((now_ms - oldest) / layout.MS_PER_DAY, 2)
    done.met = done.oldest_days <= WITHIN_DAYS and done.needed_bytes <= budget_bytes
