"""The check at the door for many lines at once: which of them are *certainly* good.

`check_event` and the schema registry are the truth, one line at a time. `FastCheck` looks at a
block of lines together, for about half the price, and says of each line either "good", with the
same result, or "not sure"; it never refuses and never names a fault. Tests hold the two equal.
Belongs here: the pattern over a block, payloads and hashes by the block. Does not: what is wrong
with a line (`event.py`, `envelope.py`), reading log records (`lines.py`).
Source: design section 3; RFC 8785; measured limits, sections 1 to 3 and 11.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from audit_platform.record.canonical import MAX_DEPTH, MAX_SAFE_INTEGER, load_canonical
from audit_platform.record.columns import Ints, Mask
from audit_platform.record.event import MAX_EVENT_BYTES
from audit_platform.record.layout import MS_PER_DAY, partition_of
from audit_platform.record.schemas import SchemaRegistry

Text = npt.NDArray[np.uint8]

#: Lines looked at together: enough that a call for all costs next to nothing a line, few enough
#: that what is made of them stays in the processor's cache.
BLOCK_LINES: Final = 512

#: Devices (and pairs of event type and hospital) whose names are remembered as well formed: about
#: 15 MB when full.
MAX_REMEMBERED: Final = 100_000

#: Tenants whose pattern is kept compiled: as many as one gateway has edges of at a time.
_PATTERNS: Final = 256

_IDENTIFIER: Final = rb"[A-Za-z0-9._:/-]{1,128}"
_DEVICE: Final = re.compile(_IDENTIFIER)
_KIND: Final = re.compile(
    rb'(?P<type>%b)","eventVersion":(?P<version>[1-9][0-9]{0,2}),"hospitalId":"%b"'
    % (_IDENTIFIER, _IDENTIFIER)
)


@lru_cache(maxsize=_PATTERNS)
def _pattern(tenant_id: str) -> re.Pattern[bytes]:
    """A whole line of a tenant, with its line feed.

    Groups: all before the ingestionTime, checksum, deviceId, eventId, eventTime, type to hospital,
    all after the ingestionTime, payload, schemaRef, sequenceNumber. Names are any text here: they
    are looked up, and those not seen before are looked at.
    """
    name = rb'[^"\n]{1,128}'
    return re.compile(
        rb'^(\{"chainId":"[0-9a-f]{16}","checksum":"(.{64})",'
        rb'"criticality":"(?:critical|high|low|normal)","deviceId":"(%b)",'
        rb'"eventId":"(.{36})","eventTime":"(.{24})",'
        rb'"eventType":"(%b","eventVersion":[1-9][0-9]{0,2},"hospitalId":"%b"))'
        rb'(,"payload":(\{.*\}),"prevHash":"[0-9a-f]{64}","schemaRef":"(%b)",'
        rb'"sequenceNumber":(0|[1-9][0-9]{0,15}),"tenantId":"%b"\}\n)'
        % (name, name, name, name, re.escape(tenant_id.encode("ascii"))),
        re.MULTILINE,
    )


@dataclass(frozen=True, slots=True)
class SureLines:
    """What is certain about a block: one entry for each *sure* line, in their order.

    `lines` are numbers from 0, `partitions` where their devices belong, `stored` the stored lines
    with their line end, `event_time_ms` milliseconds since 1970.
    """

    lines: list[int]
    partitions: list[int]
    stored: list[bytes]
    event_time_ms: list[int]


@dataclass(frozen=True, slots=True)
class _Kind:
    """One version of an event type: the schemaRef that it must name, and its validator."""

    schema_ref: bytes
    is_valid: Callable[[Any], bool]


class FastCheck:
    """Checks blocks of lines. Remembers well-formed names; for one thread at a time."""

    def __init__(self, registry: SchemaRegistry, partitions: int) -> None:
        self._registry = registry
        self._partitions = partitions
        self._known_types = frozenset(registry.known())
        self._kinds: dict[bytes, _Kind | None] = {}
        self._devices: dict[tuple[str, bytes], int] = {}

    def check(self, block: bytes, tenant_id: str, ingestion_time: bytes) -> SureLines:
        """Look at the lines of one tenant in `block`, each of which ends with a line feed.

        `ingestion_time` is 24 ASCII bytes; each sure line is stored with it.
        """
        lines, found = _matches(block, tenant_id)
        if not found:
            return SureLines([], [], [], [])
        heads, checksums, devices, ids, times, kinds, tails, payloads, refs, numbers = zip(
            *found, strict=True
        )
        ms, in_calendar = _time_ms(np.frombuffer(b"".join(times), np.uint8).reshape(-1, 24))
        good = in_calendar & _equal_rows(_checksums(payloads), checksums)
        said = zip(repeat(tenant_id.encode("ascii")), devices, times, numbers, checksums)
        good &= _equal_rows(_event_ids(ms, said), ids)
        homes = [self._home(tenant_id, device) for device in devices]
        inserted = b',"ingestionTime":"%b"' % ingestion_time
        sure = SureLines([], [], [], [])
        for line, is_good, home, kind_text, ref, number, value, head, tail, at in zip(
            lines, good.tolist(), homes, kinds, refs, numbers, _values(payloads), heads, tails,
            ms.tolist(), strict=True,
        ):
            kind = self._kind(kind_text)
            if (
                is_good
                and home >= 0
                and value is not None
                and kind is not None
                and ref == kind.schema_ref
                and (len(number) < 16 or int(number) <= MAX_SAFE_INTEGER)
                and kind.is_valid(value)
            ):
                ...
        return sure
