"""Compares what a sender was promised with what is sealed and quarantined, as sets. Trusts nobody.

Stands alone on purpose: the standard library and pyarrow, nothing of this project. Run it as
`python independent_checker.py --objects DIR --receipts FILE [FILE ...] [--sent FILE ...] [--json]`.
Receipts are an edge's (from ingest-gateway: eventId, eventHash) or a device's (from its edge: only
the eventId, which names what the device said; a copy in any chain keeps it).
It rebuilds the canonical bytes of every sealed row and hashes them itself; a stored hash is only
compared. Belongs here: the comparison. Does not: signatures, Merkle roots, chains (fsck has those).
Source: design section 6; the byte layouts of `docs/formats.md`, written here a second time.

Exit code: 0 nothing differs, 1 differences, 2 it could not check (nothing read, or unreadable).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

#: What an edge says of itself and its losses.
EDGE_TYPES: Final = frozenset({"chain_start", "loss", "edge_clock", "edge_segment_set_aside"})

#: Differences of a kind that are listed; all are counted.
MAX_LISTED: Final = 20

#: Columns of a sealed part that make the canonical event.
COLUMNS: Final = (
    "hospital_id",
    "device_id",
    "chain_id",
    "event_type",
    "event_version",
    "event_id",
    "event_time",
    "sequence_number",
    "schema_ref",
    "criticality",
    "payload",
    "prev_hash",
    "event_hash",
)


class CannotCheckError(Exception):
    """Nothing was read, or something could not be read."""


class Event(NamedTuple):
    """What both sides know an event by. A device does not know the hash: "" in its receipts."""

    tenant: str
    event_id: str
    event_hash: str


class Found:
    """What the objects hold."""

    def __init__(self) -> None:
        self.sealed: set[Event] = set()
        self.quarantined: set[tuple[str, str]] = set()  # (tenant, hash of the original bytes)
        self.quarantined_events: set[tuple[str, str]] = set()  # those that are links of a chain
        self.quarantined_ids: set[tuple[str, str]] = set()  # (tenant, eventId) of those
        self.sealed_ids: set[tuple[str, str]] = set()  # (tenant, eventId)
        self.own: set[Event] = set()  # what edges say of themselves: no device sent it
        self.twice: list[tuple[str, str, str]] = []  # (tenant, day, event hash)
        self.altered_rows: list[str] = []
        self.altered_objects: list[str] = []
        self.counts: Counter[str] = Counter()


# ------------------------------------------------------------------------------------ receipts


def read_events(files: Iterable[Path]) -> Iterator[tuple[Event, str]]:
    """(event, outcome) of each line of receipt or sent lists that names an event.

    A last line without its end was being written when the sender died: it promises nothing.
    """
    for file in files:
        with file.open("rb") as opened:
            for line in opened:
                if not line.endswith(b"\n"):
                    break
                value = json.loads(line)
                if "eventId" in value:
                    event_hash = value.get("eventHash", "")
                    event = Event(value["tenantId"], value["eventId"], event_hash)
                    yield event, value.get("outcome", "")


# ------------------------------------------------------------------------------------- objects


def counting_manifests(root: Path) -> list[dict[str, Any]]:
    """Of each tenant and day the manifest with the highest number."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for file in sorted(root.glob("cold/v1/tenant=*/manifests/*.json")):
        manifest = json.loads(file.read_bytes())
        best_key = (manifest["tenantId"], manifest["day"])
        if best_key not in best or manifest["number"] > best[best_key]["number"]:
            best[best_key] = manifest
    return list(best.values())


def read_object(root: Path, named: dict[str, Any], found: Found) -> pq.ParquetFile:
    """The Parquet file that a manifest or range record names, its SHA-256 and rows compared."""
    data = (root / named["key"]).read_bytes()
    opened = pq.ParquetFile(pa.BufferReader(data))
    if (
        hashlib.sha256(data).hexdigest() != named["sha256"]
        or opened.metadata.num_rows != named["rows"]
    ):
        found.altered_objects.append(named["key"])
    found.counts["objects"] += 1
    return opened


def read_sealed(root: Path, found: Found) -> None:
    """Every row of every part that a counting manifest names."""
    for manifest in counting_manifests(root):
        found.counts["manifests"] += 1
        seen: set[str] = set()
        for part in manifest["parts"]:
            before: tuple[str, str, str] = ("", "", "")
            opened = read_object(root, part, found)
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group, columns=list(COLUMNS), use_threads=False)
                before = read_rows(manifest, part["key"], table, before, seen, found)


def read_rows(
    manifest: dict[str, Any],
    key: str,
    table: pa.Table,
    before: tuple[str, str, str],
    seen: set[str],
    found: Found,
) -> tuple[str, str, str]:
    """Take the rows of one row group; returns (device, chain, hash) of the last one."""
    tenant, day = manifest["tenantId"], manifest["day"]
    times = table["event_time"].cast(pa.int64()).to_pylist()
    for row, ms in zip(table.drop_columns("event_time").to_pylist(), times, strict=True):
        if row["prev_hash"] is not None:
            prev_hash = row["prev_hash"].hex()
        elif (row["device_id"], row["chain_id"]) == before[:2]:
            prev_hash = before[2]
        else:
            prev_hash = "not known"
        event_hash = hashlib.sha256(canonical(tenant, row, ms, prev_hash)).hexdigest()
        if row["event_hash"].hex() != event_hash:
            found.altered_rows.append(f"{key}: {row['device_id']} {row['sequence_number']}")
        if event_hash in seen:
            found.twice.append((tenant, day, event_hash))
        seen.add(event_hash)
        event = Event(tenant, row["event_id"], event_hash)
        found.sealed.add(event)
        found.sealed_ids.add(event[:2])
        if row["event_type"] in EDGE_TYPES:
            found.own.add(event)
        found.counts["rows"] += 1
        before = (row["device_id"], row["chain_id"], event_hash)
    return before


def canonical(tenant: str, row: dict[str, Any], event_time_ms: int, prev_hash: str) -> bytes:
    """The canonical event (RFC 8785) of a row: keys sorted, no white space."""
    payload: bytes = row["payload"].encode()
    event_time = (EPOCH + timedelta(milliseconds=event_time_ms)).isoformat(timespec="milliseconds")
    head = {
        "chainId": row["chain_id"],
        "checksum": hashlib.sha256(payload).hexdigest(),
        "criticality": row["criticality"],
        "deviceId": row["device_id"],
        "eventId": row["event_id"],
        "eventTime": event_time.removesuffix("+00:00") + "Z",
        "eventType": row["event_type"],
        "eventVersion": row["event_version"],
        "hospitalId": row["hospital_id"],
    }
    tail = {
        "prevHash": prev_hash,
        "schemaRef": row["schema_ref"],
        "sequenceNumber": row["sequence_number"],
        "tenantId": tenant,
    }
    before = json.dumps(head, separators=(",", ":")).encode()
    after = json.dumps(tail, separators=(",", ":")).encode()
    return before[:-1] + b',"payload":' + payload + b"," + after[1:]


def read_quarantined(root: Path, found: Found) -> None:
    """Every refused line whose objects range records name: the hash of its original bytes.

    A large line is in pieces, which may lie in several objects.
    """
    pieces: dict[tuple[str, str], dict[int, bytes]] = {}
    ids: dict[tuple[str, str], str | None] = {}
    wanted = ["entry_id", "chunk", "bytes", "link_event_id"]
    for file in sorted(root.glob("quarantine/v1/ranges/*/*/*.json")):
        for named in json.loads(file.read_bytes())["objects"]:
            for row in (
                read_object(root, named, found).read(columns=wanted, use_threads=False).to_pylist()
            ):
                if row["entry_id"] is not None:
                    entry = (named["tenantId"], row["entry_id"])
                    pieces.setdefault(entry, {})[row["chunk"]] = row["bytes"]
                    ids[entry] = row["link_event_id"]
    for (tenant, entry_id), chunks in pieces.items():
        original = b"".join(chunks[n] for n in sorted(chunks))
        key = (tenant, hashlib.sha256(original).hexdigest())
        found.quarantined.add(key)
        event_id = ids[tenant, entry_id]
        if event_id is not None:
            found.quarantined_events.add(key)
            found.quarantined_ids.add((tenant, event_id))
        found.counts["quarantined"] += 1


# ---------------------------------------------------------------------------------- comparison


def compare(
    receipts: Iterable[tuple[Event, str]], sent: Iterable[tuple[Event, str]], found: Found
) -> dict[str, Any]:
    """Differences by kind, each with its count and the first of them.

    Refused by one gateway and accepted by another counts as accepted. What was sent may be found
    without a receipt: the sender died before it could write it.
    """
    acknowledged = dict(receipts)
    known = set(acknowledged) | {event for event, _ in sent}
    lost = [event for event, outcome in acknowledged.items() if not _is_kept(event, outcome, found)]
    not_sent = _not_sent(known, found)
    differences = {
        "lost": sorted(lost),
        "not_sent": not_sent,
        "twice": sorted(found.twice),
        "altered_rows": found.altered_rows,
        "altered_objects": found.altered_objects,
    }
    return {
        "acknowledged": len(acknowledged),
        "refused": sum(outcome == "refused" for outcome in acknowledged.values()),
        **{name: found.counts[name] for name in ("manifests", "objects", "rows", "quarantined")},
        **{name: len(listed) for name, listed in differences.items()},
        "listed": {name: listed[:MAX_LISTED] for name, listed in differences.items() if listed},
        "clean": not any(differences.values()),
    }


def _is_kept(event: Event, outcome: str, found: Found) -> bool:
    """Whether what was acknowledged is there.

    An edge takes what ingest will refuse: of a device's event it says "accepted", and the event is
    a sealed row or a quarantined link.
    """
    if not event.event_hash:
        place = event[:2]
        return place in found.sealed_ids or place in found.quarantined_ids
    quarantined = (event.tenant, event.event_hash) in found.quarantined
    return event in found.sealed or (outcome == "refused" and quarantined)


def _not_sent(known: set[Event], found: Found) -> list[Any]:
    """What is there of the senders' tenants and nobody has sent."""
    tenants = {event.tenant for event in known}
    if any(not event.event_hash for event in known):
        ids = {event[:2] for event in known}
        there = {event[:2] for event in found.sealed - found.own} | found.quarantined_ids
        return sorted(place for place in there - ids if place[0] in tenants)
    known_hashes = {(event.tenant, event.event_hash) for event in known}
    # Of the quarantined only complete events: other bytes have no id that a sender could know.
    not_sent: list[Any] = sorted(e for e in found.sealed - known if e.tenant in tenants)
    refused = found.quarantined_events - known_hashes
    return not_sent + sorted(place for place in refused if place[0] in tenants)


def check(objects: Path, receipts: list[Path], sent: list[Path]) -> dict[str, Any]:
    """Read everything and compare. Raises `CannotCheckError` when nothing was read."""
    acknowledged = list(read_events(receipts))
    if not acknowledged:
        raise CannotCheckError("no receipt was read")
    found = Found()
    read_sealed(objects, found)
    read_quarantined(objects, found)
    if not found.counts["manifests"] or not found.counts["objects"]:
        raise CannotCheckError(f"no manifest or no object was read below {objects}")
    return compare(acknowledged, read_events(sent), found)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Compare receipts with what is sealed, as sets.")
    parser.add_argument("--objects", type=Path, required=True, help="root of the object store")
    parser.add_argument("--receipts", type=Path, nargs="+", required=True)
    parser.add_argument("--sent", type=Path, nargs="*", default=[], help="what was sent at all")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    try:
        result = check(given.objects, given.receipts, given.sent)
    except (
        CannotCheckError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        pa.ArrowException,
    ) as e:
        sys.stderr.write(f"could not check: {type(e).__name__}: {e}\n")
        return 2
    if given.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        for name, value in result.items():
            sys.stdout.write(f"{name:16} {value}\n")
    return 0 if result["clean"] else 1


if __name__ == "__main__":
    sys.exit(main())
