"""A folder that holds a copy of the record, as fsck's source: read-only, no service, no metadata.

The folder is what the buckets hold, key by key (`cold/v1/...`): the embedded store's own folder, or
any plain copy of a bucket. Belongs here: reading such a folder. Does not: judgement
(`record/fsck.py`), the store's locks (`embedded/objects.py`).
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from audit_platform.errors import ObjectNotFound


class DirectorySource:
    """Files below `root`; names that start with a dot are not keys."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[str, list[str]] = {}

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys in order."""
        base = self._root / prefix
        found: list[str] = []
        for folder, folders, files in os.walk(base):
            folders[:] = [f for f in folders if not f.startswith(".")]
            where = Path(folder).relative_to(self._root)
            found += [str(where / name) for name in files if not name.startswith(".")]
        return iter(sorted(found))

    def hidden_among(self, folder: str, first: str, last: str) -> Iterator[tuple[str, str]]:
        """As `hidden`, for keys of a folder."""
        if folder not in self._listed:
            try:
                self._listed[folder] = sorted(p.name for p in (self._root / folder).iterdir())
            except (FileNotFoundError, NotADirectoryError):
                self._listed[folder] = []
        names = self._listed[folder]
        low, high = (bisect_left(names, key.removeprefix(folder)) for key in (first, last))
        for name in names[low : high + 1]:
            key = folder + name
            over = self.hidden(key) if key <= last else ""
            if over:
                yield key, over

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:  # noqa: ARG002 - a copy of a bucket holds one version a key, the oldest
        """A reader over the file. Raises `ObjectNotFound`."""
        try:
            return (self._root / key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as e:
            raise ObjectNotFound(f"{key} is not in {self._root}") from e

    def hidden(self, key: str) -> str:
        """What the embedded store's version records say lies over the oldest version, or ""."""
        oldest: dict[str, Any] | None = None
        for number in count(1):  # as the store reads them: numbers have no holes
            path = self._root / ".meta" / f"{key}@{number}.json"
            try:
                record = orjson.loads(path.read_bytes())
                removed, marker, sha256 = (record[n] for n in ("removed", "deleteMarker", "sha256"))
            except (FileNotFoundError, NotADirectoryError):
                break
            except (OSError, ValueError, KeyError, TypeError):
                return f"its version record {path.name} cannot be read"
            if removed:
                continue
            if oldest is not None and marker:
                return "a delete marker lies over the object"
            if oldest is not None and sha256 != oldest["sha256"]:
                return f"a newer version with other bytes (number {number}) lies over it"
            oldest = oldest or record
        return ""
