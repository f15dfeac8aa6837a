"""What may be asked: the parameters of every route, their bounds, and cursors.

Belongs here: parameter models (a wrong or unknown one is an answer that names it), the window's
defaults, the form of a cursor. Does not: access, running a query.
Source: issue "One machine, whole" (queries): stable cursors, limits.

A cursor is version, digest of the question and the position of the last row, as base64url. It needs
no store and no secret: the question's filters and tenant are applied to every page anew, so a made
up cursor shows nothing that the same question without it would not.
"""

from __future__ import annotations

import base64
import re
import struct
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from audit_platform.operations.query.model import ExportFormat, Tier, TimelinePosition
from audit_platform.ports import EventClock, EventPosition
from audit_platform.record.layout import IDENTIFIER_PATTERN, TENANT_PATTERN
from audit_platform.record.times import format_time_ms, parse_time_ms
from audit_platform.record.words import words
from audit_platform.services.query_limits import (
    DEFAULT_LIMIT,
    DEFAULT_WINDOW_MS,
    MAX_LIMIT,
    MAX_TEXT,
    MAX_WINDOW_MS,
)
from audit_platform.services.query_problems import QueryProblem

_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_FIRST_MS: Final = parse_time_ms("0001-01-01T00:00:00.000Z")
_LAST_MS: Final = parse_time_ms("9999-12-31T23:59:59.999Z")


def _wrong(reason: str, fix: str) -> PydanticCustomError:
    # The texts go through a format of pydantic's own, which reads braces.
    return PydanticCustomError("wrong", "{reason}", {"reason": reason, "fix": fix})


def _instant(value: object) -> int:
    fix = "send RFC 3339 in UTC, such as 2026-03-01T08:30:00Z"
    try:
        found = datetime.fromisoformat(str(value))
        if found.tzinfo is None or found.utcoffset() is None:
            raise _wrong("the time has no zone", fix)
        ms = (found - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError) as e:
        raise _wrong("not a time", fix) from e
    if not _FIRST_MS <= ms <= _LAST_MS:
        raise _wrong("outside the years 0001 to 9999", fix)
    return ms


def _identifier(value: str) -> str:
    if IDENTIFIER_PATTERN.fullmatch(value) is None:
        raise _wrong("not an identifier", "send 1 to 128 characters of A-Z a-z 0-9 . _ : / -")
    return value


def _words(value: str) -> str:
    text = " ".join(value.split())
    # Without a word there is no filter: everything would match.
    if not words(text) or not text.isprintable():
        raise _wrong("no words to look for", "send one or several words of printable characters")
    return text


#: Milliseconds since 1970, given as RFC 3339 text with a zone.
Instant = Annotated[
    int,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Identifier = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_identifier)]
Words = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_words)]
Cursor = Annotated[str, Field(min_length=1, max_length=256, pattern="^[A-Za-z0-9_-]+$")]
TenantId = Annotated[str, Field(pattern=f"^{TENANT_PATTERN.pattern}$")]
EventRef = Annotated[
    str,
    Field(
        pattern="^([0-9a-f]{64}"
        "|[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})$",
        description="An eventId (UUIDv7) or an eventHash (64 hex digits), lower case.",
    ),
]
EntryId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
ManifestNumber = Annotated[int, Field(ge=1, le=2**53 - 1)]

_DESCRIPTIONS: Final = {
    "from": "Start of the window (included). Default: a day before its end.",
    "to": "End of the window (not included). Default: now.",
}


class _Params(BaseModel):
    """A name that is not here is refused: a filter with a typing error must not be ignored."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)


class WindowParams(_Params):
    """The window by one of an event's two times."""

    from_: Instant | None = Field(None, alias="from", description=_DESCRIPTIONS["from"])
    to: Instant | None = Field(None, description=_DESCRIPTIONS["to"])

    def window(self, now_ms: int) -> tuple[int, int]:
        """(from, to) in milliseconds since 1970. Raises `QueryProblem` for one that is too long."""
        # The default end is behind what this very millisecond may still bring.
        to_ms = now_ms + 1 if self.to is None else self.to
        default = max(to_ms - DEFAULT_WINDOW_MS, _FIRST_MS)
        from_ms = default if self.from_ is None else self.from_
        if from_ms >= to_ms:
            raise QueryProblem(
                "invalid_parameter",
                f"the window {format_time_ms(from_ms)} to {format_time_ms(to_ms)} is empty",
                remedy="send a `from` before `to`",
                field="from",
            )
        if to_ms - from_ms > MAX_WINDOW_MS:
            days = MAX_WINDOW_MS // 86_400_000
            raise QueryProblem(
                "invalid_parameter",
                f"the window is longer than {days} days",
                remedy=f"ask in windows of at most {days} days",
                field="from",
            )
        return from_ms, to_ms


class ClockParams(WindowParams):
    """A window, and by which clock."""

    clock: EventClock = Field(
        EventClock.INGESTION,
        description="`ingestion` is the authoritative clock; `event` is what the device said.",
    )
    tier: Tier = Field(
        Tier.AUTO, description="Where to look: `auto` is HOT where it covers the window, else COLD."
    )


