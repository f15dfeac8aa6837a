"""Reading quarantine back: a refused event that is a link is kept, with the bytes of its hash.

Belongs here: judgement of the entries that a manifest lists. Does not: the table's form
(`quarantine.py`), the object's own hash (`fsck.py`). Source: design section 7.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import AuditPlatformError
from audit_platform.record.canonical import canonicalize
from audit_platform.record.links import EventLink
from audit_platform.record.manifest import Manifest
from audit_platform.record.parquet import read_columns

Open = Callable[[str, str], AbstractContextManager[BinaryIO]]


def check_quarantine(opener: Open, manifest: Manifest) -> Iterator[tuple[str, EventLink]]:
    """(what is wrong, link) for each link of the manifest that its quarantine does not bear out.

    Objects that cannot be read are the caller's finding; their entries count as not kept.
    """
    if not manifest.links:
        return
    wanted = {q.entry_id for q in manifest.links}
    kept: dict[str, dict[int, bytes]] = {}
    for named in manifest.quarantine:
        try:
            with opener(named.key, named.version_id) as file:
                table = read_columns(file, ["entry_id", "chunk", "bytes"])
        except (AuditPlatformError, pa.ArrowException, OSError, ValueError):
            continue
        table = table.filter(pc.is_in(table["entry_id"], value_set=pa.array(sorted(wanted))))
        for row in table.to_pylist():
            kept.setdefault(row["entry_id"], {})[row["chunk"]] = row["bytes"]
    for q in manifest.links:
        problem = _problem(kept.get(q.entry_id, {}), q.link)
        if problem:
            yield f"entry {q.entry_id}: {problem}", q.link


def _problem(chunks: dict[int, bytes], link: EventLink) -> str:
    if not chunks or sorted(chunks) != list(range(len(chunks))):
        return "its bytes are not in quarantine"
    try:
        canonical = canonicalize(b"".join(chunks[i] for i in sorted(chunks)))
        event = orjson.loads(canonical)
    except (AuditPlatformError, orjson.JSONDecodeError) as e:
        return f"its bytes are not a canonical event: {e}"
    if hashlib.sha256(canonical).hexdigest() != link.event_hash:
        return "its bytes do not have the eventHash that the manifest lists"
    said = (link.device_id, link.chain_id, link.sequence_number, link.prev_hash)
    names = ("deviceId", "chainId", "sequenceNumber", "prevHash")
    if tuple(event.get(n) for n in names) != said:
        return "its bytes name another place in the chain than the manifest"
    return ""
