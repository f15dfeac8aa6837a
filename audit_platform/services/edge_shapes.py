"""How devices lay out their lines: each order of fields is one pattern, learned from a line.

A device's program writes the same fields in the same order all its life, so one pattern cuts
hundreds of lines into fields by one call. Belongs here: learning these patterns and cutting by
them; what matches has each field exactly once, its number fields well formed. Does not: what names,
times and payloads must be (`edge_reading.py`); lines that do not match are no fault.
Source: design section 3 (who fills what).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

import orjson

from audit_platform.record.event import MAX_EVENT_BYTES

#: Layouts that are learned. Each costs a millisecond and about 20 kB, and an installation has as
#: many as it has sorts of drivers; lines of any further one are read by themselves.
MAX_SHAPES: Final = 64

_NAME: Final = rb'"([^"]{1,128})"'

#: What may stand in each field. Names are any text here: they are looked up. A time is any text.
_VALUES: Final = {
    "deviceId": _NAME,
    "eventType": _NAME,
    "eventVersion": rb"([1-9][0-9]{0,2})",
    "eventTime": rb'"((?s:.{24}))"',
    "sequenceNumber": rb"(0|[1-9][0-9]{0,15})",
    "payload": rb"(\{.*\})",
    "schemaRef": _NAME,
    "criticality": _NAME,
}
_OPTIONAL: Final = frozenset({"schemaRef", "criticality"})
_REQUIRED: Final = frozenset(_VALUES) - _OPTIONAL


class Fields(NamedTuple):
    """Lines cut into fields: their numbers, and one column a field; None where it was left out."""

    numbers: Sequence[int]
    devices: Sequence[bytes]
    types: Sequence[bytes]
    versions: Sequence[bytes]
    times: Sequence[bytes]
    sequences: Sequence[bytes]
    payloads: Sequence[bytes]
    refs: Sequence[bytes | None]
    criticalities: Sequence[bytes | None]


class _Shape:
    """One order of fields, written without spaces or with one behind each colon and comma."""

    __slots__ = ("_names", "pattern")

    def __init__(self, names: Sequence[str], space: bytes) -> None:
        members = [b'"%b":%b%b' % (n.encode("ascii"), space, _VALUES[n]) for n in names]
        joined = (b"," + space).join(members)
        self.pattern = re.compile(rb"^\{%b\}\r?$" % joined, re.MULTILINE)
        self._names = names

    def fields(self, numbers: Sequence[int], found: Sequence[tuple[bytes, ...]]) -> Fields:
        given = dict(zip(self._names, zip(*found, strict=True), strict=True))
        columns: list[Any] = [
            given.get(name) or list(repeat(None, len(numbers))) for name in _VALUES
        ]
        device, kind, version, time, sequence, payload, ref, criticality = columns
        return Fields(numbers, device, kind, version, time, sequence, payload, ref, criticality)


class Shapes:
    """The layouts that were seen. Safe to use from several threads: it only remembers."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, ...], _Shape] = {}  # by the space and the names

    def cut(self, lines: Sequence[bytes]) -> Iterator[Fields]:
        """The fields of lines, those of one layout together. What no layout fits is left out."""
        first = self._shape_of(lines[0])
        if first is not None:
            block = b"\n".join(lines)
            found = first.pattern.findall(block)
            # Each match begins where a line begins and ends where one ends. As many matches as
            # lines: each match is one line. And no line feed is inside of what was given as one.
            if (
                len(found) == len(lines)
                and block.count(b"\n") == len(lines) - 1
                and max(map(len, lines)) <= MAX_EVENT_BYTES
            ):
                yield first.fields(range(len(lines)), found)
                return
        yield from self._one_by_one(lines, first)

    def _one_by_one(self, lines: Sequence[bytes], shape: _Shape | None) -> Iterator[Fields]:
        cut: defaultdict[_Shape, list[tuple[int, tuple[bytes, ...]]]] = defaultdict(list)
        for n, line in enumerate(lines):
            if len(line) > MAX_EVENT_BYTES:
                continue
            m = None if shape is None else shape.pattern.fullmatch(line)
            if m is None:
                shape = self._shape_of(line) or shape
                m = None if shape is None else shape.pattern.fullmatch(line)
            if m is not None and shape is not None:
                cut[shape].append((n, m.groups()))
        for of_lines, rows in cut.items():
            numbers, found = zip(*rows, strict=True)
            yield of_lines.fields(numbers, found)

    def _shape_of(self, line: bytes) -> _Shape | None:
        """The layout of a line, learned if need be."""
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            return None
        if type(value) is not dict:
            return None
        names = tuple(value)
        space = " " if b": " in line[: line.find(b":") + 2] else ""
        shape = self._shapes.get((space, *names))
        if (
            shape is None
            and len(self._shapes) < MAX_SHAPES
            and value.keys() >= _REQUIRED
            and value.keys() <= _VALUES.keys()
        ):
            shape = self._shapes[space, *names] = _Shape(names, space.encode())
        return shape
