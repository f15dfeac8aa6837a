"""What was read again in a night: one signed record for each chunk of the night's work.

Belongs here: its fields and bytes. Does not: which days are due (`operations/rolling.py`).
Source: issue "every sealed object at least every 90 days"; `docs/formats.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from audit_platform.errors import RecordMalformed
from audit_platform.record.signed import Form

FORM: Final = Form("verified", b"audit-platform verified v1\n")


@dataclass(frozen=True, slots=True)
class VerifiedDay:
    """A sealed day whose objects were hashed again, under the manifest that counted then."""

    tenant_id: str
    day: str
    manifest: int
    objects: int
    bytes: int
    red: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """A chunk of a night's verification."""

    night: str
    chunk: int
    verified_ms: int
    days: tuple[VerifiedDay, ...]

    def said(self) -> dict[str, Any]:
        """What the record says."""
        return {
            "night": self.night,
            "chunk": self.chunk,
            "verifiedMs": self.verified_ms,
            "days": [
                [d.tenant_id, d.day, d.manifest, d.objects, d.bytes, d.red] for d in self.days
            ],
        }

    @classmethod
    def of(cls, where: str, said: dict[str, Any]) -> Verified:
        """The record out of what it says. Raises `RecordMalformed`."""
        try:
            return cls(
                str(said["night"]),
                int(said["chunk"]),
                int(said["verifiedMs"]),
                tuple(
                    VerifiedDay(str(t), str(d), int(m), int(o), int(b), bool(r))
                    for t, d, m, o, b, r in said["days"]
                ),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise RecordMalformed(where, "", f"not what was verified: {e!r}") from e
