"""The edge's quarantine: bytes of devices that no event could be made of, kept for people.

One file for what was refused of one request: NDJSON, a line for each refused line with `line`,
`slug`, `field`, `reason`, `remedy`, `sha256` and `bytes` (base64). The same bytes have one file
only, however often a device sends them. Belongs here: these files and their bounds. Does not: why
something is refused (`edge_reading.py`).
Source: design section 7 (other bytes go to quarantine outside any chain); the issue's "The edge".
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from audit_platform.services.edge_placing import DeviceAnswer

_logger: Final = logging.getLogger(__name__)

#: Bounds of the folder. What is in it was answered with an error, so nobody counts on it: when it
#: is full the oldest files go. Three of the largest bodies fit.
MAX_FILES: Final = 10_000
MAX_BYTES: Final = 96 << 20

#: Names that the status shows: a page of them.
SHOWN: Final = 20

_SUFFIX: Final = ".ndjson"
_DRAFT: Final = ".new"


class RefusedLine(NamedTuple):
    """A line of a request, counted from 1, its bytes, and what the device was told."""

    line: int
    data: bytes
    answer: DeviceAnswer


@dataclass(frozen=True, slots=True)
class QuarantineStatus:
    """What is kept: `names` are the newest first, `dropped` counts files that had to go."""

    files: int
    bytes: int
    dropped: int
    names: tuple[str, ...]


class Quarantine:
    """The folder, made when missing. For one process, several threads of it."""

    def __init__(self, folder: Path) -> None:
        """Raises `OSError`."""
        self._folder = folder
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        _fsync_folder(folder.parent)
        for draft in folder.glob(f"*{_DRAFT}"):
            draft.unlink()
        # Names begin with the time, so they are in the order of their age.
        self._sizes = {p.name: p.stat().st_size for p in sorted(folder.glob(f"*{_SUFFIX}"))}
        self._bytes = sum(self._sizes.values())
        self._digests = {_digest_of(name): name for name in self._sizes}
        self._dropped = 0

    def keep(self, now_ms: int, refused: Sequence[RefusedLine]) -> str:
        """Keep what was refused of one request; durable on return. The file's name.

        Raises `OSError`: then it is not kept.
        """
        digest = hashlib.sha256(b"\n".join(line.data for line in refused)).hexdigest()[:32]
        with self._lock:
            known = self._digests.get(digest)
            if known is not None:
                return known
            data = b"".join(_row(line) for line in refused)
            self._make_room(len(data))
            name = f"{max(now_ms, 0):015d}-{digest}{_SUFFIX}"
            self._write(name, data)
            self._digests[digest] = name
            self._sizes[name] = len(data)
            self._bytes += len(data)
        return name

    def status(self) -> QuarantineStatus:
        """Figures; cheap."""
        with self._lock:
            names = sorted(self._sizes, reverse=True)[:SHOWN]
            return QuarantineStatus(len(self._sizes), self._bytes, self._dropped, tuple(names))

    def _make_room(self, size: int) -> None:
        while self._sizes and (len(self._sizes) >= MAX_FILES or self._bytes + size > MAX_BYTES):
            oldest = min(self._sizes)
            (self._folder / oldest).unlink(missing_ok=True)
            self._bytes -= self._sizes.pop(oldest)
            del self._digests[_digest_of(oldest)]
            self._dropped += 1
            _logger.warning("the quarantine is full: %s was deleted", oldest)

    def _write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        draft = path.with_suffix(_DRAFT)
        with draft.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(path)
        _fsync_folder(self._folder)


def _digest_of(name: str) -> str:
    return name.removesuffix(_SUFFIX).rpartition("-")[2]


def _row(refused: RefusedLine) -> bytes:
    answer = refused.answer
    return (
        orjson.dumps(
            {
                "line": refused.line,
                "slug": answer.slug,
                "field": answer.field,
                "reason": answer.reason,
                "remedy": answer.remedy,
                "sha256": hashlib.sha256(refused.data).hexdigest(),
                "bytes": base64.b64encode(refused.data).decode("ascii"),
            }
        )
        + b"\n"
    )


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
