"""The independent checker finds a planted loss and a planted double, and what else differs."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit_platform.demo import independent_checker
from audit_platform.record import layout
from audit_platform.record.deadletter import Body, Refusal, entries_for
from audit_platform.record.event import link_of, stored_line
from audit_platform.record.lines import parse_stored
from audit_platform.record.manifest import SEALED, Manifest, NamedObject, Part
from audit_platform.record.quarantine import QuarantineRow, to_table
from audit_platform.record.ranges import RangeObject, RangeRecord
from audit_platform.record.sealed import PartWriter, sort_order
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.demo.completed import Completed, completed

TENANT = "eicu-79"
DAY = layout.day_of(START_MS)
INGESTED = b"2026-03-01T12:00:00.000Z"
SCRIPT = Path(independent_checker.__file__)
REFUSED = 8
KEY = layout.part_key(TENANT, DAY, 0, "0" * 64)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Completed, Path]:
    """A day that was sent: what the gateway took, and the edge's folder with its receipts."""
    home = tmp_path_factory.mktemp("edge")
    made = completed(TENANT, DAY)
    made.note(home)
    return made, home


def _part(lines: list[bytes]) -> bytes:
    stored = b"".join(stored_line(line, INGESTED) + b"\n" for line in lines)
    rows = parse_stored(stored, TENANT).batch
    writer = PartWriter()
    writer.write(rows.take(pa.array(sort_order(rows))))
    return writer.close()[0]


def _store(root: Path, key: str, data: bytes, rows: int) -> NamedObject:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return NamedObject(key, "1-0", hashlib.sha256(data).hexdigest(), len(data), rows)


def _manifest(root: Path, number: int, parts: list[NamedObject], day: str = DAY) -> None:
    unsigned = Manifest(
        tenant_id=TENANT,
        day=day,
        number=number,
        previous=layout.ZERO_HASH,
        revision=0,
        status=SEALED,
        sealed_ms=START_MS,
        software="test",
        lock="advisory",
        rows=sum(part.rows for part in parts),
        duplicates=0,
        root=layout.ZERO_HASH,
        parts=tuple(Part(o, layout.ZERO_HASH, (), "a", "z") for o in parts),
        chains=(),
        verdicts={},
        quarantine=(),
        links=(),
        starts=(),
        losses=(),
        undecodable=(),
        edge_keys={},
        inputs=(),
    )
    data = unsigned.signed("0" * 16, bytes(64)).raw
    _store(root, layout.manifest_key(TENANT, number), data, 0)


def _quarantine_object(root: Path, partition: int, rows: list[QuarantineRow]) -> None:
    at = layout.RangeAddress(layout.QUARANTINE, 1, partition, 0)
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(rows), sink)
    data = sink.getvalue().to_pybytes()
    key = at.object_key(TENANT, DAY, hashlib.sha256(data).hexdigest())
    o = _store(root, key, data, len(rows))
    named = RangeObject(
        key=o.key,
        version_id=o.version_id,
        sha256=o.sha256,
        size=o.size,
        tenant_id=TENANT,
        day=DAY,
        rows=o.rows,
        events=len(rows),
    )
    record = RangeRecord(
        topic=layout.DLQ_TOPIC,
        generation=1,
        partition=partition,
        first_offset=0,
        end_offset=len(rows),
        records=(),
        objects=(named,),
        events=len(rows),
        undecodable=0,
        written_ms=START_MS,
        first_ms=START_MS,
        last_ms=START_MS,
    )
    _store(root, at.record_key, record.to_bytes(), 0)


def _quarantine(root: Path, lines: list[bytes]) -> None:
    body = Body(TENANT, START_MS, "gateway-1", "0" * 64)
    rows = []
    for number, line in enumerate(lines):
        refusal = Refusal("schema_violation", "payload.rate", "no number", "send a number")
        (entry,) = entries_for(body, number + 1, line, refusal, link_of(line, TENANT))
        rows.append(QuarantineRow(number, 0, entry, None))
    rows.append(QuarantineRow(len(lines), 0, None, b"not dead letters"))
    _quarantine_object(root, 0, rows)


def _seal(root: Path, lines: list[bytes], refused: list[bytes]) -> None:
    key = layout.part_key(TENANT, DAY, 0, "0" * 64)
    _manifest(root, 1, [_store(root, key, _part(lines), len(lines))])
    _quarantine(root, refused)


