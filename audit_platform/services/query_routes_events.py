"""Routes that read events: search, one event, a device's timeline, export.

Belongs here: from parameters to a question of `operations/query/` and its answer. Does not: access,
bounds, the record of reads (`query_desk.py`).
Source: issue "One machine, whole" (query-api).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

import orjson
from fastapi import FastAPI, Query, Request, Response

from audit_platform.operations.query.event import event_by_id
from audit_platform.operations.query.export import export
from audit_platform.operations.query.model import (
    ExportFormat,
    IsCancelled,
    TimelinePosition,
    TimelineQuery,
)
from audit_platform.operations.query.search import search
from audit_platform.operations.query.timeline import timeline
from audit_platform.ports import EventQuery
from audit_platform.services import query_render
from audit_platform.services.query_desk import TheDesk, Told, paged
from audit_platform.services.query_limits import MAX_ANSWER_BYTES
from audit_platform.services.query_models import EventAnswer, SearchAnswer, TimelineAnswer
from audit_platform.services.query_params import (
    EventRef,
    ExportParams,
    FilterParams,
    Identifier,
    NoParams,
    SearchParams,
    TenantId,
    TimelineParams,
    event_cursor,
    event_position,
    said,
    timeline_cursor,
    timeline_position,
)
from audit_platform.services.query_problems import QueryProblem

_MEDIA_TYPE: Final = {
    ExportFormat.NDJSON: "application/x-ndjson",
    ExportFormat.CSV: "text/csv; charset=utf-8",
}


def _event_query(tenant: str, params: FilterParams, window: tuple[int, int]) -> EventQuery:
    return EventQuery(
        tenant,
        *window,
        clock=params.clock,
        device_id=params.device,
        hospital_id=params.hospital,
        event_type=params.type,
        criticality=params.criticality,
        text=params.text,
    )


async def search_events(
    request: Request, desk: TheDesk, tenant: TenantId, params: Annotated[SearchParams, Query()]
) -> Response:
    """Events of a window that match all filters, from HOT where it covers it, else from COLD."""
    window = params.window(desk.platform.clock.now_ms())
    query = said(params, *window)
    asked = desk.asked(request, query)
    after = event_position(params.cursor, asked.digest) if params.cursor else None
    wanted = _event_query(tenant, params, window)

    def work(is_cancelled: IsCancelled) -> Told:
        page = replace(wanted, after=after, limit=params.limit)
        found = search(desk.reader, page, tier=params.tier, is_cancelled=is_cancelled)
        count = query_render.fitting(found.rows, MAX_ANSWER_BYTES)
        position = found.next
        if count < len(found.rows):
            position = query_render.position_of(found.rows, count - 1, params.clock)
        cursor = event_cursor(position, asked.digest) if position else None
        body = paged(request, query, cursor) | {
            "tier": str(found.tier),
            "completeness": found.completeness.to_json(),
            "rows": query_render.event_rows(found.rows.slice(0, count), tenant),
        }
        return Told(orjson.dumps(body), count, str(found.tier))

    return await desk.answer(request, asked, work)


async def device_timeline(
    request: Request,
    desk: TheDesk,
    tenant: TenantId,
    device: Identifier,
    params: Annotated[TimelineParams, Query()],
) -> Response:
    """One device's events chain by chain, with what stands between them: gaps, resets, forks."""
    window = params.window(desk.platform.clock.now_ms())
    query = said(params, *window)
    asked = desk.asked(request, {**query, "device": device})
    after = timeline_position(params.cursor, asked.digest) if params.cursor else None
    wanted = TimelineQuery(tenant, device, *window, params.clock, after, params.limit)

    def work(is_cancelled: IsCancelled) -> Told:
        found = timeline(desk.reader, wanted, tier=params.tier, is_cancelled=is_cancelled)
        count = query_render.fitting(found.rows, MAX_ANSWER_BYTES)
        position = found.next
        if count < len(found.rows):
            last = found.rows.slice(count - 1, 1).to_pylist()[0]
            position = TimelinePosition(
                last["chain_id"], last["sequence_number"], last["event_hash"]
            )
        cursor = timeline_cursor(position, asked.digest) if position else None
        body = paged(request, query, cursor) | {
            "tier": str(found.tier),
            "completeness": found.completeness.to_json(),
            "events": found.events,
            "counts": found.counts,
            "rows": query_render.timeline_rows(found, tenant, count),
            # Behind the last row of all, so on the last page only.
            "tail": [m.to_json() for m in found.tail] if count == len(found.rows) else [],
        }
        return Told(orjson.dumps(body), count, str(found.tier))

    return await desk.answer(request, asked, work)


async def one_event(
    request: Request,
    desk: TheDesk,
    tenant: TenantId,
    event: EventRef,
    _params: Annotated[NoParams, Query()],
) -> Response:
    """All copies of an event: stored bytes, place, inclusion proof; also what was refused of it."""
    asked = desk.asked(request, {"id": event})

    def work(is_cancelled: IsCancelled) -> Told:
        found = event_by_id(desk.reader, tenant, event, is_cancelled=is_cancelled)
        rows = len(found.copies) + len(found.quarantined)
        tier = str(found.completeness.tier)
        if not rows:
            problem = QueryProblem(
                "not_found",
                f"no event {event} was found. {found.completeness.sentence}",
                remedy="compare the id; an event that was just taken is found a minute later",
            )
            return Told(b"", 0, tier, problem=problem)
        body = query_render.event(found, request.state.request_id)
        return Told(orjson.dumps(body), rows, tier)

    return await desk.answer(request, asked, work)


async def export_events(
    request: Request, desk: TheDesk, tenant: TenantId, params: Annotated[ExportParams, Query()]
) -> Response:
    """All events of a search with their hashes, and a total at the end: without it, it is cut."""
    window = params.window(desk.platform.clock.now_ms())
    asked = desk.asked(request, said(params, *window))
    wanted = _event_query(tenant, params, window)
    return await desk.stream(
        request,
        asked,
        lambda is_cancelled: export(
            desk.reader, wanted, params.format, tier=params.tier, is_cancelled=is_cancelled
        ),
        _MEDIA_TYPE[params.format],
    )


def add_to(app: FastAPI) -> None:
    """Register the routes."""
    app.get("/v1/tenants/{tenant}/events", summary="Search", response_model=SearchAnswer)(
        search_events
    )
    app.get(
        "/v1/tenants/{tenant}/devices/{device:path}/timeline",
        summary="A device's timeline",
        response_model=TimelineAnswer,
    )(device_timeline)
    app.get(
        "/v1/tenants/{tenant}/events/{event}",
        summary="One event with its exact bytes and its proof",
        response_model=EventAnswer,
    )(one_event)
    app.get(
        "/v1/tenants/{tenant}/export",
        summary="A whole search as a stream",
        response_class=Response,
        responses={200: {"content": {"application/x-ndjson": {}, "text/csv": {}}}},
    )(export_events)
