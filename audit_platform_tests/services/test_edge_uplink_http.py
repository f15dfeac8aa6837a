"""What comes back over the uplink is believed only when all of it adds up."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform.services import edge_uplink_http
from audit_platform.services.edge_uplink_http import (
    MAX_RETRY_AFTER_SECONDS,
    LogPlace,
    Receipt,
    UplinkSender,
    _Malformed,
    _states,
    parse_receipt,
    retry_after,
)
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.services.uplink_world import Request, Scripted, http

BATCH = "ab" * 32
NOW_MS = 1_772_323_200_000

GOOD: dict[str, Any] = {
    "batchId": BATCH,
    "accepted": 3,
    "refused": [{"line": 2, "slug": "bad_json", "field": "", "reason": "r", "remedy": "m",
                 "entryId": "e", "eventHash": None}],
    "records": [
        {"topic": EVENTS_TOPIC, "partition": 0, "offset": 5, "digest": "01" * 8, "count": 2},
        {"topic": EVENTS_TOPIC, "partition": 1, "offset": 7, "digest": "ff" * 8, "count": 1},
        {"topic": DLQ_TOPIC, "partition": 0, "offset": 5, "digest": "00" * 8, "count": 1},
    ],
}  # fmt: skip


def test_a_receipt_is_read() -> None:
    receipt = parse_receipt(orjson.dumps(GOOD), BATCH, 4)
    assert receipt == Receipt(
        BATCH,
        3,
        {1: "bad_json"},
        (
            LogPlace(EVENTS_TOPIC, 0, 5, "01" * 8),
            LogPlace(EVENTS_TOPIC, 1, 7, "ff" * 8),
            LogPlace(DLQ_TOPIC, 0, 5, "00" * 8),
        ),
    )


odd: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, -1, 0, 1, 2, 4, 1 << 70, 1.0, "", "x", [], {}, BATCH]
)
places = st.sampled_from(
    [("batchId",), ("accepted",), ("refused",), ("records",), ("refused", 0), ("records", 0)]
    + [("refused", 0, name) for name in ("line", "slug")]
    + [("records", n, name) for n in (0, 2)
       for name in ("topic", "partition", "offset", "digest", "count")]
)  # fmt: skip


@given(places, odd)
def test_a_receipt_with_anything_wrong_in_it_is_none(place: tuple[Any, ...], value: Any) -> None:
    changed: Any = copy.deepcopy(GOOD)
    *way, last = place
    inner = changed
    for step in way:
        inner = inner[step]
    before = inner[last]
    inner[last] = value
    same_kind = type(value) is type(before)
    is_harmless = last in {"slug", "partition", "offset"} and same_kind and (
        isinstance(value, str) or 0 <= value < 4096)  # fmt: skip
    is_same = same_kind and value == before
    is_another_line = last == "line" and same_kind and 1 <= value <= 4
    if is_harmless or is_same or is_another_line:
        assert parse_receipt(orjson.dumps(changed), BATCH, 4).accepted == 3
        return
    data = orjson.dumps(changed) if value != 1 << 70 else b'{"batchId":' + b"9" * 30 + b"}"
    with pytest.raises(_Malformed):
        parse_receipt(data, BATCH, 4)


@given(st.binary(max_size=60) | st.sampled_from([b"[]", b"null", b"1", b'"x"', b"{}"]))
def test_no_bytes_but_a_receipts_are_a_receipt(data: bytes) -> None:
    with pytest.raises(_Malformed):
        parse_receipt(data, BATCH, 4)
    with pytest.raises(_Malformed):
        _states(data, 4)


def test_two_records_at_one_offset_or_sums_that_do_not_fit_are_no_receipt() -> None:
    for change in (
        {"records": [GOOD["records"][0] | {"count": 3}, GOOD["records"][2]], "accepted": 2},
        {"records": [*GOOD["records"][:2], GOOD["records"][0] | {"count": 0}, GOOD["records"][2]]},
        {"refused": GOOD["refused"] * 2, "accepted": 2},
    ):
        with pytest.raises(_Malformed):
            parse_receipt(orjson.dumps(GOOD | change), BATCH, 4)


@pytest.mark.parametrize("states", [["archived"], ["archived", "gone"], [1, 2], "archived", None])
def test_an_answer_about_the_archive_must_answer_each_record(states: Any) -> None:
    with pytest.raises(_Malformed):
        _states(orjson.dumps({"states": states}), 2)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, 0),
        ("3", 3),
        ("0", 0),
        ("-5", 0),
        ("99999999999999999999", MAX_RETRY_AFTER_SECONDS),
        ("Sun, 01 Mar 2026 00:01:00 GMT", 60),
        ("Sunday, 01-Mar-26 00:01:00 GMT", 60),
        ("Sun, 01 Mar 2026 00:01:00 -0000", 60),
        ("Sat, 28 Feb 2026 00:00:00 GMT", 0),
        ("Sun, 01 Mar 2099 00:00:00 GMT", MAX_RETRY_AFTER_SECONDS),
        ("\u0663", 0),
        ("soon", 0),
        ("Sun, 99 Foo 2026 99:99:99 GMT", 0),
        ("", 0),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_bounded(said: str | None, seconds: float) -> None:
    assert retry_after(said, NOW_MS) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_gives_a_bounded_pause(said: str) -> None:
    assert 0 <= retry_after(said, NOW_MS) <= MAX_RETRY_AFTER_SECONDS


def test_the_clock_offset_is_the_median_of_the_last_dates() -> None:
    clock = ManualClock(START_MS)
    dates = iter(
        ["Sun, 01 Mar 2026 00:00:10 GMT"] * 4
        + ["Thu, 01 Jan 1970 00:00:00 GMT", "nonsense"]
        + ["Sun, 01 Mar 2026 00:01:00 GMT"] * 8
    )

    def script(_: Request) -> bytes:
        return http(503, date=next(dates))

    server = Scripted(script)
    with server.serving() as url:
        sender = UplinkSender(url, lambda: "s", clock)
        assert sender.clock_offset_ms() is None
        for _ in range(6):
            sender.send(b"x\n", 1)
        assert sender.clock_offset_ms() == 10_500
        for _ in range(8):
            sender.send(b"x\n", 1)
        assert sender.clock_offset_ms() == 60_500
        sender.close()


def test_an_answer_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_uplink_http, "ANSWER_SECONDS", -1.0)
    server = Scripted(lambda _: http(202, b"{}"))
    with server.serving() as url:
        sender = UplinkSender(url, lambda: "s", ManualClock())
        found = sender.send(b"x\n", 1)
        assert isinstance(found, edge_uplink_http.Failure)
        assert "2 bytes and more" in found.reason
        sender.close()


def test_a_secret_that_cannot_be_read_now_is_a_failure_and_no_end() -> None:
    def secret() -> str:
        raise FileNotFoundError("no such file: secret")

    sender = UplinkSender("http://127.0.0.1:1", secret, ManualClock())
    found = sender.send(b"x\n", 1)
    assert isinstance(found, edge_uplink_http.Failure)
    assert "FileNotFoundError" in found.reason
    sender.close()
