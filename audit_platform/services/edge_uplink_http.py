"""The uplink's HTTP: one attempt at a time, and what its answer means.

Belongs here: the two requests (a body, a question), strict reading of every answer, which failure
asks for what. Does not: when to try again, what to send next (`edge_uplink.py`).
Source: design section 4 (202 means durable; 4xx, 429, 503 and `Retry-After`); RFC 9110.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from statistics import median
from typing import Any, Final, NamedTuple

import orjson
import urllib3
import zstandard

from audit_platform.ports import Clock
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, SHARDS

#: The gateway answers after an fsync; longer than the slowest append it allows itself.
READ_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5.0

#: An answer that trickles in is given up after this.
ANSWER_SECONDS: Final = 60.0

#: Bytes of an answer: a receipt that refuses 500 events has about 250 kB.
MAX_ANSWER: Final = 2 * 1024 * 1024

#: The longest wait that a server may ask for: after an hour's mistake in its clock, an edge that
#: obeyed without a bound would be silent for an hour.
MAX_RETRY_AFTER_SECONDS: Final = 300.0

#: Half of what hashes leave over compresses at the lowest level already.
ZSTD_LEVEL: Final = 1

#: Answers whose `Date` is compared: the median of a few is not moved by one slow answer.
CLOCK_SAMPLES: Final = 9

_TOPICS: Final = frozenset({EVENTS_TOPIC, DLQ_TOPIC})
_STATES: Final = frozenset({"archived", "pending", "differs"})
_DIGEST: Final = re.compile(r"[0-9a-f]{16}")
_SLUG: Final = re.compile(r"urn:audit-platform:problem:([a-z_]{1,64})")
_MAX_OFFSET: Final = 2**63 - 1

#: Statuses that promise nothing and may pass later by themselves.
_LATER: Final = frozenset({408, 425, 429})

#: Problems with status 400 that say nothing about the body's content.
_NOT_ABOUT_CONTENT: Final = frozenset({"bad_http"})


class Fault(StrEnum):
    """What a failed attempt asks for."""

    LATER = "later"  # the same again after a pause
    DENIED = "denied"  # the credential: a person must act; slowly again
    STRANGE = "strange"  # not an answer of an ingest-gateway, or of another version; slowly again
    TOO_LARGE = "too_large"  # in smaller pieces
    UNREADABLE = "unreadable"  # ingest cannot read these bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that acknowledged nothing. `wait_seconds` is what the server asked for, or 0.

    `by_ingest`: the answer has the form of ingest-gateway's problems, so no proxy made it.
    """

    fault: Fault
    reason: str
    wait_seconds: float = 0.0
    by_ingest: bool = False


class LogPlace(NamedTuple):
    """One log record of a receipt. `digest` is 16 hex digits."""

    topic: str
    partition: int
    offset: int
    digest: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A 202. `refused` is the 0-based line of each refused event -> its slug."""

    batch_id: str
    accepted: int
    refused: dict[int, str]
    records: tuple[LogPlace, ...]


class UplinkSender:
    """One kept-alive connection to an ingest-gateway. Used by one thread.

    `secret` is asked for at each attempt, so a key that was replaced is taken without a restart.
    """

    def __init__(
        self,
        url: str,
        secret: Callable[[], str],
        clock: Clock,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url.rstrip("/")
        self._secret = secret
        self._clock = clock
        self._monotonic = monotonic
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        timeout = urllib3.Timeout(connect=connect_seconds, read=read_seconds)
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, timeout=timeout, retries=False)
        self._offsets_ms: deque[int] = deque(maxlen=CLOCK_SAMPLES)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._pool.clear()

    def clock_offset_ms(self) -> int | None:
        """How far ingest-gateway's clock is ahead of ours; None before the first answer.

        Good to about a second: that is all a `Date` header says.
        """
        samples = tuple(self._offsets_ms)
        return round(median(samples)) if samples else None

    def send(self, body: bytes, events: int) -> Receipt | Failure:
        """Send a body of so many lines once. A receipt means that all of it is durable."""
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
        answer = self._request("/v1/events", self._compressor.compress(body), headers)
        if isinstance(answer, Failure):
            return answer
        status, data = answer
        if status != 202:  # noqa: PLR2004 - the one status that is a promise
            return Failure(Fault.STRANGE, f"HTTP {status} is no answer to a body")
        try:
            return parse_receipt(data, hashlib.sha256(body).hexdigest(), events)
        except _Malformed as e:
            return Failure(Fault.LATER, f"the receipt is not one: {e}")

    def ask(self, records: Sequence[LogPlace]) -> list[str] | Failure:
        """Ask once what is archived: `archived`, `pending` or `differs` for each record."""
        question = orjson.dumps({"records": [r._asdict() for r in records]})
        headers = {"Content-Type": "application/json"}
        answer = self._request("/v1/archived", question, headers)
        if isinstance(answer, Failure):
            return answer
        status, data = answer
        if status != 200:  # noqa: PLR2004 - the one status that has states
            return Failure(Fault.STRANGE, f"HTTP {status} is no answer to a question")
        try:
            return _states(data, len(records))
        except _Malformed as e:
            return Failure(Fault.LATER, f"the answer about the archive is not one: {e}")

    def _request(
        self, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes] | Failure:
        """Status (2xx) and body of an answer, or what failed."""
        started_ms = self._clock.now_ms()
        try:
            credential = {"Authorization": f"Bearer {self._secret()}"}
            answer = self._pool.request(
                "POST",
                self._url + path,
                body=body,
                headers=headers | credential,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            data = self._read(answer)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as e:
            return Failure(Fault.LATER, f"no answer: {type(e).__name__}: {str(e)[:200]}")
        date_ms = _date_ms(answer.headers.get("Date"))
        now_ms = self._clock.now_ms()
        if date_ms is not None:
            # A header names the second that has begun; the answer left between our two moments.
            self._offsets_ms.append(date_ms + 500 - (started_ms + now_ms) // 2)
        if 200 <= answer.status < 300:  # noqa: PLR2004 - the class of good answers
            return answer.status, data
        said = answer.headers.get("Retry-After")
        wait = retry_after(said, now_ms if date_ms is None else date_ms)
        return _failure(answer.status, data, wait)

    def _read(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        """The whole body. Raises `HTTPError` for one that is cut off, too long or too slow."""
        deadline = self._monotonic() + ANSWER_SECONDS
        pieces: list[bytes] = []
        size = 0
        while piece := answer.read1(65536):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER or self._monotonic() > deadline:
                answer.close()
                raise urllib3.exceptions.ProtocolError(f"an answer of {size} bytes and more")
        answer.release_conn()
        return b"".join(pieces)


def retry_after(said: str | None, now_ms: int) -> float:
    """Seconds that a `Retry-After` asks for: a number or a date; 0 for none or nonsense.

    `now_ms` is the server's own time where it told it, so its clock need not agree with ours.
    """
    if said is None:
        return 0.0
    if said.isascii() and said.isdigit():
        seconds = float(said[:9])
    else:
        date_ms = _date_ms(said)
        seconds = 0.0 if date_ms is None else (date_ms - now_ms) / 1000
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _date_ms(said: str | None) -> int | None:
    if said is None:
        return None
    try:
        found = parsedate_to_datetime(said)
        return int(found.replace(tzinfo=found.tzinfo or UTC).timestamp()) * 1000
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _failure(status: int, data: bytes, wait: float) -> Failure:
    slug, detail = _problem(data)
    reason = f"HTTP {status}: {slug + ': ' if slug else ''}{detail}"
    if status in _LATER or status >= 500:  # noqa: PLR2004 - the class of the server's own failures
        fault = Fault.LATER
    elif status in {401, 403}:
        fault = Fault.DENIED
    elif status == 413:  # noqa: PLR2004 - content too large
        fault = Fault.TOO_LARGE
    elif status in {400, 422} and slug and slug not in _NOT_ABOUT_CONTENT:
        fault = Fault.UNREADABLE
    else:
        fault = Fault.STRANGE
        reason += " (is this an ingest-gateway?)"
    return Failure(fault, reason, wait, by_ingest=bool(slug))


def _problem(data: bytes) -> tuple[str, str]:
    """Slug and detail of ingest-gateway's problem details; "" and the bytes of anything else."""
    try:
        value = orjson.loads(data)
        slug = _SLUG.fullmatch(value["type"])
        if slug is not None:
            return slug[1], str(value["detail"])[:300]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    return "", repr(data[:200])


