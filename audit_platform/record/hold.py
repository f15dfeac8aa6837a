"""Legal hold on a tenant's day: who put it on and why, who asked for its end, who agreed.

Belongs here: fields and bytes of the three records of a hold. Does not: setting holds on objects
(`operations/legal_hold.py`). Source: issue "legal hold (apply; lift by two people)".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from audit_platform.errors import RecordMalformed
from audit_platform.record.signed import Form

FORM: Final = Form("legal_hold", b"audit-platform legal hold v1\n")


class HoldAct(StrEnum):
    """What a record of a hold is; the value stands in its name."""

    HOLD = "hold"
    LIFT_ASKED = "lift-asked"
    LIFTED = "lifted"


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """One act of one hold. `number` counts the holds of a tenant's day from 1."""

    tenant_id: str
    day: str
    number: int
    act: HoldAct
    person: str
    reason: str
    at_ms: int

    def said(self) -> dict[str, Any]:
        """What the record says."""
        return {
            "tenantId": self.tenant_id,
            "day": self.day,
            "number": self.number,
            "act": str(self.act),
            "person": self.person,
            "reason": self.reason,
            "atMs": self.at_ms,
        }

    @classmethod
    def of(cls, where: str, said: dict[str, Any]) -> HoldRecord:
        """The record out of what it says. Raises `RecordMalformed`."""
        try:
            return cls(
                str(said["tenantId"]),
                str(said["day"]),
                int(said["number"]),
                HoldAct(said["act"]),
                str(said["person"]),
                str(said["reason"]),
                int(said["atMs"]),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise RecordMalformed(where, "", f"not a record of a legal hold: {e!r}") from e
