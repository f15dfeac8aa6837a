"""Times as text: RFC 3339, UTC, `Z`, exactly milliseconds; one spelling per instant.

Belongs here: reading and writing that text. Does not: the clock (a port), days (`layout.py`).
Source: design section 3; RFC 3339.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import Final

from audit_platform.record.layout import MS_PER_DAY

_TIME: Final = re.compile(r"[0-9T:-]{16}:[0-5][0-9]\.[0-9]{3}Z")
_SECOND: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])"
)

_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_FIRST_MS: Final = (1 - _EPOCH_DAY) * MS_PER_DAY
_LAST_MS: Final = (date.max.toordinal() - _EPOCH_DAY + 1) * MS_PER_DAY - 1

#: Parsed seconds and written minutes that are remembered. Events come nearly in the order of their
#: time; a few hours of seconds cover late devices and clocks that run wrong, in about 2 MB.
_KEPT: Final = 16_384


def format_time_ms(ms: int) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ` of milliseconds since 1970.

    Raises `ValueError` outside the years 0001 to 9999.
    """
    if not _FIRST_MS <= ms <= _LAST_MS:
        raise ValueError(f"{ms} ms is outside the years 0001 to 9999")
    minutes, rest = divmod(ms, 60_000)
    return f"{_minute_text(minutes)}:{rest // 1000:02d}.{rest % 1000:03d}Z"


def parse_time_ms(text: str) -> int:
    """Milliseconds since 1970 of exactly `YYYY-MM-DDTHH:MM:SS.mmmZ`; negative before 1970.

    Raises `ValueError` for any other form, a day that the calendar lacks, or a leap second.
    """
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"{text!a} is not of the form YYYY-MM-DDTHH:MM:SS.mmmZ")
    return shaped_time_ms(text)


def shaped_time_ms(text: str) -> int:
    """As `parse_time_ms`, for text whose seconds and milliseconds were looked at by a pattern."""
    return _second_ms(text[:19]) + int(text[20:23])


@lru_cache(maxsize=_KEPT)
def _second_ms(text: str) -> int:
    m = _SECOND.fullmatch(text)
    if m is None:
        raise ValueError(f"{text!a} is not of the form YYYY-MM-DDTHH:MM:SS")
    day = date(int(m[1]), int(m[2]), int(m[3])).toordinal() - _EPOCH_DAY
    return day * MS_PER_DAY + ((int(m[4]) * 60 + int(m[5])) * 60 + int(m[6])) * 1000


@lru_cache(maxsize=_KEPT)
def _minute_text(minutes: int) -> str:
    days, minute = divmod(minutes, 24 * 60)
    day = date.fromordinal(days + _EPOCH_DAY).isoformat()
    return f"{day}T{minute // 60:02d}:{minute % 60:02d}"