def _check(root: Path, home: Path, *more: str) -> tuple[int, dict[str, Any]]:
    arguments = ["--objects", str(root), "--receipts", str(home / "receipts.ndjson"), "--json"]
    ended = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), *arguments, *more],
        check=False,
        capture_output=True,
        text=True,
    )
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else {"err": ended.stderr}


def test_the_checker_imports_the_standard_library_and_pyarrow_only() -> None:
    tree = ast.parse(SCRIPT.read_text())
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            named.add(str(node.module).split(".")[0])
    assert "pyarrow" in named
    assert named - {"pyarrow"} <= set(sys.stdlib_module_names)


def test_a_whole_day_is_clean(fed: tuple[Completed, Path], tmp_path: Path) -> None:
    gateway, home = fed
    _seal(tmp_path, gateway.accepted_lines, gateway.refused_lines)
    code, result = _check(tmp_path, home, "--sent", str(home / "sent.ndjson"))
    assert (code, result["clean"]) == (0, True), result
    assert result["acknowledged"] == 1139 == result["rows"] + result["quarantined"]
    assert result["refused"] == result["quarantined"] == REFUSED


def test_a_planted_loss_and_a_planted_double_show_as_one_and_one(
    fed: tuple[Completed, Path], tmp_path: Path
) -> None:
    gateway, home = fed
    lines = list(gateway.accepted_lines)
    lost = lines.pop(700)
    lines.append(lines[300])
    _seal(tmp_path, lines, gateway.refused_lines)
    code, result = _check(tmp_path, home)
    assert (code, result["lost"], result["twice"], result["not_sent"]) == (1, 1, 1, 0)
    assert result["listed"]["lost"][0][2] == hashlib.sha256(lost).hexdigest()


def test_a_double_across_two_parts_of_a_day_is_found(
    fed: tuple[Completed, Path], tmp_path: Path
) -> None:
    gateway, home = fed
    lines = gateway.accepted_lines
    parts = []
    for number, own in enumerate((lines, lines[:1])):
        key = layout.part_key(TENANT, DAY, number, "0" * 64)
        parts.append(_store(tmp_path, key, _part(own), len(own)))
    _manifest(tmp_path, 1, parts)
    _quarantine(tmp_path, gateway.refused_lines)
    code, result = _check(tmp_path, home)
    assert (code, result["twice"], result["lost"]) == (1, 1, 0)


def test_a_lost_refusal_is_found(fed: tuple[Completed, Path], tmp_path: Path) -> None:
    gateway, home = fed
    _seal(tmp_path, gateway.accepted_lines, gateway.refused_lines[1:])
    code, result = _check(tmp_path, home)
    assert (code, result["lost"]) == (1, 1)


def test_a_refused_event_that_another_gateway_accepted_is_not_lost(
    fed: tuple[Completed, Path], tmp_path: Path
) -> None:
    gateway, home = fed
    lines = [*gateway.accepted_lines, gateway.refused_lines[0]]
    _seal(tmp_path, lines, gateway.refused_lines[1:])
    assert _check(tmp_path, home)[0] == 0


def test_an_accepted_event_that_only_quarantine_holds_is_lost(
    fed: tuple[Completed, Path], tmp_path: Path
) -> None:
    gateway, home = fed
    lines = gateway.accepted_lines
    _seal(tmp_path, lines[1:], [*gateway.refused_lines, lines[0]])
    code, result = _check(tmp_path, home)
    assert (code, result["lost"]) == (1, 1)


def test_an_event_that_nobody_sent_is_found(fed: tuple[Completed, Path], tmp_path: Path) -> None:
    gateway, home = fed
    receipts = tmp_path / "some.ndjson"
    whole = (home / "receipts.ndjson").read_text().splitlines(keepends=True)
    receipts.write_text("".join(whole[1:]))
    _seal(tmp_path / "o", gateway.accepted_lines, gateway.refused_lines)
    arguments = ["--objects", str(tmp_path / "o"), "--receipts", str(receipts)]
    assert independent_checker.main(arguments) == 1
    arguments += ["--sent", str(home / "sent.ndjson")]
    assert independent_checker.main(arguments) == 0


