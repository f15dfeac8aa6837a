"""The log port's contract, over every adapter that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import Files, RealFiles
from audit_platform.adapters.embedded.groups import LEASE_SECONDS
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.ports import Log
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.actor import SharedSeconds
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.contracts.log_contract import LogContract, LogWorld


def open_embedded(root: Path, seconds: SharedSeconds) -> Log:
    """A client in another process."""
    return EmbeddedLog(root, RealFiles(), ManualClock(), 4, monotonic=seconds)


class EmbeddedLogWorld:
    """The embedded log under a folder, with a lease clock that stands still in all processes."""

    topic = EVENTS_TOPIC
    partitions = 4

    def __init__(self, root: Path, files: Files) -> None:
        self._root = root
        self._files = files
        root.parent.mkdir(parents=True)
        self._seconds = SharedSeconds(root.parent / "seconds")
        self._seconds.advance(0)
        self._clients: list[EmbeddedLog] = []

    def client(self) -> Log:
        """See `LogWorld`."""
        log = EmbeddedLog(self._root, self._files, ManualClock(), 4, monotonic=self._seconds)
        self._clients.append(log)
        return log

    def opener(self) -> Callable[[], Log]:
        """See `LogWorld`."""
        return partial(open_embedded, self._root, self._seconds)

    def pass_lease(self) -> None:
        """See `LogWorld`."""
        self._seconds.advance(LEASE_SECONDS)

    def pass_moment(self) -> None:
        """See `LogWorld`."""
        self._seconds.advance(LEASE_SECONDS / 100)

    def close(self) -> None:
        """End all clients."""
        for log in self._clients:
            log.close()


class TestEmbeddedLog(LogContract):
    """On real files."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[LogWorld]:
        """A log that is not there yet."""
        world = EmbeddedLogWorld(tmp_path / "platform" / "log", RealFiles())
        yield world
        world.close()
