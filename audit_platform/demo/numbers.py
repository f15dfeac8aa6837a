"""The exact numbers that a day of the excerpt must come to.

Belongs here: counting what the mapping gives. Does not: the mapping; the second count, by SQL from
the tables, which a test makes.
Source: issue "Walking skeleton", events and data; failure scenario 29 (skew).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from audit_platform.demo import sources
from audit_platform.demo.mapping import DeviceEvent, device_events, tenant_ids

#: Beyond this the platform flags an event's clock (failure scenario 29).
SKEW_MS: Final = 5 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one tenant's day must come to, exactly. `refused` is by cause."""

    sent: int
    refused: Mapping[str, int]
    skewed: int
    corrections: int
    repeated_keys: int
    unit_not_recorded: int
    synthetic: int


def numbers_of(events: Iterable[DeviceEvent]) -> Numbers:
    """Count what a tenant's events must come to."""
    sent = skewed = corrections = synthetic = unitless = repeated = 0
    refused: Counter[str] = Counter()
    seen: set[tuple[str, str, int, str]] = set()
    for event in events:
        sent += 1
        refused.update([event.cause] if event.cause else [])
        skewed += abs(event.offset_ms - event.event_offset_ms) > SKEW_MS
        corrections += event.event_type == "pump_record_corrected"
        synthetic += "synthetic" in event.payload
        unitless += b'"unit":""' in orjson.dumps(event.payload)
        key = (event.device_id, event.event_type, event.event_offset_ms, event.measure)
        repeated += bool(event.measure) and key in seen
        seen.add(key)
    return Numbers(
        sent=sent,
        refused=dict(sorted(refused.items())),
        skewed=skewed,
        corrections=corrections,
        repeated_keys=repeated,
        unit_not_recorded=unitless,
        synthetic=synthetic,
    )


def expected_numbers(excerpt: Path = sources.EXCERPT) -> dict[str, Numbers]:
    """Tenant id -> its numbers. A test recomputes each by SQL from the excerpt."""
    return {t: numbers_of(device_events(t, excerpt)) for t in tenant_ids(excerpt)}
