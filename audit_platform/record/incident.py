"""The incident and its end: two signed JSON records about one sealed day of one tenant.

An incident says what a verification found, under which manifest, and which devices it concerns; as
long as it has no end, that day is in quarantine for readers. Its end says how: made again from what
proves the leaves (and the manifest that supersedes), or the gap accepted by a named person.
Belongs here: fields, bytes, signatures. Does not: finding, claiming or ending one
(`operations/incidents.py`). Source: design section 5; the mission's rows 27 and 28; RFC 8785.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from audit_platform.record.report import Entry
from audit_platform.record.small import encode, headed, parse, signature_member

CONTEXT: Final = b"audit-platform incident v1\n"

#: Findings that are listed; the others are counted. A record stays far below 1 MiB.
MAX_FINDINGS: Final = 200


class Ended(StrEnum):
    """How an incident ended."""

    REARCHIVED = "rearchived"
    ACCEPTED = "gap_accepted"


@dataclass(frozen=True, slots=True)
class IncidentFinding:
    """One finding as a check names it; "" and -1 where it does not say."""

    step: int
    message: str
    key: str
    device_id: str
    chain_id: str
    sequence: int

    @classmethod
    def of(cls, entry: Entry) -> IncidentFinding:
        """The finding of a report."""
        return cls(
            int(entry.step),
            entry.message,
            entry.key,
            entry.device_id or "",
            entry.chain_id or "",
            -1 if entry.sequence is None else entry.sequence,
        )


@dataclass(frozen=True, slots=True)
class Incident:
    """What was found of a day. `manifest` is the number of the one that counted, 0 for none."""

    tenant_id: str
    day: str
    manifest: int
    found: int
    findings: tuple[IncidentFinding, ...]
    opened_ms: int
    key_id: str = ""
    signature: str = ""

    @property
    def incident_id(self) -> str:
        """16 hex digits: the same findings of the same manifest are the same incident."""
        named = [
            [f.step, f.key, f.device_id, f.chain_id, f.sequence]
            for f in sorted(self.findings, key=_place)
        ]
        said = encode({"t": self.tenant_id, "d": self.day, "m": self.manifest, "f": named})
        return hashlib.sha256(said).hexdigest()[:16]

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that findings name, in order; none: the whole day is concerned."""
        return tuple(sorted({f.device_id for f in self.findings if f.device_id}))

    def statement(self) -> bytes:
        """The bytes that the signature covers."""
        return CONTEXT + encode(self._body())

    def signed(self, key_id: str, signature: bytes) -> Incident:
        """The same with its signature."""
        return replace(self, key_id=key_id, signature=signature.hex())

    def to_bytes(self) -> bytes:
        """JCS bytes of the file."""
        return encode(self._body() | signature_member(self.key_id, self.signature))

    def _body(self) -> dict[str, Any]:
        return headed(
            "incident",
            {
                "tenantId": self.tenant_id,
                "day": self.day,
                "manifest": self.manifest,
                "found": self.found,
                "findings": [
                    {
                        "step": f.step,
                        "message": f.message,
                        "object": f.key,
                        "deviceId": f.device_id,
                        "chainId": f.chain_id,
                        "sequence": f.sequence,
                    }
                    for f in self.findings
                ],
                "openedMs": self.opened_ms,
            },
        )

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> Incident:
        """Parse a file. Raises `RecordMalformed`. The signature is not checked here."""
        return parse(where, data, "incident", cls._of)

    @classmethod
    def _of(cls, value: dict[str, Any]) -> Incident:
        return cls(
            tenant_id=str(value["tenantId"]),
            day=str(value["day"]),
            manifest=int(value["manifest"]),
            found=int(value["found"]),
            findings=tuple(
                IncidentFinding(
                    int(f["step"]),
                    str(f["message"]),
                    str(f["object"]),
                    str(f["deviceId"]),
                    str(f["chainId"]),
                    int(f["sequence"]),
                )
                for f in value["findings"]
            ),
            opened_ms=int(value["openedMs"]),
            key_id=str(value["signature"]["keyId"]),
            signature=str(value["signature"]["value"]),
        )


def incident_of(
    tenant_id: str, day: str, manifest: int, entries: Iterable[Entry], now_ms: int
) -> Incident:
    """An incident out of what a check found; not signed yet."""
    findings = sorted((IncidentFinding.of(e) for e in entries), key=_place)
    return Incident(tenant_id, day, manifest, len(findings), tuple(findings[:MAX_FINDINGS]), now_ms)


@dataclass(frozen=True, slots=True)
class Resolution:
    """How an incident ended. `manifest`: the number that supersedes, 0 where a gap was accepted.

    `actor` is who decided: a subject of a token, an account, or the job that repaired.
    """

    tenant_id: str
    day: str
    incident_id: str
    ended: Ended
    manifest: int
    actor: str
    reason: str
    ended_ms: int
    key_id: str = ""
    signature: str = ""

    def statement(self) -> bytes:
        """The bytes that the signature covers."""
        return CONTEXT + encode(self._body())

    def signed(self, key_id: str, signature: bytes) -> Resolution:
        """The same with its signature."""
        return replace(self, key_id=key_id, signature=signature.hex())

    def to_bytes(self) -> bytes:
        """JCS bytes of the file."""
        return encode(self._body() | signature_member(self.key_id, self.signature))

    def _body(self) -> dict[str, Any]:
        return headed(
            "incident_resolution",
            {
                "tenantId": self.tenant_id,
                "day": self.day,
                "incidentId": self.incident_id,
                "ended": str(self.ended),
                "manifest": self.manifest,
                "actor": self.actor,
                "reason": self.reason,
                "endedMs": self.ended_ms,
            },
        )

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> Resolution:
        """Parse a file. Raises `RecordMalformed`. The signature is not checked here."""
        return parse(where, data, "incident_resolution", cls._of)

    @classmethod
    def _of(cls, value: dict[str, Any]) -> Resolution:
        return cls(
            tenant_id=str(value["tenantId"]),
            day=str(value["day"]),
            incident_id=str(value["incidentId"]),
            ended=Ended(value["ended"]),
            manifest=int(value["manifest"]),
            actor=str(value["actor"]),
            reason=str(value["reason"]),
            ended_ms=int(value["endedMs"]),
            key_id=str(value["signature"]["keyId"]),
            signature=str(value["signature"]["value"]),
        )


def _place(finding: IncidentFinding) -> tuple[int, str, str, str, int, str]:
    at = (finding.device_id, finding.chain_id, finding.sequence, finding.message)
    return (finding.step, finding.key, *at)
