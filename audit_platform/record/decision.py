"""Decisions about dead letters: four signed JSON records, from a proposal to what became of it.

A proposal names refused lines by their digests and what shall become of them; a dry run says what
would; an approval, by somebody else, is bound to the hashes of both; for each chunk that was
replayed there is a record. Belongs here: fields, bytes, hashes, signatures. Does not: making or
judging them (`operations/dlq/`), the dead letter itself (`deadletter.py`).
Source: design section 7; the mission's row 12; RFC 8785; byte by byte in `docs/formats.md`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, ClassVar, Final, TypeVar

from audit_platform.record.small import encode, headed, parse, signature_member

CONTEXT: Final = b"audit-platform decision v1\n"

#: Lines in one proposal: its records stay below 2 MB, and a person can answer for them.
MAX_LINES: Final = 5000

#: Lines, and bytes of them, that are replayed before it is written down: what a killed replay
#: repeats at most. A longer line is a chunk of its own.
CHUNK_LINES: Final = 100
CHUNK_BYTES: Final = 8 * 1024 * 1024


class Action(StrEnum):
    """What shall become of refused lines."""

    REJECT = "reject"  # nothing: they stay refused, by decision
    REPLAY = "replay_with_schema"  # their bytes, judged by the schema that the proposal names
    REPAIR = "repaired"  # new events that name them


class Outcome(StrEnum):
    """What becomes of one line, or would."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    COPY = "copy"  # the event is in the record already
    REJECTED = "rejected"


def digest_of(value: object) -> str:
    """Hex SHA-256 of the JCS bytes of ASCII keys, integers, strings and lists."""
    return hashlib.sha256(encode(value)).hexdigest()


@dataclass(frozen=True, slots=True)
class Person:
    """Who decided: the credential's id, and whom it speaks for ("" for an API key)."""

    key_id: str
    subject: str = ""

    @property
    def name(self) -> str:
        """For people to read."""
        return self.subject or self.key_id

    def is_same_as(self, other: Person) -> bool:
        """One credential, or two of one subject."""
        return self.key_id == other.key_id or bool(self.subject and self.subject == other.subject)

    def to_json(self) -> dict[str, str]:
        """As the records have it."""
        return {"keyId": self.key_id, "subject": self.subject}

    @classmethod
    def of(cls, value: dict[str, Any]) -> Person:
        """The inverse of `to_json`. Raises `KeyError`, `TypeError`."""
        return cls(str(value["keyId"]), str(value["subject"]))


@dataclass(frozen=True, slots=True)
class Named:
    """One refused line of a proposal: its entry, the SHA-256 (hex) and size of its bytes."""

    entry_id: str
    sha256: str
    size: int
    received_ms: int


@dataclass(frozen=True, slots=True)
class Repaired:
    """A new event in canonical bytes, and the entry that it answers ("": the epoch's start)."""

    entry_id: str
    line: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one line, or would. `event_hash` is "" where it is no event."""

    entry_id: str
    outcome: Outcome
    event_hash: str = ""
    slug: str = ""
    field: str = ""
    reason: str = ""


def line_json(line: Line) -> dict[str, str]:
    """A line as the records have it."""
    return {
        "entryId": line.entry_id,
        "outcome": str(line.outcome),
        "eventHash": line.event_hash,
        "slug": line.slug,
        "field": line.field,
        "reason": line.reason,
    }


def _line(value: dict[str, Any]) -> Line:
    return Line(
        str(value["entryId"]),
        Outcome(value["outcome"]),
        str(value["eventHash"]),
        str(value["slug"]),
        str(value["field"]),
        str(value["reason"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What all four have: the tenant, the proposal, the time, the signature."""

    KIND: ClassVar[str] = ""

    tenant_id: str
    proposal_id: str
    at_ms: int
    key_id: str = ""
    signature: str = ""

    def _members(self) -> dict[str, Any]:
        raise NotImplementedError

    def _body(self) -> dict[str, Any]:
        common = {"tenantId": self.tenant_id, "proposalId": self.proposal_id, "atMs": self.at_ms}
        return headed(self.KIND, common | self._members())

    def statement(self) -> bytes:
        """The bytes that the signature covers."""
        return CONTEXT + encode(self._body())

    def to_bytes(self) -> bytes:
        """JCS bytes of the file."""
        return encode(self._body() | signature_member(self.key_id, self.signature))


_R = TypeVar("_R", bound=_Record)


def signed(record: _R, key_id: str, signature: bytes) -> _R:
    """The same record with its signature."""
    return replace(record, key_id=key_id, signature=signature.hex())


