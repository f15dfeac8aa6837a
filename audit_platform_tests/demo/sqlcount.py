"""The demo's numbers counted a second time: by SQL from the excerpt's tables, by hand.

Nothing here comes from the mapping: ranges, labels and rules are written again, so that a mistake
in one of the two shows.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from audit_platform.demo.numbers import Numbers

EICU = ("eicu-157", "eicu-352", "eicu-388", "eicu-79")

# Highest good value of what a ventilator or monitor reports; the lowest is 0 unless named.
_CHARTED = """(VALUES
    ('FiO2', 'setting.fio2', 0, 100), ('PEEP', 'setting.peep', -5, 60),
    ('PEEP/CPAP', 'setting.peep', -5, 60), ('Tidal Volume (set)', 'setting.tidalVolume', 0, 3000),
    ('TV/kg IBW', 'setting.tidalVolumePerKg', 0, 100), ('Vent Rate', 'setting.rate', 0, 150),
    ('Pressure Support', 'setting.pressureSupport', 0, 80),
    ('Pressure Control', 'setting.pressureControl', 0, 80),
    ('LPM O2', 'setting.oxygenFlow', 0, 120),
    ('Flow Sensitivity', 'setting.flowSensitivity', -20, 50),
    ('Peak Flow', 'setting.flowRate', 0, 300),
    ('RR (patient)', 'reading.respiratoryRate', 0, 150),
    ('Total RR', 'reading.respiratoryRate', 0, 150),
    ('Spontaneous Respiratory Rate', 'reading.respiratoryRate', 0, 150),
    ('Exhaled TV (patient)', 'reading.tidalVolume', 0, 5000),
    ('Exhaled TV (machine)', 'reading.tidalVolume', 0, 5000),
    ('Tidal Volume, Delivered', 'reading.tidalVolume', 0, 5000),
    ('Mean Airway Pressure', 'reading.meanAirwayPressure', 0, 80),
    ('Peak Insp. Pressure', 'reading.peakPressure', 0, 150),
    ('Peak Pressure', 'reading.peakPressure', 0, 150),
    ('Plateau Pressure', 'reading.plateauPressure', 0, 120),
    ('Exhaled MV', 'reading.minuteVolume', 0, 150), ('SaO2', 'reading.saturation', 0, 100),
    ('Compliance', 'reading.compliance', 0, 500),
    ('Static Compliance', 'reading.compliance', 0, 500)
) AS charted(label, path, low, high)"""

_EICU = f"""
WITH mine AS (SELECT ? AS tenant_id),
infusion AS (SELECT * FROM eicu_infusiondrug SEMI JOIN mine USING (tenant_id)),
charting AS (
    SELECT *, abs(respchartentryoffset::INT - respchartoffset::INT) > 5 AS late
    FROM eicu_respiratorycharting SEMI JOIN mine USING (tenant_id)),
nursing AS (
    SELECT *, abs(nursecareentryoffset::INT - nursecareoffset::INT) > 5 AS late
    FROM eicu_nursecare SEMI JOIN mine USING (tenant_id)),
care AS (SELECT * FROM eicu_respiratorycare SEMI JOIN mine USING (tenant_id)),
vital AS (
    SELECT * FROM eicu_vitalaperiodic SEMI JOIN mine USING (tenant_id)
    WHERE coalesce(noninvasivesystolic, noninvasivediastolic, noninvasivemean, paop, cardiacoutput,
                   cardiacinput, svr, svri, pvr, pvri) IS NOT NULL),
numeric AS (
    SELECT path, low, high, respchartvalue AS text,
           TRY_CAST(regexp_replace(respchartvalue, '%$', '') AS DOUBLE) AS value
    FROM charting JOIN {_CHARTED} ON label = respchartvaluelabel)
