"""The embedded HOT against the naive model: any rows, any query, the same hashes in order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from audit_platform.adapters.embedded import hot_index
from audit_platform.adapters.embedded.hot import EmbeddedHot
from audit_platform.ports import EventClock, EventPosition, EventQuery
from audit_platform.record.layout import MS_PER_DAY
from audit_platform_tests.hot_rows import DAY_MS, Event, batch, found_by

TENANT = "north"

#: Few different values, so that ties, copies and near misses are the rule.
times = st.one_of(
    st.integers(0, 12).map(lambda n: DAY_MS + n),
    st.integers(0, 3).map(lambda n: DAY_MS + n * MS_PER_DAY - 1),
    st.sampled_from([-(2**41), -1, 0, DAY_MS + 400 * MS_PER_DAY, 2**47]),
)
arrivals = st.builds(
    lambda day, ms: DAY_MS + day * MS_PER_DAY + ms,
    st.integers(0, 6),
    st.sampled_from([0, 1, 2, 500, MS_PER_DAY - 1]),
)
said = st.sampled_from(
    [
        "alarm",
        "Alarm high",
        "ALARM-high",
        "alarming",
        "Über druck",
        "u\u0308ber",
        "2026",
        "dead beef",
        "1e5",
        "\u212aelvin kelvin",
        "straße",
        "",
        "日本 語",
        "x\u2019y",
        "İstanbul",
    ]
)
events = st.builds(
    Event,
    device_id=st.sampled_from(["pump-1", "pump-10", "PUMP-1", "m:1/a"]),
    sequence_number=st.sampled_from([0, 1, 9, 10, 2**53 - 1]),
    event_time=times,
    ingestion_time=arrivals,
    hospital_id=st.sampled_from(["h-1", "h-2"]),
    event_type=st.sampled_from(["alarm", "heartbeat", "alarm.high"]),
    criticality=st.sampled_from(["normal", "high"]),
    payload=said.map(lambda text: f'{{"note":"{text}"}}'),
)
#: Rows, most of them in several copies that arrived at other times.
histories = st.lists(
    st.builds(
        lambda event, times: [replace(event, ingestion_time=t) for t in times],
        events,
        st.lists(arrivals, min_size=1, max_size=3),
    ),
    max_size=25,
).map(lambda copies: [event for some in copies for event in some])


def maybe(values: list[str]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(values)


@st.composite
def queries(draw: st.DrawFn, known: list[Event]) -> EventQuery:
    """A query; its cursor is mostly the position of an event that is there."""
    clock = draw(st.sampled_from(tuple(EventClock)))
    edges = st.one_of(times, arrivals, st.sampled_from([-(2**62), 2**62]))
    after = None
    has_cursor = draw(st.booleans())
    if known and has_cursor:
        after = draw(st.sampled_from(known)).position(clock)
    ids = [e.event_id for e in known[:3]]
    pieces = [piece for one in ids for piece in one.split("-")]
    texts = [
        "alarm",
        "high alarm",
        "ÜBER",
        "kelvin",
        "pump-1",
        "e",
        "dead",
        "!?",
        "語",
        *ids,
        *pieces,
    ]
    return EventQuery(
        TENANT,
        draw(edges),
        draw(edges),
        clock=clock,
        device_id=draw(maybe(["pump-1", "pump-10", "nobody"])),
        hospital_id=draw(maybe(["h-1", "h-3"])),
        event_type=draw(maybe(["alarm", "alarm.high"])),
        criticality=draw(maybe(["high"])),
        text=draw(st.none() | st.sampled_from(texts) | said),
        after=after,
        limit=draw(st.sampled_from([1, 2, 5, 100])),
    )


def fill(hot: EmbeddedHot, history: list[Event], calls: int) -> list[Event]:
    """Create all events, some in each call; those that count (the first copy of each day)."""
    kept: dict[tuple[str, bytes], Event] = {}
    for n in range(calls):
        by_day: dict[str, list[Event]] = defaultdict(list)
        for event in history[n::calls]:
            by_day[event.day].append(event)
        for day, some in by_day.items():
            hot.create(TENANT, day, batch(some))
            # Rows of a call are put in order of their ingestionTime; of two copies one is kept.
            for event in sorted(some, key=lambda e: e.ingestion_time):
                kept.setdefault((day, event.event_hash), event)
    return list(kept.values())


@given(history=histories, calls=st.integers(1, 4), data=st.data())
@settings(max_examples=25)
def test_a_search_finds_what_the_naive_model_finds(
    history: list[Event], calls: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot_index, "BLOCK_ROWS", 4)
        hot = EmbeddedHot(Path(folder))
        try:
            known = fill(hot, history, calls)
            for _ in range(6):
                query = data.draw(queries(known))
                found = hot.search(query, is_cancelled=lambda: False)
                note(str(query))
                assert found["event_hash"].to_pylist() == found_by(known, query)
        finally:
            hot.close()


def _position(page: pa.Table, clock: EventClock) -> EventPosition:
    """Where the last row of a page stands."""
    last = page.slice(page.num_rows - 1)
    time = "event_time" if clock is EventClock.EVENT else "ingestion_time"
    (row,) = last.to_pylist()
    ms = last[time].cast(pa.int64())[0].as_py()
    return EventPosition(ms, row["device_id"], row["sequence_number"], row["event_hash"])


@given(history=histories, limit=st.integers(1, 4), clock=st.sampled_from(EventClock))
@settings(max_examples=8)
def test_cursors_lead_over_all_events_each_once(
    history: list[Event], limit: int, clock: EventClock
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot_index, "BLOCK_ROWS", 4)
        hot = EmbeddedHot(Path(folder))
        try:
            known = fill(hot, history, 2)
            query = EventQuery(TENANT, -(2**62), 2**62, clock=clock, limit=limit)
            whole = found_by(known, replace(query, limit=10_000))
            pages: list[bytes] = []
            while (page := hot.search(query, is_cancelled=lambda: False)).num_rows:
                pages += page["event_hash"].to_pylist()
                assert len(pages) <= len(whole)
                query = replace(query, after=_position(page, clock))
            assert pages == whole
        finally:
            hot.close()
