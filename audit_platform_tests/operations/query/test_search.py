"""Searches against a naive model that reads the log line by line; HOT and COLD give the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_platform.errors import QueryCancelled
from audit_platform.operations.late import close_again
from audit_platform.operations.query.event import event_by_id
from audit_platform.operations.query.model import ANSWER_SCHEMA, Standing, Tier
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.search import MAX_LIMIT, search
from audit_platform.ports import EventClock, EventQuery
from audit_platform.record import layout
from audit_platform_tests.operations.query.conftest import Asked
from audit_platform_tests.operations.query.story import (
    CENTURY_MS,
    DAYS,
    TENANT,
    at,
    expected,
    sealed_times,
    tell,
)
from audit_platform_tests.world import open_world

EVERYTHING = EventQuery(TENANT, at(0, 0), at(2, 23), limit=1000)
EVER = EventQuery(TENANT, CENTURY_MS, at(2, 23), clock=EventClock.EVENT, limit=1000)


def hashes(rows: pa.Table) -> list[bytes]:
    found: list[bytes] = rows["event_hash"].to_pylist()
    return found


def times() -> st.SearchStrategy[int]:
    return st.one_of(
        st.integers(at(0, 0), at(2, 23)),
        st.sampled_from([at(0, 8, 1), at(0, 23, 59), at(1, 0), at(1, 0, 5), at(2, 0), CENTURY_MS]),
    )


@st.composite
def queries(draw: st.DrawFn) -> EventQuery:
    low, high = sorted((draw(times()), draw(times())))
    return EventQuery(
        TENANT,
        low,
        high + draw(st.integers(0, 1)),
        clock=draw(st.sampled_from(EventClock)),
        device_id=draw(st.none() | st.sampled_from(["pump-000", "pump-001", "edge-0", "none"])),
        event_type=draw(st.none() | st.sampled_from(["heartbeat", "alarm_raised", "chain_start"])),
        criticality=draw(st.none() | st.sampled_from(["normal", "critical"])),
        text=draw(
            st.none() | st.sampled_from(["GRÖSSE", "größe 5", "straße", "pump", "heartbeat"])
        ),
        limit=draw(st.sampled_from([1, 2, 7, 1000])),
    )


@pytest.mark.parametrize("tier", [Tier.HOT, Tier.COLD])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=queries())
def test_a_search_gives_what_a_naive_reading_of_the_log_gives(
    asked: Asked, tier: Tier, query: EventQuery
) -> None:
    found = search(asked.reader, query, tier=tier)
    assert hashes(found.rows) == expected(asked.story.world, query)
    assert found.tier is tier


@pytest.mark.parametrize("everything", [EVERYTHING, EVER], ids=["ingestion", "event"])
@pytest.mark.parametrize("tier", [Tier.HOT, Tier.COLD])
@pytest.mark.parametrize("size", [1, 3, 10])
def test_pages_of_any_size_are_one_big_page(
    asked: Asked, tier: Tier, size: int, everything: EventQuery
) -> None:
    whole = hashes(search(asked.reader, everything, tier=tier).rows)
    assert len(whole) > 40
    paged: list[bytes] = []
    query: EventQuery | None = replace(everything, limit=size)
    while query is not None:
        page = search(asked.reader, query, tier=tier)
        assert page.rows.num_rows <= size
        paged += hashes(page.rows)
        query = replace(query, after=page.next) if page.next else None
    assert paged == whole


def test_rows_are_whole_events_with_their_standing(asked: Asked) -> None:
    cold = search(asked.reader, EVERYTHING, tier=Tier.COLD).rows
    hot = search(asked.reader, EVERYTHING, tier=Tier.HOT).rows
    assert cold.schema == ANSWER_SCHEMA
    assert cold.drop_columns(["standing"]).equals(hot.drop_columns(["standing"]))
    sealed = sealed_times(asked.story.world)
    wanted = [
        str(Standing.SEALED if h in sealed else Standing.NOT_YET_SEALED) for h in hashes(cold)
    ]
    assert cold["standing"].to_pylist() == wanted
    assert hot["standing"].to_pylist() == wanted


def test_the_chosen_tier_never_gives_less(asked: Asked) -> None:
    found = search(asked.reader, EVERYTHING)
    assert hashes(found.rows) == expected(asked.story.world, EVERYTHING)


def test_a_cancelled_search_stops(asked: Asked) -> None:
    for tier in (Tier.HOT, Tier.COLD):
        with pytest.raises(QueryCancelled):
            search(asked.reader, EVERYTHING, tier=tier, is_cancelled=lambda: True)


@pytest.mark.parametrize("limit", [0, MAX_LIMIT + 1])
def test_a_limit_out_of_bounds_is_refused(asked: Asked, limit: int) -> None:
    with pytest.raises(ValueError, match="wanted 1 to"):
        search(asked.reader, replace(EVERYTHING, limit=limit))


def test_copies_on_a_page_never_let_it_jump_over_an_event(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        world.clock.ms = at(0, 8)
        edge = world.edge(TENANT)
        names = [f"pump-{n:03}" for n in range(20)]
        one = next(d for d in names if layout.partition_of(TENANT, d, 2) == 0)
        other = next(d for d in names if layout.partition_of(TENANT, d, 2) == 1)
        edge.start(at(0, 7))
        said = [edge.event(one, "heartbeat", {"n": n}, at(0, 8, n)) for n in range(3)]
        later = edge.event(other, "heartbeat", {"n": 9}, at(0, 8, 9))
        # The first event three times in one row group, its copies at one position.
        world.ingest(TENANT, [*[said[0]] * 3, *said[1:], later])
        world.archive()
        for clock in EventClock:
            query = EventQuery(TENANT, at(0, 8), at(0, 9), clock=clock, limit=2)
            reader = Reader(world.platform)
            first = search(reader, query, tier=Tier.COLD)
            assert hashes(first.rows) == expected(world, query)
            assert first.next is not None
            rest = replace(query, after=first.next)
            assert hashes(search(reader, rest, tier=Tier.COLD).rows) == expected(world, rest)


def test_a_revision_seals_what_came_late_and_nothing_is_shown_twice(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        story = tell(world, 1)
        (late,) = story.lines["straggler"]
        reader = Reader(world.platform)
        query = replace(EVERYTHING, device_id="pump-000")
        before = search(reader, query, tier=Tier.COLD).rows
        close_again(world.platform, DAYS[0])
        assert world.seal(TENANT, DAYS[0]).revision == 2
        # The same reader: what it remembers is not out of date.
        after = search(reader, query, tier=Tier.COLD)
        assert hashes(after.rows) == hashes(before) == expected(world, query)
        standing = dict(zip(hashes(after.rows), after.rows["standing"].to_pylist(), strict=True))
        assert standing[hashlib.sha256(late).digest()] == Standing.SEALED
        assert after.completeness.days[0].manifest == 2
        found = event_by_id(reader, TENANT, hashlib.sha256(late).hexdigest())
        assert found.copies[0].proof is not None
        assert found.copies[0].proof.manifest_number == 2
