"""The dead-letter entry: one refused line with its bytes, why it was refused, and what to do.

Belongs here: the entry's JSON line, the cutting of large lines into chunks and their joining, the
value of a dead-letter log record. Does not: deciding what is refused (`event.py`, `schemas.py`),
the table in which entries are archived (`quarantine.py`), appending or archiving (services).
Source: design sections 4 and 7; byte by byte in `docs/formats.md`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import orjson

from audit_platform.errors import RecordMalformed
from audit_platform.record.event import EventLink

#: Bytes of the refused line in one entry. As base64 they are 4/3 as long, 683 KiB, which leaves
#: 341 KiB of a record of 1 MiB for the texts: more than their own limits allow (`MAX_TEXT`).
CHUNK_BYTES: Final = 512 * 1024

#: A log record's value, the same limit as for events (design section 4).
MAX_RECORD_BYTES: Final = 1024 * 1024

#: Entries in one record: as many as a record of events may hold.
MAX_RECORD_ENTRIES: Final = 500

#: Characters of `field`, `reason` and `remedy` that are kept. A path into a hostile document may
#: be as long as the document; a person reads a few hundred characters.
MAX_TEXT: Final = 500

_WHERE: Final = "dead letter"
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry: chunk `chunk` of `chunks` of a refused line, or a whole line (0 of 1).

    `line` counts from 1 in its body, `received_ms` is milliseconds since 1970, `data` the bytes of
    this chunk, `sha256` the hex digest of the whole line. `link` is None for a line that cannot be
    a link of a chain.
    """

    entry_id: str
    tenant_id: str
    received_ms: int
    gateway: str
    batch_id: str
    line: int
    stage: str
    slug: str
    field: str
    reason: str
    remedy: str
    chunk: int
    chunks: int
    data: bytes
    sha256: str
    link: EventLink | None

    def to_line(self) -> bytes:
        """The entry as one JSON line (sorted keys, no white space), without the line feed."""
        value = {json_name: getattr(self, name) for json_name, name in _ENTRY_NAMES.items()}
        value["bytes"] = base64.b64encode(self.data).decode("ascii")
        if self.link is not None:
            value["link"] = {key: getattr(self.link, name) for key, name in _LINK_NAMES.items()}
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)

    @staticmethod
    def from_line(line: bytes) -> DeadLetter:
        """Parse one JSON line, strictly. Raises `RecordMalformed`, and nothing else."""
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as e:
            raise RecordMalformed(_WHERE, "", f"not JSON: {e}") from e
        if not isinstance(value, dict) or value.keys() != _ENTRY_NAMES.keys():
            raise RecordMalformed(_WHERE, "", "not an object with exactly the fields of an entry")
        chunk, chunks = _count(value, "chunk", 31), _count(value, "chunks", 31)
        if chunk >= chunks:
            raise RecordMalformed(_WHERE, "chunk", f"{chunk} of {chunks}")
        return DeadLetter(
            entry_id=_hex(value, "entryId", 32),
            tenant_id=_text(value, "tenantId"),
            received_ms=_count(value, "receivedMs"),
            gateway=_text(value, "gateway"),
            batch_id=_hex(value, "batchId", 64),
            line=_count(value, "line", 31),
            stage=_text(value, "stage"),
            slug=_text(value, "slug"),
            field=_text(value, "field"),
            reason=_text(value, "reason"),
            remedy=_text(value, "remedy"),
            chunk=chunk,
            chunks=chunks,
            data=_base64(value),
            sha256=_hex(value, "sha256", 64),
            link=_link(value["link"]),
        )


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


#: JSON name -> attribute. The bytes alone have two names.
_LINK_NAMES: Final = {_camel(f.name): f.name for f in fields(EventLink)}
_ENTRY_NAMES: Final = {
    "bytes" if f.name == "data" else _camel(f.name): f.name for f in fields(DeadLetter)
}


def _text(value: dict[str, Any], key: str) -> str:
    found = value[key]
    if not isinstance(found, str):
        raise RecordMalformed(_WHERE, key, "not a text")
    return found


def _hex(value: dict[str, Any], key: str, length: int) -> str:
    found = _text(value, key)
    if len(found) != length or not _HEX.issuperset(found):
        raise RecordMalformed(_WHERE, key, f"not {length} lower hex digits")
    return found


def _count(value: dict[str, Any], key: str, bits: int = 63) -> int:
    found = value[key]
    # The upper bound is that of the column in which the quarantine table keeps it.
    if type(found) is not int or not 0 <= found < 1 << bits:
        raise RecordMalformed(_WHERE, key, f"not an integer from 0 to 2^{bits}-1")
    return found


