"""What the demo proves when the day is sealed, each by a program of its own.

1 the table: what each sender was promised is sealed, or refused and kept; the log agrees with the
objects. 2 the independent checker: sets of receipts and sealed events are equal. 3 fsck on the
objects, with the public key alone: clean, up to the heads that Dagster showed. 4 fsck on a copy
with one flipped bit: found, and named.
Belongs here: running them and reading their answers. Does not: the checks themselves.
Source: issue "Walking skeleton", what a newcomer sees; design section 6.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from audit_platform.demo import independent_checker
from audit_platform.demo.bitflip import Flip, flip_bit
from audit_platform.demo.home import DemoHome, DemoStopped
from audit_platform.demo.record_view import RecordView, ledger_of
from audit_platform.ports import PublicKey
from audit_platform.record.manifest import Manifest

#: What an auditor is given: the sealed days and what was refused. Landing is ours alone.
GIVEN_TO_AUDITORS: Final = ("cold", "quarantine")

#: Runs a program to its end; gives its exit code and its output. `name` is for its log.
Run = Callable[[str, Sequence[str]], tuple[int, bytes]]

CLI: Final = (sys.executable, "-m", "audit_platform.cli")


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing proved, or not. `lines` say more."""

    name: str
    held: bool
    said: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """One tenant's events over all days so far.

    sent, acknowledged: as its devices wrote down. archived: copies in objects, refused ones
    included. sealed: rows of counting manifests; own: those that the edge said of itself.
    duplicates: further copies of a sealed event. refused: refused links that manifests list.
    """

    tenant_id: str
    sent: int
    acknowledged: int
    archived: int
    sealed: int
    duplicates: int
    refused: int
    own: int

    @property
    def unaccounted(self) -> int:
        """Promised, and neither sealed nor kept as refused."""
        return self.acknowledged + self.own - self.sealed - self.refused


def figures(home: DemoHome, view: RecordView, tenants: Sequence[str]) -> list[TenantFigures]:
    """The table, from the senders' lists and the objects."""
    view.refresh()
    table = []
    for tenant_id in tenants:
        ledger = ledger_of(home.devices / tenant_id)
        manifests = view.manifests_of(tenant_id)
        table.append(
            TenantFigures(
                tenant_id,
                sent=ledger.sent,
                acknowledged=ledger.acknowledged,
                archived=view.archived_of(tenant_id),
                sealed=sum(m.rows for m in manifests),
                duplicates=sum(m.duplicates for m in manifests),
                refused=sum(len(m.links) for m in manifests),
                own=sum(_own_rows(home, m) for m in manifests),
            )
        )
    return table


def _own_rows(home: DemoHome, manifest: Manifest) -> int:
    """Rows that the edge said of itself; no device sent them."""
    kinds = pa.array(sorted(independent_checker.EDGE_TYPES))
    rows = 0
    for part in manifest.parts:
        file = pq.ParquetFile(home.objects / part.object.key)
        types = file.read(columns=["event_type"])["event_type"]
        rows += pc.sum(pc.is_in(types, value_set=kinds)).as_py() or 0
    return rows


def prove_counts(run: Run, table: Sequence[TenantFigures], late: int) -> Proof:
    """1: nothing is unaccounted for, by the senders and by the log. `late`: after the day."""
    code, output = run("reconcile", (*CLI, "reconcile", "--json"))
    log = answer_of("reconcile", code, output)
    missing = sum(abs(f.unaccounted) for f in table)
    said = (
        f"unaccounted {missing} by the senders, {log['unaccounted']} of {log['events']} events in "
        f"the log; lost {log['lost']}, doubled {log['doubled']}, not archived {log['pending']}"
    )
    lines = [str(finding) for finding in log["findings"]]
    if late:
        lines.append(
            f"{late} events arrived after midnight: they will be sealed with the next day. Run the "
            "demo again, with a slower day: --day-seconds 180"
        )
    held = code == 0 and not missing and not log["pending"] and log["rows"] > 0
    return Proof("every event is accounted for", held, said, tuple(lines))


def prove_receipts(run: Run, home: DemoHome, tenants: Sequence[str]) -> Proof:
    """2: by the checker that imports nothing of ours (`-I`: not even by accident)."""
    devices = [home.devices / tenant_id for tenant_id in tenants]
    command = (
        *(sys.executable, "-I", str(Path(independent_checker.__file__))),
        *("--objects", str(home.objects), "--json", "--receipts"),
        *(str(of_tenant / "receipts.ndjson") for of_tenant in devices),
        "--sent",
        *(str(of_tenant / "sent.ndjson") for of_tenant in devices),
    )
    code, output = run("independent-checker", command)
    found = answer_of("independent-checker", code, output)
    said = (
        f"{found['acknowledged']} receipts, {found['rows']} sealed rows, {found['quarantined']} "
        f"refused and kept; lost {found['lost']}, twice {found['twice']}, "
        f"not sent {found['not_sent']}, altered {found['altered_rows'] + found['altered_objects']}"
    )
    lines = tuple(f"{kind}: {listed[0]}" for kind, listed in found["listed"].items())
    held = code == 0 and found["clean"] and found["acknowledged"] > 0
    return Proof("every receipt is kept (independent checker)", held, said, lines)


