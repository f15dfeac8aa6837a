"""What ingest has acknowledged and the archive has not yet: which log records to ask about.

Belongs here: the books of acknowledged positions and their log records. Does not: asking
(`edge_uplink_http.py`), releasing (`edge_uplink.py`).
Source: design section 4: the edge keeps what was acknowledged until a range record lists the same
digest; another digest means that the log lost it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform.services.edge_uplink_http import LogPlace
from audit_platform.services.edge_uplink_runs import Runs

#: Log records of one group, whose positions are released together: a busy edge's few seconds.
GROUP_RECORDS: Final = 256

_TOPICS: Final = (EVENTS_TOPIC, DLQ_TOPIC)
_PARTITION_BITS: Final = 32

#: Rows of (topic and partition, offset, digest).
_Rows = npt.NDArray[np.uint64]


@dataclass(slots=True)
class _Group:
    """Positions acknowledged one after the other, and their log records not archived yet."""

    positions: Runs
    rows: _Rows
    is_lost: bool = False


def _row(place: LogPlace) -> tuple[int, int, int]:
    topic = _TOPICS.index(place.topic)
    return topic << _PARTITION_BITS | place.partition, place.offset, int(place.digest, 16)


def _place(row: Sequence[int]) -> LogPlace:
    topic, partition = divmod(row[0], 1 << _PARTITION_BITS)
    return LogPlace(_TOPICS[topic], partition, row[1], f"{row[2]:016x}")


class Unarchived:
    """Acknowledged positions until they are archived: 24 bytes a log record.

    Asked in rounds from the oldest on. Ranges cover a partition in order, so what follows a record
    that is `pending` is left for the next round: with the archive far behind, a question is short.
    """

    def __init__(self) -> None:
        self._groups: deque[_Group] = deque()
        self._of_place: Counter[int] = Counter()
        self._pending_from: dict[int, int] = {}
        self._asked: list[tuple[_Group, npt.NDArray[np.intp]]] = []
        self._at = 0
        self._is_open = False  # whether the newest group takes more
        self.records = 0

    def add(self, positions: Runs, records: Sequence[LogPlace]) -> None:
        """Note what was acknowledged together: it is archived when all the records are."""
        rows = np.array([_row(r) for r in records], np.uint64).reshape(-1, 3)
        self.records += len(rows)
        self._of_place.update(rows[:, 0].tolist())
        last = self._groups[-1] if self._groups else None
        if last is None or not self._is_open or len(last.rows) + len(rows) > GROUP_RECORDS:
            self._groups.append(_Group(positions, rows))
            self._is_open = True
            return
        for run in positions:
            last.positions.add(*run)
        last.rows = np.concatenate([last.rows, rows])

    def question(self, limit: int) -> list[LogPlace]:
        """The next records of this round to ask about; none when the round is over.

        Give the answer to `answered`, or call `end_round`.
        """
        asked: list[LogPlace] = []
        self._asked = []
        self._is_open = False  # a group spans no more than the time between two questions
        while self._at < len(self._groups) and len(asked) < limit and self._is_worth_going_on():
            group = self._groups[self._at]
            wanted = np.flatnonzero(self._is_wanted(group.rows))
            fitting = wanted[: limit - len(asked)]
            if len(fitting):
                asked += [_place(row) for row in group.rows[fitting].tolist()]
                self._asked.append((group, fitting))
            if len(fitting) < len(wanted):
                break
            self._at += 1
        if not asked:
            self.end_round()
        return asked

    def _is_worth_going_on(self) -> bool:
        return len(self._pending_from) < len(self._of_place)

    def _is_wanted(self, rows: _Rows) -> npt.NDArray[np.bool_]:
        wanted = np.ones(len(rows), np.bool_)
        for place, offset in self._pending_from.items():
            wanted &= (rows[:, 0] != place) | (rows[:, 1] < offset)
        return wanted

    def end_round(self) -> None:
        """Begin again with the oldest at the next question."""
        self._at = 0
        self._pending_from.clear()
        self._asked = []

    def answered(self, states: Sequence[str]) -> tuple[Runs, Runs]:
        """Note the answer to the last question. Returns positions (to release, to send again)."""
        at = 0
        for group, indexes in self._asked:
            said = states[at : at + len(indexes)]
            at += len(indexes)
            rows = group.rows[indexes]
            done = [
                i for i, state in zip(indexes.tolist(), said, strict=True) if state != "pending"
            ]
            group.is_lost |= "differs" in said
            for (place, offset, _), state in zip(rows.tolist(), said, strict=True):
                if state == "pending":
                    known = self._pending_from.get(place, offset)
                    self._pending_from[place] = min(known, offset)
            self._forget_rows(group.rows[done])
            group.rows = np.delete(group.rows, done, axis=0)
        self._asked = []
        return self._settle()

    def _forget_rows(self, rows: _Rows) -> None:
        self.records -= len(rows)
        self._of_place.subtract(rows[:, 0].tolist())
        self._of_place = +self._of_place

    def _settle(self) -> tuple[Runs, Runs]:
        """Take out the groups that are decided."""
        release, again = Runs(), Runs()
        kept: deque[_Group] = deque()
        at = self._at
        for n, group in enumerate(self._groups):
            if group.is_lost:
                # The copies to come have records of their own.
                self._forget_rows(group.rows)
            elif len(group.rows):
                kept.append(group)
                continue
            for run in group.positions:
                (again if group.is_lost else release).add(*run)
            at -= n < self._at
        self._groups, self._at = kept, at
        return release, again

    def forget_oldest(self) -> Runs:
        """Make room: the positions of the oldest group, which must be sent again one day."""
        self.end_round()
        group = self._groups.popleft()
        self._forget_rows(group.rows)
        return group.positions
