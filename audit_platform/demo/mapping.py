"""Source rows -> what devices say: one iterator, in the order of sending.

Belongs here: the payload of each kind of row. Nothing is repaired: what a schema will refuse
is sent as it is. Does not: numbering and sending (`devices.py`), the tables themselves
(`sources.py`), counting (`numbers.py`).
Source: issue "Walking skeleton", events and data; `docs/data.md`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from audit_platform.demo import sources
from audit_platform.errors import EventRefused
from audit_platform.record.layout import MS_PER_DAY
from audit_platform.record.schemas import registry

Row = Mapping[str, Any]
Payload = dict[str, Any]

_DRUG: Final = re.compile(r"(?s)(.*\S)\s*\(([^()]*)\)\s*")
_PERCENT: Final = re.compile(r"\s*([0-9.]+)\s*%\s*")


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """What a device gives its edge. Times are milliseconds from 00:00 of the laid day.

    `measure` is the source's own name of what was measured (with device and time: the key that
    some rows repeat). `cause` is empty when the event is expected to be accepted, else
    `<slug>:<field>` of its refusal.
    """

    tenant_id: str
    hospital_id: str
    device_id: str
    event_type: str
    event_version: int
    offset_ms: int
    event_offset_ms: int
    payload: Payload
    measure: str
    cause: str

    @property
    def expected(self) -> str:
        """`ok` or `refused`."""
        return "refused" if self.cause else "ok"


@dataclass(frozen=True, slots=True)
class _Said:
    """One event of a row, before it knows its tenant."""

    event_type: str
    payload: Payload
    measure: str = ""
    event_ms: int | None = None
    sent_ms: int | None = None
    order: int = field(default=0)


# ------------------------------------------------------------------------------------- values


def _number(value: object) -> object:
    """A number as recorded; text that is none stays text, for the schema to refuse."""
    if value is None:
        return None
    try:
        number = float(str(value))
    except ValueError:
        return str(value)[:128]
    if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124 # NaN
        return str(value)
    return int(number) if number.is_integer() else number


def _quantity(value: object, unit: str) -> Payload:
    """{value, unit}; a per cent sign inside the text is its unit."""
    percent = _PERCENT.fullmatch(str(value))
    if percent:
        return {"value": _number(percent[1]), "unit": "%"}
    return {"value": _number(value), "unit": unit}


def _stay(row: Row) -> Payload:
    return {"stayId": f"stay-{row['stay']}"}


def _delay(row: Row) -> Payload:
    delay = (row["sent_ms"] - row["event_ms"]) // 1000
    return {"entryDelaySeconds": delay} if delay else {}


def _present(**values: object) -> Payload:
    return {k: v for k, v in values.items() if v is not None and v != ""}


# ------------------------------------------------------------------------------------- tables


def _eicu_infusion(row: Row) -> Iterator[_Said]:
    named = _DRUG.fullmatch(row["drugname"])
    drug, unit = (named[1], named[2].strip()) if named else (row["drugname"].strip(), "")
    rate = _number(row["drugrate"])
    payload = {**_stay(row), "drug": drug, "unit": unit}
    if rate is not None:
        payload["rate"] = rate
    yield _Said("pump_rate_changed", payload, measure=row["drugname"])


def _eicu_charting(row: Row) -> Iterator[_Said]:
    label, value = row["label"], row["value"]
    head = {**_stay(row), **_delay(row)}
    if label in sources.EICU_MODES:
        yield _Said("ventilator_mode_recorded", {**head, "mode": value}, measure=label)
    elif label in sources.EICU_POSITIONS:
        where = {"attribute": sources.EICU_POSITIONS[label], "position": value}
        yield _Said("bed_position_recorded", {**head, **where}, measure=label)
    elif label in sources.EICU_SETTINGS:
        setting = {sources.EICU_SETTINGS[label]: _quantity(value, "")}
        payload = {**head, "recordedAs": label, "setting": setting}
        yield _Said("ventilator_setting_recorded", payload, measure=label)
    else:
        reading = {sources.EICU_READINGS[label]: _quantity(value, "")}
        payload = {**head, "recordedAs": label, "reading": reading}
        yield _Said("ventilator_reading", payload, measure=label)


def _eicu_limits(row: Row) -> Iterator[_Said]:
    limits = {
        ours: _quantity(row[column], "")
        for column, ours in sources.EICU_LIMITS.items()
        if row[column] is not None
    }
    if limits:
        yield _Said("alarm_limits_set", {**_stay(row), "limits": limits}, measure="limits")


def _eicu_vitals(row: Row) -> Iterator[_Said]:
    reading = {
        ours: _quantity(row[column], "")
        for column, ours in sources.EICU_VITALS.items()
        if row[column] is not None
    }
    if reading:
        yield _Said("vital_reading", {**_stay(row), "reading": reading}, measure="aperiodic")


def _clif_medication(row: Row) -> Iterator[_Said]:
    action, drug = row["mar_action_name"], row["med_name"]
    head = {**_stay(row), "drug": drug}
    dose = {"rate": _number(row["med_dose"]), "unit": row["med_dose_unit"] or ""}
    if action in ("[Started Bolus]", "[Finished Bolus]"):
        said = _Said("pump_bolus_given", {**head, "amount": dose["rate"], "unit": dose["unit"]})
    elif action == "Paused":
        said = _Said("pump_paused", head)
    elif action in ("Stopped", "FinishedRunning"):
        cause = "stopped" if action == "Stopped" else "finished"
        said = _Said("pump_stopped", {**head, "cause": cause})
    elif action == "[Started]":
        said = _Said("pump_started", {**head, **dose})
    elif action.endswith("[Restarted]"):
        said = _Said("pump_started", {**head, **dose, "restart": True})
    else:
        said = _Said("pump_rate_changed", {**head, **dose})
    yield _Said(said.event_type, said.payload, measure=f"{drug}/{action}")


def _clif_respiratory(row: Row) -> Iterator[_Said]:
    if row["mode_name"] is not None:
        mode = _present(
            mode=row["mode_name"],
            modeCategory=row["mode_category"],
            brand=row["vent_brand_name"],
            interface=row["device_name"],
        )
        yield _Said("ventilator_mode_recorded", {**_stay(row), **mode}, measure="mode")
    for order, (event_type, name, table) in enumerate(
        (
            ("ventilator_setting_recorded", "setting", sources.CLIF_SETTINGS),
            ("ventilator_reading", "reading", sources.CLIF_READINGS),
        ),
        start=1,
    ):
        values = {
            ours: _quantity(row[column], unit)
            for column, (ours, unit) in table.items()
            if row[column] is not None
        }
        if values:
            yield _Said(event_type, {**_stay(row), name: values}, measure=name, order=order)


def _clif_position(row: Row) -> Iterator[_Said]:
    where = {"attribute": "position", "position": row["position_name"]}
    yield _Said("bed_position_recorded", {**_stay(row), **where}, measure="position")


def _clif_vitals(row: Row) -> Iterator[_Said]:
    ours, unit = sources.CLIF_VITALS[row["vital_category"]]
    reading = {ours: _quantity(row["vital_value"], unit)}
    payload = {**_stay(row), "recordedAs": row["vital_name"], "reading": reading}
    yield _Said("vital_reading", payload, measure=row["vital_category"])


def _mimic(row: Row) -> Iterator[_Said]:
    head = {**_stay(row), "drug": row["label"]}
    who = {"enteredBy": f"caregiver-{row['cgid']}"}
    record = f"mimic-iii-inputevents-{row['source_row']}"
    status = row["statusdescription"]
    running = row["rate"] is not None
    noted = {**head, **who, **_delay(row), "recordId": record, "sourceStatus": status}
    if running:
        weight = _quantity(row["patientweight"], "")  # the source states no unit
        rate = {"rate": _number(row["rate"]), "unit": row["rateuom"] or ""}
        payload = {**noted, **rate, "patientWeight": weight}
        yield _Said("pump_rate_changed", payload, measure=row["label"])
    else:
        given = {"amount": _number(row["amount"]), "unit": row["amountuom"] or ""}
        yield _Said("pump_bolus_given", {**noted, **given}, measure=row["label"])
    if running and status == "Paused":
        ended = _Said("pump_paused", {**head, **who, "recordId": record})
        yield _at(ended, row["end_ms"], 1)
    elif running and status in ("Stopped", "FinishedRunning"):
        cause = "stopped" if status == "Stopped" else "finished"
        ended = _Said("pump_stopped", {**head, **who, "cause": cause, "recordId": record})
        yield _at(ended, row["end_ms"], 1)
    if row["corrected_ms"] is not None:
        edited = row["comments_editedby"]
        payload = {
            **head,
            "correctsRecordId": record,
            "action": "edited" if edited else "cancelled",
            **_present(byRole=edited or row["comments_canceledby"]),
        }
        yield _at(_Said("pump_record_corrected", payload), row["corrected_ms"], 2)


def _at(said: _Said, ms: int, order: int) -> _Said:
    """The same, said at another time than its row's."""
    return _Said(said.event_type, said.payload, event_ms=ms, sent_ms=ms, order=order)


