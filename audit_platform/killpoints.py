"""Named step boundaries at which a process can be told to die, compiled into the real code.

`reach(Killpoint.X)` marks a boundary; with `AUDIT_KILL_AT=x` (or `x:3` for the third time) in the
environment the process ends itself there with SIGKILL, so no `finally`, no flush, no goodbye. With
`AUDIT_FREEZE_AT` it stands still there (SIGSTOP) until somebody thaws it. Tests run every member of
the enum; one that is never reached fails them. Add a member when a step gets a new boundary between
"done" and "durable". Not here: faults of ports (`adapters/faulty.py`).
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from typing import Final


class Killpoint(StrEnum):
    """Where a process may die. The value is its name in `AUDIT_KILL_AT` and `AUDIT_FREEZE_AT`."""

    RECEIVED = "received"  # ingest: body read, nothing stored
    APPENDED = "appended"  # log: frame written, not yet fsynced
    FSYNCED = "fsynced"  # log: frame fsynced, nobody told
    ACKNOWLEDGED = "acknowledged"  # ingest: 202 about to be written to the socket
    READ_RECORDED = "read_recorded"  # query: the read is an event, its answer not yet sent
    SPOOLED = "spooled"  # edge: the spool made events durable, no device told
    OBJECT_PUT = "object_put"  # archive: data objects stored
    LOCK_READ_BACK = "lock_read_back"  # archive: their locks read back
    RANGE_RECORDED = "range_recorded"  # archive: range record claimed
    OFFSET_COMMITTED = "offset_committed"  # archive: group offset committed
    INDEXED = "indexed"  # index: HOT holds the rows durably, group offset not committed
    HOT_WRITE_MOVED = "hot_write_moved"  # rebuild: new events go to the new index, it is not filled
    HOT_FILLED = "hot_filled"  # rebuild: the new index is filled and proved, nobody reads it
    HOT_READ_MOVED = "hot_read_moved"  # rebuild: the new index is read, the old one not yet deleted
    DLQ_APPENDED = "dlq_appended"  # replay: a chunk is in the log, not yet written down
    DLQ_REPLAYED = "dlq_replayed"  # replay: a chunk is written down, the next not begun
    DAY_CLOSED = "day_closed"  # close: closing record claimed
    PART_PUT = "part_put"  # seal: one sealed part stored
    MANIFEST_CLAIMED = "manifest_claimed"  # seal: manifest claimed, locks not yet lengthened
    LOCK_LENGTHENED = "lock_lengthened"  # seal: locks lengthened, nobody told
    PARTITION_CLOSED = "partition_closed"  # generation: one partition of the old one closed
    GENERATION_CLOSED = "generation_closed"  # generation: the old one closed, no next one open
    GENERATION_OPENED = "generation_opened"  # generation: the next one claimed, nobody told


def _planned(variable: str) -> tuple[str, int]:
    name, _, nth = os.environ.get(variable, "").partition(":")
    return name, int(nth or 1)


#: Point -> at which time it is reached what signal the process sends itself.
_PLANNED: Final = {
    name: (nth, number)
    for variable, number in (
        ("AUDIT_FREEZE_AT", signal.SIGSTOP),
        ("AUDIT_KILL_AT", signal.SIGKILL),
    )
    for name, nth in [_planned(variable)]
    if name
}
_seen: Final[dict[str, int]] = {}


def reach(point: Killpoint) -> None:
    """Mark a boundary; die or freeze here when the environment says so. Otherwise one look-up."""
    planned = _PLANNED.get(point.value)
    if planned is None:
        return
    nth, number = planned
    _seen[point.value] = _seen.get(point.value, 0) + 1
    if _seen[point.value] == nth:
        os.kill(os.getpid(), number)
