"""Payloads by the block: their canonical text, and which of them their schemas do not take.

Belongs here: what is certain of many payloads at once. Does not: what is wrong with one
(`record/schemas.py`), the envelope (`edge_reading.py`).
Source: RFC 8785; design section 3; measured limits, section 2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from audit_platform.record.canonical import load_canonical
from audit_platform.record.event import MAX_EVENT_BYTES
from audit_platform.record.together import decode_plain, doubtful_numbers, encode_canonical
from audit_platform.record.typed import TypedPayloads
from audit_platform.services.edge_entry import Kind

#: A larger payload may make an event too large: it is looked at by itself. An envelope has less
#: than 2 KiB.
SURELY_FITS: Final = MAX_EVENT_BYTES - 2048


@dataclass(frozen=True, slots=True, eq=False)
class Sort:
    """A sort of event as devices name it, and how its payload is judged."""

    kind: Kind
    event_type: str
    version: int
    schema_ref: str
    is_valid: Callable[[Any], bool]
    typed: TypedPayloads | None


def judge(
    sorts: Sequence[Sort], payloads: Sequence[bytes]
) -> tuple[list[bytes | None], dict[int, Any]]:
    """The canonical text of each payload, None where that is not certain; at least one.

    And, by their place, the values of those that are not valid.
    """
    of_sort: defaultdict[Sort, list[int]] = defaultdict(list)
    for n, sort in enumerate(sorts):
        of_sort[sort].append(n)
    left: set[int] = set()
    for sort, rows in of_sort.items():
        joined = b"\n".join([payloads[n] for n in rows]) + b"\n"
        if sort.typed is None or not sort.typed.are_good(joined, len(rows)):
            left.update(rows)
    left |= doubtful_numbers(b"\n".join(payloads), payloads)
    texts: list[bytes | None] = list(payloads)
    if max(map(len, payloads)) > SURELY_FITS:
        left.update(n for n, payload in enumerate(payloads) if len(payload) > SURELY_FITS)
    invalid = {}
    ordered = sorted(left)
    for n, found in zip(ordered, _rewritten([payloads[n] for n in ordered]), strict=True):
        texts[n] = None
        if found is not None and len(found[0]) <= SURELY_FITS:
            texts[n], value = found
            if not sorts[n].is_valid(value):
                invalid[n] = value
    return texts, invalid


def _rewritten(payloads: Sequence[bytes]) -> list[tuple[bytes, Any] | None]:
    """Canonical text and value of each payload, None where that is not certain."""
    if not payloads:
        return []
    decoded = decode_plain(payloads)
    encoded = None if decoded is None else encode_canonical(decoded[0])
    if decoded is None or encoded is None:
        if len(payloads) == 1:
            return [None]
        half = len(payloads) // 2  # one odd payload must not make all the others slow
        return _rewritten(payloads[:half]) + _rewritten(payloads[half:])
    values, written = decoded
    texts, held, doubtful = encoded
    # What was written but is not there stood twice; a text that cannot be counted has -1 keys.
    sure = ((written == held) & (held >= 0)).tolist()
    for n in doubtful:
        sure[n] = False
    return [
        (text, value) if ok else _as_written(payload)
        for payload, text, value, ok in zip(payloads, texts, values, sure, strict=True)
    ]


def _as_written(payload: bytes) -> tuple[bytes, Any] | None:
    """Most payloads that only look odd are canonical."""
    value = load_canonical(payload)
    return None if value is None else (payload, value)
