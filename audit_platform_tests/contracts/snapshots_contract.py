"""What every `ports.HotSnapshots` keeps, and the notes and the smallest form of an index with it.

Subclass it; give the fixtures `hot` and `snapshots` (of that `hot`), and `lose`, which takes all of
HOT away but not its snapshots.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from audit_platform.errors import HotUnavailable
from audit_platform.ports import EventClock, EventQuery, Hot, HotSnapshots, IndexName
from audit_platform.record.layout import MS_PER_DAY
from audit_platform_tests.contracts.hot_contract import NEXT_DAY, events, hashes_of, searched
from audit_platform_tests.hot_rows import DAY, DAY_MS, Event, batch

FIRST = IndexName("north", DAY, 1)
NEXT = IndexName("north", NEXT_DAY, 1)
BY_EVENT_TIME = EventQuery("north", DAY_MS, DAY_MS + MS_PER_DAY, EventClock.EVENT)


def held(hot: Hot, index: IndexName) -> list[bytes]:
    """Hashes of an index."""
    return [bytes(row) for row in hot.hashes(*index)]


def flags(hot: Hot) -> list[tuple[str, int, int, bool, bool]]:
    """Day, generation, documents, read, written of each index."""
    return [(i.day, i.generation, i.documents, i.is_read, i.is_write) for i in hot.indexes("north")]


class SnapshotsContract:
    """Run against every adapter."""

    def test_a_snapshot_comes_back_beside_the_day_and_is_neither_read_nor_written(
        self, hot: Hot, snapshots: HotSnapshots
    ) -> None:
        hot.create("north", DAY, batch(events(20)))
        taken = snapshots.take("first", [FIRST])
        assert taken.complete
        assert taken.indexes == (FIRST,)
        assert snapshots.snapshots() == [taken]
        hot.remove("north", DAY, 1, [events(1)[0].event_hash])
        assert snapshots.restore("first", FIRST) == 2
        assert held(hot, IndexName("north", DAY, 2)) == hashes_of(events(20))
        assert flags(hot) == [(DAY, 1, 19, True, True), (DAY, 2, 20, False, False)]
        hot.move_read("north", DAY, 2)
        assert sorted(searched(hot)) == hashes_of(events(20))
        assert hot.fill("north", DAY, 2, batch(events(3, first=19))) == 2

    def test_each_snapshot_has_its_own_moment_also_where_nothing_changed_between(
        self, hot: Hot, snapshots: HotSnapshots
    ) -> None:
        later = [Event(ingestion_time=DAY_MS + MS_PER_DAY)]
        hot.create("north", DAY, batch(events(2)))
        hot.create("north", NEXT_DAY, batch(later))
        for count, name in ((2, "s-1"), (2, "s-2"), (5, "s-3")):
            hot.create("north", DAY, batch(events(count)))
            snapshots.take(name, [NEXT, FIRST])
        assert [(s.name, s.indexes) for s in snapshots.snapshots()] == [
            ("s-1", (FIRST, NEXT)),
            ("s-2", (FIRST, NEXT)),
            ("s-3", (FIRST, NEXT)),
        ]
        snapshots.delete("s-1")
        for name, count in (("s-2", 2), ("s-3", 5)):
            number = snapshots.restore(name, FIRST)
            assert held(hot, IndexName("north", DAY, number)) == hashes_of(events(count))
            number = snapshots.restore(name, NEXT)
            assert held(hot, IndexName("north", NEXT_DAY, number)) == hashes_of(later)

    def test_all_of_hot_lost_comes_back_from_its_snapshots_and_is_searched_by_both_clocks(
        self, hot: Hot, snapshots: HotSnapshots, lose: Callable[[], None]
    ) -> None:
        hot.create("north", DAY, batch(events(5)))
        snapshots.take("first", [FIRST])
        lose()
        assert hot.indexes("north") == []
        number = snapshots.restore("first", FIRST)
        hot.move_write("north", DAY, number)
        hot.move_read("north", DAY, number)
        assert sorted(searched(hot)) == hashes_of(events(5))
        assert sorted(searched(hot, BY_EVENT_TIME)) == hashes_of(events(5))

    def test_a_deleted_snapshot_is_gone_and_deleting_it_again_does_no_harm(
        self, hot: Hot, snapshots: HotSnapshots
    ) -> None:
        hot.create("north", DAY, batch(events(1)))
        snapshots.take("first", [FIRST])
        snapshots.delete("first")
        snapshots.delete("first")
        assert snapshots.snapshots() == []
        with pytest.raises(HotUnavailable):
            snapshots.restore("first", FIRST)

    def test_an_index_that_is_not_there_cannot_be_taken_or_restored(
        self, hot: Hot, snapshots: HotSnapshots
    ) -> None:
        hot.create("north", DAY, batch(events(1)))
        with pytest.raises(HotUnavailable):
            snapshots.take("none", [FIRST, NEXT])
        assert [s for s in snapshots.snapshots() if s.complete] == []
        snapshots.take("first", [FIRST])
        with pytest.raises(HotUnavailable):
            snapshots.restore("first", NEXT)
        assert [f[0] for f in flags(hot) if f[3]] == [DAY]

    def test_notes_stay_with_an_index_and_go_with_it(
        self, hot: Hot, snapshots: HotSnapshots
    ) -> None:
        hot.create("north", DAY, batch(events(2)))
        assert hot.notes(*FIRST) == hot.notes(*NEXT) == {}
        hot.note(*FIRST, {"state": "warm", "part-1": "2 rows"})
        hot.note(*FIRST, {"state": "", "error": "é, or so"})
        assert hot.notes(*FIRST) == {"part-1": "2 rows", "error": "é, or so"}
        assert hot.create("north", DAY, batch(events(3))) == 1
        snapshots.take("first", [FIRST])
        number = snapshots.restore("first", FIRST)
        assert hot.notes("north", DAY, number) == {"part-1": "2 rows", "error": "é, or so"}
        hot.delete_index(*FIRST)
        assert hot.notes(*FIRST) == {}
        with pytest.raises(HotUnavailable):
            hot.note(*FIRST, {"state": "warm"})

    def test_the_smallest_form_of_an_index_holds_and_takes_what_it_did(self, hot: Hot) -> None:
        for n in range(4):
            hot.create("north", DAY, batch(events(5, first=5 * n)))
        hot.remove("north", DAY, 1, [events(1)[0].event_hash])
        for _ in range(2):
            hot.compact(*FIRST)
            assert held(hot, FIRST) == hashes_of(events(19, first=1))
        assert hot.create("north", DAY, batch(events(20))) == 1
        assert sorted(searched(hot)) == hashes_of(events(20))
        text = EventQuery("north", DAY_MS, DAY_MS + MS_PER_DAY, text="fine")
        assert sorted(searched(hot, text)) == hashes_of(events(20))
