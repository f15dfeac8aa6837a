"""The answers of ingest-gateway that are not a receipt: problem details with stable slugs.

Add a slug to `PROBLEMS` when a client must tell it from the others. Not here: refusals of single
events (their slugs come from `record/`), the decision which problem it is.
Source: RFC 9457 (problem details), design sections 4 and 8; RFC 9110 (status codes, headers).
"""

from __future__ import annotations

from typing import Final

import orjson

PROBLEM_CONTENT_TYPE: Final = b"application/problem+json"

#: Slug -> (HTTP status, title). The `type` of a problem is `urn:audit-platform:problem:<slug>`.
PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "bad_http": (400, "The request is not HTTP/1.1"),
    "bad_zstd": (400, "The body is not one whole zstd frame"),
    "empty_body": (400, "The body holds no event"),
    "bad_question": (400, "The question cannot be read"),
    "unauthenticated": (401, "No good credential"),
    "forbidden": (403, "The credential is not one of an edge"),
    "tenant_suspended": (403, "The tenant is suspended: keep everything and try again later"),
    "not_found": (404, "Nothing is here"),
    "method_not_allowed": (405, "The method is not allowed here"),
    "body_timeout": (408, "The body did not arrive in time"),
    "body_too_large": (413, "The body is over the limit"),
    "too_many_events": (413, "The body holds too many events"),
    "unsupported_encoding": (415, "The content encoding is not known"),
    "unsupported_media_type": (415, "The content type is not known"),
    "overhead_too_large": (431, "The request has too many bytes beside its body"),
    "rate_limited": (429, "The tenant sends more than it may"),
    "overloaded": (503, "Too many bodies are being handled"),
    "log_unavailable": (503, "The log does not take records now"),
    "log_generation": (503, "The log is not the one that the open log generation means"),
    "archive_late": (503, "The archive is too far behind the log"),
    "archive_unknown": (503, "It cannot be seen now what is archived"),
    "metadata_unavailable": (503, "Credentials cannot be checked now"),
    "limits_unavailable": (503, "The tenant sends more than it may while limits are not shared"),
    "tokens_unavailable": (503, "The token cannot be checked now"),
    "spool_full": (503, "The edge's spool is full"),
    "spool_unavailable": (503, "The edge cannot keep events now"),
    "internal_error": (503, "The gateway failed"),
}


class Problem(Exception):
    """An answer with problem details. `slug` is a key of `PROBLEMS`.

    Whatever the status, nothing of the body was acknowledged. `retry_after_seconds` (0 = none) is
    sent as `Retry-After`; `headers` are further ones.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        remedy: str,
        retry_after_seconds: int = 0,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.status, self.title = PROBLEMS[slug]
        self.detail = detail
        self.remedy = remedy
        self.headers = list(headers)
        if retry_after_seconds:
            self.headers.append((b"retry-after", b"%d" % retry_after_seconds))

    def to_bytes(self) -> bytes:
        """The problem details as JSON."""
        return orjson.dumps(
            {
                "type": f"urn:audit-platform:problem:{self.slug}",
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                "remedy": self.remedy,
            }
        )
