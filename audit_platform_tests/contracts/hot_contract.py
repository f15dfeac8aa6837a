"""What every `ports.Hot` keeps. Subclass it; give the fixtures `hot` and `opener`.

Not here: how an adapter keeps it, what damage does to it (`audit_platform_tests/adapters/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from multiprocessing.synchronize import Barrier

import numpy as np
import pytest

from audit_platform.errors import HotUnavailable, QueryCancelled
from audit_platform.ports import EventClock, EventPosition, EventQuery, Hot, HotIndex
from audit_platform.record.columns import EVENT_SCHEMA
from audit_platform.record.layout import MS_PER_DAY
from audit_platform_tests.contracts.log_contract import run_processes
from audit_platform_tests.hot_rows import DAY, DAY_MS, Event, batch

NEXT_DAY = "2026-03-02"
EACH = 20  # calls of one process
ALL = EventQuery("north", DAY_MS, DAY_MS + 2 * MS_PER_DAY)


def never() -> bool:
    """Nobody cancels."""
    return False


def events(count: int, first: int = 0) -> list[Event]:
    """Events of one device, a second apart."""
    return [
        Event(sequence_number=n, event_time=DAY_MS + n * 1000, ingestion_time=DAY_MS + n * 1000)
        for n in range(first, first + count)
    ]


def hashes_of(found: Iterable[Event]) -> list[bytes]:
    """Their hashes, ascending."""
    return sorted(e.event_hash for e in found)


def held(hot: Hot, generation: int = 1, day: str = DAY) -> list[bytes]:
    """Hashes of one index of `north`."""
    return [bytes(row) for row in hot.hashes("north", day, generation)]


def searched(hot: Hot, query: EventQuery = ALL) -> list[bytes]:
    """Hashes that a search finds, in its order."""
    found: list[bytes] = hot.search(query, is_cancelled=never)["event_hash"].to_pylist()
    return found


def create_shared_and_own(ready: Barrier, opener: Callable[[], Hot], who: str) -> None:
    """In a process of its own: index what both index, and what only this one does."""
    hot = opener()
    ready.wait()
    for n in range(EACH):
        shared = events(5, first=5 * n)
        own = [replace(e, device_id=who) for e in shared]
        hot.create("north", DAY, batch([*shared, *own]))
        assert set(hashes_of(own)) <= set(searched(hot, replace(ALL, limit=10_000)))


def rebuild_while_others_write(ready: Barrier, opener: Callable[[], Hot], who: str) -> None:
    """One process makes new generations, the other writes and reads all the while."""
    hot = opener()
    ready.wait()
    if who == "first":
        for n in range(EACH):
            hot.create("north", DAY, batch(events(5, first=5 * n)))
            searched(hot)
        return
    for _ in range(5):
        generation = hot.new_index("north", DAY)
        hot.move_write("north", DAY, generation)
        hot.fill("north", DAY, generation, batch(events(5 * EACH)))
        hot.move_read("north", DAY, generation)
        for index in hot.indexes("north"):
            if index.generation != generation:
                hot.delete_index("north", DAY, index.generation)


class HotContract:
    """The promises of the port, one test each."""

    def test_a_new_hot_is_empty(self, hot: Hot) -> None:
        assert hot.indexes() == []
        assert searched(hot) == []
        assert hot.hashes("north", DAY, 1).shape == (0, 32)

    def test_what_is_created_is_found_with_all_its_columns(self, hot: Hot) -> None:
        rows = batch(events(3))
        assert hot.create("north", DAY, rows) == 3
        found = hot.search(ALL, is_cancelled=never)
        assert found.schema == EVENT_SCHEMA
        assert found.to_pylist() == rows.to_pylist()

    def test_an_event_that_is_there_changes_nothing(self, hot: Hot) -> None:
        hot.create("north", DAY, batch(events(3)))
        later = [replace(e, ingestion_time=e.ingestion_time + 7) for e in events(5)]
        assert hot.create("north", DAY, batch(later)) == 2
        assert held(hot) == hashes_of(later)
        found = hot.search(ALL, is_cancelled=never).to_pylist()
        assert [int(r["ingestion_time"].timestamp() * 1000) % 1000 for r in found] == [
            0,
            0,
            0,
            7,
            7,
        ]

    def test_a_day_begins_with_one_index_that_is_read_and_written(self, hot: Hot) -> None:
        hot.create("north", DAY, batch(events(3)))
        assert hot.indexes() == [HotIndex("north", DAY, 1, 3, is_read=True, is_write=True)]

    def test_indexes_are_listed_by_tenant_day_and_generation(self, hot: Hot) -> None:
        hot.create("south", DAY, batch(events(1)))
        tomorrow = [replace(e, ingestion_time=e.ingestion_time + MS_PER_DAY) for e in events(2)]
        hot.create("north", NEXT_DAY, batch(tomorrow))
        hot.create("north", DAY, batch(events(1)))
        assert hot.new_index("north", DAY) == 2
        listed = [(i.tenant_id, i.day, i.generation, i.documents) for i in hot.indexes()]
        assert listed == [
            ("north", DAY, 1, 1),
            ("north", DAY, 2, 0),
            ("north", NEXT_DAY, 1, 2),
            ("south", DAY, 1, 1),
        ]
        assert {i.tenant_id for i in hot.indexes("north")} == {"north"}

    def test_no_rows_make_no_index(self, hot: Hot) -> None:
        assert hot.create("north", DAY, batch([])) == 0
        assert hot.indexes() == []

    def test_a_row_of_another_day_is_refused(self, hot: Hot) -> None:
        with pytest.raises(ValueError, match="ingestionTime"):
            hot.create("north", NEXT_DAY, batch(events(1)))
        assert searched(hot) == []

    def test_a_tenant_finds_nothing_of_another(self, hot: Hot) -> None:
        hot.create("north", DAY, batch(events(3)))
        assert searched(hot, replace(ALL, tenant_id="south")) == []
        assert searched(hot, replace(ALL, tenant_id="nort")) == []

    def test_the_window_holds_its_begin_and_not_its_end(self, hot: Hot) -> None:
        made = events(5)
        hot.create("north", DAY, batch(made))
        query = replace(ALL, from_ms=made[1].ingestion_time, to_ms=made[3].ingestion_time)
        assert searched(hot, query) == [made[1].event_hash, made[2].event_hash]

    def test_equal_times_are_ordered_by_device_sequence_and_hash(self, hot: Hot) -> None:
        ties = [
            Event(device_id=device, sequence_number=n, payload=f'{{"p":{p}}}')
            for device in ("pump-2", "pump-10", "PUMP-2")
            for n in (10, 9)
            for p in (1, 2)
        ]
        hot.create("north", DAY, batch(ties))
        for clock in EventClock:
            found = searched(hot, replace(ALL, clock=clock))
            assert found == [e.event_hash for e in sorted(ties, key=lambda e: e.position(clock))]

    def test_pages_follow_each_other_without_a_gap_or_a_double(self, hot: Hot) -> None:
        made = [replace(e, ingestion_time=DAY_MS + n // 7) for n, e in enumerate(events(30))]
        hot.create("north", DAY, batch(made))
        for clock in EventClock:
            pages: list[bytes] = []
            after: EventPosition | None = None
            while page := searched(hot, replace(ALL, clock=clock, after=after, limit=4)):
                pages += page
                last = next(e for e in made if e.event_hash == page[-1])
                after = last.position(clock)
            ordered = sorted(made, key=lambda e, clock=clock: e.position(clock))  # type: ignore[misc] # a lambda's default
            assert pages == [e.event_hash for e in ordered]

    def test_the_device_clock_finds_events_of_any_day(self, hot: Hot) -> None:
        astray = Event(event_time=-2_000_000_000_000, payload='{"note":"long ago"}')
        hot.create("north", DAY, batch([astray, *events(2)]))
        query = EventQuery("north", -(2**45), 0, clock=EventClock.EVENT)
        assert searched(hot, query) == [astray.event_hash]

    def test_words_are_found_in_any_case_and_only_whole(self, hot: Hot) -> None:
        alarm = Event(payload='{"note":"Überdruck im Schlauch","code":"E-42"}')
        hot.create("north", DAY, batch([alarm, *events(2)]))
        for text in (
            "überdruck",
            "SCHLAUCH im",
            "e 42",
            "E-42",
            "heartbeat ÜBERDRUCK",
            "pump-1 42",
        ):
            assert searched(hot, replace(ALL, text=text)) == [alarm.event_hash], text
        for text in ("druck", "uberdruck", "schlauc", "e-43", "schlauch nirgends"):
            assert searched(hot, replace(ALL, text=text)) == [], text

    def test_an_event_id_is_found_as_text(self, hot: Hot) -> None:
        made = events(5)
        hot.create("north", DAY, batch(made))
        assert searched(hot, replace(ALL, text=made[3].event_id)) == [made[3].event_hash]
        piece = made[3].event_id.split("-")[3]
        assert made[3].event_hash in searched(hot, replace(ALL, text=piece))

    def test_each_filter_counts(self, hot: Hot) -> None:
        made = [
            Event(sequence_number=1),
            Event(sequence_number=2, device_id="pump-2"),
            Event(sequence_number=3, hospital_id="h-2"),
            Event(sequence_number=4, event_type="alarm"),
            Event(sequence_number=5, criticality="high"),
        ]
        hot.create("north", DAY, batch(made))
        for number, wanted in enumerate(
            (
                {"device_id": "pump-2"},
                {"hospital_id": "h-2"},
                {"event_type": "alarm"},
                {"criticality": "high"},
            ),
            start=1,
        ):
            for clock in EventClock:
                query = replace(ALL, clock=clock, **wanted)  # type: ignore[arg-type] # all are text
                assert searched(hot, query) == [made[number].event_hash], wanted

    def test_a_copy_across_midnight_is_shown_once(self, hot: Hot) -> None:
        first = Event(ingestion_time=DAY_MS + MS_PER_DAY - 1)
        again = replace(first, ingestion_time=DAY_MS + MS_PER_DAY)
        hot.create("north", NEXT_DAY, batch([again]))
        hot.create("north", DAY, batch([first]))
        for clock in EventClock:
            assert searched(hot, replace(ALL, clock=clock)) == [first.event_hash]
        only_next = replace(ALL, from_ms=again.ingestion_time)
        assert searched(hot, only_next) == []

    def test_a_search_that_is_stopped_raises(self, hot: Hot) -> None:
        hot.create("north", DAY, batch(events(3)))
        with pytest.raises(QueryCancelled):
            hot.search(ALL, is_cancelled=lambda: True)
        assert len(searched(hot)) == 3

    def test_new_events_go_where_the_write_alias_points(self, hot: Hot) -> None:
        hot.create("north", DAY, batch(events(2)))
        assert hot.new_index("north", DAY) == 2
        assert hot.fill("north", DAY, 2, batch(events(1))) == 1
        hot.move_write("north", DAY, 2)
        hot.create("north", DAY, batch(events(2, first=5)))
        assert held(hot, 1) == hashes_of(events(2))
        assert held(hot, 2) == hashes_of([*events(1), *events(2, first=5)])
        assert searched(hot) == [e.event_hash for e in events(2)]

    def test_searches_read_where_the_read_alias_points(self, hot: Hot) -> None:
        hot.create("north", DAY, batch(events(2)))
        generation = hot.new_index("north", DAY)
        hot.fill("north", DAY, generation, batch(events(3, first=7)))
        hot.move_read("north", DAY, generation)
        assert searched(hot) == [e.event_hash for e in events(3, first=7)]
        flags = [(i.generation, i.is_read, i.is_write) for i in hot.indexes()]
        assert flags == [(1, False, True), (2, True, False)]

    def test_a_deleted_index_is_gone_and_its_number_is_not_used_again(self, hot: Hot) -> None:
        hot.create("north", DAY, batch(events(2)))
        hot.new_index("north", DAY)
        hot.move_write("north", DAY, 2)
        hot.move_read("north", DAY, 2)
        hot.delete_index("north", DAY, 1)
        hot.delete_index("north", DAY, 1)
        assert held(hot, 1) == []
        assert searched(hot) == []
        assert hot.new_index("north", DAY) == 3

    def test_an_alias_does_not_move_to_what_is_not_there(self, hot: Hot) -> None:
        hot.create("north", DAY, batch(events(2)))
        for move in (hot.move_read, hot.move_write):
            with pytest.raises(HotUnavailable):
                move("north", DAY, 7)
        with pytest.raises(HotUnavailable):
            hot.fill("north", DAY, 7, batch(events(1)))
        assert searched(hot) == [e.event_hash for e in events(2)]

    def test_removed_events_are_gone_and_can_come_again(self, hot: Hot) -> None:
        made = events(4)
        hot.create("north", DAY, batch(made))
        assert hot.remove("north", DAY, 1, [made[1].event_hash, bytes(32)]) == 1
        assert held(hot) == hashes_of([made[0], *made[2:]])
        assert hot.indexes()[0].documents == 3
        assert hot.create("north", DAY, batch(made)) == 1
        for clock in EventClock:
            found = searched(hot, replace(ALL, clock=clock))
            assert found == [e.event_hash for e in made]

    def test_hashes_are_ascending_bytes(self, hot: Hot) -> None:
        hot.create("north", DAY, batch(events(50)))
        found = hot.hashes("north", DAY, 1)
        assert found.dtype == np.uint8
        assert [bytes(row) for row in found] == hashes_of(events(50))

    def test_two_processes_index_the_same_events_once(
        self, hot: Hot, opener: Callable[[], Hot]
    ) -> None:
        run_processes([(create_shared_and_own, (opener, who)) for who in ("first", "second")])
        made = events(5 * EACH)
        own = [replace(e, device_id=who) for who in ("first", "second") for e in made]
        assert held(hot) == hashes_of([*made, *own])
        assert hot.indexes()[0].documents == len(made) + len(own)

    def test_a_process_writes_and_reads_while_another_makes_new_generations(
        self, hot: Hot, opener: Callable[[], Hot]
    ) -> None:
        hot.create("north", DAY, batch(events(1)))
        run_processes([(rebuild_while_others_write, (opener, who)) for who in ("first", "second")])
        (index,) = hot.indexes()
        assert index.is_read
        assert index.is_write
        assert held(hot, index.generation) == hashes_of(events(5 * EACH))
