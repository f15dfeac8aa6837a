"""Entries of the spool completed by the block: the lines that a replay sends.

The same lines as `edge_entry.lines_of` gives (a test holds the two equal), for a third of its cost.
Belongs here: completing many entries at once where that is certainly right. Does not: what an entry
is (`edge_entry.py`), which entries are sent (`edge_uplink_lanes.py`).
Source: design section 3; the measured limits, sections 1 to 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Final

from audit_platform.record.derived import TIME_BYTES, times_ms
from audit_platform.services.edge_entry import EVENTS, HasData, Kind, kind_of, pieces_of, start_of

_FORM: Final = EVENTS.encode()

#: Fields of an event in an entry but its payload, which is the rest of the line.
_FIELDS: Final = 7


def lines_of_all(entries: Sequence[HasData]) -> list[list[bytes] | None]:
    """`lines_of` of each entry, none of whose lines holds a line feed; at least one entry.

    None where that is not certain: for an entry that joins no chain or is not one of ours, and for
    a whole block that holds an odd event or those of several tenants or hospitals.
    """
    found: list[list[bytes] | None] = [None] * len(entries)
    rows, heads, lines = [], [], []
    for n, entry in enumerate(entries):
        head, *of_entry = entry.data.split(b"\n")
        parts = head.split(b" ")
        if len(parts) == 6 and parts[0] == _FORM and of_entry:  # noqa: PLR2004 - form, place, prevHash
            rows.append((n, len(of_entry)))
            heads.append(parts)
            lines += of_entry
    if not rows:
        return found
    try:
        made = _completed(heads, [count for _, count in rows], lines)
    except ValueError:  # as `decode` finds, by itself, in one of them
        return found
    for (n, _), of_entry in zip(rows, made, strict=False):
        found[n] = of_entry
    return found


def _completed(
    heads: Sequence[Sequence[bytes]], counts: Sequence[int], lines: Sequence[bytes]
) -> Iterable[list[bytes]]:
    """Lines of entries by their heads and their numbers of lines; nothing when in doubt.

    May raise `ValueError`.
    """
    _, chains, hospitals, tenants, names, prev_hashes = zip(*heads, strict=True)
    fields = zip(*[line.split(b" ", _FIELDS) for line in lines], strict=True)
    times, numbers, types, versions, criticalities, refs, _, payloads = fields
    if len({*hospitals}) > 1 or len({*tenants}) > 1 or {*map(len, times)} != {TIME_BYTES}:
        return ()
    ms, good = times_ms(times)
    if not good.all():
        return ()
    b"\n".join([*names, *prev_hashes, *payloads]).decode()
    sorts = list(zip(types, versions, criticalities, refs, strict=True))
    kinds = {sort: _kind(sort, hospitals[0].decode()) for sort in {*sorts}}
    before, after, _ = pieces_of(
        [name for name, count in zip(names, counts, strict=True) for _ in range(count)],
        times,
        ms,
        list(map(b"%d".__mod__, map(int, numbers))),
        [kinds[sort] for sort in sorts],
        payloads,
        tenants[0].decode(),
    )
    return list(map(_chained, chains, prev_hashes, counts, repeat(zip(before, after, strict=True))))


def _kind(sort: tuple[bytes, bytes, bytes, bytes], hospital: str) -> Kind:
    event_type, version, criticality, ref = sort
    return kind_of(event_type.decode(), int(version), criticality.decode(), ref.decode(), hospital)


def _chained(
    chain: bytes, prev_hash: bytes, count: int, pieces: Iterator[tuple[bytes, bytes]]
) -> list[bytes]:
    """The next `count` lines, the first of which names `prev_hash`."""
    start, head = start_of(chain.decode()), prev_hash
    lines: list[bytes] = []
    for before, after in islice(pieces, count):
        if lines:
            head = hashlib.sha256(lines[-1]).hexdigest().encode()
        lines.append(b"".join((start, before, head, after)))
    return lines
