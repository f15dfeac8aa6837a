"""Group commit: who waits shares the next commit, and an error reaches all of its callers."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

import pytest

from audit_platform.adapters.spool.frames import Columns
from audit_platform.adapters.spool.turns import Turns, _Append
from audit_platform.errors import SpoolUnavailable
from audit_platform.ports import Dropped
from audit_platform_tests.adapters.spool.bench import entry

CALLERS: Final = 8


class _Queue(deque[_Append]):
    """Says when somebody has come."""

    def __init__(self) -> None:
        super().__init__()
        self.come = threading.Semaphore(0)

    def append(self, one: _Append) -> None:
        super().append(one)
        self.come.release()


class _Commits:
    """A commit whose first call lasts until `go`; call `failing` fails."""

    def __init__(self, failing: int = -1) -> None:
        self.groups: list[tuple[bytes, ...]] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self._failing = failing

    def __call__(self, entries: Columns) -> tuple[int, list[Dropped]]:
        self.groups.append(entries.data)
        number = len(self.groups)
        if number == 1:
            self.begun.set()
            assert self.go.wait(60)
        if number == self._failing:
            raise SpoolUnavailable("as planned")
        return sum(map(len, self.groups[:-1])), [Dropped(number, ())]


def _crowd(commits: _Commits) -> dict[bytes, object]:
    """One caller commits while the others come; what each was told, by its data."""
    turns = Turns(commits)
    turns._waiting = queue = _Queue()
    told: dict[bytes, object] = {}

    def call(data: bytes) -> None:
        try:
            told[data] = turns.append([entry(data), entry(data)])
        except SpoolUnavailable as e:
            told[data] = e

    threads = [threading.Thread(target=call, args=(b"%d" % i,)) for i in range(CALLERS)]
    threads[0].start()
    assert commits.begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    for _ in threads:
        assert queue.come.acquire(timeout=60)
    commits.go.set()
    for thread in threads:
        thread.join()
    assert len(told) == CALLERS
    return told


def test_who_waits_shares_one_commit_and_gets_its_own_positions() -> None:
    commits = _Commits()
    told = _crowd(commits)
    assert [len(group) for group in commits.groups] == [2, 2 * (CALLERS - 1)]
    written = [data for group in commits.groups for data in group]
    droppers = []
    for data, answer in told.items():
        assert isinstance(answer, tuple)
        positions, dropped = answer
        assert [written[p] for p in positions] == [data, data]
        droppers += dropped
    assert [d.first for d in sorted(droppers)] == [1, 2]  # one caller of each commit is told


def test_an_error_reaches_every_caller_of_its_commit_and_no_other() -> None:
    commits = _Commits(failing=2)
    told = _crowd(commits)
    assert isinstance(told[b"0"], tuple)
    assert all(isinstance(told[b"%d" % i], SpoolUnavailable) for i in range(1, CALLERS))


def test_a_commit_that_is_interrupted_promises_nothing_and_the_next_one_passes() -> None:
    interrupted = [True]

    def commit(entries: Columns) -> tuple[int, list[Dropped]]:
        if interrupted.pop() if interrupted else False:
            raise KeyboardInterrupt
        return 7, []

    turns = Turns(commit)
    with pytest.raises(KeyboardInterrupt):
        turns.append([entry(b"a")])
    assert turns.append([entry(b"b")]) == ([7], [])
