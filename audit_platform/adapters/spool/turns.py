"""Group commit: callers that append at the same time share one write and one fsync.

Belongs here: who commits for whom. Does not: what a commit does (`spool.py`).
Source: `README.md` beside this file.

There is no thread of its own: the first caller that finds nobody committing commits for all who
wait then, itself among them, and those who come meanwhile are the next group.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from audit_platform.adapters.spool.frames import Columns, columns_of, joined
from audit_platform.errors import SpoolUnavailable
from audit_platform.ports import Dropped, NewEntry

#: What one fsync carries at most before compression; more waits for the next.
_GROUP_BYTES: Final = 8 << 20

Commit = Callable[[Columns], tuple[int, list[Dropped]]]


@dataclass(slots=True)
class _Append:
    """One caller's entries and what came of them."""

    entries: Columns
    first: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    error: Exception | None = None
    is_done: bool = False


class Turns:
    """Calls `commit` for the entries of all callers that wait, never twice at once.

    `commit` returns the position of the first entry, and what was dropped: one caller gets that.
    """

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._changed = threading.Condition()
        self._waiting: deque[_Append] = deque()
        self._is_committing = False

    def append(self, entries: Sequence[NewEntry]) -> tuple[list[int], list[Dropped]]:
        """See `ports.Spool`."""
        if not entries:
            return [], []
        ours = _Append(columns_of(entries))
        with self._changed:
            self._waiting.append(ours)
        while group := self._next_group(ours):
            self._commit_for(group)
        if ours.error is not None:
            raise ours.error
        return list(range(ours.first, ours.first + len(entries))), ours.dropped

    @contextmanager
    def nobody_commits(self) -> Iterator[None]:
        """Wait until nobody commits; nobody begins to while the block runs."""
        with self._changed:
            while self._is_committing:
                self._changed.wait()
            yield

    def _next_group(self, ours: _Append) -> list[_Append]:
        """Wait for our turn: what waits first, up to a group; nothing when ours is done."""
        with self._changed:
            while self._is_committing and not ours.is_done:
                self._changed.wait()
            if ours.is_done:
                return []
            self._is_committing = True
            group = [self._waiting.popleft()]
            size = group[0].entries.bytes
            while self._waiting and size + self._waiting[0].entries.bytes <= _GROUP_BYTES:
                group.append(self._waiting.popleft())
                size += group[-1].entries.bytes
            return group

    def _commit_for(self, group: list[_Append]) -> None:
        error: Exception = SpoolUnavailable("the commit was interrupted", remedy="send again")
        try:
            first, dropped = self._commit(joined([one.entries for one in group]))
            group[0].dropped = dropped
            for one in group:
                one.first, first = first, first + len(one.entries.data)
                one.is_done = True
        except Exception as e:  # noqa: BLE001 - any error belongs to all of its callers
            error = e
        finally:
            with self._changed:
                for one in group:
                    one.error = None if one.is_done else error
                    one.is_done = True
                self._is_committing = False
                self._changed.notify_all()
