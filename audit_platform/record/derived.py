"""What is derived of events, by the block: hashes, eventIds, times as numbers.

One call of numpy for hundreds of events costs a fraction of hundreds of calls. Belongs here: these
columns. Does not: one event by itself (`event.py`, `times.py`), payloads (`together.py`).
Source: design section 3; RFC 9562 (UUIDv7); measured limits, sections 1 to 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from audit_platform.record.columns import Ints, Mask
from audit_platform.record.fields import times_in
from audit_platform.record.layout import MS_PER_DAY
from audit_platform.record.times import parse_time_ms

Text = npt.NDArray[np.uint8]

#: Bytes of a time text.
TIME_BYTES: Final = 24

#: Characters of a day and its `T`: events that come together are nearly always of one day. What of
#: `HH:MM:SS.mmmZ` behind it is a digit and how many milliseconds it counts; what else stands there.
_DAY: Final = 11
_DIGITS: Final = [11, 12, 14, 15, 17, 18, 20, 21, 22]
_MILLISECONDS: Final = np.array(
    [36_000_000, 3_600_000, 600_000, 60_000, 10_000, 1000, 100, 10, 1], np.int64
)
_LARGEST_DIGITS: Final = np.array([2, 9, 5, 9, 5, 9, 9, 9, 9], np.uint8)
_SIGNS: Final = [13, 16, 19, 23]
_SIGNS_TEXT: Final = np.frombuffer(b"::.Z", np.uint8)

_HEX_OF_BYTE: Final = np.frombuffer(bytes(range(256)).hex().encode(), np.uint16)
_UUID_DIGITS: Final = [n for n in range(36) if n not in {8, 13, 18, 23}]


def times_ms(times: Sequence[bytes]) -> tuple[Ints, Mask]:
    """Milliseconds since 1970 of time texts of 24 bytes, and where they are times; at least one."""
    text = np.frombuffer(b"".join(times), np.uint8).reshape(-1, TIME_BYTES)
    day = times[0][:_DAY]
    if (text[:, :_DAY] != text[0, :_DAY]).any():
        return times_in(text)
    digits = text[:, _DIGITS] - np.uint8(ord("0"))  # what is no digit becomes 10 or more
    in_day: Ints = digits @ _MILLISECONDS
    good = (digits <= _LARGEST_DIGITS).all(1) & (in_day < MS_PER_DAY)
    good &= (text[:, _SIGNS] == _SIGNS_TEXT).all(1)
    try:
        return in_day + _day_ms(day), good
    except ValueError:
        return in_day, np.zeros(len(text), np.bool_)


@lru_cache(maxsize=64)
def _day_ms(day: bytes) -> int:
    return parse_time_ms(day.decode("ascii") + "00:00:00.000Z")


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
