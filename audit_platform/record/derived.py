"""What is derived of events, by the block: hashes, eventIds, times as numbers.

One call of numpy for hundreds of events costs a fraction of hundreds of calls. Belongs here: these
columns. Does not: one event by itself (`event.py`, `times.py`), payloads (`together.py`).
Source: design section 3; RFC 9562 (UUIDv7); measured limits, sections 1 to 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from audit_platform.record.columns import Ints, Mask
from audit_platform.record.times import parse_time_ms

Text = npt.NDArray[np.uint8]

#: Minutes that are remembered: about 15 MB when full.
MAX_MINUTES: Final = 100_000

#: Bytes of a time text.
TIME_BYTES: Final = 24

#: Characters of a time up to its seconds, and what of `SS.mmmZ` behind them is a digit and counts
#: how many milliseconds.
_MINUTE: Final = 17
_DIGITS: Final = [0, 1, 3, 4, 5]
_MILLISECONDS: Final = np.array([10_000, 1000, 100, 10, 1])
_LARGEST_DIGITS: Final = np.array([5, 9, 9, 9, 9], np.uint8)
_NO_TIME: Final = -(2**62)
_UNKNOWN: Final = -(2**61)

_HEX_OF_BYTE: Final = np.frombuffer(bytes(range(256)).hex().encode(), np.uint16)
_UUID_DIGITS: Final = [n for n in range(36) if n not in {8, 13, 18, 23}]


class EventTimes:
    """Reads times. Remembers minutes; safe to use from several threads."""

    def __init__(self) -> None:
        self._minutes: dict[bytes, int] = {}

    def ms(self, times: Sequence[bytes]) -> tuple[Ints, Mask]:
        """Milliseconds since 1970 of time texts of 24 bytes, and where they are times."""
        known = self._minutes
        minutes = [text[:_MINUTE] for text in times]
        ms = [known.get(minute, _UNKNOWN) for minute in minutes]
        if _UNKNOWN in ms:
            new = {minute for minute, at in zip(minutes, ms, strict=True) if at == _UNKNOWN}
            found = {minute: _minute_ms(minute) for minute in new}
            ms = [
                found[minute] if at == _UNKNOWN else at
                for minute, at in zip(minutes, ms, strict=True)
            ]
            if len(known) + len(found) > MAX_MINUTES:
                known.clear()
            known.update(found)
        text = np.frombuffer(b"".join(times), np.uint8).reshape(-1, TIME_BYTES)[:, _MINUTE:]
        digits = text[:, _DIGITS] - np.uint8(ord("0"))  # what is no digit becomes 10 or more
        at = np.array(ms, np.int64)
        good = (at != _NO_TIME) & (digits <= _LARGEST_DIGITS).all(1)
        good &= (text[:, 2] == ord(".")) & (text[:, 6] == ord("Z"))
        return at + digits @ _MILLISECONDS, good


def _minute_ms(minute: bytes) -> int:
    try:
        return parse_time_ms(minute.decode("ascii") + "00.000Z")
    except ValueError:
        return _NO_TIME


def sha256_rows(texts: Iterable[bytes]) -> Text:
    """SHA-256 of each, shape (n, 32)."""
    sha256 = hashlib.sha256
    digests = b"".join([sha256(text).digest() for text in texts])
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def hex_rows(values: Text) -> Text:
    """Lower hex of (n, width) bytes, shape (n, 2 * width)."""
    return _HEX_OF_BYTE[values].view(np.uint8).reshape(len(values), values.shape[1] * 2)


def event_id_rows(ms: Ints, hashes: Text) -> Text:
    """EventIds from times and the SHA-256 of what the devices said, shape (n, 36)."""
    uuids = np.empty((len(ms), 16), np.uint8)
    uuids[:, :6] = ms.astype(">i8").view(np.uint8).reshape(-1, 8)[:, 2:]
    uuids[:, 6:] = hashes[:, :10]
    uuids[:, 6] = uuids[:, 6] & 0x0F | 0x70
    uuids[:, 8] = uuids[:, 8] & 0x3F | 0x80
    text = np.full((len(ms), 36), ord("-"), np.uint8)
    text[:, _UUID_DIGITS] = hex_rows(uuids)
    return text


def texts_of(rows: Text) -> list[bytes]:
    """The text in each row of (n, width); none may end with a zero byte."""
    texts: list[bytes] = rows.view(f"S{rows.shape[1]}").ravel().tolist()
    return texts
