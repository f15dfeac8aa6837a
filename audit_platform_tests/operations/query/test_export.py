"""Exports: every row, its hash, a total that tells whether it is whole, nothing that calculates."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest

from audit_platform.errors import QueryCancelled
from audit_platform.operations.query import export as module
from audit_platform.operations.query.export import COLUMNS, export
from audit_platform.operations.query.model import ExportFormat, Tier
from audit_platform.operations.query.reader import Reader
from audit_platform.ports import EventQuery
from audit_platform.record.event import canonical_of_stored
from audit_platform_tests.operations.query.conftest import Asked
from audit_platform_tests.operations.query.story import TENANT, at, counting, expected
from audit_platform_tests.world import DAY, open_world

QUERY = EventQuery(TENANT, at(0, 0), at(2, 23))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pages behind one stream."""
    monkeypatch.setattr(module, "PAGE_ROWS", 7)


@pytest.mark.parametrize("tier", [Tier.HOT, Tier.COLD])
def test_ndjson_holds_the_exact_bytes_of_every_row_and_a_total(asked: Asked, tier: Tier) -> None:
    text = b"".join(export(asked.reader, QUERY, ExportFormat.NDJSON, tier=tier))
    assert text.endswith(b"\n")
    *lines, last = text.decode().splitlines()
    stored = {s.event_hash: s.stored for s in counting(asked.story.world)}
    wanted = expected(asked.story.world, EventQuery(TENANT, at(0, 0), at(2, 23), limit=1000))
    assert len(lines) == len(wanted) > 40
    for line, event_hash in zip(lines, wanted, strict=True):
        value = json.loads(line)
        assert value["eventHash"] == event_hash.hex()
        begin, end = line.index('{"chainId"'), line.index(f',"eventHash":"{event_hash.hex()}"')
        assert line[begin:end].encode() == stored[event_hash]
        assert hashlib.sha256(canonical_of_stored(line[begin:end].encode())).digest() == event_hash
    total = json.loads(last)["total"]
    assert total["rows"] == len(wanted)
    assert total["sha256OfEventHashes"] == hashlib.sha256(b"".join(wanted)).hexdigest()
    assert total["tiers"] == [str(tier)]


def test_csv_holds_every_row_and_a_total(asked: Asked) -> None:
    text = b"".join(export(asked.reader, QUERY, ExportFormat.CSV, tier=Tier.COLD)).decode()
    head, *rows, last = csv.reader(io.StringIO(text, newline=""))
    assert tuple(head) == COLUMNS
    wanted = expected(asked.story.world, EventQuery(TENANT, at(0, 0), at(2, 23), limit=1000))
    assert [row[0] for row in rows] == [h.hex() for h in wanted]
    assert last[:2] == ["#total", str(len(wanted))]
    assert last[2] == hashlib.sha256(b"".join(wanted)).hexdigest()
    by_hash = {s.event_hash.hex(): s.event for s in counting(asked.story.world)}
    for row in rows:
        cells = dict(zip(COLUMNS, row, strict=True))
        event = by_hash[cells["eventHash"]]
        assert json.loads(cells["payload"]) == event["payload"]
        for name in ("deviceId", "eventId", "prevHash", "checksum", "ingestionTime", "tenantId"):
            assert cells[name] == event[name]


def test_a_cell_that_a_spreadsheet_would_calculate_is_made_harmless(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        edge = world.edge(TENANT)
        lines = [edge.start(world.clock.now_ms())]
        lines.append(edge.event("-device", "heartbeat", {"a": "=1+1"}, world.clock.now_ms()))
        world.ingest(TENANT, lines)
        world.archive()
        query = EventQuery(TENANT, at(0, 0), at(1, 0), device_id="-device")
        text = b"".join(
            export(Reader(world.platform), query, ExportFormat.CSV, tier=Tier.COLD)
        ).decode()
        _, row, _ = csv.reader(io.StringIO(text, newline=""))
        cells = dict(zip(COLUMNS, row, strict=True))
        assert cells["deviceId"] == "'-device"
        assert cells["payload"] == '{"a":"=1+1"}'
        assert cells["ingestionTime"].startswith(DAY)


def test_a_cancelled_export_has_no_total(asked: Asked) -> None:
    asks = iter([False] * 40)
    pieces: list[bytes] = []
    stream = export(
        asked.reader,
        QUERY,
        ExportFormat.NDJSON,
        tier=Tier.COLD,
        is_cancelled=lambda: next(asks, True),
    )
    with pytest.raises(QueryCancelled):
        pieces.extend(stream)
    assert b'"total"' not in b"".join(pieces)
