"""The program's definitions over a store that counts what is read, with parts of a few rows.

For tests that kill a run and compare what it and the next one read: whatever a process reads is
written down at once, so that a killed one has told it too. Belongs here: nothing but that.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, Final, cast

from audit_platform import wiring
from audit_platform.operations import gather
from audit_platform.ports import Clock, Objects, Platform
from audit_platform.record import sealed
from audit_platform.settings import Settings

#: Where it is written down: lines of `<wall seconds> <pid> <bytes> <key>`.
FILE_VARIABLE: Final = "TESTS_METER"

#: The process dies by SIGKILL when it begins to read so many different sealed parts.
DEATH_VARIABLE: Final = "TESTS_DIE_AT_PART"

#: Rows of a part: the few thousand of a test's day make many parts.
ROWS_VARIABLE: Final = "TESTS_PART_ROWS"


class Metered:
    """`ports.Objects`, whose bytes are counted as they are handed over."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._file = os.open(os.environ[FILE_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._death = int(os.environ.get(DEATH_VARIABLE, "0"))
        self._parts: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def tell(self, key: str, size: int) -> None:
        """One line, at once and whole."""
        os.write(self._file, f"{time.time()} {os.getpid()} {size} {key}\n".encode())

    def get(self, key: str, version_id: str) -> bytes:
        """The whole body."""
        data = self._objects.get(key, version_id)
        self.tell(key, len(data))
        return data

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:
        """A reader whose reads count."""
        if "/part-" in key:
            self._parts.add(key)
            if len(self._parts) == self._death:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._opened(key, version_id)

    @contextmanager
    def _opened(self, key: str, version_id: str) -> Iterator[BinaryIO]:
        with self._objects.open(key, version_id) as file:
            yield cast("BinaryIO", _MeteredFile(file, key, self))


class _MeteredFile:
    """A reader that tells what it gives."""

    def __init__(self, file: BinaryIO, key: str, meter: Metered) -> None:
        self._file, self._key, self._meter = file, key, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int | None = -1, /) -> bytes:
        """Counted."""
        data = self._file.read(-1 if size is None else size)
        self._meter.tell(self._key, len(data))
        return data


def _metered(settings: Settings, *, clock: Clock | None = None) -> Platform:
    opened = _open_platform(settings, clock=clock)
    return replace(opened, objects=cast("Objects", Metered(opened.objects)))


_open_platform = wiring.open_platform

if (
    FILE_VARIABLE in os.environ
):  # in Dagster's processes; a test that wants the names changes nothing
    wiring.open_platform = _metered
    sealed.MAX_ROWS_PER_PART = gather.BUCKET_ROWS = int(os.environ[ROWS_VARIABLE])  # type: ignore[misc] # smaller, for a test

from audit_platform.definitions import defs  # noqa: E402 - what it opens is metered from here on

__all__ = ["defs"]
