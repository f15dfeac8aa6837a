"""The books of what is acknowledged: each position leaves them once, archived or lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform.services import edge_uplink_archived
from audit_platform.services.edge_uplink_archived import Unarchived
from audit_platform.services.edge_uplink_http import LogPlace
from audit_platform.services.edge_uplink_runs import Runs

DIGEST = "f" * 16


def place(partition: int, offset: int, topic: str = EVENTS_TOPIC) -> LogPlace:
    return LogPlace(topic, partition, offset, DIGEST)


def test_a_position_is_released_when_all_its_records_are_archived() -> None:
    books = Unarchived()
    records = [place(0, 7), place(1, 3), place(0, 0, DLQ_TOPIC)]
    books.add(Runs([(5, 8)]), records)
    assert books.records == 3
    assert books.question(10) == records
    release, again = books.answered(["archived", "pending", "archived"])
    assert (list(release), list(again), books.records) == ([], [], 1)
    assert books.question(10) == []
    assert books.question(10) == [records[1]]
    release, again = books.answered(["archived"])
    assert (list(release), list(again), books.records) == ([(5, 8)], [], 0)


def test_a_position_of_which_one_record_is_lost_is_sent_again_whole() -> None:
    books = Unarchived()
    books.add(Runs([(5, 8)]), [place(0, 7), place(1, 3)])
    books.question(10)
    release, again = books.answered(["differs", "pending"])
    assert (list(release), list(again), books.records) == ([], [(5, 8)], 0)


def test_with_the_archive_far_behind_a_round_is_short() -> None:
    books = Unarchived()
    for n in range(2000):
        books.add(Runs([(n, n + 1)]), [place(n % 2, n)])
        if n % 100 == 0:
            books.end_round()
    asked = books.question(50)
    assert len(asked) == 50
    books.answered(["pending"] * 50)
    assert books.question(50) == []
    assert books.question(50) == asked


def test_digests_and_offsets_keep_all_their_bits() -> None:
    books = Unarchived()
    big = LogPlace(DLQ_TOPIC, 4095, 2**63 - 1, "fedcba9876543210")
    books.add(Runs([(0, 1)]), [big])
    assert books.question(1) == [big]


actions = st.lists(
    st.tuples(st.just("add"), st.integers(0, 2))
    | st.tuples(st.just("round"), st.integers(1, 5))
    | st.tuples(st.just("forget"), st.just(0))
    | st.tuples(st.just("archive"), st.integers(1, 4)),
    max_size=40,
)


@given(actions, st.sets(st.integers(0, 40)))
def test_every_position_leaves_the_books_once(done: list[tuple[str, int]], lost: set[int]) -> None:
    books = Unarchived()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(edge_uplink_archived, "GROUP_RECORDS", 3)
        seen = _drive(books, done, lost)
    assert books.records == 0
    assert seen == sorted(set(seen))


def _drive(books: Unarchived, done: list[tuple[str, int]], lost: set[int]) -> list[int]:
    given_out: list[int] = []
    gone: list[int] = []
    archived = position = 0
    for what, n in [*done, ("archive", 1000), ("round", 1000), ("round", 1000)]:
        if what == "add":
            books.add(Runs([(position, position + 1)]), [place(k, position) for k in range(n + 1)])
            given_out.append(position)
            position += 1
        elif what == "archive":
            archived += n
        elif what == "forget" and books.records:
            gone += [p for a, b in books.forget_oldest() for p in range(a, b)]
        elif what == "round":
            while question := books.question(n):
                assert len(question) <= n
                states = [
                    "pending" if q.offset >= archived else
                    "differs" if q.offset in lost else "archived"
                    for q in question
                ]  # fmt: skip
                release, again = books.answered(states)
                assert all(p < archived for a, b in again for p in range(a, b))
                assert not any(p in lost for a, b in release for p in range(a, b))
                gone += [p for r in (release, again) for a, b in r for p in range(a, b)]
    assert sorted(gone) == given_out
    return sorted(gone)
