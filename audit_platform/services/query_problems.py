"""The answers of query-api that are not what was asked for: problem details with stable slugs.

Add a slug to `PROBLEMS` when a client must tell it from the others. Not here: the decision which
problem it is, HTTP.
Source: RFC 9457 (problem details), design section 8; failure 32 (429 or 499).
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict

PROBLEM_CONTENT_TYPE: Final = "application/problem+json"

#: Slug -> (HTTP status, title). The `type` of a problem is `urn:audit-platform:problem:<slug>`.
PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "invalid_parameter": (400, "A parameter cannot be used as it is"),
    "bad_proposal": (400, "The proposal cannot be made as it is"),
    "bad_cursor": (400, "The cursor does not belong to this question"),
    "unauthenticated": (401, "No good credential"),
    "forbidden": (403, "The credential's role may not do this"),
    "self_approval": (403, "Nobody approves what they have proposed"),
    "not_found": (404, "Nothing is here"),
    "method_not_allowed": (405, "The method is not allowed here"),
    "proposal_changed": (409, "The proposal is not the one that was looked at"),
    "body_too_large": (413, "The body is over the limit"),
    "url_too_long": (414, "The URL is over the limit"),
    "too_many_queries": (429, "The tenant has as many queries running as it may"),
    "cooling_down": (429, "A query of the tenant used more than it may; the next ones wait"),
    "query_cancelled": (499, "The query used more than it may and was cancelled"),
    "internal_error": (500, "The service failed"),
    "audit_unavailable": (503, "The read could not be put on record, so it was not answered"),
    "metadata_unavailable": (503, "Credentials cannot be checked now"),
    "tokens_unavailable": (503, "The token cannot be checked now"),
    "overloaded": (503, "Too many queries are running"),
    "store_unavailable": (503, "The record cannot be read now"),
}


class FieldProblem(BaseModel):
    """One parameter that is wrong, why, and what to send instead."""

    model_config = ConfigDict(extra="forbid")

    field: str
    reason: str
    fix: str


class ProblemDetails(BaseModel):
    """RFC 9457 problem details. `errors` names parameters where it is about them."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    remedy: str
    errors: list[FieldProblem] = []


class QueryProblem(Exception):
    """An answer with problem details. `slug` is a key of `PROBLEMS`.

    `retry_after_seconds` (0 = none) is sent as `Retry-After`. `field` names a wrong parameter.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        remedy: str,
        field: str = "",
        retry_after_seconds: int = 0,
        errors: tuple[FieldProblem, ...] = (),
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.status, self.title = PROBLEMS[slug]
        self.detail = detail
        self.remedy = remedy
        self.errors = errors or (
            (FieldProblem(field=field, reason=detail, fix=remedy),) if field else ()
        )
        self.headers: dict[str, str] = {}
        if retry_after_seconds:
            self.headers["Retry-After"] = str(retry_after_seconds)
        if slug == "unauthenticated":
            self.headers["WWW-Authenticate"] = "Bearer"

    def to_bytes(self) -> bytes:
        """The problem details as JSON."""
        value: dict[str, Any] = {
            "type": f"urn:audit-platform:problem:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "remedy": self.remedy,
        }
        if self.errors:
            value["errors"] = [error.model_dump() for error in self.errors]
        return orjson.dumps(value)