def test_a_refused_event_that_nobody_sent_is_found(
    fed: tuple[Completed, Path], tmp_path: Path
) -> None:
    gateway, home = fed
    receipts = tmp_path / "edge" / "receipts.ndjson"
    receipts.parent.mkdir()
    hidden = hashlib.sha256(gateway.refused_lines[0]).hexdigest()
    lines = (home / "receipts.ndjson").read_text().splitlines(keepends=True)
    receipts.write_text("".join(line for line in lines if hidden not in line))
    _seal(tmp_path / "o", gateway.accepted_lines, gateway.refused_lines)
    code, result = _check(tmp_path / "o", tmp_path / "edge")
    assert (code, result["not_sent"], result["lost"]) == (1, 1, 0)


@pytest.mark.parametrize("column", ["payload", "device_id", "prev_hash", "event_hash"])
def test_a_row_that_was_changed_with_its_manifest_is_found(
    fed: tuple[Completed, Path], tmp_path: Path, column: str
) -> None:
    gateway, home = fed
    table = pq.read_table(pa.BufferReader(_part(gateway.accepted_lines)))
    values = table[column].to_pylist()
    at = next(i for i in range(100, len(values)) if values[i] is not None)
    if isinstance(values[at], bytes):
        values[at] = values[at][:-1] + bytes([values[at][-1] ^ 1])
    else:
        values[at] = values[at][:-1] + "~"
    place = table.schema.get_field_index(column)
    changed = table.set_column(
        place, table.schema.field(column), pa.array(values, table.schema.field(column).type)
    )
    sink = pa.BufferOutputStream()
    pq.write_table(changed, sink)
    key = layout.part_key(TENANT, DAY, 0, "0" * 64)
    named = _store(tmp_path, key, sink.getvalue().to_pybytes(), table.num_rows)
    _manifest(tmp_path, 1, [named])
    _quarantine(tmp_path, gateway.refused_lines)
    code, result = _check(tmp_path, home)
    assert code == 1
    assert result["altered_rows"] >= 1
    if column != "event_hash":
        assert result["lost"] >= 1


def test_an_object_that_is_not_the_named_one_is_found(
    fed: tuple[Completed, Path], tmp_path: Path
) -> None:
    gateway, home = fed
    _seal(tmp_path, gateway.accepted_lines, gateway.refused_lines)
    key = layout.part_key(TENANT, DAY, 0, "0" * 64)
    (tmp_path / key).write_bytes(_part([*gateway.accepted_lines, gateway.accepted_lines[0]]))
    code, result = _check(tmp_path, home)
    assert (code, result["altered_objects"], result["twice"]) == (1, 1, 1)


def test_the_highest_manifest_of_a_day_counts(fed: tuple[Completed, Path], tmp_path: Path) -> None:
    gateway, home = fed
    _seal(tmp_path, gateway.accepted_lines, gateway.refused_lines)
    assert _check(tmp_path, home)[0] == 0
    _manifest(tmp_path, 2, [], day=layout.next_day(DAY))
    assert _check(tmp_path, home)[0] == 0
    _manifest(tmp_path, 10, [])
    code, result = _check(tmp_path, home)
    assert (code, result["lost"]) == (1, 1139 - REFUSED)


def _no_receipts(root: Path, home: Path) -> None:
    (home / "receipts.ndjson").write_bytes(b"")


def _no_objects(root: Path, home: Path) -> None:
    shutil.rmtree(root / "cold")


def _no_part(root: Path, home: Path) -> None:
    (root / layout.part_key(TENANT, DAY, 0, "0" * 64)).unlink()


def _no_manifest_json(root: Path, home: Path) -> None:
    (root / layout.manifest_key(TENANT, 1)).write_bytes(b"{")


def _no_parquet(root: Path, home: Path) -> None:
    (root / layout.part_key(TENANT, DAY, 0, "0" * 64)).write_bytes(b"PAR1")


def _torn_receipts(root: Path, home: Path) -> None:
    (home / "receipts.ndjson").write_bytes(b'{"eventId":"x"\n{"eventId"\n')