class _Malformed(Exception):
    """An answer that does not have the stated form."""


def _must(holds: object, what: str) -> None:
    if not holds:
        raise _Malformed(what)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high  # a bool is no number


def parse_receipt(data: bytes, batch_id: str, events: int) -> Receipt:
    """The receipt of a body with this SHA-256 and so many lines. Raises for anything else.

    Everything is compared that can be: another body's receipt, or one that does not add up, would
    let the edge throw away what nobody holds.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as e:
        raise _Malformed(f"not JSON: {e}") from e
    _must(isinstance(value, dict), "not an object")
    _must(value.get("batchId") == batch_id, "batchId is another body's")
    accepted, refused, said = (value.get(name) for name in ("accepted", "refused", "records"))
    _must(_is_whole(accepted, 0, events), "accepted")
    _must(isinstance(refused, list) and isinstance(said, list), "refused, records")
    lines: dict[int, str] = {}
    for line in refused:
        _must(isinstance(line, dict) and _is_whole(line.get("line"), 1, events), "refused.line")
        _must(isinstance(line.get("slug"), str), "refused.slug")
        lines[line["line"] - 1] = line["slug"]  # the gateway counts lines from 1, as editors do
    _must(len(lines) == len(refused), "refused: a line twice")
    _must(accepted + len(lines) == events, f"{events} events do not add up")
    counts = {EVENTS_TOPIC: 0, DLQ_TOPIC: 0}
    records = []
    for record in said:
        place = _place(record)
        records.append(place)
        _must(_is_whole(record.get("count"), 0, events), "records.count")
        counts[place.topic] += record["count"]
    _must(len({r[:3] for r in records}) == len(records), "records: an offset twice")
    _must(counts[EVENTS_TOPIC] == accepted, "records do not hold what was accepted")
    _must(counts[DLQ_TOPIC] == len(lines), "records do not hold what was refused")
    return Receipt(batch_id, accepted, lines, tuple(records))


def _place(record: Any) -> LogPlace:
    _must(isinstance(record, dict), "records")
    topic, partition, offset, digest = (record.get(name) for name in LogPlace._fields)
    _must(isinstance(topic, str) and topic in _TOPICS, "records.topic")
    _must(_is_whole(partition, 0, SHARDS - 1), "records.partition")
    _must(_is_whole(offset, 0, _MAX_OFFSET), "records.offset")
    _must(isinstance(digest, str) and _DIGEST.fullmatch(digest), "records.digest")
    return LogPlace(topic, partition, offset, digest)


def _states(data: bytes, count: int) -> list[str]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as e:
        raise _Malformed(f"not JSON: {e}") from e
    states = value.get("states") if isinstance(value, dict) else None
    _must(isinstance(states, list) and len(states) == count, f"wanted {count} states")
    assert isinstance(states, list)
    _must(all(isinstance(s, str) and s in _STATES for s in states), "an unknown state")
    return states
