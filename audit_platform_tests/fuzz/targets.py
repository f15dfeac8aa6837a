"""The list of all that parses bytes from outside: one target each, with good samples.

A target returns when the bytes were judged, one way or the other; only the errors that its parser
promises are caught. Add a target with each new parser: `test_fuzz.py` compares the list with the
code's own `from_bytes`, `parse_…` and `decode…` functions. Belongs here: targets and samples. Does
not: how bytes are changed (`test_fuzz.py`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from audit_platform.adapters.clock import parse_clock
from audit_platform.adapters.embedded import hot_aliases, keys, segments
from audit_platform.adapters.embedded.object_folder import VersionRecord
from audit_platform.adapters.embedded.partition import Mark
from audit_platform.adapters.spool.frames import decode_entries, decode_opening
from audit_platform.errors import EventRefused, KeyUnknown, RecordMalformed
from audit_platform.operations.coverage import parse_record
from audit_platform.ports import EventPosition, ObjectVersion
from audit_platform.record import deadletter, layout, merkle, quarantine
from audit_platform.record.canonical import parse_strict
from audit_platform.record.decision import (
    Action,
    Approval,
    DryRun,
    Line,
    Named,
    Outcome,
    Person,
    Proposal,
    Repaired,
    Replayed,
)
from audit_platform.record.event import check_event, complete_event, link_of
from audit_platform.record.fsck import parse_head
from audit_platform.record.incident import Ended, Incident, IncidentFinding, Resolution
from audit_platform.record.lines import parse_stored
from audit_platform.record.manifest import Manifest
from audit_platform.record.partcheck import check_part
from audit_platform.record.proofs import EventProof, check_event_proof
from audit_platform.record.ranges import Closing, Generation, RangeRecord
from audit_platform.record.schemas import registry
from audit_platform.record.signed import Form
from audit_platform.record.signing import key_id_of
from audit_platform.record.times import parse_time_ms
from audit_platform.record.together import decode_plain
from audit_platform.record.typed import TypedPayloads
from audit_platform.services import edge_entry
from audit_platform.services.edge_reading import Reader
from audit_platform.services.edge_uplink_http import _Malformed, parse_receipt
from audit_platform.services.ingest_body import BodyChecker, decompressed
from audit_platform.services.ingest_problems import Problem
from audit_platform.services.ingest_question import parse_question
from audit_platform.services.query_params import (
    event_cursor,
    event_position,
    number_cursor,
    number_position,
    timeline_position,
)
from audit_platform.services.query_problems import QueryProblem

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "v1" / "objects"
TENANT: Final = "north"


@dataclass(frozen=True, slots=True)
class Target:
    """`judge` takes any bytes; `samples` are good ones; `parsers` names the code that it covers."""

    name: str
    judge: Callable[[bytes], object]
    samples: Callable[[], list[bytes]]
    parsers: tuple[str, ...]


# ---------------------------------------------------------------------------------------- samples


def _golden(pattern: str) -> list[bytes]:
    found = sorted(p for p in GOLDEN.rglob(pattern) if p.is_file())
    assert found, pattern
    return [p.read_bytes() for p in found[:4]]


def _line(payload: object) -> bytes:
    return complete_event(
        {
            "deviceId": "pump-1",
            "eventType": "heartbeat",
            "eventVersion": 1,
            "eventTime": "2026-03-01T00:00:00.000Z",
            "sequenceNumber": 7,
            "payload": payload,
        },
        tenant_id=TENANT,
        hospital_id="h-1",
        chain_id="0123456789abcdef",
        prev_hash="0" * 64,
        criticality="low",
    ).canonical


@cache
def _events() -> list[bytes]:
    return [_line({"batteryPercent": 80}), _line({"batteryPercent": 1.5, "x": {"ü": [1, None]}})]


def _stored() -> list[bytes]:
    time = b'"ingestionTime":"2026-03-01T00:00:00.000Z","payload"'
    return [b"".join(e.replace(b'"payload"', time) + b"\n" for e in _events())]


def _body() -> list[bytes]:
    return [b"".join(e + b"\n" for e in _events())]


def _entries() -> list[bytes]:
    body = deadletter.Body(TENANT, 5, "gateway", "b" * 64)
    refusal = deadletter.Refusal("schema_violation", "payload", "why", "fix it")
    entries = deadletter.entries_for(body, 1, _events()[0], refusal, link_of(_events()[0], TENANT))
    return [value for value, _ in deadletter.record_values(entries)]


def _segment() -> list[bytes]:
    records = [segments.encode_record(5, {"v": "1"}, b"value" * 9)]
    header = segments.new_header(0)
    parsed = segments.parse_header(header)
    assert parsed is not None
    frame = segments.encode_frame(parsed.tag, 0, segments.compress(records))
    return [header + frame]


def _version_records() -> list[bytes]:
    seen = ObjectVersion(
        key="a/b",
        version_id="1-0123",
        size=1,
        sha256="0" * 64,
        created_ms=2,
        is_delete_marker=False,
        retain_until_ms=3,
        legal_hold=False,
    )
    return [VersionRecord(seen, 1, "draft").to_bytes()]


# --------------------------------------------------------------------------------------- targets


def _strict(data: bytes) -> None:
    with suppress(EventRefused):
        parse_strict(data)


def _event(data: bytes) -> None:
    with suppress(EventRefused):
        check_event(data, TENANT)
    link_of(data, TENANT)


@cache
def _checker() -> BodyChecker:
    return BodyChecker(registry(), "gateway", 2, 2)


def _checked(data: bytes) -> None:
    with suppress(Problem):
        checked = _checker().check(data, TENANT, 1_772_323_200_000)
        assert checked.events or checked.dead_letters


def _zstd(data: bytes) -> None:
    with suppress(Problem):
        decompressed(data)


def _lines(data: bytes) -> None:
    parsed = parse_stored(data, TENANT)
    assert parsed.batch.num_rows >= 0


def _dead_letters(data: bytes) -> None:
    with suppress(RecordMalformed):
        deadletter.assemble(deadletter.record_entries(data))


def _record(parse: Callable[[str, bytes], object]) -> Callable[[bytes], None]:
    def judge(data: bytes) -> None:
        with suppress(RecordMalformed):
            parse("a record", data)

    return judge


def _range_by_key(data: bytes) -> None:
    with suppress(RecordMalformed):
        parse_record("landing/v1/ranges/g1/p0/o00000000000000000000.json", data)


def _part(data: bytes) -> None:
    check_part(io.BytesIO(data), TENANT, None)


def _quarantine(data: bytes) -> None:
    with suppress(RecordMalformed, pa.ArrowException, OSError, ValueError):
        quarantine.from_table(pq.ParquetFile(io.BytesIO(data)).read(use_threads=False), TENANT)


def _frames(data: bytes) -> None:
    header = segments.parse_header(data)
    frame = segments.parse_frame(data[segments.HEADER_BYTES :], segments.HEADER_BYTES, None)
    if header is not None and frame is not None:
        body = data[segments.HEADER_BYTES + segments.FRAME_HEADER_BYTES :]
        segments.decode_records(frame, body[: frame.body_bytes], frame.first_offset)


def _version(data: bytes) -> None:
    with suppress(ValueError):
        VersionRecord.from_bytes(data)


def _typed(data: bytes) -> None:
    schema = json.loads(
        Path(__file__)
        .parents[2]
        .joinpath("audit_platform/schemas/vital_reading/1.json")
        .read_bytes()
    )
    TypedPayloads(schema).are_good(data, 1)


# ------------------------------------------------------------------------ edge, uplink, questions


@cache
def _reader() -> Reader:
    return Reader(registry(), TENANT, "h-1", "edge")


def _device_line(data: bytes) -> None:
    (found,) = _reader().read([data], lambda: "2026-03-01T00:00:00.000Z").found
    assert found is not None


def _said() -> list[bytes]:
    event = {
        "deviceId": "pump-1",
        "eventType": "heartbeat",
        "eventVersion": 1,
        "eventTime": "2026-03-01T00:00:00.000Z",
        "sequenceNumber": 7,
        "payload": {"uptimeSeconds": 80},
    }
    return [orjson.dumps(event)]


def _entry(data: bytes) -> None:
    with suppress(RecordMalformed):
        edge_entry.decode(data)


def _entry_samples() -> list[bytes]:
    return [
        f"e1 {'0' * 16} h-1 {TENANT} pump-1 {'0' * 64}\n"
        '2026-03-01T00:00:00.000Z 7 heartbeat 1 low   {"uptimeSeconds":80}'.encode(),
        b"c1\n{}",
    ]


def _spool_frame(data: bytes) -> None:
    decode_entries(data, 0, 2)
    with suppress(ValueError):
        decode_opening(data)


def _spool_samples() -> list[bytes]:
    table = orjson.dumps((["a", "b"], ["low", "low"], [1, 1], [2, 2]))
    return [(5).to_bytes(8, "big") + len(table).to_bytes(4, "big") + table + b"xxyy", b"\x01\x00"]


def _receipt(data: bytes) -> None:
    with suppress(_Malformed):
        parse_receipt(data, "b" * 64, 2)


def _receipts() -> list[bytes]:
    record = {
        "topic": "audit.events.v1",
        "partition": 0,
        "offset": 4,
        "digest": "0123456789abcdef",
        "count": 2,
    }
    return [orjson.dumps({"batchId": "b" * 64, "accepted": 2, "refused": [], "records": [record]})]


def _question(data: bytes) -> None:
    with suppress(Problem):
        parse_question(data)


def _questions() -> list[bytes]:
    record = {"topic": "audit.events.v1", "partition": 0, "offset": 4, "digest": "0" * 16}
    return [orjson.dumps({"records": [record]})]


_DIGEST: Final = "ab" * 32


def _cursor(data: bytes) -> None:
    text = data.decode("latin-1")
    for parse in (event_position, timeline_position, number_position):
        with suppress(QueryProblem):
            parse(text, _DIGEST)


def _cursors() -> list[bytes]:
    position = EventPosition(5, "pump-1", 7, b"h" * 32)
    return [event_cursor(position, _DIGEST).encode(), number_cursor(5, "x", _DIGEST).encode()]


def _proof(data: bytes) -> None:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    with suppress(RecordMalformed):
        proof = EventProof.from_json(value)
        assert check_event_proof(_stored()[0][:-1], proof, b"{}", b"k" * 32)


def _proofs() -> list[bytes]:
    path = merkle.RowProof(0, 1, 1, 0, 1, (), (), ())
    digest = "ab" * 32
    proof = EventProof(
        tenant_id=TENANT,
        day="2026-03-01",
        event_hash=digest,
        ingestion_ms=5,
        manifest_number=1,
        manifest_key="key",
        manifest_version_id="1",
        manifest_sha256=digest,
        key_id="ab" * 8,
        part_key="part",
        part_root=digest,
        day_root=digest,
        path=path,
    )
    return [orjson.dumps(proof.to_json())]


def _keys(data: bytes) -> None:
    with suppress(RecordMalformed):
        keys._parse("keys.json", data)
    with suppress(KeyUnknown):
        keys._parse_wrapping(Path("wrapping.json"), data)


def _key_samples() -> list[bytes]:
    key = {
        "keyId": key_id_of(b"k" * 32),
        "publicKey": (b"k" * 32).hex(),
        "purpose": "edge",
        "createdMs": 1,
        "revokedMs": 0,
        "active": True,
    }
    wrapping = {"kind": "wrapping-key", "version": 1, "key": "00" * 32, "keyId": "00" * 8}
    return [orjson.dumps({"kind": "keys", "version": 1, "keys": [key]}), orjson.dumps(wrapping)]


def _names(data: bytes) -> None:
    text = data.decode("latin-1")
    for parse in (
        layout.parse_range_object,
        layout.parse_range_record,
        layout.parse_closing,
        layout.parse_late_closing,
        layout.parse_part,
        layout.parse_manifest,
        layout.parse_incident,
        layout.parse_decision,
    ):
        parse(text)
    with suppress(RecordMalformed):
        parse_head(text)
    for refuses in (parse_time_ms, parse_clock):
        with suppress(ValueError):
            refuses(text)


def _name_samples() -> list[bytes]:
    return [
        layout.manifest_key(TENANT, 1).encode(),
        layout.part_key(TENANT, "2026-03-01", 0, "0" * 64).encode(),
        layout.closing_key("2026-03-01").encode(),
        layout.verified_key("2026-03-01", 1).encode(),
        layout.resolution_key(TENANT, "2026-03-01", "0" * 16).encode(),
        layout.dry_run_key(TENANT, "0" * 16, 1).encode(),
        b"north:1:" + b"0" * 64,
        b"2026-03-01T00:00:00.000Z",
        b"scaled:1:2:3.5",
    ]


def _incident() -> Incident:
    finding = IncidentFinding(6, "another SHA-256", "cold/v1/x", "pump-1", "0" * 16, 7)
    return Incident(TENANT, "2026-03-01", 1, 1, (finding,), 9, "0" * 16, "00" * 64)


def _resolution() -> Resolution:
    at = (TENANT, "2026-03-01", _incident().incident_id)
    return Resolution(
        *at, Ended.ACCEPTED, 0, "auditor-7", "both copies are gone", 9, "0" * 16, "00"
    )


def _decisions() -> list[bytes]:
    """A proposal, its dry run, its approval, and what became of a chunk."""
    about = {"tenant_id": TENANT, "proposal_id": "0" * 16, "at_ms": 9, "signature": "00"}
    line = Line("e" * 32, Outcome.REFUSED, slug="bad_form", field="payload", reason="why")
    proposal = Proposal(
        **about,  # type: ignore[arg-type] # texts and one number
        action=Action.REPAIR,
        schema_ref="",
        entries=(Named("e" * 32, "ab" * 32, 7, 5),),
        events=(Repaired("e" * 32, _events()[0]),),
        proposer=Person("0" * 16, "somebody"),
        reason="a reason that says enough",
    )
    dry_run = DryRun(**about, number=1, set_sha256=proposal.set_sha256, lines=(line,))  # type: ignore[arg-type] # as above
    approval = Approval(
        **about,  # type: ignore[arg-type] # as above
        set_sha256=proposal.set_sha256,
        dry_run_sha256=dry_run.sha256,
        approver=Person("1" * 16),
    )
    replayed = Replayed(**about, chunk=0, lines=(line,), records=((0, 5, "ab" * 8, 1),))  # type: ignore[arg-type] # as above
    return [record.to_bytes() for record in (proposal, dry_run, approval, replayed)]


def _decision(data: bytes) -> None:
    for kind in (Proposal, DryRun, Approval, Replayed):
        with suppress(RecordMalformed):
            record = kind.from_bytes("a record", data)
            assert kind.from_bytes("again", record.to_bytes()) == record
            if isinstance(record, Proposal):
                assert sum(map(len, record.chunks())) == len(record.events or record.entries)


def _aliases(data: bytes) -> None:
    with suppress(orjson.JSONDecodeError):
        value = orjson.loads(data)
        with suppress(ValueError, KeyError, TypeError):
            hot_aliases._parsed("2026-03-01", value)


def _together(data: bytes) -> None:
    decode_plain([data])


def targets() -> Iterator[Target]:
    """Every target."""
    yield Target(
        "a quarantine object",
        _quarantine,
        lambda: _golden("quarantine/**/*.parquet"),
        ("quarantine.from_table",),
    )
    yield Target("what a device says", _device_line, _said, ("edge_reading.Reader.read",))
    yield Target("a spool entry", _entry, _entry_samples, ("edge_entry.decode",))
    yield Target(
        "a spool frame", _spool_frame, _spool_samples, ("decode_entries", "decode_opening")
    )
    yield Target(
        "a decision about dead letters",
        _decision,
        _decisions,
        ("Proposal.from_bytes", "DryRun.from_bytes", "Approval.from_bytes", "Replayed.from_bytes"),
    )
    yield Target("a receipt", _receipt, _receipts, ("parse_receipt",))
    yield Target("a question about the archive", _question, _questions, ("parse_question",))
    yield Target("a cursor", _cursor, _cursors, ("event_position", "timeline_position"))
    yield Target("a proof", _proof, _proofs, ("EventProof.from_json", "check_event_proof"))
    yield Target("a list of keys", _keys, _key_samples, ("keys._parse", "_parse_key"))
    yield Target(
        "a name",
        _names,
        _name_samples,
        (
            "parse_range_object",
            "parse_range_record",
            "parse_closing",
            "parse_late_closing",
            "parse_part",
            "parse_manifest",
            "parse_incident",
            "parse_verified",
            "parse_decision",
            "parse_head",
            "parse_time_ms",
            "parse_clock",
        ),
    )
    yield Target(
        "aliases of HOT",
        _aliases,
        lambda: [orjson.dumps({"generations": [1], "read": 1, "write": 1})],
        ("hot_aliases._parsed",),
    )
    yield Target("payloads together", _together, _events, ("decode_plain",))
    yield Target("strict JSON", _strict, _events, ("parse_strict",))
    yield Target("an event", _event, _events, ("check_event", "link_of"))
    yield Target("a body", _checked, _body, ("BodyChecker.check",))
    yield Target(
        "a compressed body",
        _zstd,
        lambda: [zstandard.compress(b) for b in _body()],
        ("decompressed",),
    )
    yield Target("stored lines", _lines, _stored, ("parse_stored",))
    yield Target("dead letters", _dead_letters, _entries, ("assemble", "record_entries"))
    yield Target(
        "a manifest",
        _record(Manifest.from_bytes),
        lambda: _golden("manifests/*.json"),
        ("Manifest.from_bytes",),
    )
    yield Target(
        "a range record",
        _record(RangeRecord.from_bytes),
        lambda: _golden("ranges/**/*.json"),
        ("RangeRecord.from_bytes",),
    )
    yield Target(
        "a range record of a key",
        _range_by_key,
        lambda: _golden("ranges/**/*.json"),
        ("parse_record",),
    )
    yield Target(
        "a closing",
        _record(Closing.from_bytes),
        lambda: _golden("closed/*.json"),
        ("Closing.from_bytes",),
    )
    yield Target(
        "a generation",
        _record(Generation.from_bytes),
        lambda: _golden("generations/*.json"),
        ("Generation.from_bytes",),
    )
    yield Target(
        "an incident",
        _record(Incident.from_bytes),
        lambda: [_incident().to_bytes()],
        ("Incident.from_bytes",),
    )
    yield Target(
        "the end of an incident",
        _record(Resolution.from_bytes),
        lambda: [_resolution().to_bytes()],
        ("Resolution.from_bytes",),
    )
    yield Target(
        "a signed record",
        _record(Form("legal_hold", b"").parse),
        lambda: [_incident().to_bytes().replace(b'"incident"', b'"legal_hold"')],
        ("signed.parse",),
    )
    yield Target("a sealed part", _part, lambda: _golden("part-*.parquet"), ("check_part",))
    yield Target(
        "a log segment", _frames, _segment, ("parse_header", "parse_frame", "decode_records")
    )
    yield Target(
        "a mark", Mark.from_bytes, lambda: [Mark(0, 9, 9).to_bytes()], ("Mark.from_bytes",)
    )
    yield Target(
        "a version record",
        _version,
        _version_records,
        ("VersionRecord.from_bytes",),
    )
    yield Target(
        "a typed payload",
        _typed,
        lambda: [b'{"reading":{"spo2":{"unit":"%","value":97}},"stayId":"stay-1"}\n'],
        ("TypedPayloads",),
    )
