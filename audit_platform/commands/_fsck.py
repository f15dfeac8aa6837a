"""What `audit-platform fsck` does once it runs: keys from files, the check, the report in words.

Apart from `fsck.py` because it imports slowly, and `--help` imports every command.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from rich.console import Console
from rich.table import Table

from audit_platform.adapters.directory import DirectorySource
from audit_platform.record import fsck
from audit_platform.record.fsck import TrustedKey
from audit_platform.record.report import STEP_TEXT, Entry, Report
from audit_platform.record.signing import key_id_of


def run(
    directory: Path,
    key_files: tuple[Path, ...],
    heads: tuple[str, ...],
    tenants: tuple[str, ...],
    *,
    as_json: bool,
) -> int:
    """Check, print, and return the exit code."""
    keys = [k for path in key_files or _default_keys(directory) for k in _read_keys(path)]
    scope = fsck.Scope(frozenset(tenants) if tenants else None)
    trusted = [fsck.parse_head(h) for h in heads]
    console = Console(stderr=True)
    with console.status("reading manifests") as status:
        report = fsck.check(
            DirectorySource(directory),
            keys,
            trusted,
            scope,
            progress=lambda what, done, total: status.update(f"{what} ({done + 1} of {total})"),
        )
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        print_report(report)
    return report.exit_code


def _default_keys(directory: Path) -> list[Path]:
    beside = directory.parent / "keys" / "keys.json"
    return [beside] if beside.exists() else []


def _read_keys(path: Path) -> list[TrustedKey]:

    data = path.read_bytes()
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            loaded = load_pem_public_key(data)
            if not isinstance(loaded, Ed25519PublicKey):
                raise click.BadParameter(f"{path} is not an Ed25519 key", param_hint="--key")
            raw = loaded.public_bytes_raw()
            return [TrustedKey(key_id_of(raw), raw)]
        if data.lstrip().startswith((b"{", b"[")):
            found = json.loads(data)
            listed = found["keys"] if isinstance(found, dict) else found
            return [
                TrustedKey(key_id_of(raw := bytes.fromhex(k["publicKey"])), raw, k["revokedMs"])
                for k in listed
                if k["purpose"] == "manifest"
            ]
        raw = bytes.fromhex(data.decode("ascii").strip())
        return [TrustedKey(key_id_of(raw), raw)]
    except (ValueError, KeyError, TypeError, UnsupportedAlgorithm) as e:
        raise click.BadParameter(
            f"{path} holds no public key that can be read ({e}); "
            "wanted a PEM, 64 hex digits, or a keys.json",
            param_hint="--key",
        ) from e


def print_report(report: Report) -> None:
    """The report as a person reads it: steps, findings, verdict."""
    console = Console()
    table = Table("step", "what must hold", "findings", title="fsck")
    for step, text in STEP_TEXT.items():
        count = sum(1 for e in report.findings if e.step is step)
        table.add_row(str(int(step)), text, str(count) if count else "-")
    console.print(table)
    for entry in report.entries:
        console.print(_line(entry), markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"read {report.manifests} manifests, {report.objects} objects, {report.rows} rows, "
        f"{report.bytes} bytes of {report.tenants} tenants",
        highlight=False,
    )
    for tenant, (number, sha256) in sorted(report.heads.items()):
        console.print(f"head {tenant}:{number}:{sha256}", highlight=False, soft_wrap=True)
    console.print(f"verdict: {report.verdict}", highlight=False)


def _line(entry: Entry) -> str:
    kind = "note" if entry.note else "FINDING"
    where = [
        f"{name} {value}"
        for name, value in (
            ("tenant", entry.tenant_id),
            ("day", entry.day),
            ("object", entry.key),
            ("row", entry.row),
            ("device", entry.device_id),
            ("chain", entry.chain_id),
            ("sequence", entry.sequence),
        )
        if value not in ("", None)
    ]
    return f"{kind} step {int(entry.step)}: {entry.message} [{', '.join(where)}]"
