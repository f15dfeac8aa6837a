"""The embedded HOT: damage, full disks, deleted folders, many days, searches that run away."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.embedded import hot_index, hot_pool
from audit_platform.adapters.embedded.hot import EmbeddedHot
from audit_platform.errors import HotUnavailable, QueryCancelled
from audit_platform.ports import EventClock, EventQuery
from audit_platform.record.layout import MS_PER_DAY, next_day
from audit_platform.record.words import searched_text, words
from audit_platform_tests.hot_rows import DAY, DAY_MS, Event, batch

ALL = EventQuery("north", DAY_MS, DAY_MS + 365 * MS_PER_DAY)
FILE = "hot.north.20260301.g1.db"


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[EmbeddedHot]:
    """No index yet."""
    opened = EmbeddedHot(tmp_path)
    yield opened
    opened.close()


def on(day: int, count: int = 3) -> list[Event]:
    """Events that arrived on a day counted from the first."""
    start = DAY_MS + day * MS_PER_DAY
    return [
        Event(sequence_number=n, event_time=start + n, ingestion_time=start + n)
        for n in range(count)
    ]


def created(hot: EmbeddedHot, *days: int, count: int = 3) -> None:
    for day in days:
        hot.create("north", next_day(DAY, day), batch(on(day, count)))


def found(hot: EmbeddedHot, query: EventQuery = ALL) -> int:
    return int(hot.search(query, is_cancelled=lambda: False).num_rows)


def without_connections(hot: EmbeddedHot) -> None:
    """Close all files, so that what is in write-ahead logs is in the database files."""
    hot.close()


def garbage(path: Path) -> None:
    """Every page but the first is overwritten."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def zeros(path: Path) -> None:
    """The head of the file is gone."""
    with path.open("r+b") as file:
        file.write(bytes(4096))


