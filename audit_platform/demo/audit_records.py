"""Audit records of three published sources as rows of the excerpt, with the names taken out.

Belongs here: reading the Windows, Azure/Office and FHIR records, and the pseudonyms that stand for
their users. Does not: payloads (`mapping.py`), bedside data (`build_excerpt.py`).
Source: Windows events 4624, 4625, 4634, 4719, 4912; Azure AD and Office audit logs; HL7 FHIR
AuditEvent R4 and R5.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

_AUDIT_COLUMNS: Final = (
    "tenant_id",
    "device_id",
    "record_id",
    "recorded_at",
    "kind",
    "actor",
    "outcome",
    "operation",
    "category",
    "subcategory",
    "change",
    "method",
    "resource",
)

#: Whom the audit records of each source are given to: no hospital of ours has any of its own.
_OTRF_TENANT: Final = "eicu-79"
_AZURE_TENANT: Final = "eicu-352"
_FHIR_TENANTS: Final = {"r4": "clif-demo", "r5": "mimic-iii-demo"}

_POLICY: Final = re.compile(
    r"Category:\t+(?P<category>[^\r]*)\r\n\tSubcategory:\t+(?P<subcategory>[^\r]*)\r\n"
    r".*Changes:\t+(?P<change>.*)",
    re.DOTALL,
)
_LOGONS: Final = {
    4624: ("success", "sign_in"),
    4625: ("failure", "sign_in"),
    4634: ("success", "sign_out"),
}
_POLICY_SCOPES: Final = {4719: "system", 4912: "user"}


def _pseudonym(source: str, name: str) -> str:
    """A user of an audit record, without the name: stable inside one source."""
    return "user-" + hashlib.sha256(f"{source}\n{name}".encode()).hexdigest()[:12]


def _json_lines(archive: Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(archive) as opened:
        (name,) = opened.namelist()
        lines = opened.read(name).decode("utf-8-sig").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def audit_rows(data: Path) -> pa.Table:
    """Audit records of three sources as rows without names, addresses or host names."""
    otrf = data / "otrf-audit-logs"
    found = [
        *_windows(otrf / "auditpol_system_user_auditpolicy_modification.zip"),
        *_azure(otrf / "AADAuditEvents.Zip", otrf / "OfficeActivityEvents.Zip"),
        *_fhir(data / "hl7-fhir-examples"),
    ]
    found.sort(key=lambda row: (row["tenant_id"], row["recorded_at"], row["record_id"]))
    columns = {name: [row.get(name) for row in found] for name in _AUDIT_COLUMNS}
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in _AUDIT_COLUMNS]))


def _windows(archive: Path) -> list[dict[str, Any]]:
    found = []
    for number, record in enumerate(_json_lines(archive)):
        event = record.get("EventID")
        if record.get("Channel") != "Security" or not (event in _LOGONS or event in _POLICY_SCOPES):
            continue
        row = {
            "tenant_id": _OTRF_TENANT,
            "device_id": "workstation-otrf",
            "record_id": f"otrf-auditpol-{number}",
            "recorded_at": record["TimeCreated"],
        }
        if event in _LOGONS:
            outcome, action = _LOGONS[event]
            row |= {
                "kind": "sign_in",
                "actor": _pseudonym("otrf", record["TargetUserName"]),
                "outcome": outcome,
                "operation": action,
                "method": f"windows-logon-type-{record['LogonType']}",
                "change": record.get("Status"),
            }
        else:
            policy = _POLICY.search(record["Message"])
            if policy is None:
                raise ValueError(f"record {number} of {archive.name} has no policy in its message")
            row |= {
                "kind": "audit_policy_changed",
                "actor": _pseudonym("otrf", record["SubjectUserName"]),
                "outcome": "success",
                "method": _POLICY_SCOPES[event],
                **{name: text.strip() for name, text in policy.groupdict().items()},
            }
        found.append(row)
    return found


def _azure(admin: Path, office: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, record in enumerate(_json_lines(admin)):
        user = json.loads(record["InitiatedBy"])["user"]["id"]
        target = json.loads(record["TargetResources"])[0]["type"]
        found.append(
            {
                "tenant_id": _AZURE_TENANT,
                "device_id": "directory-azure",
                "record_id": f"otrf-azure-admin-{number}",
                "recorded_at": record["TimeGenerated"],
                "kind": "administrative_action",
                "actor": _pseudonym("azure", user),
                "outcome": "success" if record["Result"] == "success" else "failure",
                "operation": record["OperationName"].strip(),
                "category": record["Category"],
                "resource": target,
            }
        )
    for number, record in enumerate(_json_lines(office)):
        found.append(
            {
                "tenant_id": _AZURE_TENANT,
                "device_id": "mail-office",
                "record_id": f"otrf-office-{number}",
                "recorded_at": record["TimeGenerated"],
                "kind": "record_accessed",
                "actor": _pseudonym("azure", record["UserId"]),
                "outcome": "success" if record["ResultStatus"] == "Succeeded" else "failure",
                "operation": "R",
                "category": record["Operation"],
                "resource": "mailbox",
            }
        )
    return found


#: DICOM codes of FHIR's subtypes: sign-in, sign-out; the application's start is an operation.
_FHIR_LOGINS: Final = {"110122": "sign_in", "110123": "sign_out"}
_FHIR_APPLICATION: Final = "110100"


def _fhir(folder: Path) -> list[dict[str, Any]]:
    found = []
    for release, tenant in _FHIR_TENANTS.items():
        for file in sorted((folder / release).glob("AuditEvent-*.json")):
            record = json.loads(file.read_text())
            kind, code = _fhir_codes(record)
            outcome = record["outcome"]
            good = (outcome if isinstance(outcome, str) else outcome["code"]["code"]) == "0"
            row = {
                "tenant_id": tenant,
                "device_id": "records-server",
                "record_id": f"hl7-{release}-{record['id']}",
                "recorded_at": record["recorded"],
                "actor": _pseudonym("hl7", _fhir_actor(record)),
                "outcome": "success" if good else "failure",
            }
            if code in _FHIR_LOGINS:
                row |= {"kind": "sign_in", "operation": _FHIR_LOGINS[code]}
            elif kind == _FHIR_APPLICATION:
                row |= {"kind": "administrative_action", "operation": "Application Start"}
            else:
                row |= {"kind": "record_accessed", "operation": record["action"], "category": code}
                row |= {"resource": _fhir_resource(record)}
            found.append(row)
    return found


def _fhir_codes(record: dict[str, Any]) -> tuple[str, str]:
    """(kind, detail) of an AuditEvent: `type`/`subtype` in R4, `category`/`code` in R5."""
    if "type" in record:
        return record["type"]["code"], record["subtype"][0]["code"]
    code = record["code"]["coding"][0]["code"]
    kind = record["category"][0]["coding"][0]["code"] if record.get("category") else code
    return kind, code


def _fhir_actor(record: dict[str, Any]) -> str:
    who: dict[str, Any] = next((a["who"] for a in record["agent"] if a.get("requestor")), {})
    return json.dumps(who.get("identifier", {}).get("value") or who.get("reference") or "unknown")


def _fhir_resource(record: dict[str, Any]) -> str | None:
    for entity in record.get("entity", []):
        reference = entity.get("what", {}).get("reference", "")
        if re.fullmatch(r"[A-Z][A-Za-z]+/.*", reference):
            return str(reference.split("/", 1)[0])
    return None
