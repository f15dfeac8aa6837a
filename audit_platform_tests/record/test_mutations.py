"""Every kind of byte of a sealed record, changed by each of three attackers, is found by fsck."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.directory import DirectorySource
from audit_platform.operations.verify import trusted_keys
from audit_platform.record import fsck, layout, sealed
from audit_platform.record.fsck import TrustedHead, TrustedKey
from audit_platform.record.report import Report, Step
from audit_platform_tests import attackers
from audit_platform_tests.world import DAY, open_world

TENANT = "north"
NEXT = layout.next_day(DAY)


class Sealed:
    """A sealed record of two days, the key that signed it, and what others saw of it."""

    def __init__(self, objects: Path, keys: list[TrustedKey], private: Ed25519PrivateKey) -> None:
        self.objects, self.keys, self.private = objects, keys, private
        newest = attackers.manifests_in(objects, TENANT)[-1]
        self.head = TrustedHead(TENANT, newest.number, newest.sha256)

    def fsck(self, copy: Path, *heads: TrustedHead) -> Report:
        return fsck.check(DirectorySource(copy), self.keys, heads)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    folder = tmp_path_factory.mktemp("world")
    with open_world(folder / "home") as world:
        edge = world.edge(TENANT)
        start = edge.start(world.clock.now_ms())
        world.ingest(TENANT, [start, *edge.heartbeats(3, 20, world.clock.now_ms())])
        refused = edge.event("pump-001", "heartbeat", {"no": "such field"}, world.clock.now_ms())
        world.refuse(TENANT, [refused, b"not an event at all"])
        world.ingest(TENANT, edge.heartbeats(3, 2, world.clock.now_ms()))
        world.archive()
        world.close(DAY)
        world.seal(TENANT, DAY)
        world.ingest(TENANT, edge.heartbeats(3, 5, world.clock.now_ms()))
        world.archive()
        world.close(NEXT)
        world.seal(TENANT, NEXT)
        copy = attackers.copy_of(world.objects_folder, folder / "copy")
        private_files = list((folder / "home" / "keys" / "private").iterdir())
        private = load_pem_private_key(private_files[0].read_bytes(), None)
        assert isinstance(private, Ed25519PrivateKey)
        yield Sealed(copy, trusted_keys(world.platform), private)


@pytest.fixture
def copy(record: Sealed, tmp_path: Path) -> Path:
    return Path(shutil.copytree(record.objects, tmp_path / "copy"))


def part_path(copy: Path, day: str = DAY) -> Path:
    return next((copy / f"cold/v1/tenant={TENANT}/day={day}").iterdir())


def steps(report: Report) -> set[Step]:
    return {e.step for e in report.findings}


def test_the_untouched_record_is_clean_and_was_really_read(record: Sealed) -> None:
    report = record.fsck(record.objects, record.head)
    assert [e.verdict for e in report.entries] == ["declared_gap"]  # the refused link, a note
    assert (report.exit_code, report.verdict) == (0, "clean")
    assert (report.manifests, report.rows) == (2, 61 + 6 + 15)


def test_without_a_trusted_head_freshness_is_not_proved(record: Sealed) -> None:
    report = record.fsck(record.objects)
    assert report.exit_code == 0
    assert report.verdict == "clean, freshness not proved"


# --------------------------------------------------------------- the first attacker: other bytes


@pytest.mark.parametrize("column", sealed.SEALED_SCHEMA.names)
def test_a_bit_in_any_columns_page_is_found(record: Sealed, copy: Path, column: str) -> None:
    path = part_path(copy)
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunk = group.column(sealed.SEALED_SCHEMA.names.index(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    attackers.flip(path, start + chunk.total_compressed_size - 3)
    report = record.fsck(copy)
    assert Step.OBJECTS in steps(report)
    assert report.exit_code == 1


def test_a_bit_in_a_hash_names_object_row_device_and_sequence(record: Sealed, copy: Path) -> None:
    path = part_path(copy)
    metadata = pq.ParquetFile(path).metadata
    chunk = metadata.row_group(0).column(sealed.SEALED_SCHEMA.names.index("event_hash"))
    rows = attackers.rows_of(copy, attackers.manifests_in(copy, TENANT)[0])
    row = 7
    data = path.read_bytes()
    at = data.index(rows["event_hash"][row].as_py(), chunk.data_page_offset)
    # The page has a checksum of its own: an attacker who wants to be read mends that as well.
    attackers.flip(path, at)
    report = record.fsck(copy)
    named = [e for e in report.findings if e.step is Step.ROWS]
    assert named
    assert all(e.key == str(path.relative_to(copy)) for e in named)
    assert row in {e.row for e in named}
    first = next(e for e in named if e.row == row)
    assert first.device_id == rows["device_id"][row].as_py()
    assert first.sequence == rows["sequence_number"][row].as_py()


@given(st.data())
def test_a_bit_anywhere_in_a_part_is_found(record: Sealed, data: st.DataObject) -> None:
    path = part_path(record.objects)
    size = path.stat().st_size
    offset = data.draw(st.integers(0, size - 1))
    bit = data.draw(st.integers(0, 7))
    attackers.flip(path, offset, bit)
    try:
        report = record.fsck(record.objects)
    finally:
        attackers.flip(path, offset, bit)
    assert report.exit_code == 1


@given(st.data())
def test_any_change_of_any_sealed_file_is_found_and_crashes_nothing(
    record: Sealed, data: st.DataObject
) -> None:
    files = sorted(p for p in (record.objects / "cold").rglob("*.*") if p.is_file())
    path = data.draw(st.sampled_from(files))
    original = path.read_bytes()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed))) :]
    path.write_bytes(changed)
    try:
        report = record.fsck(record.objects)
    finally:
        path.write_bytes(original)
    assert report.exit_code == (0 if changed == original else 1)


def test_a_bit_in_the_statistics_of_the_footer_is_found(record: Sealed, copy: Path) -> None:
    path = part_path(copy)
    data = path.read_bytes()
    at = data.rindex(b"pump-002")
    attackers.flip(path, at)
    assert steps(record.fsck(copy)) >= {Step.OBJECTS}


def test_a_cut_or_lengthened_part_is_found(record: Sealed, copy: Path) -> None:
    path = part_path(copy)
    path.write_bytes(path.read_bytes()[:-1])
    assert record.fsck(copy).exit_code == 1
    path = part_path(copy, NEXT)
    path.write_bytes(path.read_bytes() + b"x")
    assert len(record.fsck(copy).findings) >= 2


def test_a_missing_object_is_found_and_named(record: Sealed, copy: Path) -> None:
    path = part_path(copy)
    path.unlink()
    report = record.fsck(copy)
    assert any(
        e.step is Step.OBJECTS and e.key == str(path.relative_to(copy)) for e in report.findings
    )


def test_a_missing_or_changed_quarantine_object_is_found(record: Sealed, copy: Path) -> None:
    path = next((copy / f"quarantine/v1/tenant={TENANT}").rglob("*.parquet"))
    attackers.flip(path, 100)
    assert Step.OBJECTS in steps(record.fsck(copy))
    path.unlink()
    assert steps(record.fsck(copy)) >= {Step.OBJECTS, Step.QUARANTINE}


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from _leaves(value[0], (*path, 0))
    else:
        yield path


def _changed(value: Any) -> Any:
    if isinstance(value, str):
        return ("0" if value[:1] != "0" else "1") + value[1:]
    if isinstance(value, int):
        return value + 1
    return ["x"]


def test_every_field_of_a_manifest_is_under_the_signature(record: Sealed, copy: Path) -> None:
    path = copy / layout.manifest_key(TENANT, 1)
    original = path.read_bytes()
    seen = 0
    for leaf in _leaves(orjson.loads(original)):
        changed = orjson.loads(original)
        inner = changed
        for step in leaf[:-1]:
            inner = inner[step]
        inner[leaf[-1]] = _changed(inner[leaf[-1]])
        path.write_bytes(orjson.dumps(changed, option=orjson.OPT_SORT_KEYS))
        report = record.fsck(copy)
        assert report.exit_code == 1, leaf
        assert steps(report) & {Step.FORM, Step.SIGNATURE}, leaf
        seen += 1
    assert seen > 40


def test_a_field_that_the_format_does_not_know_cannot_hide_in_a_manifest(
    record: Sealed, copy: Path
) -> None:
    path = copy / layout.manifest_key(TENANT, 1)
    changed = orjson.loads(path.read_bytes()) | {"zzz": 1}
    path.write_bytes(orjson.dumps(changed, option=orjson.OPT_SORT_KEYS))
    assert Step.FORM in steps(record.fsck(copy))
    changed.pop("zzz")
    path.write_bytes(json.dumps(changed).encode())
    assert Step.FORM in steps(record.fsck(copy))


def test_a_missing_manifest_inside_is_found_without_a_head(record: Sealed, copy: Path) -> None:
    (copy / layout.manifest_key(TENANT, 1)).unlink()
    assert Step.SEQUENCE in steps(record.fsck(copy))


def test_a_cut_tail_is_found_by_the_trusted_head_only(record: Sealed, copy: Path) -> None:
    (copy / layout.manifest_key(TENANT, 2)).unlink()
    assert record.fsck(copy).exit_code == 0
    report = record.fsck(copy, record.head)
    assert [e.verdict for e in report.findings] == ["truncated"]


def test_no_manifest_at_all_is_a_failure_to_check(record: Sealed, tmp_path: Path) -> None:
    assert record.fsck(tmp_path).exit_code == 2
    assert fsck.check(DirectorySource(record.objects), []).exit_code == 2


# ------------------------------------------- the second: recomputes everything, but cannot sign


def test_recomputed_hashes_and_manifest_without_the_key_are_found(
    record: Sealed, copy: Path
) -> None:
    first, second = attackers.manifests_in(copy, TENANT)
    rows = attackers.with_payload(attackers.rows_of(copy, first), 9, '{"batteryPercent":100}')
    forged = attackers.rewrite(copy, first, attackers.rehashed(rows, TENANT))
    stranger = attackers.sign(forged, Ed25519PrivateKey.generate())
    for manifest in (attackers.keep_old_signature(forged), stranger):
        relinked = attackers.keep_old_signature(replace(second, previous=manifest.sha256))
        attackers.put_manifests(copy, [manifest, relinked])
        report = record.fsck(copy)
        assert Step.SIGNATURE in steps(report)
        assert {e.day for e in report.findings if e.step is Step.SIGNATURE} == {DAY, NEXT}


@pytest.mark.parametrize("signed", [False, True])
def test_swapped_rows_are_found_and_named_though_every_hash_and_root_is_recomputed(
    record: Sealed, copy: Path, *, signed: bool
) -> None:
    first, second = attackers.manifests_in(copy, TENANT)
    rows = attackers.rows_of(copy, first)
    forged = attackers.rewrite(copy, first, attackers.swapped(rows, 4, 5))
    if signed:  # also when it was the holder of the key who swapped them
        forged = attackers.sign(forged, record.private)
        second = attackers.sign(replace(second, previous=forged.sha256), record.private)
    else:
        forged = attackers.keep_old_signature(forged)
    attackers.put_manifests(copy, [forged, second])
    report = record.fsck(copy)
    assert report.exit_code == 1
    if signed:
        named = [e for e in report.findings if e.step is Step.ROWS]
        assert 5 in {e.row for e in named}
        assert all(e.device_id and e.sequence is not None for e in named)
    else:
        assert Step.SIGNATURE in steps(report)


def test_an_object_added_and_named_is_found(record: Sealed, copy: Path) -> None:
    first = attackers.manifests_in(copy, TENANT)[0]
    extra = part_path(copy).read_bytes()
    key = layout.part_key(TENANT, DAY, 1, "f" * 64)
    (copy / key).write_bytes(extra)
    report = record.fsck(copy)
    assert report.exit_code == 0, "an orphan that no manifest names means nothing"
    assert [e.key for e in report.entries if e.step is Step.OBJECTS] == [key]
    named = replace(first.parts[0], object=replace(first.parts[0].object, key=key))
    more = replace(first, parts=(*first.parts, named), rows=first.rows * 2)
    attackers.put_manifests(copy, [attackers.keep_old_signature(more)])
    assert Step.SIGNATURE in steps(record.fsck(copy))


# ----------------------------------------------------------------- the third: holds the key


def test_the_holder_of_the_key_is_found_by_the_trusted_head(record: Sealed, copy: Path) -> None:
    first, second = attackers.manifests_in(copy, TENANT)
    rows = attackers.with_payload(attackers.rows_of(copy, second), 3, '{"batteryPercent":1}')
    forged = attackers.sign(
        attackers.rewrite(copy, second, attackers.rehashed(rows, TENANT)), record.private
    )
    attackers.put_manifests(copy, [forged])
    assert first.number == 1
    assert record.fsck(copy).exit_code == 0, "nothing inside the copy can tell"
    report = record.fsck(copy, record.head)
    assert [e.step for e in report.findings] == [Step.HEAD]


def test_the_holder_of_the_key_who_forgets_the_chain_is_found_without_a_head(
    record: Sealed, copy: Path
) -> None:
    first, second = attackers.manifests_in(copy, TENANT)
    rows = attackers.with_payload(attackers.rows_of(copy, first), 9, '{"batteryPercent":1}')
    forged = attackers.sign(
        attackers.rewrite(copy, first, attackers.rehashed(rows, TENANT)), record.private
    )
    relinked = attackers.sign(replace(second, previous=forged.sha256), record.private)
    attackers.put_manifests(copy, [forged, relinked])
    report = record.fsck(copy)
    assert steps(report) == {Step.LINKS}
    assert {e.verdict for e in report.findings} == {"broken_link"}


def test_a_revoked_key_signs_no_later_day_not_even_with_an_earlier_time(
    record: Sealed, copy: Path
) -> None:
    first, second = attackers.manifests_in(copy, TENANT)
    revoked = [replace(k, revoked_ms=second.sealed_ms) for k in record.keys]
    report = fsck.check(DirectorySource(copy), revoked)
    assert [(e.step, e.day) for e in report.findings] == [(Step.SIGNATURE, NEXT)]
    early = attackers.sign(replace(second, sealed_ms=first.sealed_ms), record.private)
    attackers.put_manifests(copy, [early])
    report = fsck.check(DirectorySource(copy), revoked)
    assert [(e.step, e.day) for e in report.findings] == [(Step.FORM, NEXT)]
