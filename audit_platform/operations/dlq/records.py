"""The records of decisions in the store: claimed, signed, read back as one case each.

Belongs here: signing and claiming, which records of a proposal count, what state it is in. Does
not: their form (`record/decision.py`), making one (the modules beside this one).
Source: design section 2 (one commit pattern) and 7; the mission's row 12.

They are signed by the key with which services speak (`edge`): query-api writes them, and must never
hold a right to sign manifests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Final, TypeVar

from audit_platform.errors import DecisionRefused, KeyUnknown, RecordMalformed
from audit_platform.operations.claims import claim
from audit_platform.operations.query.reader import Reader
from audit_platform.ports import ObjectVersion, Platform
from audit_platform.record import layout, signing
from audit_platform.record.decision import (
    Action,
    Approval,
    DryRun,
    Line,
    Proposal,
    Replayed,
    signed,
)

#: Purpose of the key that signs.
KEY_PURPOSE: Final = "edge"

_AnyRecord = Proposal | DryRun | Approval | Replayed
_A = TypeVar("_A", Proposal, DryRun, Approval, Replayed)

_KINDS: Final[dict[str, type[_AnyRecord]]] = {
    "": Proposal,
    "dry-run": DryRun,
    "approval": Approval,
    "replayed": Replayed,
}


class State(StrEnum):
    """Where a proposal stands."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    VOID = "void"  # approved, and then something changed
    REJECTED = "rejected"
    REPLAYING = "replaying"
    REPLAYED = "replayed"


@dataclass(slots=True)
class Case:
    """A proposal with what counts of it: its newest dry run, its approval, its chunks."""

    proposal: Proposal
    dry_run: DryRun | None = None
    approval: Approval | None = None
    replayed: dict[int, Replayed] = field(default_factory=dict)

    @property
    def is_approved(self) -> bool:
        """By somebody else, and nothing has changed since."""
        approval, dry_run, proposal = self.approval, self.dry_run, self.proposal
        return (
            approval is not None
            and dry_run is not None
            and dry_run.set_sha256 == approval.set_sha256 == proposal.set_sha256
            and dry_run.sha256 == approval.dry_run_sha256
            and not approval.approver.is_same_as(proposal.proposer)
        )

    @property
    def state(self) -> State:
        """Where it stands."""
        if not self.is_approved:
            return State.PROPOSED if self.approval is None else State.VOID
        if self.proposal.action is Action.REJECT:
            return State.REJECTED
        if not self.replayed:
            return State.APPROVED
        done = len(self.replayed) == sum(1 for _ in self.proposal.chunks())
        return State.REPLAYED if done else State.REPLAYING

    def became(self) -> dict[str, Line]:
        """What became of each entry so far, by its id."""
        lines = [line for r in self.replayed.values() for line in r.lines]
        if self.state is State.REJECTED and self.dry_run is not None:
            lines = list(self.dry_run.lines)
        return {line.entry_id: line for line in lines}


def put(platform: Platform, key: str, record: _A) -> _A:
    """Sign a record and claim its key; returns the one that counts, whoever wrote it.

    Durable on return. Raises `StoreUnavailable`, `KeysUnavailable`, `RecordMalformed`.
    """
    now_ms = platform.clock.now_ms()
    try:
        found = platform.keys.sign(KEY_PURPOSE, record.statement())
    except KeyUnknown:
        platform.keys.new(KEY_PURPOSE, now_ms)
        found = platform.keys.sign(KEY_PURPOSE, record.statement())
    won = claim(platform.objects, key, signed(record, *found).to_bytes(), now_ms)
    counts = type(record).from_bytes(key, won.data)
    if not _is_ours(platform, counts):
        raise RecordMalformed(key, "signature", "somebody else has taken this name")
    return counts


def cases(reader: Reader, tenant_id: str) -> Iterator[Case]:
    """All of a tenant's, by proposal id. Raises `StoreUnavailable`."""
    found = reader.platform.objects.versions(layout.proposals_prefix(tenant_id))
    for _, versions in groupby(found, key=_proposal_of):
        case = _case(reader, versions)
        if case is not None:
            yield case


