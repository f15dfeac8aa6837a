"""The wall clock: the machine's own, or one that is moved and runs at another rate.

Belongs here: the two clocks that a process can be given, and the text form of `AUDIT_CLOCK`. Does
not: time-outs and leases (they run on `time.monotonic()`), a clock set by hand (a test helper,
`audit_platform_tests/clocks.py`). Source: design section 9 (profiles).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

# `ports` is not imported: settings import this module, and `--help` imports settings.

SYSTEM: Final = "system"

#: The last number may be left out: scaled for ever.
SCALED_FORM: Final = "scaled:<wall start ms>:<real start ms>:<rate>[:<wall until ms>]"

#: One day a second. Faster, a day would be over before its events can be sent.
MAX_RATE: Final = 86_400.0

#: 9999-12-31T23:59:59.999Z: the last time that the record's text form can hold.
LAST_MS: Final = 253_402_300_799_999


def _real_ms() -> int:
    return time.time_ns() // 1_000_000


class SystemClock:
    """The machine's wall clock."""

    def now_ms(self) -> int:
        """Wall-clock milliseconds since 1970, UTC."""
        return _real_ms()


@dataclass(frozen=True, slots=True)
class ScaledClock:
    """A moved wall clock that runs `rate` times as fast as the real one.

    It showed `wall_start_ms` when the real time was `real_start_ms`. From `wall_until_ms` on it
    runs as fast as the real one. All processes that are given the same numbers agree on the time.
    """

    wall_start_ms: int
    real_start_ms: int
    rate: float
    wall_until_ms: int = LAST_MS

    def now_ms(self) -> int:
        """Scaled wall-clock milliseconds since 1970, UTC; stops at the end of the year 9999."""
        real = _real_ms() - self.real_start_ms
        scaled = self.wall_start_ms + int(real * self.rate)
        if scaled > self.wall_until_ms:
            reached = (self.wall_until_ms - self.wall_start_ms) / self.rate
            scaled = self.wall_until_ms + int(real - reached)
        return min(max(scaled, 0), LAST_MS)


def parse_clock(text: str) -> SystemClock | ScaledClock:
    """The clock that `system` or `SCALED_FORM` stands for. Raises `ValueError`: what is wanted."""
    if text == SYSTEM:
        return SystemClock()
    kind, *numbers = text.split(":")
    if kind != "scaled" or len(numbers) not in {3, 4}:
        raise ValueError(f"system, or {SCALED_FORM}")
    try:
        wall, real, rate = int(numbers[0]), int(numbers[1]), float(numbers[2])
        until = int(numbers[3]) if len(numbers) > 3 else LAST_MS  # noqa: PLR2004 - the fourth number may be left out
    except ValueError as e:
        raise ValueError("whole milliseconds, and a number as the rate") from e
    if not (0 <= wall <= until <= LAST_MS and 0 <= real <= LAST_MS):
        raise ValueError(f"milliseconds from 0 to {LAST_MS} (the end of the year 9999)")
    if not (math.isfinite(rate) and 0 < rate <= MAX_RATE):
        raise ValueError(f"a rate above 0 and at most {MAX_RATE:.0f} (one day a second)")
    return ScaledClock(wall, real, rate, until)
