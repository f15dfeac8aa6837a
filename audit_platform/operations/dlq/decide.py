"""Proposing what shall become of dead letters, trying it dry, and approving it by a second person.

Belongs here: those three steps and what each refuses. Does not: the records in the store
(`records.py`), carrying out (`replay.py`), who may call (query-api).
Source: design section 7; the mission's row 12 (the operator decides).

A rejection is carried out by its approval: the entries stay in quarantine, listed, with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from audit_platform.errors import DecisionRefused
from audit_platform.operations.dlq.copies import held
from audit_platform.operations.dlq.judge import Judge, named_schema, rejected
from audit_platform.operations.dlq.letters import Letters
from audit_platform.operations.dlq.records import Case, State, case_of, put
from audit_platform.operations.dlq.repair import MAX_REPAIRS, Repair, repaired_events
from audit_platform.operations.query import units
from audit_platform.operations.query.model import IsCancelled, never
from audit_platform.operations.query.reader import Reader
from audit_platform.record import layout
from audit_platform.record.deadletter import DeadLetter
from audit_platform.record.decision import (
    MAX_LINES,
    Action,
    Approval,
    DryRun,
    Line,
    Named,
    Outcome,
    Person,
    Proposal,
    Repaired,
    digest_of,
)
from audit_platform.record.schemas import SchemaRegistry

#: A reason is read in court: more than a word, less than a book.
MIN_REASON: Final = 20
MAX_REASON: Final = 2000

#: Entries whose bytes are held at a time.
_BATCH: Final = 100

#: Ids of entries that an answer names when they are not there.
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody proposes: refused lines that came in `from_ms <= t < to_ms`.

    `schema_ref` goes with a replay, `repairs` (one for each of the entries) with a repair.
    """

    action: Action
    entry_ids: Sequence[str]
    from_ms: int
    to_ms: int
    reason: str
    schema_ref: str = ""
    repairs: Sequence[Repair] = ()

    def proposal_id(self, tenant_id: str, proposer: Person) -> str:
        """16 hex digits: the same proposal, made again by the same person, is the same one."""
        repairs = [
            [r.entry_id, r.event_type, r.event_version, dict(r.payload)] for r in self.repairs
        ]
        said = [
            tenant_id,
            str(self.action),
            self.schema_ref,
            sorted(set(self.entry_ids)),
            repairs,
            proposer.to_json(),
            self.reason.strip(),
        ]
        return digest_of(said)[:16]


def _bad(reason: str, remedy: str) -> DecisionRefused:
    return DecisionRefused("bad_proposal", reason, remedy=remedy)


def _demand_form(wanted: Wanted, schemas: SchemaRegistry) -> None:
    if not MIN_REASON <= len(wanted.reason.strip()) <= MAX_REASON:
        raise _bad(
            "the reason says too little or too much",
            f"{MIN_REASON} to {MAX_REASON} characters: what is wrong, and why this is right",
        )
    if not 0 < len(set(wanted.entry_ids)) <= MAX_LINES:
        raise _bad(
            f"{len(set(wanted.entry_ids))} entries", f"name 1 to {MAX_LINES}; or propose twice"
        )
    if (wanted.action is Action.REPLAY) != bool(wanted.schema_ref):
        raise _bad(
            f"a schema and the action {wanted.action}",
            f"name a schema with {Action.REPLAY}, and with nothing else",
        )
    if wanted.schema_ref:
        named_schema(schemas, wanted.schema_ref)
    repaired = [r.entry_id for r in wanted.repairs]
    if wanted.action is Action.REPAIR:
        if sorted(repaired) != sorted(set(wanted.entry_ids)) or len(repaired) > MAX_REPAIRS:
            raise _bad(
                "the repairs are not one for each entry",
                f"send one for each, at most {MAX_REPAIRS}",
            )
    elif repaired:
        raise _bad(
            f"repairs and the action {wanted.action}", f"send them with {Action.REPAIR} only"
        )


def propose(
    reader: Reader,
    tenant_id: str,
    wanted: Wanted,
    proposer: Person,
    schemas: SchemaRegistry,
    *,
    is_cancelled: IsCancelled = never,
) -> Case:
    """Put a proposal and its dry run on record; the same proposal made again is the same one.

    Made again after something changed (a device, a release with other schemas) it gets a further
    dry run, which makes an earlier approval void; not once it is being carried out.
    Raises `DecisionRefused`, `QueryCancelled`, the ports' `…Unavailable`.
    """
    _demand_form(wanted, schemas)
    platform = reader.platform
    proposal_id = wanted.proposal_id(tenant_id, proposer)
    ids = list(dict.fromkeys(wanted.entry_ids))
    letters = Letters(reader, tenant_id, ids, wanted.from_ms, wanted.to_ms, is_cancelled)
    named: list[tuple[tuple[int, str, int], Named]] = []
    kept: dict[str, DeadLetter] = {}
    for start in range(0, len(ids), _BATCH):
        units.check(is_cancelled)
        for entry_id, found in letters.whole(ids[start : start + _BATCH]).items():
            order = (found.received_ms, found.batch_id, found.line)
            size = len(found.data)
            named.append((order, Named(entry_id, found.sha256, size, found.received_ms)))
            if wanted.action is Action.REPAIR:
                kept[entry_id] = replace(found, data=b"")
    if len(named) < len(ids):
        absent = sorted(set(ids) - {n.entry_id for _, n in named})
        shown = ", ".join(absent[:_SHOWN])
        raise _bad(
            f"{len(absent)} of the entries are not in quarantine in this window: {shown}",
            "compare ids and window; a line is in quarantine a minute after it was refused",
        )
    events: tuple[Repaired, ...] = ()
    if wanted.action is Action.REPAIR:
        events = repaired_events(platform, tenant_id, proposal_id, wanted.repairs, kept, schemas)
    made = Proposal(
        tenant_id=tenant_id,
        proposal_id=proposal_id,
        at_ms=platform.clock.now_ms(),
        action=wanted.action,
        schema_ref=wanted.schema_ref,
        entries=tuple(n for _, n in sorted(named)),
        events=events,
        proposer=proposer,
        reason=wanted.reason.strip(),
    )
    counts = put(platform, layout.proposal_key(tenant_id, proposal_id), made)
    case = case_of(reader, tenant_id, proposal_id)
    if not case.replayed and case.state is not State.REJECTED:
        dry_run(reader, counts, schemas, is_cancelled=is_cancelled)
    return case_of(reader, tenant_id, proposal_id)


