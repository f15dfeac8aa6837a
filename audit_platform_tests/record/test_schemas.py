"""Event types: every schema compiles, bounds its strings, and says where a payload is wrong."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_platform.errors import EventRefused, RecordMalformed
from audit_platform.record import schemas, signing
from audit_platform.record.schemas import MAX_REASON_CHARS, registry

GOOD = {"stayId": "stay-1", "reading": {"spo2": {"value": 97, "unit": "%"}}}


def _documents() -> dict[str, dict[str, Any]]:
    folder = importlib.resources.files("audit_platform").joinpath("schemas")
    found = {}
    for event_type, version in registry().known():
        text = folder.joinpath(event_type, f"{version}.json").read_text("utf-8")
        found[f"{event_type}/{version}"] = json.loads(text)
    return found


def _nested(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _nested(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _nested(inner)


def test_there_are_about_twenty_event_types_and_each_file_is_one() -> None:
    folder = importlib.resources.files("audit_platform").joinpath("schemas")
    files = sum(1 for d in folder.iterdir() if d.is_dir() for _ in d.iterdir())
    assert files == len(registry().known())
    assert 20 <= files <= 40


def test_every_schema_is_valid_by_the_2020_12_metaschema() -> None:
    documents = _documents()
    assert documents
    for ref, document in documents.items():
        assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema", ref
        jsonschema_rs.meta.validate(document)


#: The payload inside is of another type, and judged by that one's schema when it is proposed and
#: when it is replayed (`operations/dlq/judge.py`); no schema here can say which.
OPEN = "event_repaired/1"


def test_every_object_is_closed_and_every_string_bounded() -> None:
    for ref, document in _documents().items():
        for node in _nested(document):
            if node.get("type") == "object":
                is_open = ref == OPEN and node is document["properties"]["payload"]
                assert is_open or node.get("additionalProperties") is False, ref
            types = node.get("type", [])
            if types == "string" or (isinstance(types, list) and "string" in types):
                assert node["maxLength"] <= 256, ref


def test_schema_ref_is_type_and_version_and_criticality_is_known() -> None:
    known = registry()
    for event_type, version in known.known():
        assert known.schema_ref(event_type, version) == f"{event_type}/{version}"
        assert known.criticality(event_type, version) in schemas.CRITICALITIES


def test_a_good_payload_passes() -> None:
    registry().validate("vital_reading", 1, "vital_reading/1", GOOD)
    assert registry().get("vital_reading", 1).validator.is_valid(GOOD)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"reading": GOOD["reading"]}, "payload"),
        ({**GOOD, "reading": {"spo2": {"value": 101, "unit": "%"}}}, "payload.reading.spo2.value"),
        (
            {**GOOD, "reading": {"spo2": {"value": "ERROR", "unit": "%"}}},
            "payload.reading.spo2.value",
        ),
        ({**GOOD, "reading": {"spo2": {"value": 97}}}, "payload.reading.spo2"),
        ({**GOOD, "stayId": "Mustermann"}, "payload.stayId"),
        ({**GOOD, "synthetic": False}, "payload.synthetic"),
        ({**GOOD, "nurse": "x"}, "payload"),
        ({**GOOD, "reading": {}}, "payload.reading"),
        ([], "payload"),
    ],
)
def test_a_violation_names_the_json_path(payload: object, field: str) -> None:
    with pytest.raises(EventRefused) as refused:
        registry().validate("vital_reading", 1, "vital_reading/1", payload)
    assert (refused.value.slug, refused.value.field) == ("schema_violation", field)
    assert refused.value.remedy


def test_a_violation_inside_an_array_names_the_element() -> None:
    run = {"deviceId": "d", "chainId": "0" * 16, "first": 0, "last": 1, "count": 0}
    payload = {
        "edgeKeyId": "0" * 16,
        "publicKey": "0" * 64,
        "runs": [run],
        "signature": "0" * 128,
    }
    with pytest.raises(EventRefused) as refused:
        registry().validate("loss", 1, "loss/1", payload)
    assert refused.value.field == "payload.runs[0].count"


def test_what_an_edge_signs_is_good_by_its_schema() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    place = {
        "tenant_id": "t",
        "hospital_id": "h",
        "device_id": "edge-gateway",
        "chain_id": "0" * 16,
        "event_time": "2026-01-01T00:00:00.000Z",
        "sequence_number": 0,
    }
    run = {"deviceId": "d", "chainId": "0" * 16, "first": 0, "last": 1, "count": 2}
    start = signing.chain_start_payload(key, **place, reason="first start")  # type: ignore[arg-type] # one place for both
    loss = signing.loss_payload(key, **place, runs=[run])  # type: ignore[arg-type] # one place for both
    registry().validate("chain_start", 1, "chain_start/1", start)
    registry().validate("loss", 1, "loss/1", loss)
    assert start["edgeKeyId"] == loss["edgeKeyId"]


def test_a_refusal_stays_short_when_the_payload_is_huge() -> None:
    with pytest.raises(EventRefused) as refused:
        registry().validate("vital_reading", 1, "vital_reading/1", {"stayId": "x" * 1_000_000})
    assert len(refused.value.reason) <= MAX_REASON_CHARS
    assert len(refused.value.field) <= MAX_REASON_CHARS


@pytest.mark.parametrize(
    ("event_type", "version", "field"),
    [("no_such_type", 1, "eventType"), ("vital_reading", 999, "eventVersion")],
)
def test_an_unknown_type_or_version_is_refused(event_type: str, version: int, field: str) -> None:
    with pytest.raises(EventRefused) as refused:
        registry().validate(event_type, version, f"{event_type}/{version}", GOOD)
    assert (refused.value.slug, refused.value.field) == ("unknown_event_type", field)


def test_another_types_schema_ref_is_refused() -> None:
    with pytest.raises(EventRefused) as refused:
        registry().validate("vital_reading", 1, "heartbeat/1", GOOD)
    assert (refused.value.slug, refused.value.field) == ("bad_schema_ref", "schemaRef")


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"$id": "other/1", "x-criticality": "low"}, "$id"),
        ({"$id": "some/1", "x-criticality": "urgent"}, "x-criticality"),
    ],
)
def test_a_schema_file_that_contradicts_itself_is_not_loaded(
    document: dict[str, str], field: str
) -> None:
    with pytest.raises(RecordMalformed) as refused:
        schemas._compile("some", 1, json.dumps(document).encode())
    assert refused.value.field == field