@pytest.mark.parametrize(
    "damage",
    [_no_receipts, _no_objects, _no_part, _no_manifest_json, _no_parquet, _torn_receipts],
)
def test_a_check_that_could_not_read_everything_fails(
    fed: tuple[Completed, Path], tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    gateway, home = fed
    shutil.copytree(home, tmp_path / "edge")
    _seal(tmp_path / "o", gateway.accepted_lines, gateway.refused_lines)
    damage(tmp_path / "o", tmp_path / "edge")
    code, result = _check(tmp_path / "o", tmp_path / "edge")
    assert code == 2
    assert result["err"].startswith("could not check: ")
    assert "Traceback" not in result["err"]


def test_a_receipt_that_was_being_written_promises_nothing(
    fed: tuple[Completed, Path], tmp_path: Path
) -> None:
    gateway, home = fed
    _seal(tmp_path / "o", gateway.accepted_lines, gateway.refused_lines)
    torn = tmp_path / "receipts.ndjson"
    torn.write_bytes((home / "receipts.ndjson").read_bytes() + b'{"tenantId":"eicu-79","even')
    code, result = _check(tmp_path / "o", tmp_path)
    assert (code, result["acknowledged"]) == (0, 1139)


def test_a_large_line_in_pieces_in_two_objects_is_put_together(tmp_path: Path) -> None:
    original = b'{"no event":"' + b"x" * 3_000_000 + b'"}'
    body = Body(TENANT, START_MS, "gateway-1", "0" * 64)
    refusal = Refusal("too_large", "", "too large", "send less")
    entries = entries_for(body, 1, original, refusal, None)
    assert len(entries) > 2
    for number, own in enumerate((entries[:1], entries[1:])):
        rows = [QuarantineRow(0, n, entry, None) for n, entry in enumerate(own)]
        _quarantine_object(tmp_path, number, rows)
    found = independent_checker.Found()
    independent_checker.read_quarantined(tmp_path, found)
    assert found.quarantined == {(TENANT, hashlib.sha256(original).hexdigest())}
    assert not found.quarantined_events


def test_a_time_outside_python_dates_cannot_be_checked_as_good(tmp_path: Path) -> None:
    row = {
        "payload": "{}",
        "chain_id": "0" * 16,
        "criticality": "low",
        "device_id": "d",
        "event_id": "i",
        "event_type": "t",
        "event_version": 1,
        "hospital_id": "h",
        "schema_ref": "t/1",
        "sequence_number": 0,
    }
    first_year = int(np.datetime64("0001-01-01", "ms").astype(np.int64))
    line = independent_checker.canonical(TENANT, row, first_year, "0" * 64)
    assert b'"eventTime":"0001-01-01T00:00:00.000Z"' in line
    with pytest.raises(OverflowError):
        independent_checker.canonical(TENANT, row, first_year - 1, "0" * 64)


# ------------------------------------------------------------------------- receipts of devices


def _as_devices(home: Path, to: Path) -> Path:
    """The same receipts as devices have them: no hash, and nothing refused that they know of."""
    lines = [json.loads(line) for line in (home / "receipts.ndjson").read_text().splitlines()]
    to.mkdir(exist_ok=True)
    (to / "receipts.ndjson").write_text(
        "".join(
            json.dumps({"tenantId": r["tenantId"], "eventId": r["eventId"], "outcome": "accepted"})
            + "\n"
            for r in lines
        )
    )
    return to


def test_devices_receipts_are_compared_by_what_they_name(
    fed: tuple[Completed, Path], tmp_path: Path
) -> None:
    gateway, home = fed
    named = _store(tmp_path, KEY, _part(gateway.accepted_lines), len(gateway.accepted_lines))
    _manifest(tmp_path, 1, [named])
    _quarantine(tmp_path, gateway.refused_lines)
    code, result = _check(tmp_path, _as_devices(home, tmp_path / "devices"))
    assert (code, result["clean"], result["acknowledged"]) == (0, True, 1139), result


def test_what_a_device_was_promised_and_is_nowhere_is_lost_and_what_none_said_is_named(
    fed: tuple[Completed, Path], tmp_path: Path
) -> None:
    gateway, home = fed
    kept = gateway.accepted_lines[1:]
    named = _store(tmp_path, KEY, _part(kept), len(kept))
    _manifest(tmp_path, 1, [named])
    _quarantine(tmp_path, gateway.refused_lines)
    devices = _as_devices(home, tmp_path / "devices")
    receipts = (devices / "receipts.ndjson").read_text().splitlines(keepends=True)
    (devices / "receipts.ndjson").write_text("".join(receipts[:1] + receipts[2:]))
    code, result = _check(tmp_path, devices)
    assert (code, result["lost"], result["not_sent"]) == (1, 1, 1), result
