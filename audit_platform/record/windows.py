"""What stands in a stored line between the values whose length varies: labels, and fixed values.

A line is cut at the values of any length; each run of bytes between two of them is a *window* of
one width: labels, and values of a fixed one. All lines' windows are compared at once, eight bytes
as one number: a comparison of 128 bytes so costs less than one of 12; and written at once. Belongs
here: the windows, filling them, whether rows of bytes are such windows. Does not: where values end,
what they say (`lines.py`), rebuilding a line from columns (`columns.py`).
Source: design section 3 (stored event).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

#: Bytes of a time text.
TIME_BYTES: Final = 24

#: What stands before each value.
BEFORE: Final = {
    "chain_id": b'{"chainId":"',
    "checksum": b'","checksum":"',
    "criticality": b'","criticality":"',
    "device_id": b'","deviceId":"',
    "event_id": b'","eventId":"',
    "event_time": b'","eventTime":"',
    "event_type": b'","eventType":"',
    "event_version": b'","eventVersion":',
    "hospital_id": b',"hospitalId":"',
    "ingestion_time": b'","ingestionTime":"',
    "payload": b'","payload":',
    "prev_hash": b',"prevHash":"',
    "schema_ref": b'","schemaRef":"',
    "sequence_number": b'","sequenceNumber":',
}
WIDTH: Final = {
    "chain_id": 16,
    "checksum": 64,
    "event_id": 36,
    "event_time": TIME_BYTES,
    "ingestion_time": TIME_BYTES,
    "prev_hash": 64,
}
#: No line is shorter: labels and values of fixed width.
SHORTEST: Final = sum(map(len, BEFORE.values())) + sum(WIDTH.values())

_QUOTE: Final = ord('"')
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class Window:
    """Bytes that stand alike in every line but for the values of fixed width in them.

    `pieces` are labels, and names of values. `width` is `size` rounded up to whole words; what is
    too much is not looked at. `at` is where each value begins.
    """

    pieces: tuple[bytes | str, ...]
    size: int
    width: int
    at: dict[str, int]
    _quotes: int
    _mask: npt.NDArray[np.uint64]
    _said: npt.NDArray[np.uint64]

    def stand_in(self, rows: Bytes) -> Mask:
        """Which rows, shape (n, width), have all labels, and no quote in any value."""
        words = rows.view(np.uint64) & self._mask
        good = _each_row(words == self._said)
        if not self.at:
            return good
        # As many quotes as the labels have, and the labels are there: so none is elsewhere.
        is_quote = rows[:, : self.size] == _QUOTE
        if np.count_nonzero(is_quote) != len(rows) * self._quotes:
            good &= is_quote.sum(axis=1) == self._quotes
        return good

    def filled(self, values: Mapping[str, Bytes]) -> Bytes:
        """Rows of shape (n, size) from a value of fixed width for each name, shape (n, width)."""
        n = len(next(iter(values.values())))
        rows = np.empty((n, self.size), np.uint8)
        rows[:] = self._said.view(np.uint8)[: self.size]
        for name, at in self.at.items():
            rows[:, at : at + WIDTH[name]] = values[name]
        return rows

    def value(self, name: str, rows: Bytes) -> Bytes:
        """A value of fixed width of each row, shape (n, its width), end to end."""
        at = self.at[name]
        return np.ascontiguousarray(rows[:, at : at + WIDTH[name]])


def _window(*pieces: bytes | str, is_at_end: bool = False) -> Window:
    """From labels and names of values. With `is_at_end`, what is too much stands in front."""
    said = mask = b""
    at: dict[str, int] = {}
    for piece in pieces:
        if isinstance(piece, str):
            at[piece] = len(said)
            said += bytes(WIDTH[piece])
            mask += bytes(WIDTH[piece])
        else:
            said += piece
            mask += b"\xff" * len(piece)
    size = len(said)
    more = bytes(-size % _WORD)
    said, mask = (more + said, more + mask) if is_at_end else (said + more, mask + more)
    quotes = said.count(_QUOTE)
    words = (np.frombuffer(text, np.uint64) for text in (mask, said))
    return Window(pieces, size, len(said), at, quotes, *words)


#: The window at a line's start.
FIRST: Final = _window(
    BEFORE["chain_id"], "chain_id", BEFORE["checksum"], "checksum", BEFORE["criticality"]
)
#: The window behind each value whose length varies, but the last one.
BEHIND: Final = {
    "criticality": _window(BEFORE["device_id"]),
    "device_id": _window(
        BEFORE["event_id"], "event_id", BEFORE["event_time"], "event_time", BEFORE["event_type"]
    ),
    "event_type": _window(BEFORE["event_version"]),
    "event_version": _window(BEFORE["hospital_id"]),
    "hospital_id": _window(BEFORE["ingestion_time"], "ingestion_time", BEFORE["payload"]),
    "payload": _window(BEFORE["prev_hash"], "prev_hash", BEFORE["schema_ref"]),
    "schema_ref": _window(BEFORE["sequence_number"]),
}


@lru_cache(maxsize=1024)
def last_window(tenant_id: str) -> Window:
    """The window at a line's end, behind its last value; it ends where the line ends."""
    return _window(f',"tenantId":"{tenant_id}"}}'.encode(), is_at_end=True)


def _each_row(equal: Mask) -> Mask:
    """Whether all of each row is true. Nearly always everything is, which is cheap to see."""
    if equal.all():
        return np.ones(len(equal), dtype=np.bool_)
    rows: Mask = np.asarray(equal.all(axis=1))
    return rows