def write_keys(home: DemoHome, keys: Sequence[PublicKey]) -> None:
    """Give the auditor the public manifest keys, and only them."""
    home.auditor.mkdir(exist_ok=True)
    for key in (k for k in keys if k.purpose == "manifest"):
        public = Ed25519PublicKey.from_public_bytes(key.public_key)
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (home.auditor / f"manifest-key-{key.key_id}.pem").write_bytes(pem)


def key_arguments(home: DemoHome) -> list[str]:
    """Arguments of fsck for the keys that the auditor was given."""
    files = sorted(home.auditor.glob("manifest-key-*.pem"))
    return [part for file in files for part in ("--key", str(file))]


def prove_clean(run: Run, home: DemoHome, heads: Mapping[str, str]) -> Proof:
    """3: fsck, up to the heads (tenant -> `tenant:number:sha256`) that Dagster's runs showed."""
    trusted = [part for head in heads.values() for part in ("--trusted-head", head)]
    command = (*CLI, "fsck", str(home.objects), *key_arguments(home), *trusted, "--json")
    code, output = run("fsck", command)
    report = answer_of("fsck", code, output)
    said = (
        f"{report['verdict']}; read {report['manifests']} manifests, {report['objects']} objects, "
        f"{report['rows']} rows of {report['tenants']} tenants; complete up to "
        f"{len(heads)} heads that Dagster showed"
    )
    findings = [e for e in report["entries"] if e["kind"] == "finding"]
    held = code == 0 and report["verdict"] == "clean" and report["rows"] > 0
    return Proof("fsck: the sealed record", held, said, tuple(map(_line, findings)))


def prove_damage(run: Run, home: DemoHome, part_key: str) -> Proof:
    """4: fsck on a copy in which one bit of a part is flipped."""
    flip = _damaged_copy(home.objects, home.damaged_copy, part_key)
    command = (*CLI, "fsck", str(home.damaged_copy), *key_arguments(home), "--json")
    code, output = run("fsck-damaged", command)
    report = answer_of("fsck-damaged", code, output)
    findings = [e for e in report["entries"] if e["kind"] == "finding"]
    named = [
        e
        for e in findings
        if (e.get("object"), e.get("row"), e.get("deviceId"), e.get("sequence"))
        == (part_key, flip.row, flip.device_id, flip.sequence)
    ]
    said = (
        f"{report['verdict']}, exit code {code}; the row of the bit is "
        f"{'named (the other findings follow from it)' if named else 'NOT named'}"
    )
    held = code == 1 and bool(named)
    shown = named or findings
    return Proof("fsck: a copy with one flipped bit", held, said, tuple(map(_line, shown)))


def _damaged_copy(objects: Path, copy: Path, part_key: str) -> Flip:
    if copy.exists():
        shutil.rmtree(copy)
    for name in GIVEN_TO_AUDITORS:
        if (objects / name).exists():
            shutil.copytree(objects / name, copy / name)
    return flip_bit(copy / part_key)


def largest_part(view: RecordView, day: str) -> str:
    """Key of the day's part with the most rows. Raises `DemoStopped` when the day has none."""
    days = [m for (_, held), m in view.manifests.items() if held == day]
    parts = [p.object for m in days for p in m.parts]
    if not parts:
        raise DemoStopped(f"{day} has no sealed part", remedy="start afresh: make demo FRESH=1")
    return max(parts, key=lambda o: (o.rows, o.key)).key


def answer_of(name: str, code: int, output: bytes) -> dict[str, Any]:
    """The JSON object that a program printed. Raises `DemoStopped` when it printed none."""
    try:
        answer = orjson.loads(output)
        assert isinstance(answer, dict)
    except (orjson.JSONDecodeError, AssertionError) as e:
        raise DemoStopped(
            f"{name} ended with {code} and gave no answer", remedy=f"read its log {name}.log"
        ) from e
    return answer


def _line(entry: Mapping[str, Any]) -> str:
    where = ", ".join(
        f"{label} {entry[name]}"
        for name, label in (
            ("object", "object"),
            ("row", "row"),
            ("deviceId", "device"),
            ("sequence", "sequence"),
        )
        if name in entry
    )
    return f"FINDING step {entry['step']}: {entry['message']} [{where}]"
