"""Event types: the JSON Schemas of payloads, compiled once, and the refusal that names the fault.

Belongs here: the registry of `audit_platform/schemas/<eventType>/<version>.json`, read as package
data on first use, and the check of one payload. Does not: the envelope (`event.py`), where a
refused event goes (`deadletter.py`), a registry over the network.
Source: design section 3; JSON Schema 2020-12; the keyword `x-criticality` is ours.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs
import orjson

from audit_platform.errors import EventRefused, RecordMalformed
from audit_platform.record.typed import NotTyped, TypedPayloads

CRITICALITIES: Final = frozenset({"low", "normal", "high", "critical"})

#: Device class of the types in which an edge speaks for itself (`chain_start`, `loss`, ...).
EDGE: Final = "edge"

#: Device class of the types that only the platform says (`record_read`, `event_repaired`, ...).
SERVICE: Final = "service"

#: A validator's message can quote a payload of a megabyte; a refusal must fit a receipt's line.
MAX_REASON_CHARS: Final = 300

_EVENT_TYPE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True, eq=False)  # by identity: lists of them are searched for None
class EventSchema:
    """One version of one event type. `schema_ref` is `<eventType>/<version>`.

    `typed` judges many payloads at once; None where the schema has no typed decoder.
    """

    event_type: str
    version: int
    schema_ref: str
    criticality: str
    device_class: str
    validator: jsonschema_rs.Draft202012Validator
    typed: TypedPayloads | None = None


class SchemaRegistry:
    """All event types of this software, by (event type, version)."""

    def __init__(self, schemas: Mapping[tuple[str, int], EventSchema]) -> None:
        self._schemas = dict(schemas)

    def known(self) -> list[tuple[str, int]]:
        """Every (event type, version), sorted."""
        return sorted(self._schemas)

    def get(self, event_type: str, version: int) -> EventSchema:
        """The schema. Raises `EventRefused` with slug `unknown_event_type`."""
        found = self._schemas.get((event_type, version))
        if found is None:
            known = any(name == event_type for name, _ in self._schemas)
            raise EventRefused(
                "unknown_event_type",
                "eventVersion" if known else "eventType",
                f"no schema for event type {event_type[:128]!r} version {version}",
                remedy="register the schema, or send a known event type and version",
            )
        return found

    def schema_ref(self, event_type: str, version: int) -> str:
        """`<eventType>/<version>`. Raises `EventRefused` as `get`."""
        return self.get(event_type, version).schema_ref

    def criticality(self, event_type: str, version: int) -> str:
        """Default criticality of the type. Raises `EventRefused` as `get`."""
        return self.get(event_type, version).criticality

    def validate_sent(
        self, event_type: str, version: int, schema_ref: str, payload: object
    ) -> None:
        """As `validate`, for an event from outside; slug `reserved` for what the platform says.

        Without it an edge could say that two operators had repaired an event, or that somebody had
        read one.
        """
        if self.get(event_type, version).device_class == SERVICE:
            raise EventRefused(
                "reserved",
                "eventType",
                f"only the platform itself says {event_type}",
                remedy="send another eventType",
            )
        self.validate(event_type, version, schema_ref, payload)

    def validate(self, event_type: str, version: int, schema_ref: str, payload: object) -> None:
        """Check one decoded payload against the schema that its event names.

        Raises `EventRefused` with slug `unknown_event_type`, `bad_schema_ref` or
        `schema_violation`; `field` is then the JSON path, such as `payload.reading.spo2.value`.
        """
        schema = self.get(event_type, version)
        if schema_ref != schema.schema_ref:
            raise EventRefused(
                "bad_schema_ref",
                "schemaRef",
                f"schemaRef {schema_ref[:128]!r} does not name {schema.schema_ref}",
                remedy=f"send schemaRef {schema.schema_ref!r} with this type and version",
            )
        if schema.validator.is_valid(payload):
            return
        fault = next(iter(schema.validator.iter_errors(payload)))
        raise EventRefused(
            "schema_violation",
            _json_path(fault),
            fault.message[:MAX_REASON_CHARS],
            remedy=f"compare the payload with schema {schema.schema_ref}",
        )


def _json_path(fault: jsonschema_rs.ValidationError) -> str:
    steps = (f"[{s}]" if isinstance(s, int) else f".{s}" for s in fault.instance_path)
    return ("payload" + "".join(steps))[:MAX_REASON_CHARS]


def _compile(event_type: str, version: int, data: bytes) -> EventSchema:
    ref = f"{event_type}/{version}"
    schema: dict[str, Any] = orjson.loads(data)
    criticality = schema.get("x-criticality")
    if schema.get("$id") != ref:
        raise RecordMalformed(f"schema {ref}", "$id", f"wanted {ref}")
    if criticality not in CRITICALITIES:
        raise RecordMalformed(
            f"schema {ref}", "x-criticality", f"{criticality!r} is no criticality"
        )
    return EventSchema(
        event_type=event_type,
        version=version,
        schema_ref=ref,
        criticality=criticality,
        device_class=schema["x-device-class"],
        validator=jsonschema_rs.Draft202012Validator(schema),
        typed=_typed(schema),
    )


def _typed(schema: Mapping[str, Any]) -> TypedPayloads | None:
    try:
        return TypedPayloads(schema)
    except NotTyped:
        return None


@functools.cache
def registry() -> SchemaRegistry:
    """The registry of the schemas packaged with this software; compiled once per process."""
    schemas: dict[tuple[str, int], EventSchema] = {}
    for folder in importlib.resources.files("audit_platform").joinpath("schemas").iterdir():
        if not (folder.is_dir() and _EVENT_TYPE.fullmatch(folder.name)):
            continue
        for file in folder.iterdir():
            version = int(file.name.removesuffix(".json"))
            schemas[folder.name, version] = _compile(folder.name, version, file.read_bytes())
    return SchemaRegistry(schemas)
