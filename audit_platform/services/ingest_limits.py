"""How much a tenant may send: asked before a body is checked.

Belongs here: counting a body's events, the answer to who sent too many. Does not: the budget
(`ports.Limits`). Runs in worker threads.
Source: RFC 6585 (429), RFC 9110 (`Retry-After`); failure 22 (the shared budget is away: a stricter
one of this process, and 503).
"""

from __future__ import annotations

import io
import math
from typing import Final

import zstandard

from audit_platform.metrics.ingest import INGEST_LOCAL_LIMITS
from audit_platform.ports import Limits
from audit_platform.services.ingest_body import MAX_BODY
from audit_platform.services.ingest_problems import Problem
from audit_platform.telemetry import Telemetry

#: A compressed body is counted in pieces of this size, so it is never whole in memory twice.
_PIECE: Final = 1 << 16


class Budgets:
    """Asks for the budget of each body. Without `limits` there is none to ask for."""

    def __init__(self, limits: Limits | None, telemetry: Telemetry) -> None:
        self._limits = limits
        self._telemetry = telemetry

    def demand(self, tenant_id: str, data: bytes, *, compressed: bool) -> None:
        """Take a body's events off its tenant's budget. Raises `Problem` 429, or 503 for now."""
        if self._limits is None:
            return
        events = events_in(data, compressed=compressed)
        wait = self._limits.take(tenant_id, events)
        trouble = self._limits.trouble()
        self._telemetry.set(INGEST_LOCAL_LIMITS, bool(trouble))
        if wait <= 0:
            return
        detail = f"{events} events are more than the budget of {tenant_id} allows now"
        raise Problem(
            "limits_unavailable" if trouble else "rate_limited",
            f"{detail}, which is lower while {trouble}" if trouble else detail,
            remedy="keep the events and send the same body again after the time in Retry-After",
            retry_after_seconds=max(1, math.ceil(wait)),
        )


def events_in(data: bytes, *, compressed: bool) -> int:
    """Lines of a body, at least 1. One that is no good is refused later, for what it is."""
    if not compressed:
        return max(1, data.count(b"\n") + (not data.endswith(b"\n")))
    lines = size = 0
    last = b"\n"
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as reader:
            while size <= MAX_BODY and (piece := reader.read(_PIECE)):
                size += len(piece)
                lines += piece.count(b"\n")
                last = piece
    except zstandard.ZstdError:
        pass
    return max(1, lines + (not last.endswith(b"\n")))
