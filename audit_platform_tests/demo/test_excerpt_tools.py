"""The tools that build the excerpt: generated rows are reproducible, names are taken out."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit_platform.demo import audit_records, build_excerpt, sources, synthesis


def test_the_generated_rows_come_from_the_real_ones_the_same_each_time(tmp_path: Path) -> None:
    real = tmp_path / "excerpt"
    shutil.copytree(sources.EXCERPT, real)
    (real / "synthetic.parquet").unlink()
    again = synthesis.synthetic_rows(real)
    assert again.equals(pq.read_table(sources.EXCERPT / "synthetic.parquet"))


def test_the_same_rows_are_written_as_the_same_bytes(tmp_path: Path) -> None:
    for name in ("eicu_infusiondrug", "clif_vitals", "audit"):
        packaged = sources.EXCERPT / f"{name}.parquet"
        build_excerpt._write(tmp_path / "again.parquet", pq.read_table(packaged))
        assert (tmp_path / "again.parquet").read_bytes() == packaged.read_bytes()


def test_a_table_without_rows_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        build_excerpt._write(tmp_path / "x.parquet", pa.table({"a": pa.array([], pa.int64())}))


def _zip(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("records.json", "\n".join(json.dumps(r) for r in records))


def _policy(message: str) -> dict[str, Any]:
    return {
        "Channel": "Security",
        "EventID": 4719,
        "TimeCreated": "2022-08-18T06:58:14.415Z",
        "SubjectUserName": "some-admin",
        "Message": message,
    }


MESSAGE = (
    "System audit policy was changed.\r\n\r\nSubject:\r\n\tAccount Name:\t\tsome-admin\r\n\r\n"
    "Audit Policy Change:\r\n\tCategory:\t\tAccount Logon\r\n\tSubcategory:\t\tCredential "
    "Validation\r\n\tSubcategory GUID:\t{x}\r\n\tChanges:\t\tSuccess removed"
)


def test_a_changed_audit_policy_is_read_from_its_message_without_the_name(tmp_path: Path) -> None:
    other = {"Channel": "Microsoft-Windows-Sysmon/Operational", "EventID": 10}
    _zip(tmp_path / "a.zip", [other, _policy(MESSAGE)])
    (row,) = audit_records._windows(tmp_path / "a.zip")
    assert row["record_id"] == "otrf-auditpol-1"
    assert (row["category"], row["subcategory"]) == ("Account Logon", "Credential Validation")
    assert (row["change"], row["method"]) == ("Success removed", "system")
    assert row["actor"].startswith("user-")
    assert b"some-admin" not in orjson.dumps(row)


def test_an_audit_policy_event_without_a_policy_stops_the_build(tmp_path: Path) -> None:
    _zip(tmp_path / "a.zip", [_policy("nothing of the kind")])
    with pytest.raises(ValueError, match="no policy"):
        audit_records._windows(tmp_path / "a.zip")


def test_a_pseudonym_is_stable_inside_a_source_and_differs_between_sources() -> None:
    first = audit_records._pseudonym("otrf", "some-admin")
    assert first == audit_records._pseudonym("otrf", "some-admin")
    assert first != audit_records._pseudonym("azure", "some-admin")
    assert first != audit_records._pseudonym("otrf", "another")


def test_fhir_resources_of_both_releases_become_the_same_kind_of_row(tmp_path: Path) -> None:
    r4 = {
        "id": "example-login",
        "type": {"code": "110114"},
        "subtype": [{"code": "110122"}],
        "action": "E",
        "recorded": "2013-06-20T23:41:23Z",
        "outcome": "0",
        "agent": [{"who": {"identifier": {"value": "95"}}, "name": "A Name", "requestor": True}],
    }
    r5 = {
        "id": "example-rest",
        "category": [{"coding": [{"code": "rest"}]}],
        "code": {"coding": [{"code": "vread"}]},
        "action": "R",
        "recorded": "2013-06-20T23:42:24Z",
        "outcome": {"code": {"code": "4"}},
        "agent": [{"who": {"reference": "Practitioner/x"}, "requestor": True}],
        "entity": [{"what": {"reference": "#o1"}}, {"what": {"reference": "Patient/example"}}],
    }
    for release, record in (("r4", r4), ("r5", r5)):
        (tmp_path / release).mkdir()
        (tmp_path / release / "AuditEvent-x.json").write_text(json.dumps(record))
    login, read = audit_records._fhir(tmp_path)
    assert (login["kind"], login["operation"], login["outcome"]) == (
        "sign_in",
        "sign_in",
        "success",
    )
    assert (read["kind"], read["operation"], read["category"]) == ("record_accessed", "R", "vread")
    assert (read["resource"], read["outcome"]) == ("Patient", "failure")
    assert b"A Name" not in orjson.dumps([login, read])