SELECT
  (SELECT count(*) FROM infusion) + (SELECT count(*) FROM charting) + (SELECT count(*) FROM nursing)
  + (SELECT count(*) FROM care) + (SELECT count(*) FROM vital) AS sent,
  [{{'cause': 'payload', 'n': (SELECT count(*) FROM infusion WHERE drugrate IS NULL)}},
   {{'cause': 'payload.rate', 'n': (SELECT count(*) FROM infusion WHERE drugrate IS NOT NULL
        AND (TRY_CAST(drugrate AS DOUBLE) IS NULL OR drugrate::DOUBLE NOT BETWEEN 0 AND 100000))}}]
  || coalesce((SELECT list({{'cause': 'payload.' || path || '.value', 'n': n}}) FROM (
        SELECT path, count(*) AS n FROM numeric
        WHERE value IS NULL OR value NOT BETWEEN low AND high GROUP BY path)), []) AS refused,
  (SELECT count(*) FROM charting WHERE late) + (SELECT count(*) FROM nursing WHERE late) AS skewed,
  0 AS corrections,
  (SELECT count(*) - count(DISTINCT (patientunitstayid, drugname, infusionoffset)) FROM infusion)
  + (SELECT count(*) - count(DISTINCT (patientunitstayid, respchartvaluelabel, respchartoffset))
     FROM charting)
  + (SELECT count(*) - count(DISTINCT (patientunitstayid, cellattribute, nursecareoffset))
     FROM nursing)
  + (SELECT count(*) - count(DISTINCT (patientunitstayid, respcarestatusoffset)) FROM care)
  + (SELECT count(*) - count(DISTINCT (patientunitstayid, observationoffset)) FROM vital)
    AS repeated,
  (SELECT count(*) FROM infusion
   WHERE NOT regexp_matches(drugname, '\\([^()]*[^() ][^()]*\\)\\s*$'))
  + (SELECT count(*) FROM numeric WHERE text NOT LIKE '%\\%' ESCAPE '\\')
  + (SELECT count(*) FROM care) + (SELECT count(*) FROM vital) AS unitless
"""  # noqa: S608 # every part is a constant of this module

_CLIF = """
WITH mine AS (SELECT ? AS tenant_id),
med AS (SELECT * FROM clif_medication SEMI JOIN mine USING (tenant_id)),
pos AS (SELECT * FROM clif_position SEMI JOIN mine USING (tenant_id)),
vital AS (SELECT * FROM clif_vitals SEMI JOIN mine USING (tenant_id)),
resp AS (
    SELECT *, coalesce(fio2_set, lpm_set, tidal_volume_set, resp_rate_set, pressure_control_set,
        pressure_support_set, flow_rate_set, peak_inspiratory_pressure_set, inspiratory_time_set,
        peep_set) IS NOT NULL AS has_setting,
        coalesce(tidal_volume_obs, resp_rate_obs, plateau_pressure_obs,
        peak_inspiratory_pressure_obs, peep_obs, minute_vent_obs, mean_airway_pressure_obs)
        IS NOT NULL AS has_reading
    FROM clif_respiratory SEMI JOIN mine USING (tenant_id)),
faults AS (
    SELECT CASE
        WHEN vital_category = 'map' AND vital_value NOT BETWEEN -50 AND 400 THEN 'mean'
        WHEN vital_category = 'temp_c' AND vital_value NOT BETWEEN 10 AND 50 THEN 'temperature'
        WHEN vital_category IN ('sbp', 'dbp') AND vital_value NOT BETWEEN -50 AND 400
            THEN 'pressure'
        WHEN vital_category = 'heart_rate' AND vital_value NOT BETWEEN 0 AND 400 THEN 'heartRate'
        WHEN vital_category = 'respiratory_rate' AND vital_value NOT BETWEEN 0 AND 150
            THEN 'respiratoryRate'
        WHEN vital_category = 'spo2' AND vital_value NOT BETWEEN 0 AND 100 THEN 'spo2'
        WHEN vital_category = 'weight_kg' AND vital_value NOT BETWEEN 0 AND 700 THEN 'weight'
        WHEN vital_category = 'height_cm' AND vital_value NOT BETWEEN 20 AND 280 THEN 'height'
        END AS fault FROM vital
    UNION ALL SELECT CASE
        WHEN tidal_volume_obs > 5000 THEN 'tidalVolume'
        WHEN resp_rate_obs > 150 THEN 'respiratoryRate'
        WHEN plateau_pressure_obs > 120 THEN 'plateauPressure'
        WHEN peak_inspiratory_pressure_obs > 150 THEN 'peakPressure'
        WHEN minute_vent_obs > 150 THEN 'minuteVolume'
        WHEN mean_airway_pressure_obs > 80 THEN 'meanAirwayPressure' END FROM resp)
