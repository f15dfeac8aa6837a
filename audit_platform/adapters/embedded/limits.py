"""Rate limits of one process, in memory: a token bucket for each tenant.

Belongs here: the arithmetic of a bucket that may owe. Does not: what a refused sender is told
(`services/ingest_limits.py`), budgets that processes share (`adapters/redis/`).
Source: the promises are those of `ports.Limits`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

#: A budget that was not used grows to this many seconds' worth: an edge that was cut off for a
#: moment need not trickle.
BURST_SECONDS: Final = 10.0

#: A wait that is rounded to a float may be this much too short.
_EPSILON: Final = 1e-9


class LocalLimits:
    """`ports.Limits` of this process alone. `rate` is events a second of each tenant, above 0."""

    def __init__(self, rate: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = rate * BURST_SECONDS
        self._monotonic = monotonic
        self._changing = threading.Lock()
        #: Tenant -> (what was there, when). Tenants are those that were let in: not many.
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, tenant_id: str, events: int) -> float:
        """See `ports.Limits`."""
        now = self._monotonic()
        with self._changing:
            level, at = self._levels.get(tenant_id, (self._burst, now))
            level = min(self._burst, level + (now - at) * self._rate)
            lacking = min(events, self._burst) - level
            if lacking > _EPSILON:
                self._levels[tenant_id] = (level, now)
                return lacking / self._rate
            self._levels[tenant_id] = (level - events, now)
            return 0.0

    def trouble(self) -> str:
        """See `ports.Limits`. Nothing is shared, so nothing is missed."""
        return ""

    def close(self) -> None:
        """See `ports.Limits`."""
