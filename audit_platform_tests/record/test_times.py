"""Times as text: one spelling per instant, the real calendar, nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.event import format_time_ms, parse_time_ms

FIRST = -62_135_596_800_000
LAST = 253_402_300_799_999
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.integers(FIRST, LAST))
def test_a_time_is_written_as_the_calendar_has_it_and_read_back(ms: int) -> None:
    text = format_time_ms(ms)
    at = EPOCH + timedelta(milliseconds=ms)
    assert text == at.strftime(f"{at.year:04d}-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"
    assert parse_time_ms(text) == ms


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (FIRST, "0001-01-01T00:00:00.000Z"),
        (LAST, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_known_times(ms: int, text: str) -> None:
    assert format_time_ms(ms) == text
    assert parse_time_ms(text) == ms


@pytest.mark.parametrize("ms", [FIRST - 1, LAST + 1, 10**30])
def test_times_outside_the_years_of_the_format_are_not_written(ms: int) -> None:
    with pytest.raises(ValueError, match="outside the years"):
        format_time_ms(ms)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-03-01T12:00:00.123",
        "2024-03-01T12:00:00.123z",
        "2024-03-01t12:00:00.123Z",
        "2024-03-01T12:00:00,123Z",
        "2024-03-01T12:00:00.12Z",
        "2024-03-01T12:00:00.1234Z",
        "2024-3-01T12:00:00.1234Z",
        " 2024-03-01T12:00:00.123Z",
        "2024-03-01T12:00:00.123Z\n",
        "2024-02-30T12:00:00.123Z",
        "1900-02-29T12:00:00.123Z",
        "2024-00-01T12:00:00.123Z",
        "2024-13-01T12:00:00.123Z",
        "2024-03-01T24:00:00.000Z",
        "2024-03-01T12:60:00.000Z",
        "2016-12-31T23:59:60.000Z",
        "0000-03-01T12:00:00.123Z",
        "-024-03-01T12:00:00.123Z",
        "\u0662\u0660\u0662\u0664-03-01T12:00:00.123Z",
        "2024-03-01T12:00:00.\u0661\u0662\u0663Z",
    ],
)
def test_any_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not of the form|day|month|year"):
        parse_time_ms(text)


@given(
    st.text(max_size=30) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fullmatch=True)
)
def test_what_is_read_is_written_the_same_again(text: str) -> None:
    try:
        ms: int | None = parse_time_ms(text)
    except ValueError:
        ms = None
    assert ms is None or format_time_ms(ms) == text
