"""Refused lines with their bytes: found by id once, read together, chunks joined and checked.

Belongs here: many entries at a time. Does not: one entry (`query/event.py`), the list without bytes
(`query/entries.py`), the entry's form (`record/deadletter.py`). Source: design sections 5 and 7.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.operations.query import quarantine, units
from audit_platform.operations.query.model import IsCancelled, never
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import Scope, days_between
from audit_platform.record import layout
from audit_platform.record.deadletter import DeadLetter, assemble
from audit_platform.record.quarantine import QUARANTINE_SCHEMA, from_table


class Letters:
    """Entries of a tenant that came between two times. `problems` tells what could not be read.

    Where each stands is found at once, by one column; bytes are read by `whole`. Raises
    `QueryCancelled`, `StoreUnavailable`.
    """

    def __init__(
        self,
        reader: Reader,
        tenant_id: str,
        wanted: Collection[str],
        from_ms: int,
        to_ms: int,
        is_cancelled: IsCancelled = never,
    ) -> None:
        self._reader = reader
        self._scope = Scope(tenant_id)
        self._places: dict[str, set[tuple[str, str]]] = defaultdict(set)
        ids = pa.array(sorted(wanted), pa.string())
        # The gateway's clock and the log's may differ: a day more on either side.
        room = layout.MS_PER_DAY
        first, last = days_between(from_ms - room, to_ms + room)
        for day in quarantine.quarantine_days(reader, tenant_id, first, last):
            for place in quarantine.objects_of(reader, self._scope, day):
                units.check(is_cancelled)
                table = quarantine.read_object(reader, self._scope, place, ["entry_id"])
                if table is not None:
                    here = table["entry_id"].filter(pc.is_in(table["entry_id"], value_set=ids))
                    for entry_id in here.unique().to_pylist():
                        self._places[entry_id].add(place)

    @property
    def problems(self) -> list[str]:
        """In words: objects that cannot be read."""
        lost = [f"{key} cannot be read" for key in sorted(self._scope.unavailable)]
        return [*dict.fromkeys(self._scope.problems), *lost]

    def whole(self, wanted: Collection[str]) -> dict[str, DeadLetter]:
        """Entries by id, their chunks joined and their SHA-256 checked; others are left out."""
        ids = pa.array(sorted(wanted), pa.string())
        found: list[DeadLetter] = []
        for place in sorted({p for entry_id in wanted for p in self._places.get(entry_id, ())}):
            names = QUARANTINE_SCHEMA.names
            table = quarantine.read_object(self._reader, self._scope, place, names)
            if table is None:
                continue
            mine = table.filter(pc.is_in(table["entry_id"], value_set=ids)).cast(QUARANTINE_SCHEMA)
            rows = from_table(mine, self._scope.tenant_id)
            found += [row.entry for row in rows if row.entry is not None]
        return {entry.entry_id: entry for entry in assemble(found).whole}
