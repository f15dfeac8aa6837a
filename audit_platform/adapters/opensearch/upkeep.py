"""Notes that go with an index, and its smallest form.

Notes stand in `_meta` of the index's mapping: small, durable, in every snapshot, gone with the
index. Belongs here: these two. Does not: what is noted (`operations/`), snapshots (`snapshots.py`).
Source: `ports.Hot`; OpenSearch: `_meta`, force merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from audit_platform.adapters.opensearch.server import WRITE_SECONDS, Refused, Server
from audit_platform.adapters.opensearch.template import MAPPING, NOTES

#: Merging reads and writes a whole index: a gigabyte takes a minute or two.
MERGE_SECONDS: Final = 1800.0

_MISSING: Final = 404


def compact(server: Server, index: str) -> None:
    """Merge all segments into one. Raises `HotUnavailable`, `Refused`."""
    params = {"max_num_segments": "1", "flush": "true"}
    said = server.ask("POST", f"/{index}/_forcemerge", params=params, seconds=MERGE_SECONDS)
    failed = said["_shards"]["failed"]
    if failed:
        raise server.unavailable(f"{index}: {failed} of its copies did not merge")


def notes(server: Server, index: str) -> dict[str, str]:
    """The notes of an index; none for no such index. Raises `HotUnavailable`, `Refused`."""
    try:
        (said,) = server.ask("GET", f"/{index}/_mapping").values()
    except Refused as e:
        if e.status != _MISSING:
            raise
        return {}
    found: dict[str, str] = said["mappings"].get("_meta", {}).get(NOTES, {})
    return found


def note(server: Server, index: str, changes: Mapping[str, str]) -> None:
    """Change notes. Raises `HotUnavailable`, `Refused`."""
    after = {k: v for k, v in (notes(server, index) | dict(changes)).items() if v}
    body: dict[str, Any] = {"_meta": MAPPING["_meta"] | {NOTES: after}}
    said = server.ask("PUT", f"/{index}/_mapping", body, seconds=WRITE_SECONDS)
    if said["acknowledged"] is not True:
        raise server.unavailable(f"{index}: its notes did not change in time")
