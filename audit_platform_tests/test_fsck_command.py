"""`audit-platform fsck` as an auditor runs it: a folder, a public key, nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from audit_platform.cli import main

GOLDEN = Path(__file__).parent / "golden" / "v1"
KEY = GOLDEN / "manifest-key.hex"
HEADS = json.loads((GOLDEN / "heads.json").read_text())


def fsck(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["fsck", str(folder), *arguments])


def test_a_clean_part_of_the_record_exits_0_and_says_what_was_read(tmp_path: Path) -> None:
    only = tmp_path / "objects/cold/v1/tenant=north/manifests"
    only.mkdir(parents=True)
    source = GOLDEN / "objects/cold/v1/tenant=north/manifests"
    shutil.copy(source / f"{1:020d}.json", only)
    shutil.copytree(GOLDEN / "objects", tmp_path / "objects", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "objects/cold/v1/tenant=south")
    result = fsck(tmp_path / "objects", "--key", str(KEY), "--json")
    found = json.loads(result.stdout)
    assert found["tenants"] == 1
    assert found["exitCode"] == result.exit_code == 1
    assert [e["verdict"] for e in found["entries"] if e["kind"] == "finding"] == ["gap"]


def test_findings_exit_1_with_step_object_row_device_and_sequence() -> None:
    heads = [part for head in HEADS.values() for part in ("--trusted-head", head)]
    result = fsck(GOLDEN / "objects", "--key", str(KEY), *heads)
    assert result.exit_code == 1
    assert "FINDING step 11: gap" in result.stdout
    assert "device pump-002" in result.stdout
    assert "sequence 10" in result.stdout
    assert "verdict: 2 findings" in result.stdout


def test_a_key_may_be_a_pem_file(tmp_path: Path) -> None:
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(KEY.read_text().strip()))
    pem = tmp_path / "key.pem"
    pem.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    result = fsck(GOLDEN / "objects", "--key", str(pem), "--json")
    assert {e["step"] for e in json.loads(result.stdout)["entries"] if e["kind"] == "finding"} == {
        11
    }


def test_an_unknown_key_makes_every_manifest_a_finding(tmp_path: Path) -> None:
    other = tmp_path / "other.hex"
    other.write_text("11" * 32)
    result = fsck(GOLDEN / "objects", "--key", str(other), "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert sum(e["step"] == 3 for e in found["entries"]) == 6


def test_nothing_to_read_or_no_key_exits_2(tmp_path: Path) -> None:
    assert fsck(tmp_path, "--key", str(KEY)).exit_code == 2
    assert fsck(GOLDEN / "objects").exit_code == 2


@pytest.mark.parametrize("head", ["north", "north:x:00", "north:1:abc"])
def test_a_malformed_head_says_what_is_wanted(head: str) -> None:
    result = fsck(GOLDEN / "objects", "--key", str(KEY), "--trusted-head", head)
    assert result.exit_code in {1, 2}
    assert "tenant:number:sha256" in result.output


def test_a_head_from_outside_shows_a_cut_tail(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "objects", tmp_path / "objects")
    (tmp_path / f"objects/cold/v1/tenant=north/manifests/{3:020d}.json").unlink()
    result = fsck(
        tmp_path / "objects", "--key", str(KEY), "--trusted-head", HEADS["north"], "--json"
    )
    verdicts = [e.get("verdict") for e in json.loads(result.stdout)["entries"]]
    assert "truncated" in verdicts