def dry_run(
    reader: Reader, proposal: Proposal, schemas: SchemaRegistry, *, is_cancelled: IsCancelled
) -> DryRun:
    """Predict what becomes of each line; put on record when it says anything new.

    Raises as `propose`.
    """
    lines, problems = _predicted(reader, proposal, schemas, is_cancelled)
    while True:
        newest = case_of(reader, proposal.tenant_id, proposal.proposal_id).dry_run
        number = newest.number + 1 if newest else 1
        made = DryRun(
            tenant_id=proposal.tenant_id,
            proposal_id=proposal.proposal_id,
            at_ms=reader.platform.clock.now_ms(),
            number=number,
            set_sha256=proposal.set_sha256,
            lines=tuple(lines),
            problems=tuple(problems),
        )
        if newest is not None and newest.sha256 == made.sha256:
            return newest
        key = layout.dry_run_key(proposal.tenant_id, proposal.proposal_id, number)
        if put(reader.platform, key, made).sha256 == made.sha256:
            return made


def _predicted(
    reader: Reader, proposal: Proposal, schemas: SchemaRegistry, is_cancelled: IsCancelled
) -> tuple[list[Line], list[str]]:
    if proposal.action is Action.REJECT:
        return rejected(proposal.entries), []
    judge = Judge(reader.platform, proposal.tenant_id, schemas)
    if proposal.action is Action.REPAIR:
        return [judge.repaired(e).line for e in proposal.events], []
    schema = named_schema(schemas, proposal.schema_ref)
    letters = letters_of(reader, proposal, is_cancelled)
    lines: list[Line] = []
    events: dict[str, tuple[str, int]] = {}
    for chunk in proposal.chunks():
        units.check(is_cancelled)
        part = [proposal.entries[i] for i in chunk]
        found = letters.whole([n.entry_id for n in part])
        for judged in (judge.entry(n, found.get(n.entry_id), schema) for n in part):
            lines.append(judged.line)
            if judged.event is not None:
                place = (judged.event.device_id, judged.event.event_time_ms)
                events[judged.line.event_hash] = place
    copies, problems = held(reader, proposal.tenant_id, events, is_cancelled)
    told = list(dict.fromkeys([*letters.problems, *problems]))
    return [_or_copy(line, copies) for line in lines], told


def _or_copy(line: Line, copies: set[str]) -> Line:
    if line.outcome is Outcome.ACCEPTED and line.event_hash in copies:
        return replace(line, outcome=Outcome.COPY, reason="the record holds this event already")
    return line


def letters_of(reader: Reader, proposal: Proposal, is_cancelled: IsCancelled) -> Letters:
    """The entries of a proposal, to be read."""
    ids = [n.entry_id for n in proposal.entries]
    times = [n.received_ms for n in proposal.entries]
    return Letters(reader, proposal.tenant_id, ids, min(times), max(times) + 1, is_cancelled)


def approve(
    reader: Reader,
    tenant_id: str,
    proposal_id: str,
    approver: Person,
    *,
    set_sha256: str,
    dry_run_sha256: str,
) -> Case:
    """A second person's yes to exactly this set and this dry run; durable on return, idempotent.

    Raises `DecisionRefused` `unknown_proposal`, `self_approval`, `proposal_changed` (other hashes
    than the newest, or somebody has approved something else); the ports' `…Unavailable`.
    """
    case = case_of(reader, tenant_id, proposal_id)
    if approver.is_same_as(case.proposal.proposer):
        raise DecisionRefused(
            "self_approval",
            f"{approver.name} has proposed this and cannot approve it",
            remedy="ask a second operator",
        )
    newest = case.dry_run
    if newest is None or (newest.set_sha256, newest.sha256) != (set_sha256, dry_run_sha256):
        raise DecisionRefused(
            "proposal_changed",
            "the set or its dry run is not the one that was looked at",
            remedy="look at the proposal again, then approve the hashes that it shows",
        )
    made = Approval(
        tenant_id=tenant_id,
        proposal_id=proposal_id,
        at_ms=reader.platform.clock.now_ms(),
        set_sha256=set_sha256,
        dry_run_sha256=dry_run_sha256,
        approver=approver,
    )
    put(reader.platform, layout.approval_key(tenant_id, proposal_id), made)
    now = case_of(reader, tenant_id, proposal_id)
    if not now.is_approved:
        raise DecisionRefused(
            "proposal_changed",
            "an approval of another set or dry run stands already, and is void",
            remedy="propose it anew, with what has changed in the reason",
        )
    return now
