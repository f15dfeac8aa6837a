"""Routes for dead letters: looked at by cause, proposed about, approved by a second person.

Belongs here: from a request to a step of `operations/dlq/` and its answer. Does not: single entries
and their bytes (`query_routes_evidence.py`), access, the record of who did it (`query_desk.py`),
the replay itself (a job). Source: the mission's row 12; design section 7.

Who decides is the caller: the API key's id, or a token's subject. Nothing in a body can say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audit_platform.errors import DecisionRefused
from audit_platform.operations.dlq.clusters import clusters_of
from audit_platform.operations.dlq.decide import Wanted, approve, propose
from audit_platform.operations.dlq.records import Case, case_of, cases
from audit_platform.operations.dlq.repair import Repair
from audit_platform.operations.query.model import IsCancelled, Tier
from audit_platform.record.decision import MAX_LINES, Action, Person, line_json
from audit_platform.record.schemas import registry
from audit_platform.record.times import format_time_ms
from audit_platform.services.query_desk import TheDesk, Told
from audit_platform.services.query_models_dlq import ClustersAnswer, ProposalAnswer
from audit_platform.services.query_params import (
    EntryId,
    Instant,
    NoParams,
    TenantId,
    WindowParams,
    said,
)
from audit_platform.services.query_problems import PROBLEMS, QueryProblem

#: Bytes of a request's body: 5,000 ids, or a hundred repaired payloads of 40 kB.
MAX_BODY: Final = 4 * 1024 * 1024

ProposalId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
_M = TypeVar("_M", bound=BaseModel)
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Body(BaseModel):
    """A member that is not here is refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)


class RepairBody(_Body):
    """What one refused line should have said."""

    entry_id: EntryId = Field(alias="entryId")
    event_type: str = Field(alias="eventType", pattern="^[a-z][a-z0-9_]{0,63}$")
    event_version: int = Field(alias="eventVersion", ge=1, le=999)
    payload: dict[str, Any]


class ProposalBody(_Body):
    """What shall become of which refused lines, and why."""

    action: Literal["reject", "replay_with_schema", "repaired"]
    entries: list[EntryId] = Field(min_length=1, max_length=MAX_LINES)
    from_: Instant = Field(alias="from", description="The entries came from here on.")
    to: Instant = Field(description="The entries came before this.")
    reason: str = Field(max_length=4000, description="What is wrong, and why this is right.")
    schema_ref: str = Field(
        "", alias="schemaRef", max_length=128, description="For a replay: <eventType>/<version>."
    )
    repairs: list[RepairBody] = Field([], description="For a repair: one for each entry.")


class ApprovalBody(_Body):
    """The hashes that the approver has seen."""

    set_sha256: _Sha256 = Field(alias="setSha256")
    dry_run_sha256: _Sha256 = Field(alias="dryRunSha256")


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MAX_BODY:
            raise QueryProblem(
                "body_too_large",
                f"a body has at most {MAX_BODY} bytes",
                remedy="propose fewer entries at a time",
            )
    return bytes(found)


def _decided(work: Callable[[IsCancelled], Told]) -> Callable[[IsCancelled], Told]:
    """The same with what operations refuse as problems."""

    def run(is_cancelled: IsCancelled) -> Told:
        try:
            return work(is_cancelled)
        except DecisionRefused as e:
            slug = {"unknown_proposal": "not_found"}.get(e.slug, e.slug)
            slug = slug if slug in PROBLEMS else "bad_proposal"
            raise QueryProblem(slug, e.reason, remedy=e.remedy) from e

    return run


def _who(request: Request) -> Person:
    caller = request.state.caller
    return Person(caller.key_id, caller.subject)


# ----------------------------------------------------------------------------------------- looking


async def list_causes(
    request: Request, desk: TheDesk, tenant: TenantId, params: Annotated[WindowParams, Query()]
) -> Response:
    """Refused lines that came within a window, by cause; and what was proposed within it."""
    window = params.window(desk.platform.clock.now_ms())
    query = said(params, *window)
    asked = desk.asked(request, query)

    def work(is_cancelled: IsCancelled) -> Told:
        found = clusters_of(desk.reader, tenant, *window, is_cancelled=is_cancelled)
        proposed = [
            _summary(case)
            for case in cases(desk.reader, tenant)
            if window[0] <= case.proposal.at_ms < window[1]
        ]
        body = {
            "requestId": request.state.request_id,
            "query": query,
            "completeness": found.completeness.to_json(),
            "clusters": [
                {
                    "slug": c.slug,
                    "schemaRef": c.schema_ref or None,
                    "field": c.path,
                    "count": c.count,
                    "first": format_time_ms(c.first_ms),
                    "last": format_time_ms(c.last_ms),
                    "reason": c.reason,
                    "entries": c.entries,
                }
                for c in found.clusters
            ],
            "proposals": sorted(proposed, key=lambda p: str(p["proposed"])),
        }
        return Told(orjson.dumps(body), len(found.clusters), str(Tier.COLD))

    return await desk.answer(request, asked, work)


async def one_proposal(
    request: Request,
    desk: TheDesk,
    tenant: TenantId,
    proposal: ProposalId,
    _params: Annotated[NoParams, Query()],
) -> Response:
    """A proposal with its newest dry run, its approval, and what became of its lines so far."""
    asked = desk.asked(request, {"id": proposal})

    def work(_is_cancelled: IsCancelled) -> Told:
        try:
            case = case_of(desk.reader, tenant, proposal)
        except DecisionRefused as e:
            problem = QueryProblem("not_found", e.reason, remedy=e.remedy)
            return Told(b"", 0, problem=problem)
        return _told(request, case)

    return await desk.answer(request, asked, work)


