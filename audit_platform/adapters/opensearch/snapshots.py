"""`ports.HotSnapshots` in a repository of the cluster: only what is new is copied.

Belongs here: making the repository known, taking, listing, restoring, deleting. Does not: when, of
what, and the proof of what came back (`operations/hot_snapshots.py`). Source: `ports.HotSnapshots`;
OpenSearch: snapshots, `fs` repositories.

The repository is made known when it is first needed, so a cluster that was lost wholly and comes
back empty finds its snapshots again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from audit_platform.adapters.opensearch.hot import OpenSearchHot
from audit_platform.adapters.opensearch.server import Refused, Server, told
from audit_platform.ports import HotSnapshot, IndexName

#: A snapshot copies what is new since the last; a restore copies all of an index.
COPY_SECONDS: Final = 600.0

_MISSING: Final = 404


class OpenSearchSnapshots:
    """Snapshots of one installation's HOT, in a folder that all nodes share."""

    def __init__(self, hot: OpenSearchHot, folder: str) -> None:
        """Below `folder` (one of the nodes' `path.repo`) each prefix has a folder of its own."""
        self._server = hot.server
        self._names = hot.names
        self._hot = hot
        self._path = f"/_snapshot/{hot.names.prefix}"
        self._location = f"{folder.rstrip('/')}/{hot.names.prefix}"
        self._is_known = False

    def take(self, name: str, indexes: Sequence[IndexName]) -> HotSnapshot:
        """See `ports.HotSnapshots.take`."""
        with self._known() as server:
            body = {
                "indices": ",".join(self._names.index(*index) for index in indexes),
                "include_global_state": False,
                "partial": False,
            }
            said = server.ask(
                "PUT",
                f"{self._path}/{name}",
                body,
                params={"wait_for_completion": "true"},
                seconds=COPY_SECONDS,
            )
            found = self._parsed(said["snapshot"])
        if not found.complete:
            raise self._server.unavailable(f"snapshot {name} is not whole")
        return found

    def snapshots(self) -> list[HotSnapshot]:
        """See `ports.HotSnapshots.snapshots`."""
        with self._known() as server:
            said = server.ask("GET", f"{self._path}/_all")
            return sorted((self._parsed(s) for s in said["snapshots"]), key=lambda s: s.name)

    def restore(self, name: str, index: IndexName) -> int:
        """See `ports.HotSnapshots.restore`. An index that is not whole says -1 documents."""
        source = self._names.index(*index)
        with self._known() as server:
            number = self._hot.next_generation(index.tenant_id, index.day)
            body = {
                "indices": source,
                "include_global_state": False,
                "include_aliases": False,
                "rename_pattern": ".+",
                "rename_replacement": self._names.index(index.tenant_id, index.day, number),
            }
            said = server.ask(
                "POST",
                f"{self._path}/{name}/_restore",
                body,
                params={"wait_for_completion": "true"},
                seconds=COPY_SECONDS,
            )
            shards = said["snapshot"]["shards"]
            if shards["failed"] or not shards["total"]:
                raise server.unavailable(f"{source} did not come whole out of {name}")
        return number

    def delete(self, name: str) -> None:
        """See `ports.HotSnapshots.delete`."""
        with self._known() as server:
            try:
                server.ask("DELETE", f"{self._path}/{name}", seconds=COPY_SECONDS)
            except Refused as e:
                if e.status != _MISSING:
                    raise

    @contextmanager
    def _known(self) -> Iterator[Server]:
        """The server, which knows the repository; its refusals are told as `HotUnavailable`."""
        with told(self._server):
            if not self._is_known:
                settings = {"location": self._location}
                # Known already: nothing changes. Every node tries it.
                body = {"type": "fs", "settings": settings}
                self._server.ask("PUT", self._path, body, seconds=COPY_SECONDS)
                self._is_known = True
            yield self._server

    def _parsed(self, said: dict[str, Any]) -> HotSnapshot:
        named = (self._names.parsed(index) for index in said["indices"])
        return HotSnapshot(
            name=said["snapshot"],
            indexes=tuple(sorted(IndexName(*name) for name in named if name is not None)),
            complete=said["state"] == "SUCCESS",
        )
