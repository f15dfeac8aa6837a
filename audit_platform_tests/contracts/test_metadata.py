"""The metadata port's contract, over every adapter that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.metadata import open_sqlite
from audit_platform.ports import Metadata
from audit_platform_tests.contracts.metadata_contract import MetadataContract


class TestSqlite(MetadataContract):
    """The embedded profile's store."""

    @pytest.fixture
    def metadata(self, tmp_path: Path) -> Iterator[Metadata]:
        """A new store."""
        store = open_sqlite(tmp_path / "metadata.db")
        yield store
        store.close()

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Callable[[], Metadata]:
        """The same store in another OS process: picklable."""
        return partial(open_sqlite, tmp_path / "metadata.db")
