"""query-api: answers questions about a tenant's record over HTTP, each of them on record.

Belongs here: the application, what holds for every request (request id, URL length, problems as
answers, counting), health, start and stop. Does not: routes of the record (`query_routes_*.py`),
access (`query_access.py`), the way of a read (`query_desk.py`).
Source: issue "One machine, whole" (query-api); OpenAPI 3.1; RFC 9457; failures 21, 29, 32.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from email.utils import formatdate
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from audit_platform.errors import AuditPlatformError
from audit_platform.metrics.query import QUERY_RESPONSES
from audit_platform.ports import Platform
from audit_platform.processes import freeze_startup_objects, tune_process
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform.services import (
    query_routes_dlq,
    query_routes_events,
    query_routes_evidence,
)
from audit_platform.services.ingest_server import listen, make_server, serve
from audit_platform.services.query_access import DECIDING, RULES
from audit_platform.services.query_desk import Desk, TheDesk
from audit_platform.services.query_limits import MAX_URL_BYTES, ClientGone
from audit_platform.services.query_models import Ready
from audit_platform.services.query_params import NoParams
from audit_platform.services.query_problems import (
    PROBLEM_CONTENT_TYPE,
    PROBLEMS,
    FieldProblem,
    ProblemDetails,
    QueryProblem,
)
from audit_platform.settings import Settings
from audit_platform.telemetry import METRICS_CONTENT_TYPE, log_as_json
from audit_platform.wiring import open_platform

_logger: Final = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def healthz() -> Response:
    """200 while the process answers at all."""
    return Response(b'{"status":"alive"}', media_type="application/json")


async def readyz(desk: TheDesk, _params: Annotated[NoParams, Query()]) -> Response:
    """503 while no read could be put on record. Metadata may be away for a while."""

    def trouble() -> str:
        try:
            desk.platform.log.describe(EVENTS_TOPIC)
        except AuditPlatformError as e:
            return str(e)
        return ""

    found = await asyncio.to_thread(trouble)
    body = {"ready": not found, "trouble": found, "lock": desk.platform.objects.lock}
    return Response(
        orjson.dumps(body), status_code=503 if found else 200, media_type="application/json"
    )


async def metrics(desk: TheDesk) -> Response:
    """All metrics of this process."""
    return Response(desk.telemetry.text(), media_type=METRICS_CONTENT_TYPE)


async def openapi(request: Request) -> Response:
    """The API as OpenAPI 3.1. Feed it to any viewer: no page here loads anything from elsewhere."""
    return Response(orjson.dumps(_document(request.app)), media_type="application/json")


def _document(app: FastAPI) -> dict[str, Any]:
    """The framework's description, with our problems in place of its own validation errors."""
    document: dict[str, Any] = app.openapi()
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs")
    schemas[ProblemDetails.__name__] = problem
    return document


def _add_health_to(app: FastAPI) -> None:
    """Register the routes of this module."""
    app.get("/healthz", summary="Is the process alive", include_in_schema=False)(healthz)
    app.get("/readyz", summary="Can questions be answered now", response_model=Ready)(readyz)
    app.get("/metrics", summary="Prometheus text", include_in_schema=False)(metrics)
    app.get("/openapi.json", summary="This description", include_in_schema=False)(openapi)


# ------------------------------------------------------------------------ what holds for every one


async def _admit(request: Request, desk: TheDesk) -> None:
    await desk.admit(request)
    names = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in names.items():
        if count > 1:  # the framework would silently take the last one
            shown = _shown(name)
            raise QueryProblem(
                "invalid_parameter",
                f"{shown} stands {count} times",
                remedy="send it once",
                field=shown,
            )


def _problem_response(request: Request, problem: QueryProblem) -> Response:
    request.state.slug = problem.slug
    return Response(problem.to_bytes(), problem.status, problem.headers, PROBLEM_CONTENT_TYPE)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, QueryProblem)
    return _problem_response(request, error)


async def _on_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = tuple(_field_problem(e) for e in error.errors())
    names = ", ".join(dict.fromkeys(e.field for e in errors))
    problem = QueryProblem(
        "invalid_parameter",
        f"not usable as asked: {names}",
        remedy="; ".join(f"{e.field}: {e.fix}" for e in errors),
        errors=errors,
    )
    return _problem_response(request, problem)


#: What to do about a fault, by pydantic's name for it.
_FIXES: Final = {
    "extra_forbidden": "leave it out: the route has no such parameter",
    "missing": "send it",
    "enum": "send one of {expected}",
    "literal_error": "send one of {expected}",
    "int_parsing": "send a whole number",
    "less_than_equal": "send at most {le}",
    "greater_than_equal": "send at least {ge}",
    "string_too_long": "send at most {max_length} characters",
    "string_too_short": "send at least {min_length} character",
    "string_pattern_mismatch": "send text of the form {pattern}",
}

#: Characters of a name that a client made up, in our answer.
_MAX_NAME: Final = 64


def _field_problem(error: Any) -> FieldProblem:
    context = error.get("ctx") or {}
    fix = context.get("fix") or _FIXES.get(error["type"], "see /openapi.json").format_map(context)
    return FieldProblem(field=_shown(str(error["loc"][-1])), reason=error["msg"], fix=fix)