_HTTP_ACTIONS: Final = {"C": "create", "R": "read", "U": "update", "D": "delete", "E": "execute"}


def _audit(row: Row) -> Iterator[_Said]:
    head = {"actor": row["actor"], "outcome": row["outcome"], "recordId": row["record_id"]}
    kind = row["kind"]
    if kind == "audit_policy_changed":
        what = {
            "scope": row["method"],
            "category": row["category"],
            "subcategory": row["subcategory"],
            "change": row["change"],
        }
    elif kind == "sign_in":
        what = {"action": row["operation"], **_present(method=row["method"], reason=row["change"])}
    elif kind == "record_accessed":
        what = {
            "action": _HTTP_ACTIONS[row["operation"]],
            **_present(interaction=row["category"], resourceType=row["resource"]),
        }
    else:
        what = {
            "operation": row["operation"],
            **_present(category=row["category"], target=row["resource"]),
        }
    yield _Said(kind, {**head, **what})


def _synthetic(row: Row) -> Iterator[_Said]:
    yield _Said(row["event_type"], orjson.loads(row["payload"]))


_MAKERS: Final[dict[str, Callable[[Row], Iterator[_Said]]]] = {
    "eicu_infusiondrug": _eicu_infusion,
    "eicu_respiratorycharting": _eicu_charting,
    "eicu_respiratorycare": _eicu_limits,
    "eicu_vitalaperiodic": _eicu_vitals,
    "eicu_nursecare": _eicu_charting,
    "clif_medication": _clif_medication,
    "clif_respiratory": _clif_respiratory,
    "clif_position": _clif_position,
    "clif_vitals": _clif_vitals,
    "mimic_inputevents": _mimic,
    "audit": _audit,
    "synthetic": _synthetic,
}


