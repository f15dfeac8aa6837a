"""The JSON of a small record: one object with `kind` and `version`, in the bytes of RFC 8785.

Belongs here: its bytes, its first checks, and the signature's member. Does not: what a record says
(`ranges.py`, `incident.py`, `decision.py`, `signed.py`).
Source: design section 2 (one commit pattern); RFC 8785; byte by byte in `docs/formats.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import orjson

from audit_platform.errors import RecordMalformed

#: Of all kinds. A kind that changes its members gets a new name.
FORMAT_VERSION: Final = 1

_T = TypeVar("_T")


def encode(value: object) -> bytes:
    """JCS bytes of objects with ASCII keys, integers, booleans, texts and lists.

    For those, sorted compact JSON in UTF-8 is what RFC 8785 asks for.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def headed(kind: str, members: dict[str, Any]) -> dict[str, Any]:
    """The members behind `kind` and `version`."""
    return {"kind": kind, "version": FORMAT_VERSION} | members


def signature_member(key_id: str, value: str) -> dict[str, dict[str, str]]:
    """The member that stands beside what it signs; `value` in hex (RFC 8032)."""
    return {"signature": {"algorithm": "Ed25519", "keyId": key_id, "value": value}}


def parse(where: str, data: bytes, kind: str, make: Callable[[dict[str, Any]], _T]) -> _T:
    """What `make` makes of a record. Raises `RecordMalformed`, and nothing else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as e:
        raise RecordMalformed(where, "", f"not JSON: {e}") from e
    if not isinstance(value, dict):
        raise RecordMalformed(where, "", "not an object")
    if value.get("kind") != kind or value.get("version") != FORMAT_VERSION:
        raise RecordMalformed(where, "kind/version", f"wanted {kind} version {FORMAT_VERSION}")
    try:
        return make(value)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as e:
        raise RecordMalformed(where, "", f"not a {kind}: {e!r}") from e
