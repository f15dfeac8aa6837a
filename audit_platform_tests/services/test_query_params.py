"""Cursors come back as they went out, nothing else passes for one; windows keep their bounds."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from audit_platform.operations.query.model import TimelinePosition
from audit_platform.ports import EventPosition
from audit_platform.record.schemas import registry
from audit_platform.record.times import format_time_ms, parse_time_ms
from audit_platform.services.query_limits import MAX_LIMIT, MAX_TEXT, MAX_WINDOW_MS
from audit_platform.services.query_params import (
    ExportParams,
    ListParams,
    SearchParams,
    TimelineParams,
    WindowParams,
    event_cursor,
    event_position,
    number_cursor,
    number_position,
    said,
    timeline_cursor,
    timeline_position,
)
from audit_platform.services.query_problems import QueryProblem

DIGEST = "ab" * 32
INT64 = st.integers(-(2**63), 2**63 - 1)
HASH = st.binary(min_size=32, max_size=32)
DEVICE = st.from_regex(r"[A-Za-z0-9._:/-]{1,128}", fullmatch=True)
CHAIN = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
TIME = st.integers(
    parse_time_ms("0001-01-01T00:00:00.000Z"), parse_time_ms("9999-12-31T23:59:59.999Z")
)


@given(ms=INT64, device=DEVICE, number=INT64, event_hash=HASH)
def test_an_event_cursor_comes_back_and_fits_its_parameter(
    ms: int, device: str, number: int, event_hash: bytes
) -> None:
    position = EventPosition(ms, device, number, event_hash)
    cursor = event_cursor(position, DIGEST)
    assert SearchParams.model_validate({"cursor": cursor}).cursor == cursor
    assert event_position(cursor, DIGEST) == position


@given(chain=CHAIN, number=INT64, event_hash=HASH)
def test_a_timeline_cursor_comes_back_and_fits_its_parameter(
    chain: str, number: int, event_hash: bytes
) -> None:
    position = TimelinePosition(chain, number, event_hash)
    cursor = timeline_cursor(position, DIGEST)
    assert TimelineParams.model_validate({"cursor": cursor}).cursor == cursor
    assert timeline_position(cursor, DIGEST) == position


@given(number=INT64, text=st.text(st.characters(codec="ascii", categories=("L", "N"))))
def test_a_list_cursor_comes_back(number: int, text: str) -> None:
    assert number_position(number_cursor(number, text, DIGEST), DIGEST) == (number, text)


@given(data=st.binary(max_size=250), good=st.booleans())
def test_any_other_bytes_are_refused_or_are_a_position_and_never_a_fault(
    data: bytes,
    good: bool,  # noqa: FBT001 - drawn by Hypothesis
) -> None:
    body = bytes([1]) + bytes.fromhex(DIGEST)[:8] + data if good else data
    cursor = base64.urlsafe_b64encode(body).rstrip(b"=").decode()
    parsers: list[Callable[[str, str], object]] = [
        event_position,
        timeline_position,
        number_position,
    ]
    for parse in parsers:
        assert fault_of(parse, cursor) in {"", "bad_cursor"}


def fault_of(parse: Callable[[str, str], object], cursor: str) -> str:
    """The slug of the refusal, "" for none."""
    try:
        parse(cursor, DIGEST)
    except QueryProblem as e:
        return e.slug
    return ""


def params_of(**given: object) -> SearchParams | set[str]:
    """Parameters, or the names of those that are wrong."""
    try:
        return SearchParams.model_validate(given)
    except ValidationError as e:
        return {str(error["loc"][0]) for error in e.errors()}


@given(text=st.text(max_size=300))
def test_any_text_as_a_cursor_is_refused_as_one(text: str) -> None:
    found = params_of(cursor=text)
    if isinstance(found, SearchParams):
        assert found.cursor == text
        assert fault_of(event_position, text) == "bad_cursor"
    else:
        assert found == {"cursor"}


def test_a_cursor_of_another_question_or_version_is_refused() -> None:
    cursor = event_cursor(EventPosition(1, "d", 2, bytes(32)), DIGEST)
    with pytest.raises(QueryProblem, match="another question"):
        event_position(cursor, "cd" * 32)
    with pytest.raises(QueryProblem, match="another version"):
        event_position("B" + cursor, DIGEST)


@given(from_ms=TIME, to_ms=TIME, now_ms=TIME)
def test_a_window_is_as_it_was_given_or_refused(from_ms: int, to_ms: int, now_ms: int) -> None:
    params = WindowParams.model_validate(
        {"from": format_time_ms(from_ms), "to": format_time_ms(to_ms)}
    )
    if 0 < to_ms - from_ms <= MAX_WINDOW_MS:
        assert params.window(now_ms) == (from_ms, to_ms)
    else:
        with pytest.raises(QueryProblem) as refused:
            params.window(now_ms)
        assert refused.value.errors[0].field == "from"


@given(now_ms=TIME)
def test_the_default_window_ends_with_now(now_ms: int) -> None:
    if now_ms == parse_time_ms("0001-01-01T00:00:00.000Z"):
        return
    from_ms, to_ms = WindowParams.model_validate({}).window(now_ms)
    assert from_ms < now_ms < to_ms
    assert to_ms - from_ms <= 86_400_000


@given(text=st.text(max_size=MAX_TEXT), device=DEVICE, limit=st.integers(1, MAX_LIMIT))
def test_whatever_may_be_asked_can_be_put_on_record(text: str, device: str, limit: int) -> None:
    params = params_of(text=text, device=device, limit=limit)
    if not isinstance(params, SearchParams):
        assert params == {"text"}
        return
    kinds: list[type[WindowParams]] = [ListParams, ExportParams, TimelineParams]
    for asked in (params, *(kind.model_validate({}) for kind in kinds)):
        payload = {
            "requestId": "0" * 32,
            "keyId": "0" * 16,
            "keyTenant": "t",
            "role": "auditor",
            "tenant": "t",
            "route": "GET /v1",
            "query": said(asked, *asked.window(0)),
            "queryDigest": "0" * 64,
            "outcome": "answered",
        }
        registry().validate("record_read", 1, "record_read/1", payload)
