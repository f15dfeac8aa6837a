"""The feeder's own files: a damaged one is named, a key is private."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform.demo.edge_state import EdgeFolder, EdgeState, edge_public_key
from audit_platform.errors import SettingInvalid


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b'{"version":2}', b"[]"])
def test_a_state_that_is_not_ours_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "state.json").write_bytes(damage)
    with pytest.raises(SettingInvalid, match="start afresh"):
        EdgeFolder(tmp_path).load()


def test_a_state_of_another_version_is_named(tmp_path: Path) -> None:
    newer = EdgeState().to_bytes().replace(b'"version":1', b'"version":2')
    (tmp_path / "state.json").write_bytes(newer)
    with pytest.raises(SettingInvalid, match="version 2"):
        EdgeFolder(tmp_path).load()


def test_a_damaged_edge_key_is_named_and_a_good_one_is_private(tmp_path: Path) -> None:
    edge_public_key(tmp_path)
    assert (tmp_path / "edge.key").stat().st_mode & 0o077 == 0
    (tmp_path / "edge.key").write_text("not hex")
    with pytest.raises(SettingInvalid, match="64 hex digits"):
        edge_public_key(tmp_path)
