"""The objects port's contract, over every adapter that there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.ports import Objects
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.contracts.objects_contract import ObjectsContract, ObjectsWorld


def open_embedded(root: Path) -> Objects:
    """A client in another process."""
    return EmbeddedObjects(root, RealFiles(), ManualClock())


class EmbeddedObjectsWorld:
    """The embedded store under a folder, with a wall clock that stands still."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._clock = ManualClock()

    def client(self) -> Objects:
        """See `ObjectsWorld`."""
        return EmbeddedObjects(self._root, RealFiles(), self._clock)

    def opener(self) -> Callable[[], Objects]:
        """See `ObjectsWorld`."""
        return partial(open_embedded, self._root)

    def soon_ms(self) -> int:
        """See `ObjectsWorld`."""
        return self._clock.now_ms() + 1000

    def pass_until(self, ms: int) -> None:
        """See `ObjectsWorld`."""
        self._clock.advance(ms - self._clock.now_ms())


class TestEmbeddedObjects(ObjectsContract):
    """On real files."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> ObjectsWorld:
        """A store that is not there yet."""
        return EmbeddedObjectsWorld(tmp_path / "platform" / "cold")
