"""Legal hold on a sealed day: one person puts it on, two people take it off.

Each act is a signed record, claimed once, before a version is touched: what stands in the records
counts, and a run that was killed is finished by the next. Belongs here: the acts and their rules.
Does not: what a hold keeps from going (`landing_life.py` and the store itself).
Source: issue "legal hold (apply; lift by two people)"; design section 5 (locks).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import ObjectNotFound, RecordMalformed, SealRefused
from audit_platform.operations.claims import RECORD_LOCK_MS, lock_until, read_claim
from audit_platform.operations.incidents import MAX_ACTOR, MAX_REASON, MIN_REASON
from audit_platform.operations.manifests import named_objects, read_valid
from audit_platform.operations.signed_records import claim_signed, read_signed
from audit_platform.ports import Objects, Platform
from audit_platform.record import layout
from audit_platform.record.hold import FORM, HoldAct, HoldRecord

#: A lock that ends within this time is lengthened under a hold: some stores let a version under
#: hold go once its date is over (`adapters/s3/README.md`).
MARGIN_MS: Final = 30 * layout.MS_PER_DAY

_HOLD_FOLDER: Final = re.compile(r"holds/v1/tenant=([a-z0-9-]+)/day=([0-9-]{10})/")


@dataclass(frozen=True, slots=True)
class Hold:
    """The newest hold of a tenant's day, as its records stand."""

    placed: HoldRecord
    asked: HoldRecord | None
    lifted: HoldRecord | None

    @property
    def stands(self) -> bool:
        """Nobody has lifted it."""
        return self.lifted is None


@dataclass(frozen=True, slots=True)
class Touched:
    """What an act came to: the record that counts, and how many versions were set."""

    record: HoldRecord
    objects: int


def hold_of(platform: Platform, tenant_id: str, day: str) -> Hold | None:
    """The newest hold, or None. Raises `RecordMalformed` for a record that is not ours."""
    found, number = None, 1
    while (placed := _read(platform, tenant_id, day, number, HoldAct.HOLD)) is not None:
        asked = _read(platform, tenant_id, day, number, HoldAct.LIFT_ASKED)
        lifted = _read(platform, tenant_id, day, number, HoldAct.LIFTED)
        found, number = Hold(placed, asked, lifted), number + 1
    return found


def held_days(platform: Platform) -> Iterator[tuple[str, str]]:
    """(tenant, day) of every day that ever had a hold, in order. Names only."""
    after = ""
    while True:
        version = next(platform.objects.versions(f"{layout.HOLDS}/", after_key=after), None)
        if version is None:
            return
        m = _HOLD_FOLDER.match(version.key)
        after = version.key
        if m is not None:
            yield m[1], m[2]
            after = layout.hold_prefix(m[1], m[2]).removesuffix("/") + "0"  # "0" follows "/"


def hold_day(platform: Platform, tenant_id: str, day: str, person: str, reason: str) -> Touched:
    """Put a day under hold. A day that is under hold already gets it on what came since.

    Raises `SealRefused` for a day without a manifest, a name or a reason that says too little;
    `StoreUnavailable`: run it again.
    """
    who, why = _person(person), _reason(reason)
    standing = hold_of(platform, tenant_id, day)
    if standing is not None and standing.stands:
        return Touched(standing.placed, _set(platform, tenant_id, day, hold=True))
    if not _versions(platform, tenant_id, day):
        raise SealRefused(
            f"{tenant_id} {day} has no manifest, so no object is named",
            remedy="seal the day; until then its landing stays locked by itself",
        )
    number = standing.placed.number + 1 if standing else 1
    record = _claim(platform, tenant_id, day, number, HoldAct.HOLD, who, why)
    return Touched(record, _set(platform, tenant_id, day, hold=True))


def ask_lift(platform: Platform, tenant_id: str, day: str, person: str, reason: str) -> HoldRecord:
    """Ask for a hold to be lifted; nothing is lifted. Who asks first counts.

    Raises `SealRefused` where no hold stands, or the name or reason says too little.
    """
    who, why = _person(person), _reason(reason)
    standing = _standing(platform, tenant_id, day)
    number = standing.placed.number
    return _claim(platform, tenant_id, day, number, HoldAct.LIFT_ASKED, who, why)


