"""One HTTP body on its way through ingest-gateway: bytes in, log records and refusals out.

Belongs here: bounded decompression, the split into lines, the check of each, the records of each
partition. Does not: what makes an event good (`record/`), HTTP (`ingest_gateway.py`), the log.
Source: design sections 3 (who fills what), 4 (batches) and 7 (dead letters).
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import Final

import numpy as np
import zstandard

from audit_platform.errors import EventRefused
from audit_platform.ports import NewRecord
from audit_platform.record import deadletter, layout
from audit_platform.record.columns import Ints
from audit_platform.record.deadletter import Body, DeadLetter, Refusal
from audit_platform.record.event import (
    EventLink,
    check_event,
    format_time_ms,
    halves_of,
    link_of,
)
from audit_platform.record.fastcheck import BLOCK_BYTES, FastCheck
from audit_platform.record.schemas import SchemaRegistry
from audit_platform.services.ingest_devices import Roster
from audit_platform.services.ingest_problems import Problem

_logger: Final = logging.getLogger(__name__)

#: Bytes of a body after decompression: 500 events of 700 B are 350 KB, so this is 40 times what
#: the way is made for, and still a few of them at once fit into the process's 350 MB.
MAX_BODY: Final = 16 * 1024 * 1024

#: Bytes of a compressed body. Events hold hashes, which do not compress, but never to half.
MAX_COMPRESSED_BODY: Final = 8 * 1024 * 1024

#: Events in one body: checking so many takes about 0.2 s, and a receipt that refuses all of them
#: stays a few MB.
MAX_EVENTS_PER_BODY: Final = 10_000

#: Events and bytes in one log record (design section 4).
MAX_RECORD_EVENTS: Final = 500
MAX_RECORD_BYTES: Final = 1024 * 1024

#: Input of the decompressor at a time when the frame does not say how large it will be. Four bytes
#: can become a block of 128 KiB, so a slice becomes 16 MiB at most before the limit is looked at.
_SLICE: Final = 512

_BLANK: Final = b" \t\r"


def decompressed(data: bytes) -> bytes:
    """The content of a body that must be exactly one zstd frame.

    Raises `Problem` `bad_zstd` (not zstd, damaged, cut off, something after the frame) or
    `body_too_large`. Never holds more than about twice `MAX_BODY`.
    """
    decompressor = zstandard.ZstdDecompressor()
    try:
        size = zstandard.frame_content_size(data)
        if size > MAX_BODY:
            raise _too_large()
        if size >= 0:
            # The buffer has the size that the frame names; another size inside is an error.
            return decompressor.decompress(data, allow_extra_data=False)
        return _decompressed_by_slices(decompressor, data)
    except zstandard.ZstdError as e:
        raise _bad_zstd(str(e)) from e


def _decompressed_by_slices(decompressor: zstandard.ZstdDecompressor, data: bytes) -> bytes:
    frame = decompressor.decompressobj()
    pieces: list[bytes] = []
    size = 0
    for start in range(0, len(data), _SLICE):
        if frame.eof:
            raise _bad_zstd("there are bytes after the frame")
        pieces.append(frame.decompress(data[start : start + _SLICE]))
        size += len(pieces[-1])
        if size > MAX_BODY:
            raise _too_large()
    if not frame.eof:
        raise _bad_zstd("the frame is cut off")
    if frame.unused_data:
        raise _bad_zstd("there are bytes after the frame")
    return b"".join(pieces)


def _bad_zstd(detail: str) -> Problem:
    return Problem(
        "bad_zstd", detail, remedy="compress the whole body as one zstd frame and send all of it"
    )


def _too_large() -> Problem:
    return Problem(
        "body_too_large",
        f"a body has at most {MAX_BODY} bytes after decompression",
        remedy="send the events in several bodies",
    )


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """One refused line as the receipt names it. `event_hash` is hex, None outside any chain."""

    line: int
    refusal: Refusal
    entry_id: str
    event_hash: str | None


@dataclass(slots=True)
class CheckedBody:
    """What became of a body's lines. `skews_ms` is eventTime - ingestionTime of good events.

    `fully_checked` payloads were judged by their full JSON Schema, not by a typed decoder.
    """

    batch_id: str
    tenant_id: str
    refused: list[RefusedLine] = field(default_factory=list)
    skews_ms: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    events: list[NewRecord] = field(default_factory=list)
    dead_letters: list[NewRecord] = field(default_factory=list)
    fully_checked: int = 0


@dataclass(slots=True)
class StoredLines:
    """Stored lines of one partition: what is before and behind the ingestionTime of each."""

    heads: list[bytes] = field(default_factory=list)
    tails: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Work:
    """A body while it is checked: stored lines by partition; and what is refused."""

    checked: CheckedBody
    origin: Body
    roster: Roster | None
    groups: defaultdict[int, StoredLines] = field(default_factory=lambda: defaultdict(StoredLines))
    event_times_ms: list[Ints] = field(default_factory=list)
    entries: list[DeadLetter] = field(default_factory=list)


def _blocks(body: bytes) -> Iterator[bytes]:
    """Whole lines, about `BLOCK_BYTES` of them at a time; the last line too ends with a feed."""
    start = 0
    while start < len(body):
        end = start + BLOCK_BYTES
        if end < len(body):
            # The last line that ends within the block, or else the first one that ends after it.
            end = (body.rfind(b"\n", start, end) + 1) or (body.find(b"\n", end) + 1) or len(body)
        block = body[start:end]
        yield block if block.endswith(b"\n") else block + b"\n"
        start = end


class BodyChecker:
    """Checks bodies, one at a time. Partition counts are those of the two topics."""

    def __init__(
        self, schemas: SchemaRegistry, gateway: str, event_partitions: int, dlq_partitions: int
    ) -> None:
        self._gateway = gateway
        self._event_partitions = event_partitions
        self._dlq_partitions = dlq_partitions
        self._validate = schemas.validate_sent
        self._fast = FastCheck(schemas, event_partitions)

    def check(
        self, body: bytes, tenant_id: str, now_ms: int, roster: Roster | None = None
    ) -> CheckedBody:
        """Check every line of a body of one tenant and cut what is good into log records.

        `now_ms` becomes the ingestionTime of all events. Lines without any character but space,
        tab and carriage return are not events. With a `roster` only its devices pass. Raises
        `Problem` for a body without events or with too many; a line that cannot be accepted is a
        refusal, never an exception.
        """
        checked = CheckedBody(hashlib.sha256(body).hexdigest(), tenant_id)
        work = _Work(
            checked,
            Body(tenant_id, now_ms, self._gateway, checked.batch_id),
            roster,
        )
        lines = 0
        for block in _blocks(body):
            # bytes.count takes ten times as long for a byte that is so rare.
            line_count = int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))
            if lines + line_count > MAX_EVENTS_PER_BODY:
                raise Problem(
                    "too_many_events",
                    f"a body has at most {MAX_EVENTS_PER_BODY} events",
                    remedy="send the events in several bodies",
                )
            self._check_block(work, block, lines, line_count)
            lines += line_count
        if not work.groups and not work.entries:
            raise Problem("empty_body", "the body holds no event", remedy="send one event a line")
        checked.skews_ms = np.concatenate([*work.event_times_ms, checked.skews_ms]) - now_ms
        inserted = b',"ingestionTime":"%b"' % format_time_ms(now_ms).encode("ascii")
        for partition, stored in work.groups.items():
            checked.events += _records(tenant_id, partition, stored, inserted)
        checked.dead_letters = list(self._dead_letter_records(work.origin, work.entries))
        return checked

    def _check_block(self, work: _Work, block: bytes, lines_before: int, line_count: int) -> None:
        tenant_id = work.origin.tenant_id
        enrolled = None if work.roster is None else work.roster.enrolled
        sure = self._fast.check(block, line_count, tenant_id, enrolled)
        work.event_times_ms.append(sure.event_time_ms)
        work.checked.fully_checked += sure.fully_checked
        groups = work.groups
        if len(sure.lines) == line_count:
            homes = np.array(sure.partitions)
            for partition in set(sure.partitions):
                here = (homes == partition).tolist()
                groups[partition].heads += compress(sure.heads, here)
                groups[partition].tails += compress(sure.tails, here)
            return
        # In the order of the lines, so that each device's events keep theirs.
        rows = zip(sure.partitions, sure.heads, sure.tails, strict=True)
        sure_lines = frozenset(sure.lines)
        for number, line in enumerate(block[:-1].split(b"\n")):
            if number in sure_lines:
                partition, head, tail = next(rows)
                groups[partition].heads.append(head)
                groups[partition].tails.append(tail)
            elif line.strip(_BLANK):
                self._check_line(work, lines_before + number + 1, line)

    def _check_line(self, work: _Work, number: int, line: bytes) -> None:
        """Check one line that the fast check was not sure about."""
        tenant_id = work.origin.tenant_id
        try:
            event = check_event(line, tenant_id)
            if work.roster is not None:
                work.roster.check(event)
            self._validate(event.event_type, event.event_version, event.schema_ref, event.payload)
            head, tail = halves_of(event.canonical)
            home = layout.partition_of(tenant_id, event.device_id, self._event_partitions)
        except BaseException as e:  # noqa: BLE001 - a panic of a Rust validator is no Exception; signals reach the main thread only
            self._refuse(work, number, line, e)
        else:
            work.groups[home].heads.append(head)
            work.groups[home].tails.append(tail + b"\n")
            work.event_times_ms.append(np.array([event.event_time_ms], np.int64))

    @staticmethod
    def _refuse(work: _Work, number: int, line: bytes, error: BaseException) -> None:
        if isinstance(error, EventRefused):
            refusal = Refusal(error.slug, error.field, error.reason, error.remedy)
        else:
            _logger.error(
                "the check of a line failed",
                exc_info=error,
                extra={"batch_id": work.origin.batch_id, "line": number},
            )
            refusal = Refusal(
                "internal_check_failed",
                "",
                f"the check itself failed: {type(error).__name__}",
                "nothing to do for the sender: the bytes are kept; report the batch id",
            )
        link = _link(line, work.origin.tenant_id)
        entries = deadletter.entries_for(work.origin, number, line, refusal, link)
        work.entries += entries
        work.checked.refused.append(
            RefusedLine(
                number,
                # As kept, which is as plain text of bounded length.
                Refusal(refusal.slug, entries[0].field, entries[0].reason, entries[0].remedy),
                entries[0].entry_id,
                None if link is None else link.event_hash,
            )
        )

    def _dead_letter_records(self, origin: Body, entries: list[DeadLetter]) -> Iterator[NewRecord]:
        # One partition a body keeps an entry's chunks together and costs one append; named by the
        # batch id, so that bodies spread and the same body sent again goes the same way.
        partition = int(origin.batch_id[:8], 16) % self._dlq_partitions
        for value, count in deadletter.record_values(entries):
            yield NewRecord(partition, value, _headers(origin.tenant_id, count))


def _link(line: bytes, tenant_id: str) -> EventLink | None:
    try:
        return link_of(line, tenant_id)
    except BaseException:  # as in `check`: whatever the line did there, its bytes are kept
        _logger.exception("no link could be made of a refused line")
        return None


def _headers(tenant_id: str, count: int) -> dict[str, str]:
    return {"v": "1", "tenant": tenant_id, "count": str(count)}


def _records(
    tenant_id: str, partition: int, lines: StoredLines, inserted: bytes
) -> Iterator[NewRecord]:
    """Cut stored lines, in order, into records of at most 500 events and 1 MiB.

    `inserted` stands between the head and the tail of each.
    """
    count = len(lines.heads)
    pieces = [inserted] * (3 * count)
    pieces[::3], pieces[2::3] = lines.heads, lines.tails
    value = b"".join(pieces)
    if count <= MAX_RECORD_EVENTS and len(value) <= MAX_RECORD_BYTES:
        yield NewRecord(partition, value, _headers(tenant_id, count))
        return
    start = begin = at = 0
    for n, (head, tail) in enumerate(zip(lines.heads, lines.tails, strict=True)):
        end = at + len(head) + len(inserted) + len(tail)
        if n - start == MAX_RECORD_EVENTS or end - begin > MAX_RECORD_BYTES:
            yield NewRecord(partition, value[begin:at], _headers(tenant_id, n - start))
            start, begin = n, at
        at = end
    yield NewRecord(partition, value[begin:], _headers(tenant_id, count - start))
