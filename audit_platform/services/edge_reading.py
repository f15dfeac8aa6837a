"""What devices send, read: each line becomes an event ready to be placed, or a refusal.

Lines are read together where that is certainly right: by the block, without a Python object for
each field. A line that is not certainly good is read by itself by the strict parser, with the same
result (a test holds the two equal). Belongs here: from foreign bytes to `Ready`. Does not: how
lines are cut into fields (`edge_shapes.py`), payloads by the block (`edge_payloads.py`), chains,
sequences already taken (`edge_memory.py`), HTTP.
Source: design sections 3 (who fills what) and 7 (what can be framed, numbered and canonicalised).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, Final, NamedTuple

import numpy as np

from audit_platform.errors import EventRefused
from audit_platform.record.canonical import MAX_SAFE_INTEGER, canonical_bytes, parse_strict
from audit_platform.record.columns import Ints, Mask
from audit_platform.record.derived import times_ms
from audit_platform.record.event import MAX_EVENT_BYTES, complete_event
from audit_platform.record.layout import IDENTIFIER_PATTERN, ZERO_HASH
from audit_platform.record.schemas import EDGE, SERVICE, SchemaRegistry
from audit_platform.services.edge_entry import (
    Columns,
    Ready,
    Said,
    kind_of,
    ready,
    ready_all,
)
from audit_platform.services.edge_payloads import Sort, judge
from audit_platform.services.edge_shapes import Fields, Shapes

_logger: Final = logging.getLogger(__name__)

#: Names and kinds that are remembered as well formed. A device may invent others without end.
_REMEMBERED: Final = 50_000

#: Lines that are read together: more gain nothing.
_TOGETHER: Final = 512

#: A chain of no event: a stand-in while an event is only looked at.
_NO_CHAIN: Final = "0" * 16

_OPTIONAL: Final = ("schemaRef", "criticality")

_DEFAULT_CRITICALITY: Final = "normal"


class Flag(NamedTuple):
    """Why ingest will refuse an event that the edge takes and forwards all the same."""

    slug: str
    field: str
    reason: str
    remedy: str


class Read(NamedTuple):
    """An event that could be framed, numbered and put in canonical form."""

    said: Said
    flag: Flag | None


class Batch(NamedTuple):
    """What lines are, one by one; and by their number here, the flags of those that have one."""

    found: list[Ready | EventRefused]
    flags: dict[int, Flag]


#: What devices name of a sort: type, version, schemaRef and criticality as they are written.
_Names = tuple[bytes, bytes, bytes | None, bytes | None]


def _is_never_valid(_: object) -> bool:
    return False


class _Rows(NamedTuple):
    """Lines by the column. Names, sorts and payloads are None where they are not certain."""

    numbers: Sequence[int]
    device_ids: Sequence[Any]
    devices: Sequence[bytes]
    times: Sequence[bytes]
    ms: Ints
    sequences: Sequence[int]
    counts: Sequence[bytes]
    sorts: Sequence[Any]
    payloads: Sequence[Any]

    def only(self, good: Mask) -> _Rows:
        """The rows that are good."""
        picked = good.tolist()
        columns: list[Any] = [
            column[good] if isinstance(column, np.ndarray) else list(compress(column, picked))
            for column in self
        ]
        return _Rows(*columns)


def _remember(known: dict[Any, Any], new: dict[Any, Any]) -> None:
    """Add what is new to what is known, which never holds more than `_REMEMBERED`."""
    if len(known) + len(new) > _REMEMBERED:
        known.clear()
    known.update(new)


class Reader:
    """Reads lines for one edge. Safe to use from several threads: it only remembers."""

    def __init__(
        self, registry: SchemaRegistry, tenant_id: str, hospital_id: str, own_device: str
    ) -> None:
        self._registry = registry
        self._tenant_id = tenant_id
        self._hospital_id = hospital_id
        self._own_device = own_device
        #: Event types that only edges, and only the platform, say. Some payloads are signed.
        self._reserved = frozenset(
            name
            for name, version in registry.known()
            if registry.get(name, version).device_class in {EDGE, SERVICE}
        )
        self._known = frozenset(registry.known())
        self._shapes = Shapes()
        self._devices: dict[bytes, str] = {}
        self._sorts: dict[_Names, Sort] = {}

    def read(self, lines: Sequence[bytes], now: Callable[[], str]) -> Batch:
        """What each line is. `now` gives the time of an event whose device gave none.

        `now` may raise `EventRefused`: then such an event is refused.
        """
        batch = Batch([], {})
        for at in range(0, len(lines), _TOGETHER):
            self._read_part(lines[at : at + _TOGETHER], now, batch)
        return batch

    def _read_part(self, lines: Sequence[bytes], now: Callable[[], str], batch: Batch) -> None:
        start = len(batch.found)
        found: list[Ready | EventRefused | None] = [None] * len(lines)
        try:
            for fields in self._shapes.cut(lines):
                self._together(fields, found, batch.flags, start)
        except (
            BaseException
        ):  # a panic of a Rust validator is no Exception; signals reach the main thread only
            _logger.exception("lines could not be read together")
        if not all(found):
            for n, line in enumerate(lines):
                if found[n] is None:
                    alone = self._strictly(line, now)
                    if isinstance(alone, Read):
                        found[n] = ready(alone.said, self._tenant_id)
                        if alone.flag is not None:
                            batch.flags[start + n] = alone.flag
                    else:
                        found[n] = alone
        batch.found.extend(found)  # type: ignore[arg-type] # none is None by now

    # --------------------------------------------------------------------------------- together

    def _together(
        self,
        fields: Fields,
        found: list[Ready | EventRefused | None],
        flags: dict[int, Flag],
        start: int,
    ) -> None:
        """Fill in, in `found` and `flags`, what is certain of lines cut into fields."""
        ids = self._device_ids(fields.devices)
        names = zip(fields.types, fields.versions, fields.refs, fields.criticalities, strict=True)
        sorts = self._sorts_of(list(names))
        sequences = list(map(int, fields.sequences))
        ms, good = times_ms(fields.times)
        if not all(ids) or not all(sorts) or max(sequences) > MAX_SAFE_INTEGER:
            good &= [
                device is not None and sort is not None and sequence <= MAX_SAFE_INTEGER
                for device, sort, sequence in zip(ids, sorts, sequences, strict=True)
            ]
        rows = _Rows(
            fields.numbers,
            ids,
            fields.devices,
            fields.times,
            ms,
            sequences,
            fields.sequences,
            sorts,
            fields.payloads,
        )
        if not good.all():
            rows = rows.only(good)
        if rows.numbers:
            self._judged(rows, found, flags, start)

    def _judged(
        self,
        rows: _Rows,
        found: list[Ready | EventRefused | None],
        flags: dict[int, Flag],
        start: int,
    ) -> None:
        """The same for rows of which only the payloads are not certain."""
        texts, invalid = judge(rows.sorts, rows.payloads)
        for n, value in invalid.items():
            flag = self._flag(rows.sorts[n], value)
            if flag is not None:
                flags[start + rows.numbers[n]] = flag
        rows = rows._replace(payloads=texts)
        if not all(texts):  # none is empty
            rows = rows.only(np.array([text is not None for text in texts]))
            if not rows.numbers:
                return
        numbers, ids, devices, times, ms, sequences, counts, sorts, payloads = rows
        kinds = [sort.kind for sort in sorts]
        columns = Columns(ids, devices, times, ms, sequences, counts, kinds, payloads)
        for n, event in zip(numbers, ready_all(columns, self._tenant_id), strict=True):
            found[n] = event

    def _device_ids(self, devices: Sequence[bytes]) -> list[str | None]:
        """The name of each device; None where it is not well formed, or ours."""
        known = self._devices
        ids = list(map(known.get, devices))
        if all(ids):
            return ids
        new = {}
        for device in {device for device, name in zip(devices, ids, strict=True) if name is None}:
            name = device.decode("ascii", "replace")
            if IDENTIFIER_PATTERN.fullmatch(name) is not None and name != self._own_device:
                new[device] = name
        _remember(known, new)
        return [name or new.get(device) for device, name in zip(devices, ids, strict=True)]

    def _sorts_of(self, names: Sequence[_Names]) -> list[Sort | None]:
        """The sort of each event; None where a name in it is not well formed."""
        known = self._sorts
        sorts = list(map(known.get, names))
        if all(sorts):
            return sorts
        new = {}
        for named in {named for named, sort in zip(names, sorts, strict=True) if sort is None}:
            sort = self._sort(*named)
            if sort is not None:
                new[named] = sort
        _remember(known, new)
        return [sort or new.get(named) for named, sort in zip(names, sorts, strict=True)]

    def _sort(
        self, event_type: bytes, version: bytes, ref: bytes | None, criticality: bytes | None
    ) -> Sort | None:
        kind = event_type.decode("ascii", "replace")
        others = [None if n is None else n.decode("ascii", "replace") for n in (ref, criticality)]
        said: dict[str, Any] = {
            "deviceId": "-",
            "eventTime": "2000-01-01T00:00:00.000Z",
            "eventType": kind,
            "eventVersion": int(version),
            "payload": {},
            "sequenceNumber": 0,
        }
        try:
            self._check(said, *others)
        except EventRefused:
            return None
        if kind in self._reserved:
            return None
        return self._new_sort(kind, int(version), *others)

    def _new_sort(
        self, event_type: str, version: int, ref: str | None, criticality: str | None
    ) -> Sort:
        default = f"{event_type}/{version}"
        named = ref or default
        normal: str = _DEFAULT_CRITICALITY
        is_valid: Callable[[Any], bool] = _is_never_valid
        typed = None
        if (event_type, version) in self._known:
            schema = self._registry.get(event_type, version)
            normal = schema.criticality
            if named == default:
                is_valid, typed = schema.validator.is_valid, schema.typed
        kind = kind_of(
            event_type,
            version,
            criticality or normal,
            "" if named == default else named,
            self._hospital_id,
        )
        return Sort(kind, event_type, version, named, is_valid, typed)

    def _flag(self, sort: Sort, payload: Any) -> Flag | None:
        """What ingest will say of a payload, as far as the edge's own schemas tell."""
        try:
            self._registry.validate(sort.event_type, sort.version, sort.schema_ref, payload)
        except EventRefused as e:
            return Flag(e.slug, e.field, e.reason, e.remedy)
        return None

    # ------------------------------------------------------------------------------ one by itself

    def _strictly(self, line: bytes, now: Callable[[], str]) -> Read | EventRefused:
        try:
            return self._read(line, now)
        except EventRefused as e:
            return e
        except BaseException as e:  # as above; whatever the line did there, its bytes are kept
            _logger.exception("the check of a line failed")
            return EventRefused(
                "internal_check_failed",
                "",
                f"the check itself failed: {type(e).__name__}",
                remedy="report it; the edge keeps the bytes",
            )

    def _read(self, line: bytes, now: Callable[[], str]) -> Read:
        if len(line) > MAX_EVENT_BYTES:
            raise EventRefused(
                "too_large",
                "",
                f"the event has {len(line)} bytes, more than {MAX_EVENT_BYTES}",
                remedy="split what it says into several events",
            )
        value = parse_strict(line)
        if not isinstance(value, dict):
            raise EventRefused(
                "not_an_object", "", "not an object", remedy="send one object a line"
            )
        said = dict(value)
        for name in _OPTIONAL:
            if name in said and not said[name]:
                raise EventRefused(
                    "bad_form",
                    name,
                    f"{name} is empty",
                    remedy=f"send {name} as text, or leave it out",
                )
        ref, criticality = said.pop("schemaRef", None), said.pop("criticality", None)
        stamped = "eventTime" not in said
        if stamped:
            said["eventTime"] = now()
        self._check(said, ref, criticality)
        device, event_type = said["deviceId"], said["eventType"]
        if device == self._own_device or event_type in self._reserved:
            name = "deviceId" if device == self._own_device else "eventType"
            raise EventRefused(
                "reserved",
                name,
                f"only this edge or the platform itself says {said[name]}",
                remedy=f"send another {name}",
            )
        sort = self._new_sort(event_type, int(said["eventVersion"]), ref, criticality)
        payload = said["payload"]
        text = canonical_bytes(payload).decode()
        sequence = int(said["sequenceNumber"])
        event = Said(device, said["eventTime"], sequence, sort.kind, text, stamped)
        return Read(event, None if sort.is_valid(payload) else self._flag(sort, payload))

    def _check(self, said: dict[str, Any], ref: Any, criticality: Any) -> None:
        """Refuse what `complete_event` refuses: it is the truth about what a device may say."""
        complete_event(
            said,
            tenant_id=self._tenant_id,
            hospital_id=self._hospital_id,
            chain_id=_NO_CHAIN,
            prev_hash=ZERO_HASH,
            schema_ref=ref or "",
            criticality=criticality or _DEFAULT_CRITICALITY,
        )