def approve_lift(platform: Platform, tenant_id: str, day: str, person: str, reason: str) -> Touched:
    """Lift a hold that somebody else asked to be lifted. Safe to repeat after a kill.

    Raises `SealRefused`, and lifts nothing: nobody asked, or the same person did.
    """
    who, why = _person(person), _reason(reason)
    found = hold_of(platform, tenant_id, day)
    if found is not None and found.lifted is not None:
        return Touched(found.lifted, _set(platform, tenant_id, day, hold=False))
    standing = _standing(platform, tenant_id, day)
    if standing.asked is None:
        raise SealRefused(
            f"nobody asked for the hold on {tenant_id} {day} to be lifted",
            remedy="a first person asks (ask_lift_hold), a second one lifts",
        )
    if _same(standing.asked.person, who):
        raise SealRefused(
            f"{who} asked for this hold to be lifted and cannot lift it as well",
            remedy="another person has to",
        )
    number = standing.placed.number
    record = _claim(platform, tenant_id, day, number, HoldAct.LIFTED, who, why)
    return Touched(record, _set(platform, tenant_id, day, hold=False))


def keep_holds(platform: Platform) -> list[tuple[str, str, int]]:
    """Put every standing hold on what its day holds now, and lengthen locks that end soon.

    (tenant, day, versions) of each. What a person sets to be kept stays kept on its own.
    """
    kept = []
    for tenant_id, day in held_days(platform):
        found = hold_of(platform, tenant_id, day)
        if found is not None and found.stands:
            kept.append((tenant_id, day, _set(platform, tenant_id, day, hold=True)))
    return kept


def _set(platform: Platform, tenant_id: str, day: str, *, hold: bool) -> int:
    """Set or lift the hold on every version of the day; how many. One that is gone is an error."""
    objects, now_ms = platform.objects, platform.clock.now_ms()
    versions = _versions(platform, tenant_id, day)
    for key, version_id in versions:
        if hold:
            _keep_locked(objects, key, version_id, now_ms)
        objects.set_legal_hold(key, version_id, hold=hold)
    return len(versions)


def _keep_locked(objects: Objects, key: str, version_id: str, now_ms: int) -> None:
    if objects.head(key, version_id).retain_until_ms < now_ms + MARGIN_MS:
        objects.extend(key, version_id, lock_until(now_ms, RECORD_LOCK_MS))


def _versions(platform: Platform, tenant_id: str, day: str) -> list[tuple[str, str]]:
    """What a hold is on: the day's manifests, and each object that one of them names."""
    found: dict[tuple[str, str], None] = {}
    for manifest in read_valid(platform, tenant_id):
        if manifest.day != day:
            continue
        key = layout.manifest_key(tenant_id, manifest.number)
        claimed = read_claim(platform.objects, key)
        if claimed is None:
            raise ObjectNotFound(f"{key} is not in the store", remedy="run audit-platform fsck")
        found[key, claimed.version_id] = None
        found.update(dict.fromkeys((o.key, o.version_id) for o in named_objects(manifest)))
    return list(found)


def _standing(platform: Platform, tenant_id: str, day: str) -> Hold:
    found = hold_of(platform, tenant_id, day)
    if found is None or not found.stands:
        raise SealRefused(f"no hold stands on {tenant_id} {day}", remedy="look at tenant and day")
    return found


def _read(
    platform: Platform, tenant_id: str, day: str, number: int, act: HoldAct
) -> HoldRecord | None:
    key = layout.hold_key(tenant_id, day, number, act)
    said = read_signed(platform, FORM, key)
    return None if said is None else _checked(key, said, (tenant_id, day, number, act))


def _claim(
    platform: Platform,
    tenant_id: str,
    day: str,
    number: int,
    act: HoldAct,
    person: str,
    reason: str,
) -> HoldRecord:
    now_ms = platform.clock.now_ms()
    record = HoldRecord(tenant_id, day, number, act, person, reason, now_ms)
    key = layout.hold_key(tenant_id, day, number, act)
    said = claim_signed(platform, FORM, key, record.said())
    return _checked(key, said, (tenant_id, day, number, act))


def _checked(key: str, said: dict[str, object], place: tuple[str, str, int, str]) -> HoldRecord:
    """A record that was signed for another place must not count here."""
    record = HoldRecord.of(key, said)
    if (record.tenant_id, record.day, record.number, record.act) != place:
        raise RecordMalformed(key, "", "it belongs under another name")
    return record


def _person(text: str) -> str:
    if not 0 < len(text.strip()) <= MAX_ACTOR:
        raise SealRefused("a person decides", remedy=f"name them, up to {MAX_ACTOR} characters")
    return text.strip()


def _reason(text: str) -> str:
    if not MIN_REASON <= len(text.strip()) <= MAX_REASON:
        raise SealRefused(
            "the reason says too little or too much",
            remedy=f"{MIN_REASON} to {MAX_REASON} characters: whose order, its file number",
        )
    return text.strip()


def _same(one: str, other: str) -> bool:
    """One person, however the name was typed."""
    folded = [unicodedata.normalize("NFKC", t).casefold().strip() for t in (one, other)]
    return folded[0] == folded[1]
