"""The check at the door for many lines at once: which of them are *certainly* good.

`check_event` and the schema registry are the truth, one line at a time. `FastCheck` looks at a
block of lines together, for about half the price, and says of each line either "good", with the
same result, or "not sure"; it never refuses and never names a fault. Tests hold the two equal.
Belongs here: the pattern over a block, and comparing what lines say with what they must. Does not:
columns of hashes (`derived.py`), canonical payloads (`together.py`), what is wrong with a line
(`event.py`, `envelope.py`), reading log records (`lines.py`).
Source: design section 3; RFC 8785; measured limits, sections 1 to 3 and 11.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Final

import numpy as np

from audit_platform.record.canonical import MAX_SAFE_INTEGER
from audit_platform.record.columns import Ints, Mask
from audit_platform.record.derived import (
    Text,
    event_id_rows,
    hex_rows,
    sha256_rows,
    times_ms,
)
from audit_platform.record.event import MAX_EVENT_BYTES
from audit_platform.record.layout import partition_of
from audit_platform.record.schemas import SERVICE, EventSchema, SchemaRegistry
from audit_platform.record.together import canonical_values, doubtful_numbers

#: Bytes looked at together, about 500 events: enough that a call for all costs next to nothing a
#: line, few enough that what is made of them stays in the processor's cache.
BLOCK_BYTES: Final = 384 * 1024

#: Devices (and pairs of event type and hospital) whose names are remembered as well formed: about
#: 15 MB when full.
MAX_REMEMBERED: Final = 100_000

#: Tenants whose pattern is kept compiled: as many as one gateway has edges of at a time.
_PATTERNS: Final = 256

_IDENTIFIER: Final = rb"[A-Za-z0-9._:/-]{1,128}"
_DEVICE: Final = re.compile(_IDENTIFIER)
_DIGITS_OF_MAX: Final = len(str(MAX_SAFE_INTEGER))
_KIND: Final = re.compile(
    rb'(?P<type>%b)","eventVersion":(?P<version>[1-9][0-9]{0,2}),"hospitalId":"%b"'
    % (_IDENTIFIER, _IDENTIFIER)
)


_HEX_DIGITS: Final = b"0123456789abcdef"
_NO_HOME: Final = -1


@lru_cache(maxsize=_PATTERNS)
def _pattern(tenant_id: str) -> re.Pattern[bytes]:
    """A whole line of a tenant, with its line feed.

    Groups: all before the ingestionTime, checksum, deviceId, eventId, eventTime, type to hospital,
    all after the ingestionTime, payload, prevHash, schemaRef, sequenceNumber. Names are any text
    here: they are looked up, and those not seen before are looked at. Fields of fixed length are
    any bytes, line feeds too, over which the matcher jumps: they are compared by the block.
    """
    name = rb'[^"]{1,128}'
    fixed = rb"((?s:.{%d}))"
    hash_, uuid, time = fixed % 64, fixed % 36, fixed % 24
    return re.compile(
        rb'^(\{"chainId":"[0-9a-f]{16}","checksum":"%b",'
        rb'"criticality":"(?:critical|high|low|normal)","deviceId":"(%b)",'
        rb'"eventId":"%b","eventTime":"%b",'
        rb'"eventType":"(%b","eventVersion":[1-9][0-9]{0,2},"hospitalId":"%b"))'
        rb'(,"payload":(\{.*\}),"prevHash":"%b","schemaRef":"(%b)",'
        rb'"sequenceNumber":(0|[1-9][0-9]{0,15}),"tenantId":"%b"\}\n)'
        % (hash_, name, uuid, time, name, name, hash_, name, re.escape(tenant_id.encode("ascii"))),
        re.MULTILINE,
    )


@dataclass(frozen=True, slots=True)
class SureLines:
    """What is certain about a block: one entry for each *sure* line, in their order.

    `lines` are numbers from 0, `partitions` where their devices belong; `heads` and `tails` are
    what stands before and behind the ingestionTime in the stored lines, tails with the line end;
    `event_time_ms` is milliseconds since 1970.
    `fully_checked` of the payloads went through the full JSON Schema, not a typed decoder.
    """

    lines: Sequence[int]
    partitions: Sequence[int]
    heads: Sequence[bytes]
    tails: Sequence[bytes]
    event_time_ms: Ints
    fully_checked: int


#: What judges a payload; None: no payload is certainly good.
_Schema = EventSchema | None


class FastCheck:
    """Checks blocks of lines. Remembers well-formed names; for one thread at a time."""

    def __init__(self, registry: SchemaRegistry, partitions: int) -> None:
        self._registry = registry
        self._partitions = partitions
        self._known_types = frozenset(registry.known())
        self._known_schemas: dict[tuple[bytes, bytes], _Schema] = {}
        self._devices: dict[str, dict[bytes, int]] = {}
        self._device_count = 0

    def check(
        self,
        block: bytes,
        line_count: int,
        tenant_id: str,
        known_devices: frozenset[bytes] | None = None,
    ) -> SureLines:
        """Look at the lines of one tenant in `block`, each of which ends with a line feed.

        `line_count` is their number. With `known_devices` no line of another device is sure.
        """
        lines, found = _matches(block, line_count, _pattern(tenant_id))
        if not found:
            return SureLines([], [], [], [], np.zeros(0, np.int64), 0)
        columns: Iterator[Sequence[bytes]] = zip(*found, strict=True)
        heads, checksums, devices, ids, times, kinds, tails, payloads, prevs, refs, numbers = (
            columns
        )
        ms, good = times_ms(times)
        good &= _equal_rows(hex_rows(sha256_rows(payloads)), checksums)
        tenants = repeat(tenant_id.encode("ascii"), len(found))
        said = map(b"\n".join, zip(tenants, devices, times, numbers, checksums, strict=True))
        good &= _equal_rows(event_id_rows(ms, sha256_rows(said)), ids)
        if b"".join(prevs).translate(None, _HEX_DIGITS):
            good &= np.array([not prev.translate(None, _HEX_DIGITS) for prev in prevs])
        if max(map(len, numbers)) >= _DIGITS_OF_MAX:
            good &= np.array([int(number) <= MAX_SAFE_INTEGER for number in numbers])
        homes = self._homes(tenant_id, devices)
        if known_devices is not None and not known_devices.issuperset(devices):
            good &= np.array([device in known_devices for device in devices])
        if _NO_HOME in homes:
            good &= np.array([h != _NO_HOME for h in homes])
        fully_checked = _judge(payloads, self._schemas(kinds, refs), good)
        if not good.all():
            sure = np.flatnonzero(good).tolist()
            lines, homes = [lines[n] for n in sure], [homes[n] for n in sure]
            heads, tails = [heads[n] for n in sure], [tails[n] for n in sure]
            ms = ms[sure]
        return SureLines(lines, homes, heads, tails, ms, fully_checked)

    def _homes(self, tenant_id: str, devices: Sequence[bytes]) -> list[int]:
        """The partition of each device; `_NO_HOME` for a name that is not well formed."""
        known = self._devices.setdefault(tenant_id, {})
        homes = list(map(known.get, devices))
        if None not in homes:
            return homes  # type: ignore[return-value] # none is None
        new = {device for device in devices if device not in known}
        self._device_count += len(new)
        if self._device_count > MAX_REMEMBERED:
            self._devices = {tenant_id: known}
            known.clear()
            new = set(devices)
            self._device_count = len(new)
        for device in new:
            known[device] = self._home(tenant_id, device)
        return [known[device] for device in devices]

    def _home(self, tenant_id: str, device: bytes) -> int:
        if _DEVICE.fullmatch(device) is None:
            return _NO_HOME
        return partition_of(tenant_id, device.decode("ascii"), self._partitions)

    def _schemas(self, kinds: Sequence[bytes], refs: Sequence[bytes]) -> list[_Schema]:
        """What judges each payload: the schema of the event's type, when it is the one named."""
        known = self._known_schemas
        schemas = list(map(known.get, zip(kinds, refs, strict=True)))
        if None not in schemas:
            return schemas
        pairs = list(zip(kinds, refs, strict=True))
        new = {pair for pair in pairs if pair not in known}
        if len(known) + len(new) > MAX_REMEMBERED:
            known.clear()
            new = set(pairs)
        for pair in new:
            known[pair] = self._schema(*pair)
        return [known[pair] for pair in pairs]

    def _schema(self, kind: bytes, ref: bytes) -> _Schema:
        m = _KIND.fullmatch(kind)
        if m is None:
            return None
        name, version = m["type"].decode("ascii"), int(m["version"])
        if (name, version) not in self._known_types:
            return None
        schema = self._registry.get(name, version)
        if schema.device_class == SERVICE:
            return None  # the whole check refuses it
        return schema if schema.schema_ref.encode("ascii") == ref else None


