"""The edge's quarantine: whole files, once, within bounds, also over a restart."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import orjson
import pytest

from audit_platform.services import edge_quarantine
from audit_platform.services.edge_placing import DeviceAnswer, Outcome
from audit_platform.services.edge_quarantine import Quarantine, RefusedLine

ANSWER = DeviceAnswer(Outcome.REFUSED, "bad_json", "", "not JSON", "send JSON")


def refused(data: bytes, line: int = 1) -> RefusedLine:
    return RefusedLine(line, data, ANSWER)


def test_every_refused_line_of_a_request_is_kept_with_its_bytes_and_what_was_said(
    tmp_path: Path,
) -> None:
    name = Quarantine(tmp_path).keep(7, [refused(b"\xff\x00", 3), refused(b"?", 9)])
    rows = [orjson.loads(row) for row in (tmp_path / name).read_bytes().splitlines()]
    assert [row["line"] for row in rows] == [3, 9]
    assert [base64.b64decode(row["bytes"]) for row in rows] == [b"\xff\x00", b"?"]
    assert rows[0]["sha256"] == hashlib.sha256(b"\xff\x00").hexdigest()
    assert {name: rows[0][name] for name in ("slug", "field", "reason", "remedy")} == {
        "slug": "bad_json",
        "field": "",
        "reason": "not JSON",
        "remedy": "send JSON",
    }


def test_the_same_bytes_have_one_file_however_often_they_come(tmp_path: Path) -> None:
    kept = Quarantine(tmp_path)
    name = kept.keep(1, [refused(b"?")])
    assert kept.keep(2, [refused(b"?")]) == name
    assert Quarantine(tmp_path).keep(3, [refused(b"?")]) == name
    assert kept.keep(4, [refused(b"!")]) != name
    assert Quarantine(tmp_path).status().files == 2


def test_when_it_is_full_the_oldest_files_go_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_quarantine, "MAX_FILES", 3)
    kept = Quarantine(tmp_path)
    names = [kept.keep(n, [refused(b"%d" % n)]) for n in range(5)]
    status = kept.status()
    assert (status.files, status.dropped) == (3, 2)
    assert list(status.names) == names[:1:-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == names[2:]
    assert kept.keep(9, [refused(b"0")]) != names[0]


def test_its_bytes_are_bounded_also_by_what_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Quarantine(tmp_path).keep(1, [refused(b"a" * 1000)])
    monkeypatch.setattr(edge_quarantine, "MAX_BYTES", 3000)
    kept = Quarantine(tmp_path)
    kept.keep(2, [refused(b"b" * 1000)])
    assert (kept.status().files, kept.status().dropped) == (1, 1)
    assert kept.status().bytes == sum(p.stat().st_size for p in tmp_path.iterdir()) <= 3000


def test_a_draft_that_a_dead_process_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "000000000000001-00.new").write_bytes(b"half")
    assert Quarantine(tmp_path).status().files == 0
    assert list(tmp_path.iterdir()) == []
