"""The HOT port's contract on a real OpenSearch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from audit_platform.adapters.opensearch.hot import OpenSearchHot
from audit_platform.ports import Hot
from audit_platform_tests.adapters.opensearch_servers import fresh_prefix, urls, wiped
from audit_platform_tests.contracts.hot_contract import HotContract


class TestOpenSearch(HotContract):
    """The `stack` profile's indexes."""

    @pytest.fixture
    def prefix(self) -> Iterator[str]:
        """Nobody else's; all indexes below it go in the end."""
        with wiped(fresh_prefix()) as prefix:
            yield prefix

    @pytest.fixture
    def hot(self, prefix: str) -> Iterator[Hot]:
        """No index yet."""
        opened = OpenSearchHot(urls(), prefix)
        yield opened
        opened.close()

    @pytest.fixture
    def opener(self, prefix: str) -> Callable[[], Hot]:
        """The same prefix in another OS process: picklable."""
        return partial(OpenSearchHot, urls(), prefix)
