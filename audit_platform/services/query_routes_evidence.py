"""Routes for those who check: quarantine, manifests, public keys, and who looked at what.

Belongs here: from parameters to a question of `operations/query/` and its answer. Does not: access,
bounds, the record of reads (`query_desk.py`).
Source: issue "One machine, whole" (query-api, access); design sections 5 and 7.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query, Request, Response

from audit_platform.operations.dlq.records import decisions_of
from audit_platform.operations.query.entries import quarantine_entries
from audit_platform.operations.query.event import event_by_id
from audit_platform.operations.query.manifests import list_manifests, manifest_file
from audit_platform.operations.query.model import IsCancelled, Tier
from audit_platform.operations.query.reads import Read, reads_of
from audit_platform.ports import PublicKey
from audit_platform.record.times import format_time_ms
from audit_platform.services import query_render
from audit_platform.services.query_access import RULES, roles_of
from audit_platform.services.query_desk import TheDesk, Told, paged
from audit_platform.services.query_models import (
    EntryAnswer,
    KeysAnswer,
    ManifestsAnswer,
    QuarantineAnswer,
    ReadsAnswer,
    WhoamiAnswer,
)
from audit_platform.services.query_params import (
    EntryId,
    ListParams,
    ManifestListParams,
    ManifestNumber,
    NoParams,
    TenantId,
    event_cursor,
    event_position,
    number_cursor,
    number_position,
    said,
)
from audit_platform.services.query_problems import QueryProblem

# ------------------------------------------------------------------------------------ quarantine


async def list_quarantine(
    request: Request, desk: TheDesk, tenant: TenantId, params: Annotated[ListParams, Query()]
) -> Response:
    """Refused lines that came within a window, with the reason and the remedy of each."""
    window = params.window(desk.platform.clock.now_ms())
    query = said(params, *window)
    asked = desk.asked(request, query)
    after = number_position(params.cursor, asked.digest) if params.cursor else None

    def work(is_cancelled: IsCancelled) -> Told:
        found = quarantine_entries(
            desk.reader,
            tenant,
            *window,
            after=after,
            limit=params.limit,
            is_cancelled=is_cancelled,
        )
        cursor = number_cursor(*found.next, asked.digest) if found.next else None
        body = paged(request, query, cursor) | {
            "rows": query_render.entry_lines(found.entries, decisions_of(desk.reader, tenant)),
            "completeness": found.completeness.to_json(),
        }
        return Told(orjson.dumps(body), len(found.entries), str(Tier.COLD))

    return await desk.answer(request, asked, work)


async def one_entry(
    request: Request,
    desk: TheDesk,
    tenant: TenantId,
    entry: EntryId,
    _params: Annotated[NoParams, Query()],
) -> Response:
    """A refused line: its bytes as they came, why it was refused, and what to do about it."""
    asked = desk.asked(request, {"id": entry})

    def work(is_cancelled: IsCancelled) -> Told:
        found = event_by_id(desk.reader, tenant, entry, is_cancelled=is_cancelled)
        if not found.quarantined:
            problem = QueryProblem(
                "not_found",
                f"quarantine holds no entry {entry}. {found.completeness.sentence}",
                remedy="compare the id; a line that was just refused is found a minute later",
            )
            return Told(b"", 0, str(Tier.COLD), problem=problem)
        body = {
            "requestId": request.state.request_id,
            "entry": query_render.refused_line(found.quarantined[0]),
            "decisions": query_render.decisions(
                decisions_of(desk.reader, tenant).get(found.quarantined[0].entry_id, ())
            ),
        }
        return Told(orjson.dumps(body), 1, str(Tier.COLD))

    return await desk.answer(request, asked, work)


# ------------------------------------------------------------------------------------- manifests


async def list_sealed_days(
    request: Request,
    desk: TheDesk,
    tenant: TenantId,
    params: Annotated[ManifestListParams, Query()],
) -> Response:
    """The tenant's manifests in short, by number."""
    query = said(params)
    asked = desk.asked(request, query)
    after = number_position(params.cursor, asked.digest)[0] if params.cursor else 0

    def work(is_cancelled: IsCancelled) -> Told:
        found = list_manifests(
            desk.reader, tenant, after=after, limit=params.limit, is_cancelled=is_cancelled
        )
        cursor = number_cursor(found.next, "", asked.digest) if found.next else None
        rows = [
            {
                "number": m.manifest.number,
                "day": m.manifest.day,
                "revision": m.manifest.revision,
                "status": m.manifest.status,
                "sealed": format_time_ms(m.manifest.sealed_ms),
                "rows": m.manifest.rows,
                "duplicates": m.manifest.duplicates,
                "root": m.manifest.root,
                "sha256": m.manifest.sha256,
                "keyId": m.manifest.key_id,
                "signed": m.signed,
                "key": m.key,
                "versionId": m.version_id,
            }
            for m in found.manifests
        ]
        body = paged(request, query, cursor) | {"rows": rows, "problems": list(found.problems)}
        return Told(orjson.dumps(body), len(rows), str(Tier.COLD))

    return await desk.answer(request, asked, work)


