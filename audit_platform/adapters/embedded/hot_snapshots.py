"""`ports.HotSnapshots` of the embedded profile: a folder for each snapshot, a file for each index.

A file that has not changed since the snapshot before is not copied: it gets a second name (a hard
link), so a week of snapshots costs about the days that are written. Nothing writes to a file of a
snapshot. Belongs here: folders, links, copies. Does not: what an index file is (`hot_upkeep.py`),
when, of what, and the proof of what came back (`operations/hot_snapshots.py`).
Source: `ports.HotSnapshots`; SQLite: backup API (a copy is the index at one moment).

A snapshot is made under another name and renamed when all of it is durable.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson

from audit_platform.adapters.embedded import hot_upkeep
from audit_platform.adapters.embedded.files import Files, FsyncSite, RealFiles, mkdirs, write_file
from audit_platform.adapters.embedded.hot import EmbeddedHot
from audit_platform.errors import HotUnavailable
from audit_platform.ports import HotSnapshot, IndexName

_NAME: Final = re.compile(r"[a-z0-9-]{1,100}")
_DRAFT: Final = ".draft"

#: What a snapshot says of itself: which indexes, and what tells that their files are as they were.
_LIST: Final = "indexes.json"


class EmbeddedSnapshots:
    """Snapshots of an `EmbeddedHot` in a folder beside it, on the same disk."""

    def __init__(self, hot: EmbeddedHot, folder: Path, files: Files | None = None) -> None:
        self._hot = hot
        self._folder = folder
        self._files = files or RealFiles()

    def take(self, name: str, indexes: Sequence[IndexName]) -> HotSnapshot:
        """See `ports.HotSnapshots.take`. One process takes at a time."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a name of a snapshot: {name!r}")
        with _told(f"snapshot {name}"):
            if (self._folder / name).exists():
                raise ValueError(f"there is a snapshot {name}")
            mkdirs(self._files, self._folder, FsyncSite.HOT_SNAPSHOTS)
            draft = self._folder / f"{name}{_DRAFT}"
            for left in self._folder.glob(f"*{_DRAFT}"):
                shutil.rmtree(left)  # a process died over it
            draft.mkdir()
            before = self._last()
            listed = {_file(index): self._put(index, draft, before) for index in indexes}
            write_file(
                self._files, draft / _LIST, orjson.dumps(listed), FsyncSite.HOT_SNAPSHOT_LIST
            )
            self._files.fsync_dir(draft, FsyncSite.HOT_SNAPSHOT_FILES)
            self._files.rename(draft, self._folder / name)
            self._files.fsync_dir(self._folder, FsyncSite.HOT_SNAPSHOT_NAME)
        return HotSnapshot(name, tuple(sorted(indexes)), complete=True)

    def _put(self, index: IndexName, draft: Path, before: Path | None) -> list[int]:
        """Copy or link one index; what tells that its file is as it was then."""
        target = draft / _file(index)
        with self._hot.opened(*index) as connection:
            stamp = self._hot.stamp(*index)  # before the copy: a change meanwhile copies anew
            if stamp and before is not None and _listed(before).get(target.name) == stamp:
                os.link(before / target.name, target)
            else:
                hot_upkeep.copy(connection, target)
        return stamp

    def _last(self) -> Path | None:
        found = self.snapshots()
        return self._folder / found[-1].name if found else None

    def snapshots(self) -> list[HotSnapshot]:
        """See `ports.HotSnapshots.snapshots`."""
        with _told("the folder of snapshots"):
            if not self._folder.is_dir():
                return []
            names = (p.name for p in self._folder.iterdir() if _NAME.fullmatch(p.name))
            return [self._read(name) for name in sorted(names)]

    def _read(self, name: str) -> HotSnapshot:
        folder = self._folder / name
        try:
            listed = _listed(folder)
        except (OSError, ValueError):
            return HotSnapshot(name, (), complete=False)
        indexes = tuple(sorted(_index(file) for file in listed))
        return HotSnapshot(name, indexes, complete=all((folder / f).is_file() for f in listed))

    def restore(self, name: str, index: IndexName) -> int:
        """See `ports.HotSnapshots.restore`."""
        source = self._folder / name / _file(index)
        with _told(f"{source.name} of snapshot {name}"):
            source.stat()
            return self._hot.new_index(index.tenant_id, index.day, source)

    def delete(self, name: str) -> None:
        """See `ports.HotSnapshots.delete`."""
        with _told(f"snapshot {name}"):
            if (self._folder / name).is_dir():
                going = self._folder / f"{name}{_DRAFT}"
                self._files.rename(self._folder / name, going)
                shutil.rmtree(going)


def _file(index: IndexName) -> str:
    return f"{index.tenant_id}.{index.day}.g{index.generation}.db"


def _index(file: str) -> IndexName:
    tenant_id, day, generation, _ = file.split(".")
    return IndexName(tenant_id, day, int(generation[1:]))


def _listed(folder: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = orjson.loads((folder / _LIST).read_bytes())
    return found


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as e:
        raise HotUnavailable(
            f"{what} cannot be used: {e}",
            remedy="check that the disk is writable and not full; a snapshot that is damaged may be"
            " deleted: `rebuild-hot` needs none",
        ) from e
