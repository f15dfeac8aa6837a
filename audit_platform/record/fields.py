"""Numbers, times and hashes as a stored line writes them: columns of text, decoded and proved.

Each function gives values and, row by row, whether the text is the one that encodes to the value:
encoding a value of a good row (`columns.py`) gives the very text. A row that is not good has some
value or other. Belongs here: fields of one form. Does not: where they lie (`lines.py`).
Source: design section 3 (envelope). Eight bytes are handled as one number ("SIMD within a
register"): an operation on a column of n numbers costs about 0.5 ns a row.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from audit_platform.record.columns import Hashes, Ints, Mask

Words = npt.NDArray[np.uint64]

TIME_BYTES: Final = 24
MAX_DIGITS: Final = 16

_ZERO: Final = ord("0")
_ZEROS: Final = np.uint64(0x3030303030303030)
_HIGH_NIBBLES: Final = np.uint64(0xF0F0F0F0F0F0F0F0)
_SIXES: Final = np.uint64(0x0606060606060606)
#: The last k bytes of a word, k = 0..8.
_LAST: Final = np.array([(2**64 - 1) >> (64 - 8 * k) << (64 - 8 * k) for k in range(9)], np.uint64)

#: A time in words of eight: `-`, `T`, `:`, `.` and `Z` must stand, 0 is any digit.
_SHAPE: Final = np.frombuffer(b"0000-00-00T00:00:00.000Z", "<u8")
# What makes a byte reach 16 when it is too much: above 9 for a digit, above 0 for the others.
_ROOM: Final = np.frombuffer(bytes(6 if b == _ZERO else 15 for b in _SHAPE.tobytes()), "<u8")

_MONTHS: Final = 12
_HOURS: Final = 24
_MINUTES: Final = 60
_SECONDS: Final = 60
#: Days since 1970 on which each month begins, from January of year 1 to January of year 10000.
_MONTH_STARTS: Final = (
    np.arange("0001-01", "10000-02", dtype="datetime64[M]").astype("datetime64[D]").astype(np.int64)
)
_LAST_MONTH: Final = len(_MONTH_STARTS) - 2

#: No byte: two characters that are no lower hex.
_NO_BYTE: Final = 256
_HEX: Final = b"0123456789abcdef"
#: The byte that two characters stand for, by the characters as one little-endian number.
_BYTE_OF_HEX: Final = np.full(1 << 16, _NO_BYTE, np.uint16)
_BYTE_OF_HEX[[_HEX[b >> 4] | _HEX[b & 15] << 8 for b in range(256)]] = np.arange(256)


def hashes_in(text: npt.NDArray[np.uint8]) -> tuple[Hashes, Mask]:
    """32 bytes from 64 characters of lower hex; text of shape (n, 64)."""
    values = _BYTE_OF_HEX[text.view("<u2")]
    good = np.ones(len(text), dtype=np.bool_)
    if (values == _NO_BYTE).any():
        good = (values != _NO_BYTE).all(axis=1)
    return values.astype(np.uint8), good


def numbers_in(text: npt.NDArray[np.uint8], lengths: Ints) -> tuple[Ints, Mask]:
    """Whole numbers without sign or leading zero: the last `lengths` (1..16) bytes of each row.

    `text` has the shape (n, 16).
    """
    words = text.view("<u8") ^ _ZEROS
    low = words[:, 1] & _LAST[np.minimum(lengths, 8)]
    high = words[:, 0] & _LAST[np.maximum(lengths - 8, 0)]
    good = (((low + _SIXES) | low | (high + _SIXES) | high) & _HIGH_NIBBLES) == 0
    good &= (lengths == 1) | (text[np.arange(len(text)), MAX_DIGITS - lengths] != _ZERO)
    values = _number(low)
    if high.any():
        values += _number(high) * np.uint64(10**8)
    return values.astype(np.int64), good


def _number(words: Words) -> Words:
    """The number that eight digits (bytes 0..9, the first the highest) make."""
    words = words * np.uint64(10) + (words >> np.uint64(8))
    words = words & np.uint64(0x00FF00FF00FF00FF)
    words = words * np.uint64(100) + (words >> np.uint64(16))
    words = words & np.uint64(0x0000FFFF0000FFFF)
    words = words * np.uint64(10_000) + (words >> np.uint64(32))
    return words & np.uint64(0xFFFFFFFF)


def times_in(text: npt.NDArray[np.uint8]) -> tuple[Ints, Mask]:
    """Milliseconds since 1970 from `YYYY-MM-DDTHH:MM:SS.mmmZ`, years 1 to 9999; shape (n, 24)."""
    digits = (text.view("<u8") ^ _SHAPE).T.copy()
    room = _ROOM[:, None]
    wrong = ((digits + room) | digits) & _HIGH_NIBBLES
    # Each byte becomes the two-digit number that begins there.
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
    year = _byte(pairs[0], 0) * 100 + _byte(pairs[0], 2)
    month_of_year, day = _byte(pairs[0], 5), _byte(pairs[1], 0)
    hour, minute, second = _byte(pairs[1], 3), _byte(pairs[1], 6), _byte(pairs[2], 1)
    millis = _byte(pairs[2], 4) * 10 + _byte(digits[2], 6)
    month = ((year - 1) * _MONTHS + month_of_year - 1).clip(0, _LAST_MONTH)
    days = _MONTH_STARTS[month] + day - 1
    good = (wrong[0] | wrong[1] | wrong[2]) == 0
    good &= (year >= 1) & (month_of_year >= 1) & (month_of_year <= _MONTHS)
    good &= (day >= 1) & (days < _MONTH_STARTS[month + 1])
    good &= (hour < _HOURS) & (minute < _MINUTES) & (second < _SECONDS)
    ms: Ints = (((days * _HOURS + hour) * _MINUTES + minute) * _SECONDS + second) * 1000 + millis
    return ms, good


def _byte(words: Words, place: int) -> Ints:
    found: Ints = ((words >> np.uint64(8 * place)) & np.uint64(0xFF)).astype(np.int64)
    return found