def _matches(
    block: bytes, line_count: int, pattern: re.Pattern[bytes]
) -> tuple[Sequence[int], list[tuple[bytes, ...]]]:
    """The number and the groups of each line with an event's shape."""
    if len(block) <= MAX_EVENT_BYTES:
        found: list[tuple[bytes, ...]] = pattern.findall(block)
        # As many matches as lines, each with a line feed at its end, and heads and tails (whole
        # matches, that is) together as long as the block: one match is one line.
        if len(found) == line_count and sum(
            [len(groups[0]) + len(groups[6]) for groups in found]
        ) == len(block):
            return range(line_count), found
    numbers: list[int] = []
    found = []
    for number, line in enumerate(block[:-1].split(b"\n")):
        m = pattern.fullmatch(line + b"\n") if len(line) <= MAX_EVENT_BYTES else None
        if m is not None:
            numbers.append(number)
            found.append(m.groups())
    return numbers, found


# ----------------------------------------------------------------------------------- by the block


def _equal_rows(wanted: Text, sent: Iterable[bytes]) -> Mask:
    """Where (n, width) bytes are the texts that were sent, each `width` long."""
    equal: Mask = (wanted == np.frombuffer(b"".join(sent), np.uint8).reshape(wanted.shape)).all(1)
    return equal


# -------------------------------------------------------------------------------------- payloads


def _judge(payloads: Sequence[bytes], schemas: Sequence[_Schema], good: Mask) -> int:
    """Take from `good` the payloads that are not certainly canonical and valid.

    Returns how many of them the full JSON Schemas had to judge.
    """
    of_schema: defaultdict[_Schema, list[int]] = defaultdict(list)
    for n, schema in enumerate(schemas):
        of_schema[schema].append(n)
    good[of_schema.pop(None, [])] = False
    left: set[int] = set()
    for schema, rows in of_schema.items():
        decoder = None if schema is None else schema.typed
        joined = b"\n".join([*[payloads[n] for n in rows], b""])
        if decoder is None or not decoder.are_good(joined, len(rows)):
            left.update(rows)
    left.update(doubtful_numbers(b"\n".join(payloads), payloads))
    ordered = sorted(left)
    values = canonical_values([payloads[n] for n in ordered]) if ordered else []
    for n, value in zip(ordered, values, strict=True):
        schema = schemas[n]
        if value is None or schema is None or not schema.validator.is_valid(value):
            good[n] = False
    return len(ordered)
