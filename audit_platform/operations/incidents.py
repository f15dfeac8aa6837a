"""Incidents of sealed days: opened by a verification, told to whoever listens, ended by a repair.

An incident is claimed once by put-if-absent under an id made of its findings, so checking a broken
day every night opens one incident, not thirty. While one is open its day is in quarantine: readers
are told, and nothing else changes, since nothing sealed can be taken away.
Belongs here: opening, listing, ending. Does not: judging (`judgement.py`), repairing
(`rearchive.py`). Source: the mission's rows 27 and 28; design section 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import RecordMalformed, SealRefused
from audit_platform.operations.claims import claim, read_claim
from audit_platform.operations.judgement import DayJudgement
from audit_platform.operations.manifests import valid_of_day
from audit_platform.ports import NewRecord, Platform
from audit_platform.record import layout, signing
from audit_platform.record.incident import Ended, Incident, Resolution, incident_of
from audit_platform.record.report import Entry, Step

#: A person's reason for accepting a gap is read in court: more than a word, less than a book.
MIN_REASON: Final = 20
MAX_REASON: Final = 2000
MAX_ACTOR: Final = 128


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """An incident as it stands; `resolution` is None while it is open."""

    incident: Incident
    resolution: Resolution | None

    @property
    def is_open(self) -> bool:
        """Nobody has ended it."""
        return self.resolution is None


def open_incident(platform: Platform, judged: DayJudgement) -> Incident | None:
    """Open the incident of a judgement that is not green, or return the one that stands.

    None for a green judgement, and for a day that was never sealed. Durable on return, and told on
    `audit.integrity.v1` (again, when it stands already and is open: at least once). Raises the
    ports' `…Unavailable`.
    """
    entries = _findings(judged)
    standing = valid_of_day(platform, judged.tenant_id, judged.day)
    if not entries or (standing is None and all(e.step is Step.READ for e in entries)):
        return None
    number = standing.number if standing else 0
    now_ms = platform.clock.now_ms()
    incident = incident_of(judged.tenant_id, judged.day, number, entries, now_ms)
    signed = incident.signed(*platform.keys.sign("manifest", incident.statement()))
    key = layout.incident_key(judged.tenant_id, judged.day, incident.incident_id)
    won = claim(platform.objects, key, signed.to_bytes(), now_ms)
    told = Incident.from_bytes(key, won.data)
    if _resolution(platform, told) is None:
        _tell(platform, told.tenant_id, won.data)
    return told


def _findings(judged: DayJudgement) -> list[Entry]:
    """Every finding once, and every problem that is no finding of the verification."""
    found: dict[Entry, None] = {}
    for answer in judged.answers:
        found.update(dict.fromkeys(answer.found))
        for text in answer.problems:
            entry = Entry(Step.READ, text, tenant_id=judged.tenant_id, day=judged.day)
            found[entry] = None
    return list(found)


def _tell(platform: Platform, tenant_id: str, data: bytes) -> None:
    headers = {"v": "1", "tenant": tenant_id, "count": "1"}
    platform.log.append(layout.INTEGRITY_TOPIC, [NewRecord(0, data, headers)])


def incidents(platform: Platform, tenant_id: str, day: str = "") -> Iterator[OpenIncident]:
    """A tenant's incidents, or those of a day, in order.

    One whose bytes or signature are not ours is left out: a stranger's file must not put a day
    into quarantine, and fsck judges bytes. Raises `StoreUnavailable`.
    """
    seen = ""
    for stored in platform.objects.versions(layout.incidents_prefix(tenant_id, day)):
        parsed = layout.parse_incident(stored.key)
        if parsed is None or parsed[3] or stored.key == seen:
            continue
        seen = stored.key
        claimed = read_claim(platform.objects, stored.key)
        if claimed is None:
            continue
        try:
            incident = Incident.from_bytes(stored.key, claimed.data)
        except RecordMalformed:
            continue
        place = (incident.tenant_id, incident.day, incident.incident_id)
        signed = _is_ours(platform, incident.key_id, incident.signature, incident.statement())
        if signed and place == parsed[:3]:
            yield OpenIncident(incident, _resolution(platform, incident))


def _resolution(platform: Platform, incident: Incident) -> Resolution | None:
    key = layout.resolution_key(incident.tenant_id, incident.day, incident.incident_id)
    claimed = read_claim(platform.objects, key)
    if claimed is None:
        return None
    try:
        found = Resolution.from_bytes(key, claimed.data)
    except RecordMalformed:
        return None
    ours = _is_ours(platform, found.key_id, found.signature, found.statement())
    return found if ours and found.incident_id == incident.incident_id else None


def _is_ours(platform: Platform, key_id: str, signature: str, statement: bytes) -> bool:
    known = {k.key_id: k.public_key for k in platform.keys.public_keys()}
    try:
        value = bytes.fromhex(signature)
    except ValueError:
        return False
    return key_id in known and signing.verify(known[key_id], value, statement)


def end_by_repair(platform: Platform, incident: Incident, manifest: int, actor: str) -> Resolution:
    """The day was made again under this manifest. The first end that is claimed counts."""
    reason = f"made again from what proves its leaves; manifest {manifest} supersedes"
    return _end(platform, incident, Ended.REARCHIVED, manifest, actor, reason)


def accept_gap(platform: Platform, incident: Incident, actor: str, reason: str) -> Resolution:
    """A named person accepts what cannot be made again; the incident stays on record for ever.

    Raises `SealRefused` for a name or a reason that says too little or too much.
    """
    if not 0 < len(actor.strip()) <= MAX_ACTOR:
        raise SealRefused(
            "a gap is accepted by a person", remedy=f"name them, up to {MAX_ACTOR} characters"
        )
    if not MIN_REASON <= len(reason.strip()) <= MAX_REASON:
        raise SealRefused(
            "the reason says too little or too much",
            remedy=f"{MIN_REASON} to {MAX_REASON} characters: what was tried, what is missing",
        )
    return _end(platform, incident, Ended.ACCEPTED, 0, actor.strip(), reason.strip())


def _end(
    platform: Platform, incident: Incident, ended: Ended, manifest: int, actor: str, reason: str
) -> Resolution:
    now_ms = platform.clock.now_ms()
    made = Resolution(
        incident.tenant_id,
        incident.day,
        incident.incident_id,
        ended,
        manifest,
        actor,
        reason,
        now_ms,
    )
    signed = made.signed(*platform.keys.sign("manifest", made.statement()))
    key = layout.resolution_key(incident.tenant_id, incident.day, incident.incident_id)
    won = claim(platform.objects, key, signed.to_bytes(), now_ms)
    return Resolution.from_bytes(key, won.data)
