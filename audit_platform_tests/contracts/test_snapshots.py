"""The contract of snapshots on the embedded profile."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.hot import EmbeddedHot
from audit_platform.adapters.embedded.hot_snapshots import EmbeddedSnapshots
from audit_platform.ports import Hot, HotSnapshots
from audit_platform_tests.contracts.snapshots_contract import SnapshotsContract


class TestEmbedded(SnapshotsContract):
    """Folders and hard links."""

    @pytest.fixture
    def hot(self, tmp_path: Path) -> Iterator[Hot]:
        """No index yet."""
        opened = EmbeddedHot(tmp_path / "hot")
        yield opened
        opened.close()

    @pytest.fixture
    def snapshots(self, hot: EmbeddedHot, tmp_path: Path) -> HotSnapshots:
        """None yet."""
        return EmbeddedSnapshots(hot, tmp_path / "snapshots")

    @pytest.fixture
    def lose(self, tmp_path: Path) -> Callable[[], None]:
        """The folder of HOT is deleted."""
        return lambda: shutil.rmtree(tmp_path / "hot")