def cut(path: Path) -> None:
    """Only the first half of the file is left."""
    os.truncate(path, path.stat().st_size // 2)


def not_a_number(path: Path) -> None:
    """A value has another type than was written."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("UPDATE event SET sequence_number = 'seven'")
    connection.close()


@pytest.mark.parametrize("damage", [garbage, zeros, cut, not_a_number])
def test_a_damaged_index_is_named_and_the_others_serve(
    damage: Callable[[Path], None], hot: EmbeddedHot, tmp_path: Path
) -> None:
    created(hot, 0, 1, count=200)
    without_connections(hot)
    damage(tmp_path / FILE)
    with pytest.raises(HotUnavailable, match=r"hot\.north\.20260301\.g1"):
        found(hot)
    other = replace(ALL, from_ms=DAY_MS + MS_PER_DAY, limit=500)
    assert found(hot, other) == 200
    created(hot, 1, count=210)
    assert found(hot, other) == 210


@pytest.mark.parametrize("damage", [garbage, zeros])
def test_a_damaged_index_does_not_know_its_documents_and_a_new_one_takes_its_place(
    damage: Callable[[Path], None], hot: EmbeddedHot, tmp_path: Path
) -> None:
    created(hot, 0, count=200)
    without_connections(hot)
    damage(tmp_path / FILE)
    assert [i.documents for i in hot.indexes()] in ([-1], [200])
    with pytest.raises(HotUnavailable, match="g1"):
        hot.create("north", DAY, batch(on(0, 300)))
    generation = hot.new_index("north", DAY)
    hot.move_write("north", DAY, generation)
    created(hot, 0, count=300)
    hot.move_read("north", DAY, generation)
    hot.delete_index("north", DAY, 1)
    assert found(hot, replace(ALL, limit=500)) == 300
    assert not list(tmp_path.glob("*g1.db*"))


def test_a_damaged_alias_file_names_itself_and_other_tenants_serve(
    hot: EmbeddedHot, tmp_path: Path
) -> None:
    created(hot, 0)
    hot.create("south", DAY, batch(on(0)))
    for text in ("", "[1]", '{"2026-03-01":{"read":1}}', '{"x":{}}', '{"2026-03-01":null}', "\xff"):
        (tmp_path / "hot.north.aliases.json").write_text(text, encoding="latin-1")
        with pytest.raises(HotUnavailable, match="aliases"):
            found(hot)
        assert found(hot, replace(ALL, tenant_id="south")) == 3


def test_a_folder_that_was_deleted_begins_anew(hot: EmbeddedHot, tmp_path: Path) -> None:
    created(hot, 0)
    shutil.rmtree(tmp_path)
    assert hot.indexes() == []
    assert found(hot) == 0
    created(hot, 0, count=2)
    assert found(hot) == 2
    assert [(i.generation, i.documents) for i in hot.indexes()] == [(1, 2)]


def test_an_index_file_that_is_gone_is_told_and_not_made_again_empty(
    hot: EmbeddedHot, tmp_path: Path
) -> None:
    created(hot, 0)
    without_connections(hot)
    (tmp_path / FILE).unlink()
    with pytest.raises(HotUnavailable, match="g1"):
        found(hot)
    with pytest.raises(HotUnavailable, match="g1"):
        created(hot, 0)
    assert not (tmp_path / FILE).exists()


def test_a_full_disk_is_told_and_the_same_call_passes_later(
    hot: EmbeddedHot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created(hot, 0)
    real = hot_pool.connect

    def small(path: Path, *, create: bool = False) -> sqlite3.Connection:
        connection = real(path, create=create)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + 1}")
        return connection

    without_connections(hot)
    monkeypatch.setattr(hot_pool, "connect", small)
    with pytest.raises(HotUnavailable, match="full"):
        created(hot, 0, count=3000)
    assert found(hot) == 3
    without_connections(hot)
    monkeypatch.setattr(hot_pool, "connect", real)
    created(hot, 0, count=3000)
    assert found(hot, replace(ALL, limit=5000)) == 3000


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "hot").write_text("a file")
    hot = EmbeddedHot(tmp_path / "hot")
    with pytest.raises(HotUnavailable):
        created(hot, 0)


def test_what_a_dead_process_left_is_no_index_and_goes_with_the_next_generation(
    hot: EmbeddedHot, tmp_path: Path
) -> None:
    created(hot, 0)
    (tmp_path / "hot.north.20260301.g2.db").write_bytes(b"half made")
    (tmp_path / "hot.north.20260301.g2.db-wal").write_bytes(b"")
    assert [i.generation for i in hot.indexes()] == [1]
    assert hot.new_index("north", DAY) == 3
    assert not list(tmp_path.glob("*g2.db*"))


def test_hundreds_of_days_do_not_hold_more_files_than_the_bound(
    hot: EmbeddedHot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_pool, "MAX_IDLE", 5)
    days = 12
    created(hot, *range(days), count=1)
    for clock in EventClock:
        assert found(hot, replace(ALL, clock=clock)) == days
    assert [i.documents for i in hot.indexes()] == [1] * days
    ours = [n for n in os.listdir("/proc/self/fd") if _is_index(n)]  # noqa: PTH208 - names of handles
    assert 0 < len(ours) <= 5 * 3


def _is_index(handle: str) -> bool:
    try:
        return ".db" in os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115 - a handle's file
    except OSError:
        return False


def test_a_search_over_many_rows_stops_within_100_ms(
    hot: EmbeddedHot,
) -> None:
    rows = [replace(e, device_id=f"pump-{n}") for n in range(8) for e in on(0, 500)]
    rows += on(0, 2000)[500:]
    assert hot.create("north", DAY, batch(rows)) == len(rows)
    for query in (
        replace(ALL, text="dead"),  # no block can be left out: each row is looked at
        replace(ALL, clock=EventClock.EVENT, device_id="pump-1", text="nothing"),
        replace(ALL, clock=EventClock.EVENT, limit=10_000),
    ):
        asked = 0

        def is_cancelled() -> bool:
            nonlocal asked
            asked += 1
            return asked > 2

        began = time.process_time()
        with pytest.raises(QueryCancelled):
            hot.search(query, is_cancelled=is_cancelled)
        assert time.process_time() - began < 0.1
        assert asked == 3
    assert found(hot, replace(ALL, limit=10)) == 10


def test_a_cancelled_search_leaves_its_connection_good_for_others(hot: EmbeddedHot) -> None:
    created(hot, 0, count=3000)
    looks = iter([False, True])
    with pytest.raises(QueryCancelled):
        hot.search(
            replace(ALL, text="dead", clock=EventClock.EVENT), is_cancelled=lambda: next(looks)
        )
    assert found(hot) == 100
    created(hot, 0, count=3001)


def test_threads_search_and_index_at_once(hot: EmbeddedHot) -> None:
    created(hot, 0, count=500)
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(10):
                if number % 2:
                    created(hot, 1, count=10 * n + 1)
                else:
                    assert found(hot, replace(ALL, to_ms=DAY_MS + MS_PER_DAY, limit=600)) == 500
        except BaseException as e:
            faults.append(e)
            raise

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert found(hot, replace(ALL, limit=1000)) == 591


def test_an_index_is_passed_over_when_no_event_in_it_has_the_time(
    hot: EmbeddedHot, tmp_path: Path
) -> None:
    created(hot, 0, 20)
    without_connections(hot)
    zeros(tmp_path / FILE)
    last = replace(ALL, clock=EventClock.EVENT, from_ms=DAY_MS + 20 * MS_PER_DAY)
    assert found(hot, last) == 3
    with pytest.raises(HotUnavailable):
        found(hot, replace(last, from_ms=DAY_MS))


def test_equal_times_in_several_blocks_are_in_order(
    hot: EmbeddedHot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_index, "BLOCK_ROWS", 2)
    ties = [replace(e, ingestion_time=DAY_MS, event_time=DAY_MS) for e in on(0, 9)]
    for event in ties[::-1]:  # each block has an earlier one than the block before
        hot.create("north", DAY, batch([event]))
    for query in (ALL, replace(ALL, text="fine"), replace(ALL, clock=EventClock.EVENT)):
        rows = hot.search(replace(query, limit=3), is_cancelled=lambda: False)
        assert rows["sequence_number"].to_pylist() == [0, 1, 2]


texts = st.text(
    alphabet=st.sampled_from('aZ09 "\\:,.{}\u00dc\u0130\u0301\u212a\u4e00-'), max_size=12
)
payloads = st.one_of(
    texts.map(lambda text: '{"k":"' + text + '"}'), texts, st.just("{}"), st.just("")
)


@given(st.lists(st.tuples(payloads, texts), min_size=1, max_size=6), st.integers(0, 2))
def test_words_of_a_block_are_those_of_its_rows(said: list[tuple[str, str]], cut: int) -> None:
    events = [
        Event(payload=payload, device_id=device, sequence_number=n)
        for n, (payload, device) in enumerate(said)
    ]
    rows = batch(events).slice(min(cut, len(events) - 1))
    found = hot_index.block_words(rows)
    text = " ".join(
        searched_text(
            rows.drop_columns(["event_id"]).append_column(
                "event_id", pa.nulls(len(rows), pa.string()).fill_null("")
            )
        ).to_pylist()
    )
    ids = rows["event_id"].to_pylist()
    assert found == set(words(text)) | {i[:8] for i in ids} | {i[-12:] for i in ids}


def test_selecting_words_are_what_the_rows_have() -> None:
    rows = [
        Event(payload='{"note":"Überdruck \u212a9 x_y"}'),
        Event(device_id="m:1/a", sequence_number=2),
    ]
    found = hot_index.block_words(batch(rows))
    for event in rows:
        for word in ("überdruck", "k9", "x", "y", "note"):
            assert (word in found) or not event.has([word])
        assert {event.event_id[:8], event.event_id[-12:]} <= found
    assert {"m", "1", "a", "pump", "heartbeat", "normal", "h"} <= found
    assert hot_index.is_selecting("heartbeat")
    assert not hot_index.is_selecting("dead")