# ------------------------------------------------------------------------------------- events


def cause_of_refusal(event_type: str, version: int, payload: Payload) -> str:
    """`<slug>:<field>` of what the payload's schema will say, or "" when it is good."""
    known = registry()
    try:
        known.validate(event_type, version, known.schema_ref(event_type, version), payload)
    except EventRefused as e:
        return f"{e.slug}:{e.field}"
    return ""


def device_events(tenant_id: str, excerpt: Path = sources.EXCERPT) -> Iterator[DeviceEvent]:
    """Every event of a tenant's laid day, by time of sending; the same ones each time.

    Raises `ValueError` for a tenant that the excerpt does not hold.
    """
    with sources.connect(excerpt) as connection:
        known = dict(sources.tenants(connection))
        if tenant_id not in known:
            raise ValueError(f"the excerpt has no tenant {tenant_id!r}: {sorted(known)}")
        tables = sources.present(connection)
        queue: list[tuple[tuple[int, int, str, int], DeviceEvent]] = []
        for rank, table in enumerate(sources.TABLES):
            if table not in tables:
                continue
            for row in sources.rows(connection, table, tenant_id):
                for said in _MAKERS[table](row):
                    event = _event(tenant_id, known[tenant_id], row, said)
                    if 0 <= event.offset_ms < MS_PER_DAY:
                        key = (event.offset_ms, rank, row["row_id"], said.order)
                        queue.append((key, event))
    queue.sort(key=lambda keyed: keyed[0])
    for _, event in queue:
        yield event


def _event(tenant_id: str, hospital_id: str, row: Row, said: _Said) -> DeviceEvent:
    return DeviceEvent(
        tenant_id=tenant_id,
        hospital_id=hospital_id,
        device_id=row["device_id"],
        event_type=said.event_type,
        event_version=1,
        offset_ms=row["sent_ms"] if said.sent_ms is None else said.sent_ms,
        event_offset_ms=row["event_ms"] if said.event_ms is None else said.event_ms,
        payload=said.payload,
        measure=said.measure,
        cause=cause_of_refusal(said.event_type, 1, said.payload),
    )


def hospitals(excerpt: Path = sources.EXCERPT) -> dict[str, str]:
    """Every tenant of the excerpt, sorted, and its hospitalId."""
    with sources.connect(excerpt) as connection:
        return dict(sorted(sources.tenants(connection)))


def tenant_ids(excerpt: Path = sources.EXCERPT) -> list[str]:
    """Every tenant of the excerpt, sorted."""
    return list(hospitals(excerpt))
