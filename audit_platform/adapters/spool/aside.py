"""Segments kept for people, because part of them is not what was written.

Belongs here: the folder `set-aside`, and the reports about what is in it. Does not: finding damage
(`segment.py`), what the spool does without these entries (`shelf.py`).
Source: `README.md` beside this file.
"""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path
from typing import Final

from audit_platform.adapters.embedded.files import Files, FsyncSite, mkdirs
from audit_platform.ports import SetAside

FOLDER: Final = "set-aside"

_log = logging.getLogger(__name__)


class Aside:
    """The folder and its reports. Not for several threads at once."""

    def __init__(self, files: Files, spool: Path) -> None:
        self._files = files
        self._spool = spool
        self._folder = spool / FOLDER
        self.reports: dict[str, SetAside] = {}

    def load(self, known: dict[str, SetAside]) -> None:
        """Look at what is there; `known` are the reports of before."""
        if self._files.stat(self._folder) is None:
            return
        for name in sorted(self._files.listdir(self._folder)):
            first = int(name[:20]) if name[:20].isdigit() else 0
            self.reports[name] = known.get(name) or SetAside(
                name, first, first, "found here at start; what it held is not known"
            )

    def keep(self, path: Path, first: int, after: int, reason: str, *, move: bool) -> SetAside:
        """Keep a file in the folder as well, or (`move`) instead; durable on return.

        A disk that refuses leaves the file where it is; the report is made all the same.
        """
        name = path.name
        try:
            name = self._link(path)
            if move:
                self._files.unlink(path)
        except OSError:
            _log.exception("%s could not be set aside and stays where it is", path)
        before = self.reports.get(name)
        if before is not None:
            first, after = min(first, before.first), max(after, before.next)
        report = self.reports[name] = SetAside(name, first, after, reason)
        _log.error(
            "corrupt: %s: positions %d to %d can not be read: %s; kept in %s",
            path,
            first,
            after,
            reason,
            self._folder,
        )
        return report

    def _link(self, path: Path) -> str:
        """Give the file a name in the folder that no other file has."""
        mkdirs(self._files, self._folder, FsyncSite.SPOOL_ASIDE_FOLDER, below=self._spool)
        ours = self._files.stat(path)
        if ours is None:
            raise FileNotFoundError(path)
        for number in count(1):
            name = path.name if number == 1 else f"{path.name}.{number}"
            found = self._files.stat(self._folder / name)
            if found is None:
                self._files.link(path, self._folder / name)
            elif found.inode != ours.inode:
                continue
            break
        self._files.fsync_dir(self._folder, FsyncSite.SPOOL_ASIDE_NAME)
        return name
