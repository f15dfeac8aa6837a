"""Columns of hashes, eventIds and times are what one event by itself has."""

from __future__ import annotations

import hashlib
from datetime import date

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.derived import (
    event_id_rows,
    hex_rows,
    sha256_rows,
    texts_of,
    times_ms,
)
from audit_platform.record.event import derive_event_id
from audit_platform.record.times import format_time_ms, parse_time_ms

good_times = st.integers(-62_135_596_800_000, 253_402_300_799_999).map(format_time_ms)
near_times = good_times.flatmap(
    lambda text: st.tuples(st.integers(0, 23), st.sampled_from("0123456789:.-TZ \n/x")).map(
        lambda edit: text[: edit[0]] + edit[1] + text[edit[0] + 1 :]
    )
)


def ms_or_none(text: str) -> int | None:
    try:
        return parse_time_ms(text)
    except ValueError:
        return None


@given(st.lists(good_times | near_times, min_size=1, max_size=8))
def test_times_by_the_block_are_times_one_by_one(given_times: list[str]) -> None:
    ms, good = times_ms([text.encode("ascii") for text in given_times])
    found = [at if ok else None for at, ok in zip(ms.tolist(), good.tolist(), strict=True)]
    assert found == [ms_or_none(text) for text in given_times]


@given(st.dates(), st.lists(st.integers(0, 86_399_999), min_size=1, max_size=8))
def test_times_of_one_day_by_the_block_are_times_one_by_one(day: date, in_day: list[int]) -> None:
    start = parse_time_ms(f"{day.isoformat()}T00:00:00.000Z")
    ms, good = times_ms([format_time_ms(start + at).encode("ascii") for at in in_day])
    assert good.all()
    assert ms.tolist() == [start + at for at in in_day]


def test_a_day_or_an_hour_that_there_is_not_is_no_time() -> None:
    texts = [b"2026-02-30T00:00:00.000Z", b"2026-03-01T24:00:00.000Z", b"2026-03-01T29:00:00.000Z"]
    for text in texts:
        assert times_ms([text, text])[1].tolist() == [False, False]
    assert times_ms(texts)[1].tolist() == [False] * 3


def test_a_time_with_any_one_character_changed_is_a_time_or_none_as_by_itself() -> None:
    good = "2024-02-29T23:59:59.999Z"
    changed = [good[:at] + c + good[at + 1 :] for at in range(24) for c in "0359:.-TZ z/"]
    ms, is_time = times_ms([text.encode("ascii") for text in changed])
    found = [at if ok else None for at, ok in zip(ms.tolist(), is_time.tolist(), strict=True)]
    assert found == [ms_or_none(text) for text in changed]
    assert None in found


def test_bytes_that_are_no_text_are_no_time() -> None:
    _, good = times_ms([b"\xff" * 24, b"2026-03-01T00:00:00.000Z"])
    assert good.tolist() == [False, True]


@given(st.lists(st.tuples(good_times, st.binary(max_size=20)), min_size=1, max_size=5))
def test_ids_and_checksums_by_the_block_are_those_of_one_event(
    given_events: list[tuple[str, bytes]],
) -> None:
    checksums = texts_of(hex_rows(sha256_rows([payload for _, payload in given_events])))
    assert [c.decode() for c in checksums] == [
        hashlib.sha256(payload).hexdigest() for _, payload in given_events
    ]
    said = [
        f"north\npump\n{time}\n7\n{checksum.decode()}".encode()
        for (time, _), checksum in zip(given_events, checksums, strict=True)
    ]
    ms = np.array([parse_time_ms(time) for time, _ in given_events])
    ids = texts_of(event_id_rows(ms, sha256_rows(said)))
    assert [i.decode() for i in ids] == [
        derive_event_id("north", "pump", time, 7, checksum.decode())
        for (time, _), checksum in zip(given_events, checksums, strict=True)
    ]
