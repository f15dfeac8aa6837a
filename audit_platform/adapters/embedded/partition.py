"""One partition of the embedded log: who may append, what is durable, where segments end.

Belongs here: the lock and the mark that processes share, adopting what a dead writer left, rolling,
reading up to the mark. Does not: bytes of segments (`segments.py`), topics, threads (`log.py`).
Source: `README.md` beside this file.

A folder per partition: `<base offset, 20 digits>.seg` files and `mark`. The mark is the file that
writers flock, and its few bytes say how far the partition is durable. It is written after each
fsync and never fsynced itself: it only ever states what is already true and stays true, so an old
one, or none, is as good after a power cut; it just makes the first opener look for itself.
"""

from __future__ import annotations

import bisect
import contextlib
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from audit_platform.adapters.embedded import segments
from audit_platform.adapters.embedded.files import Files, FsyncSite
from audit_platform.adapters.embedded.segment_reader import SegmentReader
from audit_platform.adapters.embedded.segments import Damage, FrameBody, StoredRecord
from audit_platform.killpoints import Killpoint, reach

_MARK: Final = struct.Struct(">QQQBI")
_MARK_FILE: Final = "mark"
_SUFFIX: Final = ".seg"


class OutOfRange(Exception):
    """A read outside `start`..`end`; `log.py` names topic and partition."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.start = start
        self.end = end


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the partition is durable: segment, position in it, offset after the last record.

    `rolling` says that a writer is about to make the next segment. It makes the mark differ from
    what other writers remember, so that they look again even if this one dies on the way.
    """

    base: int
    position: int
    end: int
    rolling: bool = False

    def to_bytes(self) -> bytes:
        """Fixed form with a CRC-32."""
        head = _MARK.pack(self.base, self.position, self.end, self.rolling, 0)[:-4]
        return head + zlib.crc32(head).to_bytes(4, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> Mark | None:
        """The mark, or None when these bytes are none (never written, or torn)."""
        if len(data) != _MARK.size or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
            return None
        base, position, end, rolling, _ = _MARK.unpack(data)
        return cls(base, position, end, bool(rolling))


@dataclass(slots=True)
class _Tail:
    """The segment that takes the next frame, open; the mark of it; the next offset to give."""

    handle: int
    tag: bytes
    mark: Mark
    next_offset: int


class Partition:
    """Appends and reads of one partition by this process. Threads may share it."""

    def __init__(
        self,
        files: Files,
        folder: Path,
        segment_bytes: int,
        on_damage: Callable[[Damage], None],
    ) -> None:
        self._files = files
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._on_damage = on_damage
        self._lock = files.open(folder / _MARK_FILE, create=True)
        # Writing: one thread at a time, and then one process at a time by flock.
        self._writing = threading.Lock()
        self._tail: _Tail | None = None
        self._must_roll = False
        self._floor = 0
        # Reading: the last segment stays open with its index.
        self._reading = threading.Lock()
        self._reader: SegmentReader | None = None
        self._seen: Mark | None = None
        self._looked = False

    def close(self) -> None:
        """Close all files."""
        with self._writing, self._reading:
            self._forget()
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            self._files.close(self._lock)

    # ---------------------------------------------------------------------------------- append

    def append(self, body: FrameBody) -> int:
        """Write one frame; durable on return. Returns the offset of its first record.

        Raises `OSError`: then nothing is promised, the segment takes no more frames, and offsets
        that a reader could have seen are not given again.
        """
        with self._exclusive():
            tail = self._current_tail()
            full = tail.mark.position >= self._segment_bytes
            if (full or self._must_roll) and tail.next_offset > tail.mark.base:
                tail = self._roll(tail)
            self._must_roll = False
            first = tail.next_offset
            frame = segments.encode_frame(tail.tag, first, body)
            try:
                self._files.pwrite(tail.handle, frame, tail.mark.position)
                reach(Killpoint.APPENDED)
                self._files.fsync(tail.handle, FsyncSite.SEGMENT_FRAMES)
            except OSError:
                self._give_up(tail, first + body.count)
                raise
            reach(Killpoint.FSYNCED)
            tail.next_offset = first + body.count
            tail.mark = Mark(tail.mark.base, tail.mark.position + len(frame), tail.next_offset)
            self._publish(tail.mark)
            self._looked = True
            return first

    def drop_before(self, offset: int) -> int:
        """Delete whole segments whose records are all before `offset`; returns how many.

        The last one always stays. Not fsynced: a segment that comes back after a power cut was only
        to be dropped, and is again.
        """
        with self._exclusive():
            bases = self._bases()
            dropped = 0
            while dropped + 1 < len(bases) and bases[dropped + 1] <= offset:
                self._files.unlink(self._path(bases[dropped]))
                dropped += 1
            return dropped

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._writing:
            self._files.lock(self._lock)
            try:
                yield
            except BaseException:
                self._forget()  # whatever happened, the next one looks at what is there
                raise
            finally:
                self._files.unlock(self._lock)

    def _current_tail(self) -> _Tail:
        """The tail as it now is, made when the partition is empty. Lock held."""
        tail = self._tail
        if tail is not None and (
            self._read_mark() != tail.mark or self._files.size(tail.handle) != tail.mark.position
        ):
            self._forget()  # another process went on, or died in the middle
            tail = None
        if tail is None:
            tail = self._open_tail()
        if tail is None:
            mark = self._read_mark()
            floor = max(self._floor, mark.end if mark else 0)
            tail = self._create(floor, floor)
        self._tail = tail
        return tail

    def _open_tail(self) -> _Tail | None:
        """Open the last segment; adopt what is in it beyond the mark. Lock held.

        When the mark covers the whole file, all of it was fsynced by whoever wrote the mark.
        Otherwise a writer died (or the power went): its whole frames are kept, and fsynced here
        before anybody relies on them; the unfinished end is cut off.
        """
        bases = self._bases()
        if not bases:
            return None
        base = bases[-1]
        mark = self._read_mark()
        path = self._path(base)
        handle = self._files.open(path)
        try:
            size = self._files.size(handle)
            header = segments.parse_header(self._files.pread(handle, segments.HEADER_BYTES, 0))
            if header is None and size <= segments.HEADER_BYTES:
                # Nothing but an unfinished header was ever in it.
                self._files.truncate(handle, 0)
                self._files.pwrite(handle, segments.new_header(base), 0)
                size = segments.HEADER_BYTES
                header = segments.parse_header(self._files.pread(handle, size, 0))
            if mark is not None and (mark.base != base or mark.position > size or not header):
                # A roll cut short, or a folder copied back: give no offset twice.
                self._floor = max(self._floor, mark.end)
                mark = None
            if mark is not None and header is not None:
                if mark.position == size:
                    return _Tail(handle, header.tag, mark, max(mark.end, base, self._floor))
                start, next_offset = mark.position, max(mark.end, base)
            else:
                start, next_offset = segments.HEADER_BYTES, base
            tag = header.tag if header else None
            found = segments.scan(
                self._files, handle, path.name, start, next_offset=next_offset, tag=tag
            )
            if found.torn:
                self._files.truncate(handle, found.position)
            self._files.fsync(handle, FsyncSite.SEGMENT_ADOPTED)
            self._files.fsync_dir(self._folder, FsyncSite.SEGMENT_ADOPTED_NAME)
        except BaseException:
            self._files.close(handle)
            raise
        for damage in found.damage:
            self._on_damage(damage)
        self._must_roll = self._must_roll or header is None or bool(found.damage)
        end = found.end_offset
        if end is None:
            end = mark.end if mark else self._end_before(bases)
        mark = Mark(base, found.position, end)
        self._publish(mark)
        next_offset = max(found.next_offset, end, self._floor)
        return _Tail(handle, tag or b"", mark, next_offset)

    def _end_before(self, bases: list[int]) -> int:
        """Offset after the last record of the segments before the last one, which is empty."""
        for base in reversed(bases[:-1]):
            reader = SegmentReader(self._files, self._path(base), base, self._on_damage)
            try:
                end = reader.end_offset(reader.size())
            finally:
                reader.close()
            if end is not None:
                return end
        return bases[-1]

    def _roll(self, tail: _Tail) -> _Tail:
        """Begin the next segment. Lock held."""
        self._publish(replace(tail.mark, rolling=True))
        self._forget()
        self._tail = self._create(tail.next_offset, tail.mark.end)
        return self._tail

    def _create(self, base: int, end: int) -> _Tail:
        handle = self._files.create(self._path(base))
        try:
            header = segments.new_header(base)
            self._files.pwrite(handle, header, 0)
            # The name before the first frame: no reader can see a frame whose file may vanish.
            # The header itself becomes durable with the first frame, in the same fsync.
            self._files.fsync_dir(self._folder, FsyncSite.SEGMENT_NAME)
            mark = Mark(base, len(header), end)
            self._publish(mark)
        except BaseException:
            self._files.close(handle)
            raise
        parsed = segments.parse_header(header)
        assert parsed is not None
        return _Tail(handle, parsed.tag, mark, base)

    def _give_up(self, tail: _Tail, floor: int) -> None:
        """After a failed write or fsync: take our bytes back and never append to this file again.

        A failed fsync may have marked pages clean that never reached the disk, so a later fsync
        proves nothing about them. Nobody has seen the frame (the mark is before it), and the lock
        is ours, so cutting it off is safe.
        """
        self._floor = floor
        self._must_roll = True
        with contextlib.suppress(OSError):
            self._files.truncate(tail.handle, tail.mark.position)

    def _publish(self, mark: Mark) -> None:
        self._files.pwrite(self._lock, mark.to_bytes(), 0)

    def _forget(self) -> None:
        if self._tail is not None:
            self._files.close(self._tail.handle)
            self._tail = None

    # ------------------------------------------------------------------------------------ read

    def bounds(self) -> tuple[int, int]:
        """(base of the first segment, offset after the last durable record)."""
        mark = self._durable()
        if mark is None:
            return 0, 0
        start = min(self._bases(), default=mark.end)
        return min(start, mark.end), mark.end

    def read(self, offset: int, max_bytes: int) -> list[StoredRecord]:
        """Durable records from `offset` on. Raises `OutOfRange`, `OSError`."""
        mark = self._durable()
        if mark is None or offset >= mark.end:
            if offset == (mark.end if mark else 0):
                return []
            raise OutOfRange(*self.bounds())
        with self._reading:
            bases = [b for b in self._bases() if b <= mark.base]
            at = bisect.bisect_right(bases, offset) - 1
            if at < 0:
                raise OutOfRange(*self.bounds())
            records: list[StoredRecord] = []
            for base in bases[at:]:
                reader = self._open_reader(base)
                limit = mark.position if base == mark.base else reader.size()
                more = reader.read(offset, limit, max_bytes)
                records += more
                max_bytes -= sum(len(r.value) for r in more)
                if records and max_bytes <= 0:
                    break
            return records

    def _durable(self) -> Mark | None:
        """How far readers may go, or None for an empty partition.

        The first time a process asks (if it has not written), it adopts like a writer: after a cut
        the mark may be older than the records. Later a look at the mark is enough: whoever appends
        writes it before anybody is told, and what a writer that died left behind it was promised to
        nobody.
        """
        if not self._looked:
            with self._exclusive():
                if self._tail is None:
                    self._tail = self._open_tail()
                self._looked = True
        if (mark := self._read_mark()) is not None:
            self._seen = mark
        return self._seen

    def _read_mark(self) -> Mark | None:
        return Mark.from_bytes(self._files.pread(self._lock, _MARK.size, 0))

    def _open_reader(self, base: int) -> SegmentReader:
        reader = self._reader
        if reader is None or reader.base_offset != base:
            if reader is not None:
                self._reader = None
                reader.close()
            reader = SegmentReader(self._files, self._path(base), base, self._on_damage)
            self._reader = reader
        return reader

    def _bases(self) -> list[int]:
        """Base offsets of the segments, ascending."""
        names = self._files.listdir(self._folder)
        return sorted(int(n[: -len(_SUFFIX)]) for n in names if n.endswith(_SUFFIX))

    def _path(self, base: int) -> Path:
        return self._folder / f"{base:020d}{_SUFFIX}"
