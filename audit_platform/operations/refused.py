"""Dead letters of a day as its manifest lists them: refused links once each, and their objects.

Belongs here: reading quarantine objects for a seal. Does not: the entry's form (`record/`), which
objects are the day's (`coverage.py`, `late.py`). Source: design section 7.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow.compute as pc

from audit_platform.operations import gather
from audit_platform.operations.coverage import DayObject
from audit_platform.operations.manifests import History
from audit_platform.ports import Objects
from audit_platform.record.links import EventLink
from audit_platform.record.manifest import Manifest, NamedObject, QuarantinedLink
from audit_platform.record.parquet import read_columns
from audit_platform.record.quarantine import QUARANTINE_SCHEMA


def refused_of_day(
    objects: Objects,
    inputs: Iterable[DayObject],
    history: History,
    standing: Manifest | None,
) -> tuple[list[QuarantinedLink], list[NamedObject]]:
    """(refused events that are links, once each; the quarantine objects of the day).

    What `standing`, the manifest to be replaced, lists comes first. Raises `ObjectNotFound`,
    `StoreUnavailable`.
    """
    known = {q.link.event_hash for m in history.manifests for q in m.links}
    links = list(standing.links) if standing else []
    read: list[NamedObject] = []
    for o in inputs:
        with objects.open(o.object.key, o.object.version_id) as file:
            table = o.counting(read_columns(file, QUARANTINE_SCHEMA.names))
        read.append(gather.named(o, table.num_rows))
        is_link = pc.and_(pc.equal(table["chunk"], 0), pc.is_valid(table["link_event_hash"]))
        for row in table.filter(is_link).to_pylist():
            if row["link_event_hash"] not in known:
                known.add(row["link_event_hash"])
                link = EventLink(
                    **{k.removeprefix("link_"): v for k, v in row.items() if k.startswith("link_")}
                )
                links.append(QuarantinedLink(row["entry_id"], row["slug"], link))
    links.sort(key=lambda q: (q.link.device_id, q.link.chain_id, q.link.sequence_number))
    return links, gather.merged([*(standing.quarantine if standing else ()), *read])
