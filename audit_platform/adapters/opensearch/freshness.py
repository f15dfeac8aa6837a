"""When an index is refreshed: by those who look, not by a clock.

A refresh makes a segment of what was written since the last; every second of it costs CPU for
nobody's use while nobody looks. So indexes are not refreshed by themselves (`template.py`), a
search does it: always for what this process wrote, else once in `LAG_SECONDS`.
Belongs here: that memory. Does not: searches. Source: issue 5 (accepted -> searchable within 3 s).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from audit_platform.adapters.opensearch.server import WRITE_SECONDS, Server

#: How long an event of another process may be unseen by a search that could see it.
LAG_SECONDS: Final = 1.0

Day = tuple[str, str]


class Freshness:
    """Which days were written by this process since their last refresh. For several threads."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._written: set[Day] = set()
        self._refreshed: dict[str, float] = {}

    def written(self, tenant_id: str, day: str) -> None:
        """Something may have been written to an index of this day."""
        self._written.add((tenant_id, day))

    def before_search(self, tenant_id: str, indexes: dict[str, str], task: str) -> None:
        """Refresh those of some indexes (name by day) that a search could see too old."""
        now = time.monotonic()
        # Forgotten before the refresh: what is written meanwhile is remembered anew.
        own = {day for day in indexes if (tenant_id, day) in self._written}
        self._written -= {(tenant_id, day) for day in own}
        stale = {
            name: day
            for day, name in indexes.items()
            if day in own or now - self._refreshed.get(name, -LAG_SECONDS) >= LAG_SECONDS
        }
        if not stale:
            return
        try:
            self.refresh(list(stale), task=task)
        except BaseException:
            self._written |= {(tenant_id, day) for day in own}
            raise
        for name in stale:
            self._refreshed[name] = now

    def refresh(self, indexes: Sequence[str], *, missing_ok: bool = True, task: str = "") -> None:
        """Refresh now. Raises `HotUnavailable`, `Refused`."""
        params = {"ignore_unavailable": str(missing_ok).lower(), "filter_path": "_shards.failed"}
        path = f"/{','.join(indexes)}/_refresh"
        self._server.ask("POST", path, params=params, seconds=WRITE_SECONDS, task=task)
