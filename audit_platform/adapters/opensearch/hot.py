"""`ports.Hot` on OpenSearch: an index for each tenant, day and generation.

Belongs here: writing, aliases, generations, sets of hashes, the check of what is there. Does not:
searching (`search.py`), documents (`documents.py`), mapping (`template.py`), HTTP (`server.py`).
Source: design section 8 (HOT); the promises are those of `ports.Hot`; README.md.

A search sees what this process wrote before it, and what others wrote a second before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audit_platform.adapters.opensearch import checks, documents, upkeep
from audit_platform.adapters.opensearch.documents import Bulk
from audit_platform.adapters.opensearch.freshness import Freshness
from audit_platform.adapters.opensearch.search import Search
from audit_platform.adapters.opensearch.server import (
    SEARCH_SECONDS,
    WRITE_SECONDS,
    Refused,
    Server,
    told,
)
from audit_platform.adapters.opensearch.template import Names
from audit_platform.errors import HotRefused, HotUnavailable
from audit_platform.ports import EventQuery, HotIndex
from audit_platform.record.columns import ints_of
from audit_platform.record.layout import day_end_ms, day_start_ms

#: Hashes of one answer: the server's own bound of a page.
PAGE_HASHES: Final = 10_000
SCROLL_KEEP: Final = "1m"

#: How long a new index waits for its copies before it is written to without them: otherwise the
#: death of one node in its first moments would stop its day until the node is back.
COPIES_WAIT: Final = "5s"

#: Somebody else makes the day's index at the same time: look again so often.
_ATTEMPTS: Final = 5

_CREATED: Final = 201
_OK: Final = 200
_BAD: Final = 400
_MISSING: Final = 404
_CONFLICT: Final = 409

#: Of a bulk answer only what we read: a tenth of its bytes.
_BULK_ANSWER: Final = "errors,items.*.status,items.*.error.type,items.*.error.reason"


class OpenSearchHot:
    """`ports.Hot` in a cluster. Any number of processes; safe from several threads."""

    def __init__(self, urls: str, prefix: str, *, ca_file: Path | None = None) -> None:
        self.server = Server(urls, ca_file)
        self.names = Names(prefix)
        self._freshness = Freshness(self.server)
        self._search = Search(self.server, self.names, self._freshness)
        self._checked = checks.Checked(self.server, self.names)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self.server.close()

    def check(self) -> None:
        """Ask whether this is a server and are indexes that we can work with; later calls do too.

        Raises `SettingInvalid` if they are not, `HotUnavailable` if it does not answer.
        """
        with told(self.server):
            self._checked.at_start()

    # ------------------------------------------------------------------------------------ writing

    def create(self, tenant_id: str, day: str, rows: pa.RecordBatch) -> int:
        """See `ports.Hot.create`. Raises `HotRefused` when the others are indexed."""
        if not rows.num_rows:
            return 0
        _check_day(day, rows)
        alias = self.names.write(tenant_id, day)
        with self._known():
            for _ in range(_ATTEMPTS):
                try:
                    return self._write(alias, documents.bulks(rows), (tenant_id, day), alias=True)
                except _NoIndexError:
                    self._begin(tenant_id, day)
        raise self.server.unavailable(f"{alias}: somebody else makes and deletes its indexes")

    def fill(self, tenant_id: str, day: str, generation: int, rows: pa.RecordBatch) -> int:
        """See `ports.Hot.fill`. Raises `HotRefused` when the others are indexed."""
        if not rows.num_rows:
            return 0
        _check_day(day, rows)
        index = self.names.index(tenant_id, day, generation)
        with self._known():
            self._require(index)
            return self._write(index, documents.bulks(rows), (tenant_id, day))

    def remove(self, tenant_id: str, day: str, generation: int, hashes: Sequence[bytes]) -> int:
        """See `ports.Hot.remove`."""
        index = self.names.index(tenant_id, day, generation)
        with self._known():
            self._require(index)
            return self._write(index, documents.removals(hashes), (tenant_id, day))

    def _require(self, index: str) -> None:
        """A cluster may make an index by itself for what is written to it."""
        if not self.server.ask("HEAD", f"/{index}"):
            raise self.server.unavailable(f"there is no index {index}")

    def _write(
        self, target: str, bulks: Iterable[Bulk], day: tuple[str, str], *, alias: bool = False
    ) -> int:
        """Send all requests, whatever becomes of one item; how many documents changed."""
        outcome = _Outcome()
        try:
            for bulk in bulks:
                answer = self.server.ask(
                    "POST",
                    f"/{target}/_bulk",
                    bulk.data,
                    params={"filter_path": _BULK_ANSWER, "require_alias": str(alias).lower()},
                    seconds=WRITE_SECONDS,
                )
                outcome.add(answer, bulk.rows)
                if alias and outcome.nowhere:
                    raise _NoIndexError(target)
        finally:
            self._freshness.written(*day)
        return outcome.changed(self.server, target)

    # ------------------------------------------------------------------------------------ indexes

    def new_index(self, tenant_id: str, day: str) -> int:
        """See `ports.Hot.new_index`."""
        with self._known():
            for _ in range(_ATTEMPTS):
                number = self.next_generation(tenant_id, day)
                if self._make(tenant_id, day, number, {}):
                    return number
        raise self.server.unavailable(f"{tenant_id} {day}: others make indexes of it all the time")

    def next_generation(self, tenant_id: str, day: str) -> int:
        """The number that a new index of the day would get now. `Refused` goes through."""
        return max([0, *self._generations(tenant_id, day)]) + 1

    def _begin(self, tenant_id: str, day: str) -> None:
        """Make the day's first index to write to, unless somebody has."""
        read, write = self.names.read(tenant_id), self.names.write(tenant_id, day)
        found = self._generations(tenant_id, day)
        if any(write in aliases for aliases in found.values()):
            return
        # The server refuses a second index with the write alias: two processes make one.
        aliases: dict[str, Any] = {write: {"is_write_index": True}}
        if not any(read in aliases for aliases in found.values()):
            aliases[read] = {}
        self._make(tenant_id, day, max([0, *found]) + 1, aliases)

    def _make(self, tenant_id: str, day: str, number: int, aliases: dict[str, Any]) -> bool:
        """Make an index; False when there is one, or one with the same write alias."""
        index = self.names.index(tenant_id, day, number)
        try:
            self.server.ask(
                "PUT",
                f"/{index}",
                {"aliases": aliases},
                params={"wait_for_active_shards": "all", "timeout": COPIES_WAIT},
                seconds=WRITE_SECONDS,
            )
        except Refused as e:
            if e.kind == "resource_already_exists_exception" or "write index" in e.reason:
                return False
            raise
        return True

    def _generations(self, tenant_id: str, day: str) -> dict[int, dict[str, Any]]:
        """Generation -> its aliases."""
        return {
            name.generation: aliases
            for name, aliases in self._aliases(self.names.day_pattern(tenant_id, day)).items()
        }

    def _aliases(self, pattern: str) -> dict[Any, dict[str, Any]]:
        params = {"expand_wildcards": "open,closed"}
        found = self.server.ask("GET", f"/{pattern}/_alias", params=params)
        named = {self.names.parsed(index): said["aliases"] for index, said in found.items()}
        return {name: aliases for name, aliases in named.items() if name is not None}

    def move_write(self, tenant_id: str, day: str, generation: int) -> None:
        """See `ports.Hot.move_write`."""
        alias = self.names.write(tenant_id, day)
        self._move(tenant_id, day, generation, alias, {"is_write_index": True})

    def move_read(self, tenant_id: str, day: str, generation: int) -> None:
        """See `ports.Hot.move_read`."""
        self._move(tenant_id, day, generation, self.names.read(tenant_id), {})

    def _move(
        self, tenant_id: str, day: str, generation: int, alias: str, more: dict[str, Any]
    ) -> None:
        index = self.names.index(tenant_id, day, generation)
        every = self.names.day_pattern(tenant_id, day)
        remove = {"index": every, "alias": alias, "must_exist": False}
        add = {"index": index, "alias": alias} | more
        with self._known():
            answer = self.server.ask(
                "POST",
                "/_aliases",
                {"actions": [{"remove": remove}, {"add": add}]},
                seconds=WRITE_SECONDS,
            )
            if answer["acknowledged"] is not True:
                raise self.server.unavailable(f"{alias} did not move to {index} in time")

    def delete_index(self, tenant_id: str, day: str, generation: int) -> None:
        """See `ports.Hot.delete_index`."""
        index = self.names.index(tenant_id, day, generation)
        with self._known():
            params = {"ignore_unavailable": "true"}
            self.server.ask("DELETE", f"/{index}", params=params, seconds=WRITE_SECONDS)

    def compact(self, tenant_id: str, day: str, generation: int) -> None:
        """See `ports.Hot.compact`."""
        with self._known() as server:
            upkeep.compact(server, self.names.index(tenant_id, day, generation))

    def note(self, tenant_id: str, day: str, generation: int, notes: Mapping[str, str]) -> None:
        """See `ports.Hot.note`."""
        with self._known() as server:
            upkeep.note(server, self.names.index(tenant_id, day, generation), notes)

    def notes(self, tenant_id: str, day: str, generation: int) -> dict[str, str]:
        """See `ports.Hot.notes`."""
        with self._known() as server:
            return upkeep.notes(server, self.names.index(tenant_id, day, generation))

    @contextmanager
    def _known(self) -> Iterator[Server]:
        """The server, which was checked once; its refusals are told as `HotUnavailable`."""
        with told(self.server):
            self._checked.once()
            yield self.server

    # ------------------------------------------------------------------------------------ reading

    def indexes(self, tenant_id: str | None = None) -> list[HotIndex]:
        """See `ports.Hot.indexes`."""
        pattern = self.names.pattern(tenant_id)
        with self._known():
            self._freshness.refresh([pattern])
            aliases = self._aliases(pattern)
            counts = self._counts(pattern)
        return [
            HotIndex(
                tenant_id=name.tenant_id,
                day=name.day,
                generation=name.generation,
                documents=counts.get(name, -1),
                is_read=self.names.read(name.tenant_id) in aliases[name],
                is_write=self.names.write(name.tenant_id, name.day) in aliases[name],
            )
            for name in sorted(aliases)
        ]

    def _counts(self, pattern: str) -> dict[Any, int]:
        """Documents of each index that can tell."""
        params = {"format": "json", "h": "index,docs.count,health", "expand_wildcards": "all"}
        listed = self.server.ask("GET", f"/_cat/indices/{pattern}", params=params)
        return {
            self.names.parsed(one["index"]): int(one["docs.count"])
            for one in listed
            if one["health"] != "red" and one["docs.count"] is not None
        }

    def search(self, query: EventQuery, *, is_cancelled: Callable[[], bool]) -> pa.Table:
        """See `ports.Hot.search`."""
        self.names.read(query.tenant_id)  # no tenant id: `ValueError`
        with self._known():
            return self._search.search(query, is_cancelled)

    def hashes(self, tenant_id: str, day: str, generation: int) -> npt.NDArray[np.uint8]:
        """See `ports.Hot.hashes`."""
        index = self.names.index(tenant_id, day, generation)
        with self._known():
            try:
                self._freshness.refresh([index], missing_ok=False)
                found = [documents.hashes_of_hits(page) for page in self._pages(index)]
            except Refused as e:
                if e.status != _MISSING:
                    raise
                return np.zeros((0, 32), np.uint8)
            rows = np.concatenate([np.zeros((0, 32), np.uint8), *found])
            return np.unique(rows.view("V32").ravel()).view(np.uint8).reshape(-1, 32)

    def _pages(self, index: str) -> Iterable[list[dict[str, Any]]]:
        """Hits of all documents as they were at one moment, without their sources."""
        body = {"size": PAGE_HASHES, "sort": ["_doc"], "_source": False}
        params = {"filter_path": "_scroll_id,hits.hits._id", "scroll": SCROLL_KEEP}
        strict = {"allow_partial_search_results": "false"}
        path = f"/{index}/_search"
        page = self.server.ask("POST", path, body, params=params | strict, seconds=SEARCH_SECONDS)
        scroll = page["_scroll_id"]
        try:
            while hits := page.get("hits", {}).get("hits", []):
                yield hits
                more = {"scroll_id": scroll, "scroll": SCROLL_KEEP}
                only = {"filter_path": "_scroll_id,hits.hits._id"}
                page = self.server.ask(
                    "POST", "/_search/scroll", more, params=only, seconds=SEARCH_SECONDS
                )
        finally:
            self._forget(scroll)

    def _forget(self, scroll: str) -> None:
        try:
            self.server.ask("DELETE", "/_search/scroll", {"scroll_id": scroll})
        except (HotUnavailable, Refused):
            return  # it goes by itself after `SCROLL_KEEP`