async def one_manifest(
    request: Request,
    desk: TheDesk,
    tenant: TenantId,
    number: ManifestNumber,
    _params: Annotated[NoParams, Query()],
) -> Response:
    """The signed file itself: `sha256sum` of the body is what the next manifest names."""
    asked = desk.asked(request, {"number": number})

    def work(_is_cancelled: IsCancelled) -> Told:
        found = manifest_file(desk.reader, tenant, number)
        if found is None:
            problem = QueryProblem(
                "not_found",
                f"there is no manifest {number}",
                remedy="the list of manifests has the numbers",
            )
            return Told(b"", 0, str(Tier.COLD), problem=problem)
        headers = {
            "Audit-Object-Key": found.key,
            "Audit-Object-Version": found.version_id,
            "ETag": f'"{hashlib.sha256(found.data).hexdigest()}"',
        }
        return Told(found.data, 1, str(Tier.COLD), headers=headers)

    return await desk.answer(request, asked, work)


# ----------------------------------------------------------------------------------------- reads


async def list_reads(
    request: Request, desk: TheDesk, tenant: TenantId, params: Annotated[ListParams, Query()]
) -> Response:
    """Reads of the tenant's record, and refused attempts, as they stand in the platform's own."""
    window = params.window(desk.platform.clock.now_ms())
    query = said(params, *window)
    asked = desk.asked(request, query)
    after = event_position(params.cursor, asked.digest) if params.cursor else None

    def work(is_cancelled: IsCancelled) -> Told:
        found = reads_of(
            desk.reader,
            tenant,
            *window,
            after=after,
            limit=params.limit,
            is_cancelled=is_cancelled,
        )
        cursor = event_cursor(found.next, asked.digest) if found.next else None
        body = paged(request, query, cursor) | {
            "completeness": found.completeness.to_json(),
            "rows": [_read(read) for read in found.reads],
        }
        return Told(orjson.dumps(body), len(found.reads), str(found.completeness.tier))

    return await desk.answer(request, asked, work)


def _read(read: Read) -> dict[str, Any]:
    payload = read.payload
    return {
        "eventId": read.event_id,
        "eventHash": read.event_hash,
        "time": format_time_ms(read.time_ms),
        "kind": read.event_type,
        **{
            name: payload.get(name) for name in ("keyId", "subject", "role", "query", "queryDigest")
        },
        **{name: payload.get(name) for name in ("tier", "rows", "status", "suppressed")},
        "route": payload["route"],
        "outcome": payload.get("outcome") or payload["slug"],
        "readRequestId": payload["requestId"],
    }


# -------------------------------------------------------------------- of no tenant: not recorded


async def public_keys(
    request: Request, desk: TheDesk, _params: Annotated[NoParams, Query()]
) -> Response:
    """Every public key that ever signed here, revoked ones included."""
    keys = await asyncio.to_thread(desk.platform.keys.public_keys)
    body = {"requestId": request.state.request_id, "keys": [_key(k) for k in keys]}
    return Response(orjson.dumps(body), media_type="application/json")


def _key(key: PublicKey) -> dict[str, Any]:
    return {
        "keyId": key.key_id,
        "publicKey": key.public_key.hex(),
        "purpose": key.purpose,
        "created": format_time_ms(key.created_ms),
        "revoked": format_time_ms(key.revoked_ms) if key.revoked_ms else None,
        "active": key.active,
    }


async def whoami(request: Request, _params: Annotated[NoParams, Query()]) -> Response:
    """The tenant and role of the credential, and the routes that it may ask."""
    caller = request.state.caller
    body = {
        "requestId": request.state.request_id,
        "tenantId": caller.tenant_id,
        "role": str(caller.role),
        "keyId": caller.key_id,
        "subject": caller.subject or None,
        "routes": [path for path in RULES if caller.role in roles_of(path, caller.tenant_id)],
    }
    return Response(orjson.dumps(body), media_type="application/json")


def add_to(app: FastAPI) -> None:
    """Register the routes."""
    app.get(
        "/v1/tenants/{tenant}/quarantine",
        summary="What was refused",
        response_model=QuarantineAnswer,
    )(list_quarantine)
    app.get(
        "/v1/tenants/{tenant}/quarantine/{entry}",
        summary="One refused line with its exact bytes",
        response_model=EntryAnswer,
    )(one_entry)
    app.get(
        "/v1/tenants/{tenant}/manifests", summary="Sealed days", response_model=ManifestsAnswer
    )(list_sealed_days)
    app.get(
        "/v1/tenants/{tenant}/manifests/{number}",
        summary="One manifest, exactly as it is stored",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}}},
    )(one_manifest)
    app.get("/v1/tenants/{tenant}/reads", summary="Who looked at what", response_model=ReadsAnswer)(
        list_reads
    )
    app.get("/v1/keys", summary="Public keys", response_model=KeysAnswer)(public_keys)
    app.get("/v1/whoami", summary="Whose key this is", response_model=WhoamiAnswer)(whoami)