SELECT
  (SELECT count(*) FROM med) + (SELECT count(*) FROM pos) + (SELECT count(*) FROM vital)
  + (SELECT count(mode_name) + sum(has_setting::INT) + sum(has_reading::INT) FROM resp) AS sent,
  (SELECT list({'cause': 'payload.reading.' || fault || '.value', 'n': n}) FROM (
        SELECT fault, count(*) AS n FROM faults WHERE fault IS NOT NULL GROUP BY fault)) AS refused,
  0 AS skewed, 0 AS corrections,
  (SELECT count(*) - count(DISTINCT (hospitalization_id, med_name, mar_action_name, admin_dttm))
   FROM med)
  + (SELECT count(*) - count(DISTINCT (hospitalization_id, recorded_dttm)) FROM pos)
  + (SELECT count(*) - count(DISTINCT (hospitalization_id, vital_category, recorded_dttm))
     FROM vital)
  + (SELECT count(*) - count(DISTINCT (hospitalization_id, recorded_dttm)) FROM resp
     WHERE mode_name IS NOT NULL)
  + (SELECT count(*) - count(DISTINCT (hospitalization_id, recorded_dttm)) FROM resp
     WHERE has_setting)
  + (SELECT count(*) - count(DISTINCT (hospitalization_id, recorded_dttm)) FROM resp
     WHERE has_reading) AS repeated,
  (SELECT count(*) FROM med WHERE coalesce(med_dose_unit, '') = ''
   AND mar_action_name NOT IN ('Paused', 'Stopped', 'FinishedRunning'))
  + (SELECT count(*) FROM vital WHERE vital_category IN ('heart_rate', 'respiratory_rate'))
    AS unitless
"""

_MIMIC = """
WITH mine AS (SELECT ? AS tenant_id),
laid AS (
    SELECT e.*, TIMESTAMP '1970-01-01' + to_milliseconds(zero_ms) AS midnight
    FROM mimic_inputevents e SEMI JOIN mine USING (tenant_id)
    JOIN stays s ON s.stay_id = e.icustay_id AND s.source = 'mimic'),
timed AS (
    SELECT *, storetime::DATE = midnight::DATE AS stored_today,
        coalesce(comments_date::DATE = midnight::DATE, false) AS corrected_today,
        endtime::DATE = midnight::DATE AND rate IS NOT NULL
        AND statusdescription IN ('Paused', 'Stopped', 'FinishedRunning') AS ended_today
    FROM laid)
SELECT
  count(*) FILTER (stored_today) + count(*) FILTER (corrected_today) + count(*) FILTER (ended_today)
      AS sent,
  NULL AS refused,
  count(*) FILTER (stored_today
      AND abs(epoch_ms(storetime::TIMESTAMP) - epoch_ms(starttime::TIMESTAMP)) > 300000) AS skewed,
  count(*) FILTER (corrected_today) AS corrections,
  count(*) FILTER (stored_today)
      - count(DISTINCT (icustay_id, itemid, rate IS NULL, starttime)) FILTER (stored_today)
      AS repeated,
  count(*) FILTER (stored_today
      AND (rate IS NOT NULL /* and so a weight */ OR coalesce(amountuom, '') = '')) AS unitless
FROM timed
"""


def _query_of(tenant_id: str) -> str:
    if tenant_id in EICU:
        return _EICU
    return {"clif-demo": _CLIF, "mimic-iii-demo": _MIMIC}[tenant_id]


def count(excerpt: Path, tenant_id: str) -> Numbers:
    """The numbers of one tenant, by SQL from the tables."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for file in excerpt.glob("*.parquet"):
            connection.execute(f"CREATE VIEW {file.stem} AS SELECT * FROM '{file}'")  # noqa: S608 # a test's own file
        row = connection.execute(_query_of(tenant_id), [tenant_id]).fetchone()
        others = connection.execute(
            "SELECT (SELECT count(*) FROM audit WHERE tenant_id = $1),"
            " (SELECT count(*) FROM synthetic WHERE tenant_id = $1),"
            " (SELECT count(*) FROM synthetic WHERE tenant_id = $1"
            ' AND payload LIKE \'%"unit":""%\')',
            [tenant_id],
        ).fetchone()
    assert row is not None
    assert others is not None
    sent, refused, skewed, corrections, repeated, unitless = row
    causes = {f"schema_violation:{r['cause']}": r["n"] for r in refused or [] if r["n"]}
    return Numbers(
        sent=sent + others[0] + others[1],
        refused=dict(sorted(causes.items())),
        skewed=skewed,
        corrections=corrections,
        repeated_keys=repeated,
        unit_not_recorded=unitless + others[2],
        synthetic=others[1],
    )
