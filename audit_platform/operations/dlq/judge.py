"""What would become of one line if it were sent now: the gateway's own rules, the named schema.

Belongs here: those rules for lines that were refused once. Does not: which lines (`letters.py`),
what is done about them. Source: design section 7 ("is checked against the schema that the approval
names"); the gateway's check is `record/event.py` and `record/schemas.py`, as here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from audit_platform.errors import DecisionRefused, EventRefused
from audit_platform.ports import Platform, UnknownDevices
from audit_platform.record.deadletter import DeadLetter, plain
from audit_platform.record.decision import Line, Named, Outcome, Repaired
from audit_platform.record.event import CheckedEvent, check_event
from audit_platform.record.schemas import EDGE, EventSchema, SchemaRegistry


@dataclass(frozen=True, slots=True)
class Judged:
    """A line's outcome; `event` is set where it would be accepted."""

    line: Line
    event: CheckedEvent | None = None


def named_schema(schemas: SchemaRegistry, schema_ref: str) -> EventSchema:
    """The schema that `<eventType>/<version>` names. Raises `DecisionRefused`."""
    event_type, _, version = schema_ref.partition("/")
    try:
        return schemas.get(event_type, int(version))
    except (EventRefused, ValueError) as e:
        raise DecisionRefused(
            "bad_proposal",
            f"there is no schema {schema_ref[:128]!r}",
            remedy="name one that this software has, as <eventType>/<version>",
        ) from e


class Judge:
    """Judges lines of one tenant. Made anew for each use: devices and schemas change.

    Raises `DecisionRefused` for a tenant that is suspended, `TenantUnknown`, `MetadataUnavailable`.
    """

    def __init__(self, platform: Platform, tenant_id: str, schemas: SchemaRegistry) -> None:
        self._tenant_id, self._schemas = tenant_id, schemas
        tenant = platform.metadata.tenant(tenant_id)
        if tenant.suspended:
            raise DecisionRefused(
                "tenant_suspended",
                f"{tenant_id} is suspended: nothing of it is taken",
                remedy="audit-platform tenant resume, when it shall go on",
            )
        self._enrolled: frozenset[str] | None = None
        if tenant.unknown_devices is UnknownDevices.DEAD_LETTER:
            devices = platform.metadata.devices(tenant_id)
            self._enrolled = frozenset(d.device_id for d in devices if not d.retired_ms)

    def entry(self, named: Named, found: DeadLetter | None, schema: EventSchema) -> Judged:
        """A refused line, by the schema that the proposal names."""
        if found is None or found.sha256 != named.sha256:
            refused = EventRefused(
                "bytes_lost", "", "its bytes cannot be read, or are others", remedy=""
            )
            return _refused(named.entry_id, refused)
        try:
            event = check_event(found.data, self._tenant_id)
            _demand_type(event, schema)
            self._demand_enrolment(event, schema)
            self._schemas.validate_sent(
                schema.event_type, schema.version, schema.schema_ref, event.payload
            )
        except BaseException as e:  # noqa: BLE001 - a panic of a Rust validator is no Exception; others go on
            return _refused(named.entry_id, _as_refusal(e))
        return _accepted(named.entry_id, event)

    def repaired(self, made: Repaired) -> Judged:
        """A new event, by its own schema; what it says a refused one meant, by that one's."""
        try:
            event = check_event(made.line, self._tenant_id)
            self._schemas.validate(
                event.event_type, event.event_version, event.schema_ref, event.payload
            )
            if made.entry_id:
                inner, version = event.payload["eventType"], event.payload["eventVersion"]
                self._schemas.validate(
                    inner, version, f"{inner}/{version}", event.payload["payload"]
                )
        except BaseException as e:  # noqa: BLE001 - as above
            return _refused(made.entry_id, _as_refusal(e))
        return _accepted(made.entry_id, event)

    def _demand_enrolment(self, event: CheckedEvent, schema: EventSchema) -> None:
        if (
            self._enrolled is not None
            and schema.device_class != EDGE
            and event.device_id not in self._enrolled
        ):
            raise EventRefused(
                "unknown_device",
                "deviceId",
                f"device {event.device_id} is not enrolled, or is retired",
                remedy="",
            )


def _demand_type(event: CheckedEvent, schema: EventSchema) -> None:
    if event.event_type != schema.event_type:
        raise EventRefused(
            "bad_schema_ref",
            "eventType",
            f"the event is a {event.event_type}, which {schema.schema_ref} is not about",
            remedy="",
        )


def _as_refusal(error: BaseException) -> EventRefused:
    """What a check raised as a refusal; what is no check's doing is raised again."""
    if isinstance(error, EventRefused):
        return error
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return EventRefused(
        "internal_check_failed", "", f"the check itself failed: {type(error).__name__}", remedy=""
    )


def _refused(entry_id: str, error: EventRefused) -> Judged:
    return Judged(
        Line(
            entry_id,
            Outcome.REFUSED,
            slug=error.slug,
            field=plain(error.field),
            reason=plain(error.reason),
        )
    )


def _accepted(entry_id: str, event: CheckedEvent) -> Judged:
    digest = hashlib.sha256(event.canonical).hexdigest()
    return Judged(Line(entry_id, Outcome.ACCEPTED, event_hash=digest), event)


def rejected(entries: Sequence[Named]) -> list[Line]:
    """The lines of a rejection."""
    return [Line(n.entry_id, Outcome.REJECTED) for n in entries]