def _shown(name: str) -> str:
    """A name that a client made up, as plain text of bounded length."""
    return ascii(name)[1:-1][:_MAX_NAME]


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:  # noqa: PLR2004 - the router's own
        problem = QueryProblem(
            "method_not_allowed",
            f"{request.method} is not allowed here",
            remedy="use the method that /openapi.json has for it",
        )
        problem.headers |= error.headers or {}
        return _problem_response(request, problem)
    problem = QueryProblem(
        "not_found", "nothing is at this path", remedy="/openapi.json has all paths"
    )
    return _problem_response(request, problem)


async def _on_failure(request: Request, error: Exception) -> Response:
    request_id = request.state.request_id
    _logger.error("a request failed", exc_info=error, extra={"request_id": request_id})
    request.state.is_answered = True
    problem = QueryProblem(
        "internal_error",
        "the service failed; nothing was shown",
        remedy=f"ask again; if it fails again, report the request id {request_id}",
    )
    return _problem_response(request, problem)


#: No cache may hand out an answer: nobody would put that read on record.
_ALWAYS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class QueryApi:
    """The ASGI application. `close` stops its threads; the platform stays the caller's."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.fastapi = _fastapi(desk)

    def close(self) -> None:
        """Wait for questions in hand, then stop all threads. Idempotent."""
        self.desk.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: give it an id, bound its URL, count its answer."""
        state = scope.setdefault("state", {})
        state["request_id"] = uuid.uuid4().hex
        state["slug"] = ""
        state["is_answered"] = False

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: Sequence[tuple[bytes, bytes]] = message["headers"]
                request_id = state["request_id"].encode("ascii")
                now = formatdate(self.desk.platform.clock.now_ms() / 1000, usegmt=True)
                message["headers"] = [
                    *headers,
                    *_ALWAYS,
                    (b"x-request-id", request_id),
                    (b"date", now.encode("ascii")),
                ]
                route = getattr(scope.get("route"), "path_format", "")
                self.desk.telemetry.count(
                    QUERY_RESPONSES,
                    route=route,
                    status=str(message["status"]),
                    slug=state["slug"],
                )
            await send(message)

        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL_BYTES:
            problem = QueryProblem(
                "url_too_long",
                f"path and query have more than {MAX_URL_BYTES} bytes",
                remedy="send shorter parameters",
            )
            state["slug"] = problem.slug
            response = _problem_response(Request(scope), problem)
            await response(scope, receive, counted)
            return
        try:
            await self.fastapi(scope, receive, counted)
        except Exception:
            # The framework raises again what it has answered; what broke off a stream must reach
            # the server, which then closes the connection without an end.
            if not state["is_answered"]:
                raise


def _fastapi(desk: Desk) -> FastAPI:
    problems: dict[int | str, dict[str, Any]] = {
        status: {
            "description": "; ".join(t for s, t in PROBLEMS.values() if s == status),
            "content": {PROBLEM_CONTENT_TYPE: {"schema": {"$ref": _PROBLEM_REF}}},
        }
        for status in sorted({status for status, _ in PROBLEMS.values()})
    }
    app = FastAPI(
        title="audit-platform query-api",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_admit)],
        responses=problems,
        exception_handlers={
            QueryProblem: _on_problem,
            ClientGone: _on_gone,
            RequestValidationError: _on_invalid,
            HTTPException: _on_http,
            Exception: _on_failure,
        },
    )
    app.state.desk = desk
    for routes in (query_routes_events, query_routes_evidence, query_routes_dlq):
        routes.add_to(app)
    _add_health_to(app)
    demand_rules(app)
    return app


_PROBLEM_REF: Final = f"#/components/schemas/{ProblemDetails.__name__}"


def routes_of(app: FastAPI) -> list[APIRoute]:
    """All routes. Raises `TypeError` for one that is no API route: nobody would guard it."""
    for route in app.routes:
        if not isinstance(route, APIRoute):
            raise TypeError(f"{route} is no API route")
    return [route for route in app.routes if isinstance(route, APIRoute)]


def demand_rules(app: FastAPI) -> None:
    """Every route has a rule. Raises `KeyError`: such an app must not start."""
    for route in routes_of(app):
        method = "POST" if route.path_format in DECIDING else "GET"
        if route.path_format not in RULES or route.methods != {method}:
            raise KeyError(f"{route.methods} {route.path_format} has no rule of access")


def build_app(
    platform: Platform, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic
) -> QueryApi:
    """The application over an open platform."""
    return QueryApi(
        Desk(
            platform,
            seconds=settings.query_seconds,
            cool_down_seconds=settings.query_cool_down_seconds,
            monotonic=monotonic,
        )
    )


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; questions in hand are answered first.

    Starts the program again once to set the allocator's variables (`tune_process`). Raises
    `SettingInvalid` when the port cannot be had.
    """
    tune_process()
    log_as_json("query-api")
    platform = open_platform(settings)
    try:
        app = build_app(platform, settings)
        try:
            sock = listen(settings.ingest_host, settings.query_port, setting="AUDIT_QUERY_PORT")
            freeze_startup_objects()
            serve(make_server(app), sock)
        finally:
            app.close()
    finally:
        platform.close()
