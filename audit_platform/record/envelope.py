"""The envelope's fields: their rules, and which one a refused event breaks.

Belongs here: one rule per field and the refusal that names the field. Does not: hashes and the
fast check (`event.py`), payload schemas (ingest).
Source: design section 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from audit_platform.errors import EventRefused
from audit_platform.record.canonical import MAX_SAFE_INTEGER
from audit_platform.record.layout import IDENTIFIER_PATTERN, TENANT_PATTERN
from audit_platform.record.times import parse_time_ms

MAX_EVENT_VERSION: Final = 999

CRITICALITIES: Final = ("critical", "high", "low", "normal")

UUID_PATTERN: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HASH_PATTERN: Final = re.compile(r"[0-9a-f]{64}")
CHAIN_PATTERN: Final = re.compile(r"[0-9a-f]{16}")

#: With this member an edge marks an event that it could give no place in a chain (`formats.md`).
EDGE_CONFLICT: Final = "edgeConflict"

_IDENTIFIER: Final = (IDENTIFIER_PATTERN, "1 to 128 of A-Z a-z 0-9 . _ : / -")
_HASH: Final = (HASH_PATTERN, "64 lower-case hex digits")

_TEXT_RULES: Final = {
    "chainId": (CHAIN_PATTERN, "16 lower-case hex digits"),
    "checksum": _HASH,
    "criticality": (re.compile("|".join(CRITICALITIES)), "one of " + ", ".join(CRITICALITIES)),
    "deviceId": _IDENTIFIER,
    "eventId": (UUID_PATTERN, "a UUID in lower-case hex"),
    "eventType": _IDENTIFIER,
    "hospitalId": _IDENTIFIER,
    "prevHash": _HASH,
    "schemaRef": _IDENTIFIER,
    "tenantId": (TENANT_PATTERN, "1 to 63 of a-z 0-9 -, first and last a letter or digit"),
}


def require_well_formed(value: object, tenant_id: str) -> dict[str, Any]:
    """`value` as it came, when it is an event whose every envelope field has its form.

    Raises `EventRefused` with `not_an_object`, `other_tenant`, `server_field`,
    `sequence_conflict`, `unknown_field`, `missing_field`, `wrong_type`, `bad_form`, `bad_time` or
    `sequence_range`. Hashes are not compared with what they stand for.
    """
    if not isinstance(value, dict):
        raise EventRefused("not_an_object", "", "not an object", remedy="send one object a line")
    claimed = value.get("tenantId")
    if isinstance(claimed, str) and claimed != tenant_id:
        raise other_tenant()
    if "ingestionTime" in value:
        raise EventRefused(
            "server_field",
            "ingestionTime",
            "ingestionTime is given by the platform",
            remedy="leave the field out",
        )
    if EDGE_CONFLICT in value:
        raise EventRefused(
            "sequence_conflict",
            "sequenceNumber",
            "its edge had taken another event of this device with this sequence number",
            remedy="compare the two: the device counted one number twice",
        )
    for name in value:
        if name not in _RULES:
            raise EventRefused(
                "unknown_field",
                name,
                f"the envelope has no field {name!a}",
                remedy="put what the device says into the payload",
            )
    for name, rule in _RULES.items():
        if name not in value:
            raise EventRefused(
                "missing_field", name, f"{name} is missing", remedy="send every envelope field"
            )
        rule(name, value[name])
    return value


def other_tenant() -> EventRefused:
    """The refusal of another tenant's event; it does not repeat that tenant's name."""
    return EventRefused(
        "other_tenant",
        "tenantId",
        "the event names a tenant that this credential does not belong to",
        remedy="send it with that tenant's own credential",
    )


def bad_time(reason: str) -> EventRefused:
    """The refusal of an eventTime."""
    return EventRefused(
        "bad_time",
        "eventTime",
        reason,
        remedy="send UTC as YYYY-MM-DDTHH:MM:SS.mmmZ; write a leap second :60 as :59.999",
    )


def sequence_range() -> EventRefused:
    """The refusal of a sequenceNumber outside 0 .. 2^53-1."""
    return EventRefused(
        "sequence_range",
        "sequenceNumber",
        "sequenceNumber is outside 0 .. 2^53-1",
        remedy="start a new chain before the counter ends",
    )


def _wrong_type(name: str, wanted: str) -> EventRefused:
    return EventRefused("wrong_type", name, f"{name} is not {wanted}", remedy=f"send {wanted}")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise _wrong_type(name, "text")
    pattern, meaning = _TEXT_RULES[name]
    if pattern.fullmatch(value) is None:
        raise EventRefused(
            "bad_form", name, f"{name} is not {meaning}", remedy=f"send {name} as {meaning}"
        )


def _time(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise _wrong_type(name, "text")
    try:
        parse_time_ms(value)
    except ValueError as e:
        raise bad_time(str(e)) from e


def _integer(name: str, value: object) -> int:
    # JCS writes 3.0 as 3, so both are the same event.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(name, "an integer")
    return value


def _version(name: str, value: object) -> None:
    if not 1 <= _integer(name, value) <= MAX_EVENT_VERSION:
        raise EventRefused(
            "bad_form",
            name,
            f"{name} is not 1 to {MAX_EVENT_VERSION}",
            remedy="send the version of the event type's schema",
        )


def _sequence(name: str, value: object) -> None:
    if not 0 <= _integer(name, value) <= MAX_SAFE_INTEGER:
        raise sequence_range()


def _payload(name: str, value: object) -> None:
    if not isinstance(value, dict):
        raise _wrong_type(name, "an object")


_RULES: Final[dict[str, Callable[[str, Any], None]]] = {
    "chainId": _text,
    "checksum": _text,
    "criticality": _text,
    "deviceId": _text,
    "eventId": _text,
    "eventTime": _time,
    "eventType": _text,
    "eventVersion": _version,
    "hospitalId": _text,
    "payload": _payload,
    "prevHash": _text,
    "schemaRef": _text,
    "sequenceNumber": _sequence,
    "tenantId": _text,
}