def case_of(reader: Reader, tenant_id: str, proposal_id: str) -> Case:
    """One of them. Raises `DecisionRefused` `unknown_proposal`, `StoreUnavailable`."""
    objects = reader.platform.objects
    key = layout.proposal_key(tenant_id, proposal_id)
    about = key.removesuffix(".json") + "/"
    case = _case(reader, [*objects.versions(key), *objects.versions(about)])
    if case is None:
        raise DecisionRefused(
            "unknown_proposal",
            f"{tenant_id} has no proposal {proposal_id}",
            remedy="the list of dead letters has their ids",
        )
    return case


def _proposal_of(version: ObjectVersion) -> str:
    parsed = layout.parse_decision(version.key)
    return parsed[1] if parsed else ""


def _case(reader: Reader, versions: Iterable[ObjectVersion]) -> Case | None:
    """What counts of the records of one proposal; a stranger's file counts for nothing."""
    proposal: Proposal | None = None
    dry_runs: list[DryRun] = []
    approval: Approval | None = None
    replayed: dict[int, Replayed] = {}
    for version in _oldest(versions):
        match _read(reader, version):
            case Proposal() as record:
                proposal = record
            case DryRun() as record:
                dry_runs.append(record)
            case Approval() as record:
                approval = record
            case Replayed() as record:
                replayed[record.chunk] = record
    if proposal is None:
        return None
    newest = max(dry_runs, key=lambda d: d.number, default=None)
    return Case(proposal, newest, approval, replayed)


def _oldest(versions: Iterable[ObjectVersion]) -> Iterator[ObjectVersion]:
    seen = ""
    for version in versions:
        if version.key != seen and not version.is_delete_marker:
            seen = version.key
            yield version


def _read(reader: Reader, version: ObjectVersion) -> _AnyRecord | None:
    """One record; None for what is not ours."""
    parsed = layout.parse_decision(version.key)
    if parsed is None:
        return None
    tenant_id, proposal_id, kind, number = parsed

    def read() -> tuple[_AnyRecord | None, int, bool]:
        data = reader.platform.objects.get(version.key, version.version_id)
        try:
            record = _KINDS[kind].from_bytes(version.key, data)
        except RecordMalformed:
            return None, 1, True
        at = {"dry-run": "number", "replayed": "chunk"}.get(kind)
        in_place = (record.tenant_id, record.proposal_id) == (tenant_id, proposal_id)
        if not in_place or (at is not None and getattr(record, at) != number):
            return None, 1, True
        if not _is_ours(reader.platform, record):
            return None, 1, False  # its key may be known later
        return record, len(data), True

    return reader.decisions.get((version.key, version.version_id), read)


def _is_ours(platform: Platform, record: _AnyRecord) -> bool:
    known = {k.key_id: k.public_key for k in platform.keys.public_keys()}
    try:
        value = bytes.fromhex(record.signature)
    except ValueError:
        return False
    key = known.get(record.key_id)
    return key is not None and signing.verify(key, value, record.statement())


@dataclass(frozen=True, slots=True)
class Decision:
    """What one proposal says, or said, of one entry. `became` is "" while nothing has."""

    proposal_id: str
    action: Action
    state: State
    became: str
    at_ms: int


def decisions_of(reader: Reader, tenant_id: str) -> dict[str, list[Decision]]:
    """Entry id -> all that was ever decided about it, oldest first. Raises `StoreUnavailable`."""
    found: dict[str, list[Decision]] = {}
    for case in sorted(cases(reader, tenant_id), key=lambda c: c.proposal.at_ms):
        proposal, became = case.proposal, case.became()
        for named in proposal.entries:
            line = became.get(named.entry_id)
            decision = Decision(
                proposal.proposal_id,
                proposal.action,
                case.state,
                str(line.outcome) if line else "",
                proposal.at_ms,
            )
            found.setdefault(named.entry_id, []).append(decision)
    return found
