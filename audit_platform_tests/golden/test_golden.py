"""A record that was sealed once verifies for ever, whatever the code has become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit_platform.adapters.directory import DirectorySource
from audit_platform.record import fsck
from audit_platform.record.fsck import TrustedKey, parse_head
from audit_platform.record.report import Report, Step
from audit_platform.record.signing import key_id_of

GOLDEN = Path(__file__).parent
VERSIONS = sorted(p.name for p in GOLDEN.iterdir() if p.is_dir() and p.name.startswith("v"))


def judged(version: str) -> Report:
    """What a check says of a golden record today, up to the heads that were seen then."""
    folder = GOLDEN / version
    public = bytes.fromhex((folder / "manifest-key.hex").read_text().strip())
    heads = [parse_head(h) for h in json.loads((folder / "heads.json").read_text()).values()]
    report = fsck.check(
        DirectorySource(folder / "objects"), [TrustedKey(key_id_of(public), public)], heads
    )
    assert report.fresh
    return report


def test_there_is_a_golden_record_per_format_version() -> None:
    assert VERSIONS == ["v1", "v1r"]


def test_a_golden_record_is_judged_as_on_the_day_it_was_made() -> None:
    report = judged("v1")
    assert (report.tenants, report.manifests, report.rows) == (2, 6, 82)
    # The device that lost an event on its way is told, and nothing else is.
    told = [(e.tenant_id, e.day, e.verdict, e.device_id, e.sequence) for e in report.findings]
    assert told == [
        ("north", "2026-03-01", "gap", "pump-002", 10),
        ("south", "2026-03-01", "gap", "pump-002", 10),
    ]
    verdicts = sorted(e.verdict for e in report.entries if e.note)
    assert verdicts == ["chain_reset"] * 6 + ["declared_gap"] * 2


def test_a_golden_record_with_revisions_is_judged_as_on_the_day_it_was_made() -> None:
    report = judged("v1r")
    assert (report.tenants, report.manifests, report.objects, report.rows) == (1, 4, 5, 122)
    # One device skips every second sequence; all that came late is in its place.
    told = {(e.step, e.day, e.verdict, e.device_id) for e in report.findings}
    assert told == {
        (Step.LINKS, "2026-03-01", "gap", "pump-000"),
        (Step.LINKS, "2026-03-01", "", None),
    }
    more = "gap: 2 more gaps between sequences 200 and 205 are counted, not listed"
    assert report.findings[0].message == more
    assert report.findings[-1].message.startswith("101 such chain verdicts in all")
    assert [e.verdict for e in report.entries if e.note] == ["declared_gap"]


@pytest.mark.parametrize("version", VERSIONS)
def test_one_changed_bit_in_a_golden_record_is_found(version: str, tmp_path: Path) -> None:
    folder = GOLDEN / version
    public = bytes.fromhex((folder / "manifest-key.hex").read_text().strip())
    source = folder / "objects"
    for file in sorted(source.rglob("*.*")):
        if not file.is_file():
            continue
        target = tmp_path / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    part = next(tmp_path.glob("cold/v1/tenant=north/day=*/part-*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    report = fsck.check(DirectorySource(tmp_path), [TrustedKey(key_id_of(public), public)])
    assert str(part.relative_to(tmp_path)) in {e.key for e in report.findings}
