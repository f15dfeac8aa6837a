"""The HOT port's contract, over every adapter that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.hot import EmbeddedHot
from audit_platform.ports import Hot
from audit_platform_tests.contracts.hot_contract import HotContract


class TestEmbedded(HotContract):
    """The embedded profile's indexes."""

    @pytest.fixture
    def hot(self, tmp_path: Path) -> Iterator[Hot]:
        """No index yet."""
        opened = EmbeddedHot(tmp_path / "hot")
        yield opened
        opened.close()

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Callable[[], Hot]:
        """The same folder in another OS process: picklable."""
        return partial(EmbeddedHot, tmp_path / "hot")