def _common(value: dict[str, Any]) -> dict[str, Any]:
    return {
        "tenant_id": str(value["tenantId"]),
        "proposal_id": str(value["proposalId"]),
        "at_ms": int(value["atMs"]),
        "key_id": str(value["signature"]["keyId"]),
        "signature": str(value["signature"]["value"]),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal(_Record):
    """What shall become of which lines, says who, and why.

    `entries` are in the order in which they are replayed. `schema_ref` is set for a replay,
    `events` for a repair.
    """

    KIND: ClassVar[str] = "dlq_proposal"

    action: Action
    schema_ref: str
    entries: tuple[Named, ...]
    events: tuple[Repaired, ...]
    proposer: Person
    reason: str

    @property
    def set_sha256(self) -> str:
        """Hex digest of all that is decided about: action, schema, lines, new events."""
        return digest_of(
            {
                "action": str(self.action),
                "schemaRef": self.schema_ref,
                "entries": [[n.entry_id, n.sha256] for n in self.entries],
                "events": [[e.entry_id, hashlib.sha256(e.line).hexdigest()] for e in self.events],
            }
        )

    def chunks(self) -> Iterator[range]:
        """Which of `entries` (of `events`, for a repair) are replayed together, in order."""
        sizes = [len(e.line) for e in self.events] or [n.size for n in self.entries]
        start = total = 0
        for at, size in enumerate(sizes):
            if at > start and (at - start == CHUNK_LINES or total + size > CHUNK_BYTES):
                yield range(start, at)
                start, total = at, 0
            total += size
        if start < len(sizes):
            yield range(start, len(sizes))

    def _members(self) -> dict[str, Any]:
        return {
            "action": str(self.action),
            "schemaRef": self.schema_ref,
            "entries": [[n.entry_id, n.sha256, n.size, n.received_ms] for n in self.entries],
            "events": [[e.entry_id, base64.b64encode(e.line).decode()] for e in self.events],
            "proposer": self.proposer.to_json(),
            "reason": self.reason,
        }

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> Proposal:
        """Parse a file. Raises `RecordMalformed`. The signature is not checked here."""
        return parse(where, data, cls.KIND, cls._of)

    @classmethod
    def _of(cls, value: dict[str, Any]) -> Proposal:
        return cls(
            **_common(value),
            action=Action(value["action"]),
            schema_ref=str(value["schemaRef"]),
            entries=tuple(
                Named(str(i), str(digest), int(size), int(received))
                for i, digest, size, received in value["entries"]
            ),
            events=tuple(
                Repaired(str(i), base64.b64decode(line, validate=True))
                for i, line in value["events"]
            ),
            proposer=Person.of(value["proposer"]),
            reason=str(value["reason"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun(_Record):
    """What would become of each line. `problems`: what could not be looked at, in words."""

    KIND: ClassVar[str] = "dlq_dry_run"

    number: int
    set_sha256: str
    lines: tuple[Line, ...]
    problems: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Hex digest of what it says, whenever it was made."""
        return digest_of(
            {
                "proposalId": self.proposal_id,
                "setSha256": self.set_sha256,
                "lines": [line_json(line) for line in self.lines],
                "problems": list(self.problems),
            }
        )

    def _members(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "setSha256": self.set_sha256,
            "lines": [line_json(line) for line in self.lines],
            "problems": list(self.problems),
        }

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> DryRun:
        """Parse a file. Raises `RecordMalformed`. The signature is not checked here."""
        return parse(where, data, cls.KIND, cls._of)

    @classmethod
    def _of(cls, value: dict[str, Any]) -> DryRun:
        return cls(
            **_common(value),
            number=int(value["number"]),
            set_sha256=str(value["setSha256"]),
            lines=tuple(_line(line) for line in value["lines"]),
            problems=tuple(str(p) for p in value["problems"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval(_Record):
    """A second person's yes to exactly this set and exactly this dry run."""

    KIND: ClassVar[str] = "dlq_approval"

    set_sha256: str
    dry_run_sha256: str
    approver: Person

    def _members(self) -> dict[str, Any]:
        return {
            "setSha256": self.set_sha256,
            "dryRunSha256": self.dry_run_sha256,
            "approver": self.approver.to_json(),
        }

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> Approval:
        """Parse a file. Raises `RecordMalformed`. The signature is not checked here."""
        return parse(where, data, cls.KIND, cls._of)

    @classmethod
    def _of(cls, value: dict[str, Any]) -> Approval:
        return cls(
            **_common(value),
            set_sha256=str(value["setSha256"]),
            dry_run_sha256=str(value["dryRunSha256"]),
            approver=Person.of(value["approver"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed(_Record):
    """What became of one chunk. `records`: [partition, offset, digest, count] of the log."""

    KIND: ClassVar[str] = "dlq_replayed"

    chunk: int
    lines: tuple[Line, ...]
    records: tuple[tuple[int, int, str, int], ...]

    def _members(self) -> dict[str, Any]:
        return {
            "chunk": self.chunk,
            "lines": [line_json(line) for line in self.lines],
            "records": [list(r) for r in self.records],
        }

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> Replayed:
        """Parse a file. Raises `RecordMalformed`. The signature is not checked here."""
        return parse(where, data, cls.KIND, cls._of)

    @classmethod
    def _of(cls, value: dict[str, Any]) -> Replayed:
        return cls(
            **_common(value),
            chunk=int(value["chunk"]),
            lines=tuple(_line(line) for line in value["lines"]),
            records=tuple((int(p), int(o), str(d), int(n)) for p, o, d, n in value["records"]),
        )