# --------------------------------------------------------------------------------------- helpers


class _NoIndexError(Exception):
    """The alias that was to be written to does not exist."""


class _Outcome:
    """What became of the items of some bulk requests."""

    def __init__(self) -> None:
        self._done = 0
        self._sent = 0
        self._missing = 0
        self._faults: Counter[tuple[int, str]] = Counter()
        self._said: dict[tuple[int, str], str] = {}
        self._refused: list[int] = []

    @property
    def nowhere(self) -> bool:
        """Whether nothing was written because there is no index."""
        return self._sent > 0 and self._missing == self._sent

    def add(self, answer: dict[str, Any], rows: int) -> None:
        """An answer, which has as many items as there were rows."""
        items = answer["items"]
        if len(items) != rows:
            raise ValueError(f"{len(items)} items in the answer to {rows}")
        for number, item in enumerate(items, start=self._sent):
            (said,) = item.values()
            status = said["status"]
            if status in {_CREATED, _OK}:
                self._done += 1
            elif status == _CONFLICT or (status == _MISSING and "error" not in said):
                pass  # it is there already, or it is not there to be deleted
            else:
                self._fault(number, status, said["error"])
        self._sent += rows

    def _fault(self, number: int, status: int, error: dict[str, Any]) -> None:
        fault = status, str(error["type"])
        self._faults[fault] += 1
        self._said.setdefault(fault, str(error.get("reason", ""))[:200])
        self._missing += status == _MISSING
        if status == _BAD:
            self._refused.append(number)

    def changed(self, server: Server, target: str) -> int:
        """How many documents are new or gone. Raises what stands against the others."""
        fault = next((f for f in self._faults if f[0] != _BAD), None)
        if fault is not None:
            waiting = sum(n for f, n in self._faults.items() if f[0] != _BAD)
            why = f"{fault[0]} {fault[1]}: {self._said[fault]}"
            raise server.unavailable(f"{target}: {waiting} of {self._sent} wait: {why}")
        if self._refused:
            (why,) = {self._said[f] for f in list(self._faults)[:1]}
            raise HotRefused(target, tuple(self._refused), self._done, why)
        return self._done


def _check_day(day: str, rows: pa.RecordBatch) -> None:
    ingestion = ints_of(rows["ingestion_time"])
    if ingestion.min() < day_start_ms(day) or ingestion.max() >= day_end_ms(day):
        raise ValueError(f"a row's ingestionTime is not on {day}")
