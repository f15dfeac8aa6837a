"""Sends one body until the ingest-gateway acknowledges it: the same bytes, with back-off.

Belongs here: the HTTP call, what is tried again and when, reading the receipt. Does not: which body
is next, what survives a kill (`feeder.py`, `edge_state.py`).
Source: design section 4 (202 means durable; 429, 503 and `Retry-After`); RFC 9110.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
import urllib3

from audit_platform.errors import AuditPlatformError

#: First and longest pause between attempts, seconds; each is drawn from half of it to all of it,
#: so that the edges of a hospital do not come back at the same moment.
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 10.0

#: The gateway answers after an fsync; longer than the slowest append it allows itself.
READ_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5.0

#: Statuses that promise nothing and may pass later. Any other but 202 needs a person.
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_ACKNOWLEDGED: Final = 202


class SendRefused(AuditPlatformError):
    """The gateway will never take this body as it is; `status` is its HTTP status."""

    def __init__(self, status: int, reason: str, *, remedy: str) -> None:
        super().__init__(f"HTTP {status}: {reason}", remedy=remedy)
        self.status = status


@dataclass(frozen=True, slots=True)
class Receipt:
    """A 202: `refused` is the 0-based line of each refused event -> its slug."""

    batch_id: str
    accepted: int
    refused: dict[int, str]
    records: list[dict[str, Any]]


class Sender:
    """One connection to an ingest-gateway; one body on its way at a time."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        wait: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._url = url.rstrip("/") + "/v1/events"
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "zstd",
        }
        self._wait = wait
        self._jitter = jitter
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, timeout=timeout, retries=False)
        self.retries = 0

    def send(self, body: bytes, events: int) -> Receipt:
        """Send a body of so many events until it is acknowledged; blocks as long as that takes.

        Raises `SendRefused` for an answer that will not change by itself.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            asked = 0.0
            try:
                answer = self._pool.request("POST", self._url, body=body, headers=self._headers)
                if answer.status == _ACKNOWLEDGED:
                    return _receipt(answer.data, events)
                if answer.status not in _AGAIN:
                    raise _refused(answer.status, answer.data)
                asked = _retry_after(answer.headers.get("Retry-After"))
            except urllib3.exceptions.HTTPError:
                pass  # no answer promises nothing: the same bytes again
            self.retries += 1
            self._wait(max(asked, pause * (1 + self._jitter()) / 2))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def _retry_after(value: str | None) -> float:
    """Seconds asked for; a date or nonsense counts as none (our gateway sends seconds)."""
    return float(value) if value is not None and value.isascii() and value.isdigit() else 0.0


def _refused(status: int, data: bytes) -> SendRefused:
    try:
        problem = orjson.loads(data)
        return SendRefused(
            status, str(problem["detail"]), remedy=str(problem.get("remedy", "see the status"))
        )
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return SendRefused(status, repr(data[:200]), remedy="is this an ingest-gateway?")


def _receipt(data: bytes, events: int) -> Receipt:
    try:
        value = orjson.loads(data)
        receipt = Receipt(
            batch_id=str(value["batchId"]),
            accepted=int(value["accepted"]),
            # The gateway counts lines from 1, as editors do.
            refused={int(r["line"]) - 1: str(r["slug"]) for r in value["refused"]},
            records=list(value["records"]),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as e:
        raise SendRefused(
            _ACKNOWLEDGED, f"not a receipt: {e}", remedy="keep the body; compare the versions"
        ) from e
    if receipt.accepted + len(receipt.refused) != events:
        raise SendRefused(
            _ACKNOWLEDGED,
            f"{events} events sent, {receipt.accepted} accepted, {len(receipt.refused)} refused",
            remedy="keep the body; the gateway lost count",
        )
    return receipt