def _base64(value: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(_text(value, "bytes"), validate=True)
    except ValueError as e:
        raise RecordMalformed(_WHERE, "bytes", "not base64") from e


def _link(found: object) -> EventLink | None:
    if found is None:
        return None
    if not isinstance(found, dict) or found.keys() != _LINK_NAMES.keys():
        raise RecordMalformed(_WHERE, "link", "not an object with exactly the fields of a link")
    return EventLink(
        hospital_id=_text(found, "hospitalId"),
        device_id=_text(found, "deviceId"),
        chain_id=_hex(found, "chainId", 16),
        sequence_number=_count(found, "sequenceNumber"),
        event_hash=_hex(found, "eventHash", 64),
        prev_hash=_hex(found, "prevHash", 64),
        event_id=_text(found, "eventId"),
        event_time=_text(found, "eventTime"),
        checksum=_hex(found, "checksum", 64),
    )


# ------------------------------------------------------------------------------ lines and chunks


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a line is refused: a stable slug, the JSON path, the reason, and the way out."""

    slug: str
    field: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Body:
    """Where refused lines came from: one HTTP body taken by one gateway for one tenant."""

    tenant_id: str
    received_ms: int
    gateway: str
    batch_id: str


def entry_id_of(batch_id: str, line: int, data: bytes) -> str:
    """32 hex digits that name a line of a body: the same body sent again gives the same ids.

    First half of SHA-256 over `batch_id`, the line number in decimal (each with a line feed
    after it) and the line's bytes.
    """
    digest = hashlib.sha256(f"{batch_id}\n{line}\n".encode())
    digest.update(data)
    return digest.hexdigest()[:32]


def plain(text: str) -> str:
    """A text that can be stored: at most `MAX_TEXT` characters, lone surrogates replaced."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")


def entries_for(
    body: Body, line: int, data: bytes, refusal: Refusal, link: EventLink | None
) -> list[DeadLetter]:
    """The entries that keep one refused line: one for each `CHUNK_BYTES` of it, at least one."""
    whole = DeadLetter(
        entry_id=entry_id_of(body.batch_id, line, data),
        tenant_id=body.tenant_id,
        received_ms=body.received_ms,
        gateway=body.gateway,
        batch_id=body.batch_id,
        line=line,
        stage="ingest",
        slug=refusal.slug,
        field=plain(refusal.field),
        reason=plain(refusal.reason),
        remedy=plain(refusal.remedy),
        chunk=0,
        chunks=1,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        link=link,
    )
    if len(data) <= CHUNK_BYTES:
        return [whole]
    starts = range(0, len(data), CHUNK_BYTES)
    return [
        replace(whole, chunk=n, chunks=len(starts), data=data[start : start + CHUNK_BYTES])
        for n, start in enumerate(starts)
    ]


@dataclass(frozen=True, slots=True)
class Assembled:
    """Chunks joined again.

    `whole`: entries as before cutting (chunk 0 of 1), in the order in which each was first seen.
    `incomplete`: the ids whose chunks are missing or do not fit.
    """

    whole: list[DeadLetter]
    incomplete: list[str]


def assemble(entries: Iterable[DeadLetter]) -> Assembled:
    """Join chunks, whatever their order; an entry seen several times counts once."""
    parts: dict[str, dict[int, DeadLetter]] = {}
    for entry in entries:
        parts.setdefault(entry.entry_id, {}).setdefault(entry.chunk, entry)
    whole: list[DeadLetter] = []
    incomplete: list[str] = []
    for entry_id, found in parts.items():
        ordered = [found[n] for n in sorted(found)]
        data = b"".join(part.data for part in ordered)
        complete = all(part.chunks == len(ordered) for part in ordered)
        if complete and hashlib.sha256(data).hexdigest() == ordered[0].sha256:
            whole.append(replace(ordered[0], chunk=0, chunks=1, data=data))
        else:
            incomplete.append(entry_id)
    return Assembled(whole, incomplete)


# ---------------------------------------------------------------------------------- log records


def record_values(entries: Iterable[DeadLetter]) -> Iterator[tuple[bytes, int]]:
    """Cut entries, in order, into values of log records: (value, count).

    A value is the entries' lines, each with a line feed; `count` is the number of refused lines
    that begin in it (entries with chunk 0), which is what the record's header says.
    """
    lines: list[bytes] = []
    size = count = 0
    for entry in entries:
        line = entry.to_line() + b"\n"
        if lines and (size + len(line) > MAX_RECORD_BYTES or len(lines) == MAX_RECORD_ENTRIES):
            yield b"".join(lines), count
            lines, size, count = [], 0, 0
        lines.append(line)
        size += len(line)
        count += entry.chunk == 0
    if lines:
        yield b"".join(lines), count


def record_entries(value: bytes) -> list[DeadLetter]:
    """The entries of one log record. Raises `RecordMalformed` when any line is not an entry."""
    if not value.endswith(b"\n"):
        raise RecordMalformed(_WHERE, "", "the value does not end with a line feed")
    return [DeadLetter.from_line(line) for line in value[:-1].split(b"\n")]
