"""The metadata port's contract on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from audit_platform.adapters.postgres.metadata import open_postgres
from audit_platform.ports import Metadata
from audit_platform_tests.contracts.metadata_contract import MetadataContract
from audit_platform_tests.databases import new_database
from audit_platform_tests.servers import stack_settings


class TestPostgres(MetadataContract):
    """The store of the `stack` profile, a database for each test."""

    @pytest.fixture
    def database(self) -> Iterator[str]:
        """The URL of an empty database."""
        with new_database(stack_settings("postgres")["AUDIT_DATABASE"]) as url:
            yield url

    @pytest.fixture
    def metadata(self, database: str) -> Iterator[Metadata]:
        """A new store."""
        store = open_postgres(database)
        yield store
        store.close()

    @pytest.fixture
    def opener(self, database: str) -> Callable[[], Metadata]:
        """The same store in another OS process: picklable."""
        return partial(open_postgres, database)
