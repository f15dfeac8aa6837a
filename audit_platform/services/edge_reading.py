"""What devices send, read: each line becomes an event as its device gave it, or a refusal.

Lines are read together where that is certainly right; a line that is not plain is read by itself by
the strict parser, with the same result (a test holds the two equal). Belongs here: from foreign
bytes to `Said`. Does not: chains, sequences already taken (`edge_memory.py`), HTTP.
Source: design sections 3 (who fills what) and 7 (what can be framed, numbered and canonicalised).
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from audit_platform.errors import EventRefused
from audit_platform.record.canonical import MAX_SAFE_INTEGER, canonical_bytes, parse_strict
from audit_platform.record.event import MAX_EVENT_BYTES, complete_event
from audit_platform.record.layout import IDENTIFIER_PATTERN, ZERO_HASH
from audit_platform.record.schemas import SchemaRegistry
from audit_platform.record.together import decode_plain, encode_canonical
from audit_platform.services.edge_entry import Kind, Said, id_beginning, kind_of

_logger: Final = logging.getLogger(__name__)

#: Names and kinds that are remembered as well formed. A device may invent others without end.
_REMEMBERED: Final = 50_000

#: A larger payload may make an event too large: it is looked at by itself. An envelope has less
#: than 2 KiB.
_SURELY_FITS: Final = MAX_EVENT_BYTES - 2048

#: Lines that are read together: more gain nothing, and fewer are read again when one is not JSON.
_TOGETHER: Final = 512

#: A chain of no event: a stand-in while an event is only looked at.
_NO_CHAIN: Final = "0" * 16

_NAMES: Final = (
    "deviceId",
    "eventType",
    "eventVersion",
    "eventTime",
    "sequenceNumber",
    "payload",
)
_FIELDS: Final = len(_NAMES)
_GIVEN: Final = operator.itemgetter(*_NAMES)
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


class _Sort(NamedTuple):
    """A sort of event as devices name it, and how its payload is judged."""

    kind: Kind
    event_type: str
    version: int
    schema_ref: str
    is_valid: Callable[[Any], bool]


#: What a decoded line surely says: device, time, sequence, sort, payload, number of fields.
_Plain = tuple[str, str, int, _Sort, dict[str, Any], int]
_PAYLOAD: Final = 4

#: Past the class's own __new__, which is Python code: these are the hottest lines of the edge.
_new: Final = tuple.__new__


def _is_never_valid(_: object) -> bool:
    return False


class Reader:
    """Reads lines for one edge. Safe to use from several threads: it only remembers."""

    def __init__(
        self, registry: SchemaRegistry, tenant_id: str, hospital_id: str, own_device: str
    ) -> None:
        self._registry = registry
        self._tenant_id = tenant_id
        self._hospital_id = hospital_id
        self._own_device = own_device
        #: Event types that only edges say. Some of their payloads are signed.
        self._reserved = frozenset(
            name
            for name, version in registry.known()
            if registry.get(name, version).device_class == "edge"
        )
        self._known = frozenset(registry.known())
        self._devices: set[str] = set()
        self._sorts: dict[tuple[Any, ...], _Sort] = {}

    def read(self, lines: Sequence[bytes], now: Callable[[], str]) -> list[Read | EventRefused]:
        """What each line is. `now` gives the time of an event whose device gave none.

        `now` may raise `EventRefused`: then such an event is refused.
        """
        found: list[Read | EventRefused] = []
        for at in range(0, len(lines), _TOGETHER):
            together = lines[at : at + _TOGETHER]
            try:
                quickly = self._quickly(together)
            except (
                BaseException
            ):  # a panic of a Rust validator is no Exception; signals reach the main thread only
                _logger.exception("lines could not be read together")
                quickly = [None] * len(together)
            for line, quick in zip(together, quickly, strict=True):
                found.append(quick or self._strictly(line, now))
        return found

    # --------------------------------------------------------------------------------- together

    def _quickly(self, lines: Sequence[bytes]) -> Sequence[Read | None]:
        """What is certain of each line; None: to be read by itself."""
        decoded = decode_plain(lines)
        if decoded is None:
            return self._by_halves(lines)
        values, keys = decoded
        plain = list(map(self._plain, values))
        encoded = encode_canonical([p[_PAYLOAD] for p in plain if p is not None])
        if encoded is None:
            return self._by_halves(lines)
        texts, text_keys, doubtful = encoded
        # What was written but is not there stood twice; a text that cannot be counted has -1 keys.
        written, held = keys.tolist(), text_keys.tolist()
        reads: list[Read | None] = []
        good = 0
        for n, found in enumerate(plain):
            if found is None:
                reads.append(None)
                continue
            device, time, sequence, sort, payload, fields = found
            text = texts[good]
            if (
                written[n] != fields + held[good]
                or held[good] < 0
                or good in doubtful
                or len(text) > _SURELY_FITS
            ):
                reads.append(None)
            else:
                said = _new(Said, (device, time, sequence, sort.kind, text.decode(), False))
                flag = None if sort.is_valid(payload) else self._flag(sort, payload)
                reads.append(_new(Read, (said, flag)))
            good += 1
        return reads

    def _by_halves(self, lines: Sequence[bytes]) -> Sequence[Read | None]:
        """One odd line must not make all the others slow."""
        if len(lines) == 1:
            return [None]
        half = len(lines) // 2
        return [*self._quickly(lines[:half]), *self._quickly(lines[half:])]

    def _plain(self, value: Any) -> _Plain | None:
        """What a decoded line says, when all its fields are surely well formed."""
        try:
            device, event_type, version, time, sequence, payload = _GIVEN(value)
            fields = len(value)
            if fields == _FIELDS:
                key = (event_type, version, None, None)
            else:
                key = (event_type, version, value.get("schemaRef"), value.get("criticality"))
                if fields != _FIELDS + (key[2] is not None) + (key[3] is not None):
                    return None
            sort = self._sorts.get(key) or self._sort(*key)
            if (
                sort is None
                or (device not in self._devices and not self._is_device(device))
                or type(version) is not int
                or type(sequence) is not int
                or not 0 <= sequence <= MAX_SAFE_INTEGER
                or type(payload) is not dict
            ):
                return None
            id_beginning(time)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return device, time, sequence, sort, payload, fields

    def _is_device(self, name: Any) -> bool:
        """Whether a device's name is well formed and not ours; it is remembered then."""
        if IDENTIFIER_PATTERN.fullmatch(name) is None or name == self._own_device:
            return False
        if len(self._devices) >= _REMEMBERED:
            self._devices = set()
        self._devices.add(name)
        return True

    def _sort(self, event_type: Any, version: Any, ref: Any, criticality: Any) -> _Sort | None:
        """The sort of event that a device names, when every name in it is well formed."""
        if type(version) is not int or event_type in self._reserved or "" in (ref, criticality):
            return None
        said = {
            "deviceId": "-",
            "eventTime": "2000-01-01T00:00:00.000Z",
            "eventType": event_type,
            "eventVersion": version,
            "payload": {},
            "sequenceNumber": 0,
        }
        try:
            self._check(said, ref, criticality)
        except EventRefused:
            return None
        if len(self._sorts) >= _REMEMBERED:
            self._sorts = {}
        made = self._new_sort(event_type, version, ref, criticality)
        self._sorts[event_type, version, ref, criticality] = made
        return made

    def _new_sort(
        self, event_type: str, version: int, ref: str | None, criticality: str | None
    ) -> _Sort:
        default = f"{event_type}/{version}"
        named = ref or default
        normal: str = _DEFAULT_CRITICALITY
        is_valid: Callable[[Any], bool] = _is_never_valid
        if (event_type, version) in self._known:
            schema = self._registry.get(event_type, version)
            normal = schema.criticality
            if named == default:
                is_valid = schema.validator.is_valid
        kind = kind_of(
            event_type,
            version,
            criticality or normal,
            "" if named == default else named,
            self._hospital_id,
        )
        return _Sort(kind, event_type, version, named, is_valid)

    def _flag(self, sort: _Sort, payload: Any) -> Flag | None:
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
                f"only this edge itself says {said[name]}",
                remedy=f"send another {name}",
            )
        sort = self._sort(event_type, int(said["eventVersion"]), ref, criticality)
        assert sort is not None  # all its names were checked above
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