class FilterParams(ClockParams):
    """What events are looked for."""

    device: Identifier | None = None
    hospital: Identifier | None = None
    type: Identifier | None = Field(None, description="The eventType.")
    criticality: Literal["low", "normal", "high", "critical"] | None = None
    text: Words | None = Field(
        None,
        description="Words that must all stand in the event, whatever their case. What is looked "
        "for is on record: look for pseudonyms, not for people's names.",
    )


class SearchParams(FilterParams):
    """A page of a search."""

    cursor: Cursor | None = Field(None, description="`nextCursor` of the page before.")
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)


class TimelineParams(ClockParams):
    """A page of a timeline."""

    cursor: Cursor | None = Field(None, description="`nextCursor` of the page before.")
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)


class ExportParams(FilterParams):
    """A whole search as a stream."""

    format: ExportFormat = Field(ExportFormat.NDJSON, description="`ndjson` or `csv`.")


class ListParams(WindowParams):
    """A page of a list by the time at which the platform got it."""

    cursor: Cursor | None = Field(None, description="`nextCursor` of the page before.")
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)


class ManifestListParams(_Params):
    """A page of a tenant's manifests, by number."""

    cursor: Cursor | None = Field(None, description="`nextCursor` of the page before.")
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)


class NoParams(_Params):
    """A route without parameters."""


def said(params: BaseModel, from_ms: int | None = None, to_ms: int | None = None) -> dict[str, Any]:
    """Parameters as the audit keeps them: normalised, the window as it was applied."""
    asked: dict[str, Any] = params.model_dump(mode="json", by_alias=True, exclude_none=True)
    if from_ms is not None and to_ms is not None:
        asked["from"], asked["to"] = format_time_ms(from_ms), format_time_ms(to_ms)
    return asked


# --------------------------------------------------------------------------------------- cursors

_VERSION: Final = 1
#: Bytes of the question's digest in a cursor: against mistakes, not against an enemy.
_DIGEST_BYTES: Final = 8
_EVENT: Final = struct.Struct(">qq32s")
_CHAIN: Final = struct.Struct(">8sq32s")
_NUMBER: Final = struct.Struct(">q")


def _pack(digest: str, body: bytes) -> str:
    data = bytes([_VERSION]) + bytes.fromhex(digest)[:_DIGEST_BYTES] + body
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unpack(cursor: str, digest: str) -> bytes:
    """The body of a cursor of this very question. Raises `QueryProblem` `bad_cursor`."""
    try:
        data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError as e:
        raise bad_cursor("it is no cursor of ours") from e
    if not data or data[0] != _VERSION:
        raise bad_cursor("it is no cursor of ours, or of another version")
    if data[1 : 1 + _DIGEST_BYTES] != bytes.fromhex(digest)[:_DIGEST_BYTES]:
        raise bad_cursor("it belongs to another question")
    return data[1 + _DIGEST_BYTES :]


def bad_cursor(reason: str) -> QueryProblem:
    """The problem of a cursor that cannot be used."""
    return QueryProblem(
        "bad_cursor",
        reason,
        remedy="send the `nextCursor` of an answer with the very same `from`, `to` and filters as "
        "its `query` has them, or begin again without a cursor",
        field="cursor",
    )


def event_cursor(position: EventPosition, digest: str) -> str:
    """The cursor behind a row of a search."""
    body = _EVENT.pack(position.ms, position.sequence_number, position.event_hash)
    return _pack(digest, body + position.device_id.encode("ascii"))


def event_position(cursor: str, digest: str) -> EventPosition:
    """The inverse of `event_cursor`. Raises `QueryProblem` `bad_cursor`."""
    body = _unpack(cursor, digest)
    device = body[_EVENT.size :].decode("latin-1")
    if IDENTIFIER_PATTERN.fullmatch(device) is None:
        raise bad_cursor("it is cut off")
    ms, number, event_hash = _EVENT.unpack_from(body)
    return EventPosition(ms, device, number, event_hash)


def timeline_cursor(position: TimelinePosition, digest: str) -> str:
    """The cursor behind a row of a timeline."""
    chain = bytes.fromhex(position.chain_id)
    return _pack(digest, _CHAIN.pack(chain, position.sequence_number, position.event_hash))


def timeline_position(cursor: str, digest: str) -> TimelinePosition:
    """The inverse of `timeline_cursor`. Raises `QueryProblem` `bad_cursor`."""
    body = _unpack(cursor, digest)
    if len(body) != _CHAIN.size:
        raise bad_cursor("it is cut off")
    chain, number, event_hash = _CHAIN.unpack(body)
    return TimelinePosition(chain.hex(), number, event_hash)


def number_cursor(number: int, text: str, digest: str) -> str:
    """The cursor behind an entry of a list that is ordered by a number and a text."""
    return _pack(digest, _NUMBER.pack(number) + text.encode("ascii"))


def number_position(cursor: str, digest: str) -> tuple[int, str]:
    """The inverse of `number_cursor`. Raises `QueryProblem` `bad_cursor`."""
    body = _unpack(cursor, digest)
    if len(body) < _NUMBER.size or re.fullmatch(rb"[ -~]*", body[_NUMBER.size :]) is None:
        raise bad_cursor("it is cut off")
    return _NUMBER.unpack_from(body)[0], body[_NUMBER.size :].decode("ascii")
