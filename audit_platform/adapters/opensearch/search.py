"""A search: which indexes, pages, copies left out, words tested, given up when it is cancelled.

Belongs here: that order. Does not: the body of a search (`find.py`), rows (`documents.py`).
Source: `ports.Hot.search`, `ports.HOT_COPY_DAYS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Final

import pyarrow as pa

from audit_platform.adapters.opensearch import documents, find
from audit_platform.adapters.opensearch.freshness import Freshness
from audit_platform.adapters.opensearch.server import SEARCH_SECONDS, Refused, Server
from audit_platform.adapters.opensearch.template import Names
from audit_platform.errors import QueryCancelled
from audit_platform.ports import HOT_COPY_DAYS, EventClock, EventPosition, EventQuery
from audit_platform.record.columns import EVENT_SCHEMA
from audit_platform.record.layout import day_end_ms, day_start_ms
from audit_platform.record.words import rows_with_words, words

#: Documents of one answer: some megabytes.
PAGE: Final = 1000

#: Beyond what is asked for, in case some are copies: most pages then are one.
SPARE: Final = 10

_MISSING: Final = 404

#: A part of an answer is a wrong answer: a shard that is not there makes the search fail.
_STRICT: Final = {"allow_partial_search_results": "false", "request_cache": "false"}

_Hit = tuple[str, dict[str, Any]]


class Search:
    """Searches in the read indexes of a tenant."""

    def __init__(self, server: Server, names: Names, freshness: Freshness) -> None:
        self._server = server
        self._names = names
        self._freshness = freshness

    def search(self, query: EventQuery, is_cancelled: Callable[[], bool]) -> pa.Table:
        """See `ports.Hot.search`. `Refused`, and what a wrong answer raises, go through."""
        if is_cancelled():
            raise QueryCancelled("the search was stopped before it began")

        def call(task: str) -> pa.Table:
            try:
                return self._all(query, task)
            except Refused as e:
                if e.status != _MISSING:
                    raise
                # Its generation was deleted after the read alias moved: read the aliases again.
                return self._all(query, task)

        found: pa.Table = self._server.ask_until(is_cancelled, call, SEARCH_SECONDS)
        return found

    def _all(self, query: EventQuery, task: str) -> pa.Table:
        days = self._read_indexes(query.tenant_id)
        concerned = {day: name for day, name in days.items() if _may_hold(day, query)}
        if not concerned:
            return EVENT_SCHEMA.empty_table()
        seen = {d: n for d, n in days.items() if d in concerned or _precedes_one(d, concerned)}
        self._freshness.before_search(query.tenant_id, seen, task)
        needed = set(words(query.text or ""))
        column = find.clock_column(query.clock)
        found: list[_Hit] = []
        while len(found) < query.limit:
            size = min(query.limit - len(found) + SPARE, PAGE)
            page = self._page(query, concerned.values(), size, task)
            found += self._kept(page, days, needed, column, task)
            if len(page) < size:
                break
            last = documents.position(page[-1]["_id"], page[-1]["_source"], column)
            query = replace(query, after=last)
        return documents.to_table(found[: query.limit])

    def _read_indexes(self, tenant_id: str) -> dict[str, str]:
        """Day -> the index that is read."""
        try:
            found = self._server.ask("GET", f"/_alias/{self._names.read(tenant_id)}")
        except Refused as e:
            if e.status == _MISSING:
                return {}
            raise
        named = ((self._names.parsed(index), index) for index in sorted(found))
        return {name.day: index for name, index in named if name is not None}

    def _page(
        self, query: EventQuery, indexes: Iterable[str], size: int, task: str
    ) -> list[dict[str, Any]]:
        params = _STRICT | {
            "filter_path": "hits.hits._index,hits.hits._id,hits.hits._source",
            "cancel_after_time_interval": f"{int(SEARCH_SECONDS)}s",
        }
        return self._hits(indexes, find.body(query, size), params, task)

    def _hits(
        self, indexes: Iterable[str], body: dict[str, Any], params: dict[str, Any], task: str
    ) -> list[dict[str, Any]]:
        path = f"/{','.join(sorted(indexes))}/_search"
        answer = self._server.ask(
            "POST", path, body, params=params, seconds=SEARCH_SECONDS, task=task
        )
        hits: list[dict[str, Any]] = answer.get("hits", {}).get("hits", [])
        return hits

    def _kept(
        self,
        page: list[dict[str, Any]],
        days: dict[str, str],
        needed: set[str],
        column: str,
        task: str,
    ) -> list[_Hit]:
        """Those of a page that are no copies and have all words."""
        earlier = self._days_of(page, days, task)
        kept: list[_Hit] = []
        shown: set[EventPosition] = set()
        for hit in page:
            day, document_id = self._day(hit["_index"]), hit["_id"]
            at = documents.position(document_id, hit["_source"], column)
            first = date.fromisoformat(day) - timedelta(days=HOT_COPY_DAYS)
            is_copy = any(first.isoformat() <= d < day for d in earlier.get(document_id, ()))
            # By the device's clock a copy of long ago stands at the same place: the first is shown.
            if not is_copy and at not in shown:
                shown.add(at)
                kept.append((document_id, hit["_source"]))
        if not needed or not kept:
            return kept
        (rows,) = documents.to_table(kept).combine_chunks().to_batches()
        mask = rows_with_words(rows, needed).tolist()
        return [hit for hit, is_good in zip(kept, mask, strict=True) if is_good]

    def _days_of(
        self, page: list[dict[str, Any]], days: dict[str, str], task: str
    ) -> dict[str, list[str]]:
        """`_id` -> the days before that have it too."""
        hit_days = {self._day(hit["_index"]): "" for hit in page}
        before = [name for day, name in days.items() if _precedes_one(day, hit_days)]
        if not before:
            return {}
        body = {
            "size": len(page) * len(before),
            "query": {"ids": {"values": [hit["_id"] for hit in page]}},
            "sort": ["_doc"],
            "_source": False,
            "track_total_hits": False,
        }
        params = _STRICT | {"filter_path": "hits.hits._index,hits.hits._id"}
        found: dict[str, list[str]] = {}
        for hit in self._hits(before, body, params, task):
            found.setdefault(hit["_id"], []).append(self._day(hit["_index"]))
        return found

    def _day(self, index: str) -> str:
        name = self._names.parsed(index)
        if name is None:
            raise ValueError(f"a hit in {index}")
        return name.day


def _may_hold(day: str, query: EventQuery) -> bool:
    if query.clock is EventClock.EVENT:
        return True
    from_ms = max(query.from_ms, query.after.ms) if query.after else query.from_ms
    return from_ms < day_end_ms(day) and day_start_ms(day) < query.to_ms


def _precedes_one(day: str, days: dict[str, str]) -> bool:
    """Whether a copy in one of `days` may have its first in this day."""
    start = date.fromisoformat(day)
    return any((start + timedelta(days=n)).isoformat() in days for n in range(1, HOT_COPY_DAYS + 1))
