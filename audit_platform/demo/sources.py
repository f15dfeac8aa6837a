"""The source tables of the packaged excerpt, laid on one day: rows, columns, times.

Belongs here: one SQL text per table, giving each row's tenant, device, time of the event and time
of sending (milliseconds from 00:00 of the laid day), and the tables of names that turn a source's
label into a field of ours. Does not: payloads and events (`mapping.py`), choosing the rows
(`build_excerpt.py`).
Source: `docs/data.md`; the publishers' data dictionaries for units.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb

#: Where the packaged excerpt lies.
EXCERPT: Final = Path(__file__).parent / "excerpt"

#: Source tables in the order in which rows of one millisecond are sent.
TABLES: Final = (
    "eicu_infusiondrug",
    "eicu_respiratorycharting",
    "eicu_respiratorycare",
    "eicu_vitalaperiodic",
    "eicu_nursecare",
    "clif_medication",
    "clif_respiratory",
    "clif_position",
    "clif_vitals",
    "mimic_inputevents",
    "audit",
    "synthetic",
)

#: eICU label -> our field. The publisher states no unit for these values, so none is given.
EICU_SETTINGS: Final = {
    "FiO2": "fio2",
    "PEEP": "peep",
    "PEEP/CPAP": "peep",
    "Tidal Volume (set)": "tidalVolume",
    "TV/kg IBW": "tidalVolumePerKg",
    "Vent Rate": "rate",
    "Pressure Support": "pressureSupport",
    "Pressure Control": "pressureControl",
    "LPM O2": "oxygenFlow",
    "Flow Sensitivity": "flowSensitivity",
    "Peak Flow": "flowRate",
}
EICU_READINGS: Final = {
    "RR (patient)": "respiratoryRate",
    "Total RR": "respiratoryRate",
    "Spontaneous Respiratory Rate": "respiratoryRate",
    "Exhaled TV (patient)": "tidalVolume",
    "Exhaled TV (machine)": "tidalVolume",
    "Tidal Volume, Delivered": "tidalVolume",
    "Mean Airway Pressure": "meanAirwayPressure",
    "Peak Insp. Pressure": "peakPressure",
    "Peak Pressure": "peakPressure",
    "Plateau Pressure": "plateauPressure",
    "Exhaled MV": "minuteVolume",
    "SaO2": "saturation",
    "Compliance": "compliance",
    "Static Compliance": "compliance",
}
EICU_MODES: Final = (
    "Ventilator Support Mode",
    "Mechanical Ventilator Mode",
    "Non-invasive Ventilation Mode",
)
EICU_POSITIONS: Final = {
    "Head of Bed Elevation": "bed",
    "Patient Position": "position",
    "Bed Position": "bed",
    "Side Rails": "side_rails",
}

#: eICU column of vitalAperiodic -> our field. Its dictionary states no unit either.
EICU_VITALS: Final = {
    "noninvasivesystolic": "systolic",
    "noninvasivediastolic": "diastolic",
    "noninvasivemean": "mean",
    "paop": "wedgePressure",
    "cardiacoutput": "cardiacOutput",
    "cardiacinput": "cardiacInput",
    "svr": "systemicResistance",
    "svri": "systemicResistanceIndex",
    "pvr": "pulmonaryResistance",
    "pvri": "pulmonaryResistanceIndex",
}
EICU_LIMITS: Final = {
    "lowexhmvlimit": "exhaledMinuteVolumeLow",
    "hiexhmvlimit": "exhaledMinuteVolumeHigh",
    "lowexhtvlimit": "exhaledTidalVolumeLow",
    "hipeakpreslimit": "peakPressureHigh",
    "lowpeakpreslimit": "peakPressureLow",
    "hirespratelimit": "respiratoryRateHigh",
    "lowrespratelimit": "respiratoryRateLow",
    "peeplimit": "peep",
    "cpaplimit": "cpap",
}

#: CLIF category or column -> (our field, unit in the words of CLIF 2.1: `vital_units` in the schema
#: of the package that the tables came with, and its data dictionary). "" = "(no units)" there.
CLIF_VITALS: Final = {
    "heart_rate": ("heartRate", ""),
    "respiratory_rate": ("respiratoryRate", ""),
    "spo2": ("spo2", "%"),
    "sbp": ("systolic", "mmHg"),
    "dbp": ("diastolic", "mmHg"),
    "map": ("mean", "mmHg"),
    "temp_c": ("temperature", "Celsius"),
    "weight_kg": ("weight", "Kg"),
    "height_cm": ("height", "Centimeters"),
}
CLIF_SETTINGS: Final = {
    "fio2_set": ("fio2", "fraction"),
    "lpm_set": ("oxygenFlow", "lpm"),
    "tidal_volume_set": ("tidalVolume", "mL"),
    "resp_rate_set": ("rate", "bpm"),
    "pressure_control_set": ("pressureControl", "cmH2O"),
    "pressure_support_set": ("pressureSupport", "cmH2O"),
    "flow_rate_set": ("flowRate", "lpm"),
    "peak_inspiratory_pressure_set": ("peakPressure", "cmH2O"),
    "inspiratory_time_set": ("inspiratoryTime", "seconds"),
    "peep_set": ("peep", "cmH2O"),
}
CLIF_READINGS: Final = {
    "tidal_volume_obs": ("tidalVolume", "mL"),
    "resp_rate_obs": ("respiratoryRate", "bpm"),
    "plateau_pressure_obs": ("plateauPressure", "cmH2O"),
    "peak_inspiratory_pressure_obs": ("peakPressure", "cmH2O"),
    "peep_obs": ("peep", "cmH2O"),
    "minute_vent_obs": ("minuteVolume", "liters"),
    "mean_airway_pressure_obs": ("meanAirwayPressure", "cmH2O"),
}


def _eicu(table: str, prefix: str, event: str, sent: str, row: str, extra: str) -> str:
    """An eICU table: minutes since the unit admission -> milliseconds in the laid day."""
    return f"""
        SELECT stays.tenant_id, patientunitstayid AS stay, {prefix} AS device_id,
               {event}::BIGINT * 60000 - zero_ms AS event_ms,
               {sent}::BIGINT * 60000 - zero_ms AS sent_ms,
               lpad({row}, 12, '0') AS row_id, {extra}
        FROM {table} JOIN stays ON stay_id = patientunitstayid AND source = 'eicu'
    """  # noqa: S608 # every part is a constant of this module


def _dated(table: str, stay: str, source: str, at: str, extra: str) -> str:
    """A table with clock times and no time of entry: sent when it happened."""
    return f"""
        SELECT stays.tenant_id, {stay} AS stay, epoch_ms({at}) - zero_ms AS event_ms,
               epoch_ms({at}) - zero_ms AS sent_ms, {extra}
        FROM {table} JOIN stays ON stay_id = {stay} AND source = '{source}'
    """  # noqa: S608 # every part is a constant of this module


def _channel(stay: str, drug: str) -> str:
    """A pump channel per drug of a stay, numbered by the drug's name."""
    return f"'pump-' || {stay} || '-' || dense_rank() OVER (PARTITION BY {stay} ORDER BY {drug})"


