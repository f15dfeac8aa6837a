"""Searching: HOT where it covers the window, else COLD with landing; the same rows either way.

Belongs here: the choice of the tier, rows out of HOT with their standing, the answer. Does not:
COLD (`cold.py`), the completeness line (`reach.py`). Source: issue "One machine, whole".

HOT covers a day when its index holds as many events as the day's manifest; of an unsealed day, as
many as landed, copies counted. So HOT is not used for a day before the indexer has caught up with
the archive; where copies landed, COLD answers until the day is sealed: slower, never less.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from audit_platform.errors import HotUnavailable, StoreUnavailable
from audit_platform.operations.query.cold import search_cold, with_standing
from audit_platform.operations.query.model import (
    ANSWER_SCHEMA,
    IsCancelled,
    SearchResult,
    Standing,
    Tier,
    TimelineQuery,
    never,
)
from audit_platform.operations.query.reach import completeness
from audit_platform.operations.query.reader import Day, Reader
from audit_platform.operations.query.scope import Scope, days_of, scope_of_days, widened
from audit_platform.operations.query.spans import spans_of
from audit_platform.ports import EventClock, EventPosition, EventQuery
from audit_platform.record import layout
from audit_platform.record.columns import ints_of

#: Rows of one answer: a page of 10,000 rows holds about 15 MB.
MAX_LIMIT: Final = 10_000

#: What an answer says of itself when HOT is gone: operators know the first words.
HOT_DEGRADED: Final = "HOT degraded, using COLD (slower): HOT does not answer"


def search(
    reader: Reader,
    query: EventQuery,
    *,
    tier: Tier = Tier.AUTO,
    is_cancelled: IsCancelled = never,
) -> SearchResult:
    """One page of what matches, ascending by `EventPosition`, each event once.

    `ValueError` for a limit outside 1 to `MAX_LIMIT`. Raises `QueryCancelled`; `HotUnavailable`
    only when HOT was asked for; `StoreUnavailable`, `KeysUnavailable`. Objects that are missing or
    damaged are told in the completeness, never raised.
    """
    if not 1 <= query.limit <= MAX_LIMIT:
        raise ValueError(f"limit {query.limit}: wanted 1 to {MAX_LIMIT}")
    scope, _, used, notes = scope_for(reader, query, tier)
    if used is Tier.HOT:
        try:
            rows, more = _search_hot(reader, scope, query, is_cancelled)
        except HotUnavailable:
            if tier is Tier.HOT:
                raise
            used, notes = Tier.COLD, [HOT_DEGRADED]
    if used is Tier.COLD:
        rows, more = search_cold(reader, scope, query, is_cancelled)
    else:
        notes += unknown_days(scope, rows)
    return SearchResult(rows, used, completeness(reader, scope, used, notes), more)


def scope_for(
    reader: Reader, query: EventQuery | TimelineQuery, tier: Tier, *, around: int = 0
) -> tuple[Scope, Scope, Tier, list[str]]:
    """(what to look at, the same with so many days around it, the tier to search, notes).

    HOT answers also when COLD does not.
    """
    days = days_of(query.from_ms, query.to_ms, query.clock)
    try:
        wide = scope_of_days(reader, query.tenant_id, *widened(*days, around))
    except StoreUnavailable as e:
        if tier is Tier.COLD:
            raise
        note = f"COLD does not answer, so what is sealed is not known: {e.reason}"
        return Scope(query.tenant_id), Scope(query.tenant_id), Tier.HOT, [note]
    scope = wide.narrowed(*days) if around else wide
    used, why = choose(reader, scope, tier)
    return scope, wide, used, [why] if why else []


def unknown_days(scope: Scope, rows: pa.Table) -> list[str]:
    """Notes for days of rows out of HOT of which COLD holds nothing at all."""
    came = ints_of(rows["ingestion_time"].combine_chunks()) // layout.MS_PER_DAY
    days = [layout.day_of(int(day) * layout.MS_PER_DAY) for day in np.unique(came)]
    unknown = [day for day in days if day not in scope.days]
    return [f"COLD holds nothing of {', '.join(unknown[:3])} (yet)"] if unknown else []


def choose(reader: Reader, scope: Scope, tier: Tier) -> tuple[Tier, str]:
    """(tier to search, what HOT lacks of the window in words).

    With `hot` asked for, what it lacks is told and HOT is searched all the same.
    """
    if tier is Tier.COLD:
        return Tier.COLD, ""
    try:
        documents = {
            i.day: i.documents for i in reader.platform.hot.indexes(scope.tenant_id) if i.is_read
        }
    except HotUnavailable:
        if tier is Tier.HOT:
            raise
        return Tier.COLD, HOT_DEGRADED
    lacking = []
    for day in scope.days:
        held = documents.get(day)
        wanted = scope.events_of(day)
        if held is None and wanted:
            lacking.append(f"HOT does not hold {day}")
        elif held is not None and not wanted <= held >= 0:
            lacking.append(f"HOT holds {held} of {wanted} rows of {day}")
    if not lacking:
        return Tier.HOT, ""
    more = f" and {len(lacking) - 1} days more" if len(lacking) > 1 else ""
    if tier is Tier.HOT:
        return Tier.HOT, lacking[0] + more
    return Tier.COLD, ""


# ------------------------------------------------------------------------------------------- HOT


def _search_hot(
    reader: Reader, scope: Scope, query: EventQuery, is_cancelled: IsCancelled
) -> tuple[pa.Table, EventPosition | None]:
    """As `search_cold`, out of HOT, which leaves copies of other days out itself."""
    asked = replace(query, limit=query.limit + 1)
    table = reader.platform.hot.search(asked, is_cancelled=is_cancelled)
    if not table.num_rows:
        return ANSWER_SCHEMA.empty_table(), None
    rows = table.combine_chunks().to_batches()[0].slice(0, query.limit)
    more = table.num_rows > query.limit
    answer = pa.Table.from_batches([hot_answer(reader, scope, rows)])
    return answer, position_of(rows, query.limit - 1, query.clock) if more else None


def position_of(rows: pa.RecordBatch, row: int, clock: EventClock) -> EventPosition:
    """Where a row of events stands in the order of a search."""
    at = rows.slice(row, 1)
    return EventPosition(
        int(ints_of(at[f"{clock}_time"])[0]),
        at["device_id"][0].as_py(),
        at["sequence_number"][0].as_py(),
        at["event_hash"][0].as_py(),
    )


def hot_answer(reader: Reader, scope: Scope, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of HOT with their standing, by what their day's manifest says of their chains."""
    days = [layout.day_of(ms) for ms in ints_of(rows["ingestion_time"]).tolist()]
    places = zip(
        days,
        rows["device_id"].to_pylist(),
        rows["chain_id"].to_pylist(),
        rows["sequence_number"].to_pylist(),
        strict=True,
    )
    standing = [
        _standing(reader, scope.sealed.get(day), device, chain, sequence)
        for day, device, chain, sequence in places
    ]
    return with_standing(rows, standing)


def _standing(reader: Reader, day: Day | None, device: str, chain: str, sequence: int) -> Standing:
    # HOT knows hashes, not places. A second event with the sequence of a sealed one (a fork that
    # came after sealing) is told as sealed here; its timeline and its proof say otherwise.
    if day is None or not any(
        s.chain_id == chain
        and s.first_sequence <= sequence <= s.last_sequence
        and not any(gap.first <= sequence <= gap.last for gap in s.gaps)
        for s in spans_of(reader, day, device)
    ):
        return Standing.NOT_YET_SEALED
    return Standing.SEALED if day.verified else Standing.UNVERIFIED_DAY
