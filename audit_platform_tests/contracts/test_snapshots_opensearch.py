"""The contract of snapshots on a real OpenSearch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from audit_platform.adapters.opensearch.hot import OpenSearchHot
from audit_platform.adapters.opensearch.snapshots import OpenSearchSnapshots
from audit_platform.ports import Hot, HotSnapshots
from audit_platform_tests.adapters.opensearch_servers import ask, fresh_prefix, urls, wiped
from audit_platform_tests.contracts.snapshots_contract import SnapshotsContract
from audit_platform_tests.servers import stack_settings


class TestOpenSearch(SnapshotsContract):
    """An `fs` repository below the folder that the stack's nodes share."""

    @pytest.fixture
    def prefix(self) -> Iterator[str]:
        """Nobody else's; indexes and repository go in the end."""
        with wiped(fresh_prefix()) as prefix:
            yield prefix
            ask("DELETE", f"/_snapshot/{prefix}")

    @pytest.fixture
    def hot(self, prefix: str) -> Iterator[Hot]:
        """No index yet."""
        opened = OpenSearchHot(urls(), prefix)
        yield opened
        opened.close()

    @pytest.fixture
    def snapshots(self, hot: OpenSearchHot) -> HotSnapshots:
        """None yet."""
        folder = stack_settings("opensearch-1")["AUDIT_OPENSEARCH_SNAPSHOTS"]
        return OpenSearchSnapshots(hot, folder)

    @pytest.fixture
    def lose(self, prefix: str) -> Callable[[], None]:
        """Every index is deleted, past the adapter; the repository is forgotten."""

        def gone() -> None:
            for index in ask("GET", f"/{prefix}.*/_settings"):
                ask("DELETE", f"/{index}")

        return gone