_QUERIES: Final = {
    "eicu_infusiondrug": _eicu(
        "eicu_infusiondrug",
        _channel("patientunitstayid", "drugname"),
        "infusionoffset",
        "infusionoffset",
        "infusiondrugid",
        "drugname, drugrate",
    ),
    "eicu_respiratorycharting": _eicu(
        "eicu_respiratorycharting",
        "'ventilator-' || patientunitstayid",
        "respchartoffset",
        "respchartentryoffset",
        "respchartid",
        "respchartvaluelabel AS label, respchartvalue AS value",
    ),
    "eicu_respiratorycare": _eicu(
        "eicu_respiratorycare",
        "'ventilator-' || patientunitstayid",
        "respcarestatusoffset",
        "respcarestatusoffset",
        "respcareid",
        ", ".join(EICU_LIMITS),
    ),
    "eicu_vitalaperiodic": _eicu(
        "eicu_vitalaperiodic",
        "'monitor-' || patientunitstayid",
        "observationoffset",
        "observationoffset",
        "vitalaperiodicid",
        ", ".join(EICU_VITALS),
    ),
    "eicu_nursecare": _eicu(
        "eicu_nursecare",
        "'bed-' || patientunitstayid",
        "nursecareoffset",
        "nursecareentryoffset",
        "nursecareid",
        "cellattribute AS label, cellattributevalue AS value",
    ),
    "clif_medication": _dated(
        "clif_medication",
        "hospitalization_id",
        "clif",
        "admin_dttm",
        _channel("hospitalization_id", "med_name") + " AS device_id, "
        "lpad(__index_level_0__::VARCHAR, 12, '0') AS row_id, med_name, mar_action_name, "
        "med_dose::VARCHAR AS med_dose, med_dose_unit",
    ),
    "clif_respiratory": _dated(
        "clif_respiratory",
        "hospitalization_id",
        "clif",
        "recorded_dttm",
        "'ventilator-' || hospitalization_id AS device_id, "
        "lpad(__index_level_0__::VARCHAR, 12, '0') AS row_id, device_name, mode_name, "
        "mode_category, vent_brand_name, " + ", ".join([*CLIF_SETTINGS, *CLIF_READINGS]),
    ),
    "clif_position": _dated(
        "clif_position",
        "hospitalization_id",
        "clif",
        "recorded_dttm",
        "'bed-' || hospitalization_id AS device_id, "
        "lpad(__index_level_0__::VARCHAR, 12, '0') AS row_id, position_name",
    ),
    "clif_vitals": _dated(
        "clif_vitals",
        "hospitalization_id",
        "clif",
        "recorded_dttm",
        "'monitor-' || hospitalization_id AS device_id, "
        "lpad(__index_level_0__::VARCHAR, 12, '0') AS row_id, vital_name, vital_category, "
        "vital_value",
    ),
    # Three times of one row: begun, stored, corrected. `mapping.py` makes an event of each that
    # falls on the laid day.
    "mimic_inputevents": f"""
        SELECT stays.tenant_id, icustay_id AS stay, {_channel("icustay_id", "itemid")} AS device_id,
               epoch_ms(starttime::TIMESTAMP) - zero_ms AS event_ms,
               epoch_ms(storetime::TIMESTAMP) - zero_ms AS sent_ms,
               epoch_ms(endtime::TIMESTAMP) - zero_ms AS end_ms,
               epoch_ms(comments_date::TIMESTAMP) - zero_ms AS corrected_ms,
               row_id AS source_row, lpad(row_id, 12, '0') AS row_id, label, amount, amountuom,
               rate, rateuom, cgid, ordercategorydescription, patientweight, statusdescription,
               comments_editedby, comments_canceledby
        FROM mimic_inputevents JOIN stays ON stay_id = icustay_id AND source = 'mimic'
    """,  # noqa: S608 # every part is a constant of this module
    "audit": """
        SELECT tenant_id, '' AS stay, device_id,
               epoch_ms(recorded_at::TIMESTAMPTZ) % 86400000 AS event_ms,
               epoch_ms(recorded_at::TIMESTAMPTZ) % 86400000 AS sent_ms, record_id AS row_id,
               record_id, kind, actor, outcome, operation, category, subcategory, change, method,
               resource
        FROM audit
    """,
    "synthetic": """
        SELECT tenant_id, '' AS stay, device_id, sent_ms AS event_ms, sent_ms,
               row_id, event_type, payload
        FROM synthetic
    """,
}


def connect(excerpt: Path = EXCERPT) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with a view on each table of the excerpt, times in UTC."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET threads = 1")
    for file in sorted(excerpt.glob("*.parquet")):
        path = str(file).replace("'", "''")
        connection.execute(f"CREATE VIEW {file.stem} AS SELECT * FROM read_parquet('{path}')")  # noqa: S608 # our own file's path, quoted
    return connection


def rows(
    connection: duckdb.DuckDBPyConnection, table: str, tenant_id: str
) -> Iterator[dict[str, Any]]:
    """Rows of one table and tenant as laid on the day, in the order of sending."""
    query = f"SELECT * FROM ({_QUERIES[table]}) WHERE tenant_id = ? ORDER BY sent_ms, row_id"  # noqa: S608 # constants
    yield from connection.sql(query, params=[tenant_id]).to_arrow_table().to_pylist()


def present(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    """Names of the tables that this excerpt has (while it is being built, not all)."""
    found = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    return frozenset(name for (name,) in found)


def tenants(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """(tenant id, hospital id) of every tenant, by tenant id."""
    found = connection.execute("SELECT tenant_id, hospital_id FROM tenants ORDER BY 1").fetchall()
    return [(tenant, hospital) for tenant, hospital in found]
