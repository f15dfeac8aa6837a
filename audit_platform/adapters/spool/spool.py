"""`ports.Spool` on a folder: group commit, bounds, reading.

Belongs here: when a segment ends, what happens when the disk refuses, reading across segments. Does
not: who commits for whom (`turns.py`), closed segments (`shelf.py`), bytes (`segment.py`).
Source: design section 2; `README.md` beside this file.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from audit_platform.adapters.embedded import segments
from audit_platform.adapters.embedded.files import Files, FsyncSite, mkdirs
from audit_platform.adapters.embedded.segments import FrameBody
from audit_platform.adapters.spool import frames
from audit_platform.adapters.spool.frames import Columns
from audit_platform.adapters.spool.index import Summary
from audit_platform.adapters.spool.segment import (
    NewSegment,
    OpenSegment,
    Unreadable,
    segment_path,
)
from audit_platform.adapters.spool.shelf import Shelf
from audit_platform.adapters.spool.turns import Turns
from audit_platform.errors import (
    KeysUnavailable,
    KeyUnknown,
    SettingInvalid,
    SpoolFull,
    SpoolUnavailable,
)
from audit_platform.ports import (
    Clock,
    Dropped,
    Entry,
    Keys,
    NewEntry,
    SpoolLimits,
    SpoolStatus,
)

_LOCK_FILE: Final = "lock"
_HOUR_MS: Final = 3_600_000

#: A spool consists of at least so many segments, so that dropping the oldest gives up little, and
#: of at least so many by age.
_SHARES: Final = 8
#: A frame's header and what sealing adds.
_FRAME_EXTRA_BYTES: Final = segments.FRAME_HEADER_BYTES + frames.FrameSeal.overhead
#: A new segment's header and opening frame.
_SEGMENT_START_BYTES: Final = 256
#: Segments open for reading: replay, live sending and a rebuild may each be somewhere else.
_OPEN_READERS: Final = 4
#: A segment that the disk does not read so often is set aside, so that what is behind it moves on.
_READ_FAILURES: Final = 3

_log = logging.getLogger(__name__)


class FileSpool:
    """`ports.Spool` under one folder, for one process at a time, for many threads of it."""

    def __init__(
        self, folder: Path, files: Files, clock: Clock, limits: SpoolLimits, keys: Keys | None
    ) -> None:
        """Use `open`."""
        self._folder = folder
        self._files = files
        self._clock = clock
        self._limits = limits
        self._keys = keys
        self._segment_bytes = min(limits.segment_bytes, limits.max_bytes // _SHARES)
        # Locks, in the order in which they may be taken: turns, reading, state.
        self._turns = Turns(self._commit)
        self._reading = threading.Lock()
        self._readers: OrderedDict[int, OpenSegment] = OrderedDict()
        self._read_failures: dict[int, int] = {}
        self._state = threading.Lock()
        self._segment: NewSegment | None = None
        self._is_writing = False
        self._is_closed = False
        self._commits = 0
        self._committed_entries = 0
        self._fsync_seconds = 0.0
        with _disk("opening the spool"):
            mkdirs(files, folder, FsyncSite.SPOOL_FOLDER)
            self._lock = files.open(folder / _LOCK_FILE, create=True)
        try:
            with _disk("opening the spool"):
                self._be_alone()
                self._shelf = Shelf(files, folder, keys)
        except BaseException:
            files.close(self._lock)
            raise

    @classmethod
    def open(
        cls, folder: Path, files: Files, clock: Clock, limits: SpoolLimits, keys: Keys | None
    ) -> FileSpool:
        """Open the spool in `folder`, made when missing; whatever is in it is no reason to refuse.

        Without `keys` entries are stored as they are. Raises `SettingInvalid` while another process
        has it open, or when it is encrypted and there are no keys; `SpoolUnavailable` when disk or
        key store do not answer.
        """
        if keys is None:
            _log.warning("no keys: the spool in %s is NOT encrypted", folder)
        return cls(folder, files, clock, limits, keys)

    def _be_alone(self) -> None:
        """Two writers would give the same positions; the lock ends with the process."""
        if not self._files.lock(self._lock, wait=False):
            home = str(self._folder.parent)
            raise SettingInvalid("AUDIT_EDGE_HOME", home, "a folder that no other edge uses")

    def close(self) -> None:
        """See `ports.Spool`."""
        with self._turns.nobody_commits(), self._reading, self._state:
            if self._is_closed:
                return
            self._is_closed = True
            self._end_segment()
            self._shelf.close()
            while self._readers:
                self._readers.popitem()[1].close()
            self._files.close(self._lock)

    # ---------------------------------------------------------------------------------- append

    def append(self, entries: Sequence[NewEntry]) -> tuple[list[int], list[Dropped]]:
        """See `ports.Spool`."""
        return self._turns.append(entries)

    def _commit(self, entries: Columns) -> tuple[int, list[Dropped]]:
        """Write entries. Returns the first one's position, and what was dropped for them."""
        now_ms = self._clock.now_ms()
        bodies = [
            segments.compress_raw(frames.encode_entries(now_ms, part), len(part.data))
            for part in frames.in_frames(entries)
        ]
        count = len(entries.data)
        with self._state, _disk("making room in the spool"):
            victims = self._make_room(bodies, now_ms)
            segment = self._segment or self._begin_segment()
            dropped = self._drop(victims)
            self._is_writing = True
        try:
            with _disk("writing to the spool"):
                size, seconds = segment.write(bodies)
        except BaseException:
            with self._state:
                self._is_writing = False
                self._shelf.undrop(victims)
                self._end_segment()
                # Nobody has seen these positions, but the disk may keep them.
                self._shelf.next = max(self._shelf.next, segment.next + count)
            raise
        with self._state:
            self._is_writing = False
            first = segment.next
            segment.publish(size, count, now_ms, set(entries.classes))
            self._shelf.next = segment.next
            self._commits += 1
            self._committed_entries += count
            self._fsync_seconds += seconds
            # Nothing to declare in these: all was released, or can not be read.
            self._shelf.declared(d.first for d in dropped if not d.entries)
        return first, [d for d in dropped if d.entries]

    def _make_room(self, bodies: list[FrameBody], now_ms: int) -> list[Summary]:
        """End a segment that is full or old; say what has to be dropped for these frames."""
        if self._is_closed:
            raise SpoolUnavailable("the spool is closed", remedy="open it again")
        share_ms = self._limits.max_hours * _HOUR_MS / _SHARES
        segment = self._segment
        if segment is not None and segment.next > segment.base:
            is_old = now_ms - segment.first_ms >= share_ms
            if is_old or segment.position >= self._segment_bytes:
                self._end_segment()
        new = sum(len(body.data) + _FRAME_EXTRA_BYTES for body in bodies)
        held = self._shelf.bytes
        held += _SEGMENT_START_BYTES if self._segment is None else self._segment.position
        victims = self._shelf.victims(held + new - self._limits.max_bytes, self._limits, now_ms)
        if victims is None:
            raise SpoolFull(
                f"the spool holds {held} of {self._limits.max_bytes} bytes, the oldest for "
                f"{self._hours(now_ms):.1f} of {self._limits.max_hours} hours: none may be dropped",
                remedy="restore the uplink, or raise AUDIT_EDGE_SPOOL_BYTES or _HOURS",
            )
        return victims

    def _begin_segment(self) -> NewSegment:
        try:
            self._segment = NewSegment(self._files, self._folder, self._shelf.next, self._keys)
        except OSError:
            self._shelf.next += 1  # its name may be taken by what is left of this one
            raise
        self._shelf.open_base = self._segment.base
        return self._segment

    def _end_segment(self) -> None:
        """The segment that was written takes no more frames."""
        if self._segment is not None:
            segment, self._segment = self._segment, None
            with contextlib.suppress(OSError):
                segment.close()
            self._shelf.close_segment(segment.summary)

    def _drop(self, victims: list[Summary]) -> list[Dropped]:
        """Take segments off the shelf; what of each has to be declared."""
        self._shelf.drop(victims)
        try:
            return [self._read_dropped(summary) for summary in victims]
        except BaseException:
            self._shelf.undrop(victims)
            raise

    def _read_dropped(self, summary: Summary) -> Dropped:
        def on_hole(first: int, after: int, reason: str) -> None:
            self._shelf.keep_hole(summary.base, first, after, reason)

        path = segment_path(self._folder, summary.base)
        try:
            segment = OpenSegment(self._files, path, summary.base, self._keys)
            try:
                entries = segment.read(summary.base, summary.bytes, summary.next, 1 << 62, on_hole)
            finally:
                segment.close()
        except (Unreadable, OSError) as e:
            self._shelf.set_aside(summary.base, self._given_up(summary.base, e))
            return Dropped(summary.base, ())
        released = self._shelf.released
        lost = (e for e in entries if not released.covers(e.position, e.position + 1))
        return Dropped(summary.base, tuple(lost))

    def declared(self, dropped: Sequence[Dropped]) -> None:
        """See `ports.Spool`."""
        with self._reading, self._state:
            self._shelf.declared(d.first for d in dropped)
            self._close_readers()

    # ------------------------------------------------------------------------------------ read

    def read(self, position: int, max_bytes: int) -> list[Entry]:
        """See `ports.Spool`."""
        found: list[Entry] = []
        with self._reading, _disk("reading the spool"):
            while place := self._place(position):
                more = self._read_segment(*place, position, max_bytes)
                found += more
                max_bytes -= sum(len(entry.data) for entry in more)
                if found and max_bytes <= 0:
                    break
                position = place[2]
        return found

    def _place(self, position: int) -> tuple[int, int, int] | None:
        """Base, durable bytes and end of the segment that holds this position, or the next one."""
        with self._state:
            if self._is_closed:
                raise SpoolUnavailable("the spool is closed", remedy="open it again")
            summary = self._shelf.find(position)
            if summary is not None:
                return summary.base, summary.bytes, summary.next
            segment = self._segment
            if segment is None or segment.next <= position:
                return None
            return segment.base, segment.position, segment.next

    def _read_segment(
        self, base: int, limit: int, end: int, position: int, max_bytes: int
    ) -> list[Entry]:
        """Entries of one segment; nothing when it had to be set aside."""

        def on_hole(first: int, after: int, reason: str) -> None:
            with self._state:
                self._shelf.keep_hole(base, first, after, reason)

        try:
            found = self._reader(base).read(position, limit, end, max_bytes, on_hole)
            self._read_failures.pop(base, None)
        except (Unreadable, OSError) as e:
            reason = self._given_up(base, e)
            with self._state:
                self._shelf.set_aside(base, reason)  # nothing, if it was released meanwhile
            return []
        return found

    def _given_up(self, base: int, error: Unreadable | OSError) -> str:
        """Why a segment is set aside; raises a disk's error while it may still pass."""
        if isinstance(error, FileNotFoundError):
            return "its file is gone"
        if isinstance(error, OSError):
            self._read_failures[base] = failures = self._read_failures.get(base, 0) + 1
            if failures < _READ_FAILURES:
                raise error
            return f"the disk does not read it: {error}"
        return str(error)

    def _reader(self, base: int) -> OpenSegment:
        if base in self._readers:
            self._readers.move_to_end(base)
            return self._readers[base]
        path = segment_path(self._folder, base)
        reader = self._readers[base] = OpenSegment(self._files, path, base, self._keys)
        if len(self._readers) > _OPEN_READERS:
            self._readers.popitem(last=False)[1].close()
        return reader

    def _close_readers(self) -> None:
        """Close those of segments that are gone: a deleted file takes room while it is open."""
        for base in list(self._readers):
            if base not in self._shelf.segments and base != self._shelf.open_base:
                self._readers.pop(base).close()

    # --------------------------------------------------------------------------------- release

    def bounds(self) -> tuple[int, int]:
        """See `ports.Spool`."""
        with self._state:
            return self._shelf.first, self._shelf.next

    def release(self, runs: Iterable[tuple[int, int]]) -> None:
        """See `ports.Spool`."""
        with self._reading, self._state, _disk("marking what is released"):
            if self._is_closed:
                raise SpoolUnavailable("the spool is closed", remedy="open it again")
            try:
                self._shelf.release(runs)
            finally:
                self._close_readers()
            segment = self._segment
            if (
                segment is not None
                and not self._is_writing
                and segment.next > segment.base
                and self._shelf.released.covers(segment.base, segment.next)
            ):
                self._end_segment()

    def released(self) -> list[tuple[int, int]]:
        """See `ports.Spool`."""
        with self._state:
            first = self._shelf.first
            return [(max(a, first), b) for a, b in self._shelf.released.all() if b > first]

    def status(self) -> SpoolStatus:
        """See `ports.Spool`."""
        now_ms = self._clock.now_ms()
        with self._state:
            segment = self._segment.summary if self._segment is not None else None
            return SpoolStatus(
                bytes=self._shelf.bytes + (segment.bytes if segment else 0),
                entries=self._shelf.entries + (segment.entries if segment else 0),
                segments=len(self._shelf.segments) + (segment is not None),
                oldest_ms=self._oldest_ms(),
                hours=self._hours(now_ms),
                encrypted=self._keys is not None and self._shelf.all_encrypted,
                set_aside=tuple(self._shelf.aside.reports.values()),
                commits=self._commits,
                committed_entries=self._committed_entries,
                fsync_seconds=self._fsync_seconds,
            )

    def _oldest_ms(self) -> int:
        if self._shelf.oldest is not None:
            return self._shelf.oldest.first_ms
        return self._segment.first_ms if self._segment is not None else 0

    def _hours(self, now_ms: int) -> float:
        oldest_ms = self._oldest_ms()
        return max(now_ms - oldest_ms, 0) / _HOUR_MS if oldest_ms else 0.0


@contextlib.contextmanager
def _disk(doing: str) -> Iterator[None]:
    """Turn what disk and key store say into `SpoolUnavailable`."""
    try:
        yield
    except OSError as e:
        raise SpoolUnavailable(
            f"{doing}: {e}",
            remedy="check that the disk of AUDIT_EDGE_HOME is writable and not full",
        ) from e
    except (KeysUnavailable, KeyUnknown) as e:
        raise SpoolUnavailable(f"{doing}: {e.reason}", remedy=e.remedy) from e