# ---------------------------------------------------------------------------------------- deciding


async def make_proposal(
    request: Request, desk: TheDesk, tenant: TenantId, _params: Annotated[NoParams, Query()]
) -> Response:
    """Propose, and try it dry. The same again is the same proposal, tried dry once more."""
    body = _parsed(ProposalBody, await _body(request))
    wanted = Wanted(
        action=Action(body.action),
        entry_ids=body.entries,
        from_ms=body.from_,
        to_ms=body.to,
        reason=body.reason,
        schema_ref=body.schema_ref,
        repairs=[
            Repair(r.entry_id, r.event_type, r.event_version, r.payload) for r in body.repairs
        ],
    )
    who = _who(request)
    asked = desk.asked(request, {"id": wanted.proposal_id(tenant, who)})

    def work(is_cancelled: IsCancelled) -> Told:
        case = propose(desk.reader, tenant, wanted, who, registry(), is_cancelled=is_cancelled)
        return _told(request, case, "dlq propose")

    return await desk.answer(request, asked, _decided(work))


async def approve_proposal(
    request: Request,
    desk: TheDesk,
    tenant: TenantId,
    proposal: ProposalId,
    _params: Annotated[NoParams, Query()],
) -> Response:
    """Approve exactly the set and the dry run whose hashes are sent; never one's own proposal."""
    body = _parsed(ApprovalBody, await _body(request))
    who = _who(request)
    asked = desk.asked(request, {"id": proposal})

    def work(_is_cancelled: IsCancelled) -> Told:
        case = approve(
            desk.reader,
            tenant,
            proposal,
            who,
            set_sha256=body.set_sha256,
            dry_run_sha256=body.dry_run_sha256,
        )
        return _told(request, case, "dlq approve")

    return await desk.answer(request, asked, _decided(work))


def _parsed(model: type[_M], data: bytes) -> _M:
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        # The place of a fault in a body may be the body itself.
        errors = [error | {"loc": ("body", *error["loc"])} for error in e.errors()]
        raise RequestValidationError(errors) from e


# --------------------------------------------------------------------------------------- answering


def _told(request: Request, case: Case, action: str = "") -> Told:
    proposal = case.proposal
    body = {"requestId": request.state.request_id, "proposal": _whole(case)}
    done = None
    if action:
        caller = request.state.caller
        done = {
            "action": action,
            "actor": f"key-{caller.key_id}",
            "tenant": proposal.tenant_id,
            "subject": proposal.proposal_id,
            "count": len(proposal.entries),
            "digest": proposal.set_sha256,
        }
    return Told(orjson.dumps(body), len(proposal.entries), action=done)


def _summary(case: Case) -> dict[str, Any]:
    proposal, approval = case.proposal, case.approval
    return {
        "proposalId": proposal.proposal_id,
        "action": str(proposal.action),
        "state": str(case.state),
        "entries": len(proposal.entries),
        "proposer": proposal.proposer.name,
        "proposed": format_time_ms(proposal.at_ms),
        "approver": approval.approver.name if approval else None,
        "reason": proposal.reason,
    }


def _whole(case: Case) -> dict[str, Any]:
    proposal, dry_run, approval = case.proposal, case.dry_run, case.approval
    became = case.became()
    return _summary(case) | {
        "schemaRef": proposal.schema_ref or None,
        "setSha256": proposal.set_sha256,
        "set": [{"entryId": n.entry_id, "sha256": n.sha256} for n in proposal.entries],
        "events": [{"entryId": e.entry_id, "event": e.line.decode()} for e in proposal.events],
        "dryRun": None
        if dry_run is None
        else {
            "number": dry_run.number,
            "made": format_time_ms(dry_run.at_ms),
            "sha256": dry_run.sha256,
            "lines": [line_json(line) for line in dry_run.lines],
            "problems": list(dry_run.problems),
        },
        "approved": format_time_ms(approval.at_ms) if approval else None,
        "became": [line_json(line) for line in became.values()],
    }


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI words for a body that the route reads itself, after the caller is known."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    inner = schema.pop("$defs", {})
    text = orjson.dumps(schema)
    for name, value in inner.items():
        reference = orjson.dumps({"$ref": f"#/components/schemas/{name}"})
        text = text.replace(reference, orjson.dumps(value))
    content = {"application/json": {"schema": orjson.loads(text)}}
    return {"requestBody": {"required": True, "content": content}}


def add_to(app: FastAPI) -> None:
    """Register the routes."""
    base = "/v1/tenants/{tenant}/dlq"
    app.get(base, summary="What was refused, by cause", response_model=ClustersAnswer)(list_causes)
    app.post(
        f"{base}/proposals",
        summary="Propose what shall become of refused lines",
        response_model=ProposalAnswer,
        openapi_extra=_body_of(ProposalBody),
    )(make_proposal)
    app.get(
        f"{base}/proposals/{{proposal}}",
        summary="A proposal with its dry run",
        response_model=ProposalAnswer,
    )(one_proposal)
    app.post(
        f"{base}/proposals/{{proposal}}/approve",
        summary="Approve what somebody else has proposed",
        response_model=ProposalAnswer,
        openapi_extra=_body_of(ApprovalBody),
    )(approve_proposal)
