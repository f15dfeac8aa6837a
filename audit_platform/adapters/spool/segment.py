"""One segment file of the spool: writing a new one, and reading entries from one.

Belongs here: the opening frame and its key, frames in order of position, holes between them. Does
not: which segments there are (`shelf.py`), who writes when (`spool.py`).
Source: `README.md` beside this file.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from audit_platform.adapters.embedded import segments
from audit_platform.adapters.embedded.files import Files, FsyncSite
from audit_platform.adapters.embedded.segment_reader import FrameReader
from audit_platform.adapters.embedded.segments import Damage, Frame, FrameBody
from audit_platform.adapters.spool import frames
from audit_platform.adapters.spool.index import Summary
from audit_platform.errors import KeyUnknown, SettingInvalid
from audit_platform.ports import Entry, Keys

SUFFIX: Final = ".seg"

OnHole = Callable[[int, int, str], None]


class Unreadable(Exception):
    """Nothing of a segment can be read. The text says why."""


def no_keys(path: Path) -> SettingInvalid:
    """For an encrypted segment without keys: not damage, so it is not set aside."""
    wanted = "the folder of keys that its spool was written with"
    return SettingInvalid("AUDIT_EDGE_HOME", str(path.parent.parent), wanted)


def segment_path(folder: Path, base: int) -> Path:
    """Where the segment that begins with this position is."""
    return folder / f"{base:020d}{SUFFIX}"


class NewSegment:
    """A segment that this process made and may append to, until the first failure or the end."""

    def __init__(self, files: Files, folder: Path, base: int, keys: Keys | None) -> None:
        """Make it; its name is durable on return. Raises `OSError`, and what `Keys` raises."""
        data_key = None if keys is None else keys.new_data_key()
        start = segments.new_header(base)
        header = segments.parse_header(start)
        assert header is not None
        self._seal = None if data_key is None else frames.FrameSeal(data_key.secret, header)
        self._tag = header.tag
        opening = frames.encode_opening(None if data_key is None else data_key.wrapped)
        start += segments.encode_frame(self._tag, base, segments.compress_raw(opening, 0))
        self._files = files
        path = segment_path(folder, base)
        self._handle = files.create(path)
        try:
            # Durable with the first frame, by the same fsync; the name before it.
            files.pwrite(self._handle, start, 0)
            files.fsync_dir(folder, FsyncSite.SPOOL_SEGMENT_NAME)
        except BaseException:
            files.close(self._handle)
            with contextlib.suppress(OSError):
                files.unlink(path)
            raise
        self.base = base
        self.next = base
        self.position = len(start)
        self.first_ms = 0
        self.last_ms = 0
        self.classes: set[str] = set()

    @property
    def summary(self) -> Summary:
        """What it holds durably."""
        return Summary(
            self.base,
            self.next,
            self.position,
            self.next - self.base,
            self.first_ms,
            self.last_ms,
            self._seal is not None,
            tuple(sorted(self.classes)),
        )

    def write(self, bodies: Sequence[FrameBody]) -> tuple[int, float]:
        """Write frames; durable on return, and not shown before `publish`.

        Returns their bytes and the seconds that the fsync took. Raises `OSError`: then it must not
        be written to again, only `close`d.
        """
        data = []
        after = self.next
        for body in bodies:
            data.append(segments.encode_frame(self._tag, after, body, self._seal))
            after += body.count
        joined = b"".join(data)
        try:
            self._files.pwrite(self._handle, joined, self.position)
            started = time.perf_counter()
            self._files.fsync(self._handle, FsyncSite.SPOOL_FRAMES)
            seconds = time.perf_counter() - started
        except OSError:
            # Nobody was told of these frames. After a failed fsync a later one proves nothing.
            with contextlib.suppress(OSError):
                self._files.truncate(self._handle, self.position)
            raise
        return len(joined), seconds

    def publish(self, size: int, count: int, now_ms: int, classes: set[str]) -> None:
        """Count in what `write` wrote."""
        self.first_ms = now_ms if self.next == self.base else self.first_ms
        self.last_ms = max(self.last_ms, now_ms)
        self.classes |= classes
        self.position += size
        self.next += count

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._handle)


class OpenSegment:
    """A segment open for reading. Not for several threads at once.

    Raises `Unreadable` when header, opening frame or key are no good; `OSError`, `KeysUnavailable`;
    `SettingInvalid` when it is encrypted and there are no keys.
    """

    def __init__(self, files: Files, path: Path, base: int, keys: Keys | None) -> None:
        self.base = base
        self.encrypted = False
        self._path = path
        self._held: tuple[int, list[Entry]] = (-1, [])
        self._reader = FrameReader(files, path, base, _reported_as_holes)
        try:
            self._seal = self._open_seal(keys)
        except BaseException:
            self._reader.close()
            raise

    def _open_seal(self, keys: Keys | None) -> frames.FrameSeal | None:
        header = self._reader.header
        if header is None or header.base_offset != self.base:
            raise Unreadable("its header is damaged, or another segment's")
        opening = next(self._reader.frames(self.base - 1, self._reader.size()), None)
        raw = None
        if opening is not None and opening.count == 0:
            body = self._reader.body(opening)
            raw = None if body is None else segments.raw_of(opening, body)
        try:
            wrapped = frames.decode_opening(raw or b"")
            if wrapped is None:
                return None
            self.encrypted = True
            if keys is None:
                raise no_keys(self._path)
            return frames.FrameSeal(keys.open_data_key(wrapped), header)
        except ValueError as e:
            raise Unreadable(f"its opening frame is damaged: {e}") from e
        except KeyUnknown as e:
            raise Unreadable(f"its key can not be unwrapped: {e}") from e

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def read(
        self, position: int, limit: int, end: int, max_bytes: int, on_hole: OnHole
    ) -> list[Entry]:
        """Entries from `position` on in frames that end at or before byte `limit`.

        At least one if there is any, then until their data reaches `max_bytes`. Positions below
        `end` that are not there are given to `on_hole` as (first, next, reason).
        """
        expected = max(position, self.base)
        found: list[Entry] = []
        for frame in self._reader.frames(expected, limit):
            if frame.next_offset <= expected or frame.first_offset >= end:
                continue  # not in its place: whatever belongs there is a hole
            if frame.first_offset > expected:
                on_hole(expected, frame.first_offset, "frames are damaged, missing or moved")
            expected = max(expected, frame.first_offset)
            entries = self._entries(frame)
            if entries is None:
                on_hole(expected, frame.next_offset, "a frame is not what was written")
            for entry in entries or ():
                if entry.position >= expected:
                    found.append(entry)
                    max_bytes -= len(entry.data)
                    if max_bytes <= 0:
                        return found
            expected = frame.next_offset
        if expected < end:
            on_hole(expected, end, "its end is missing or damaged")
        return found

    def is_in_order(self, limit: int) -> bool:
        """Whether each frame begins at or behind the end of the one before it."""
        expected = self.base
        for frame in self._reader.frames(-1, limit):
            if frame.first_offset < expected:
                return False
            expected = frame.next_offset
        return True

    def _entries(self, frame: Frame) -> list[Entry] | None:
        """The frame's entries; the last frame asked for is kept for the next call."""
        position, entries = self._held
        if position == frame.position:
            return entries
        body = self._reader.body(frame)
        raw = None if body is None else segments.raw_of(frame, body, self._seal)
        decoded = (
            None if raw is None else frames.decode_entries(raw, frame.first_offset, frame.count)
        )
        if decoded is not None:
            self._held = (frame.position, decoded)
        return decoded


def _reported_as_holes(damage: Damage) -> None:
    """Frames that the reader passes over show as positions that are missing."""
