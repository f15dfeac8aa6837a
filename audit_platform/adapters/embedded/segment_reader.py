"""Reading a segment file by offset: its frames, and the log's records in them.

Belongs here: finding the frame that holds an offset, going on behind damage, reporting it. Does
not: bytes (`segments.py`), how far a reader may go (`partition.py`, the edge's spool).
Source: `README.md` beside this file.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from audit_platform.adapters.embedded.files import Files
from audit_platform.adapters.embedded.segments import (
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    Damage,
    Frame,
    StoredRecord,
    decode_records,
    find_frame,
    parse_frame,
    parse_header,
    read_body,
)

#: A reader remembers one place per so many bytes: a jump to an offset walks at most this far.
_INDEX_STEP: Final = 256 << 10


class FrameReader:
    """One open segment for reading its frames by offset. Not for several threads at once.

    `header` is None when it is damaged (reported): frames of any segment are taken then.
    """

    def __init__(
        self, files: Files, path: Path, base_offset: int, on_damage: Callable[[Damage], None]
    ) -> None:
        self._files = files
        self._name = path.name
        self._on_damage = on_damage
        self.base_offset = base_offset
        self._handle = files.open(path)
        try:
            self.header = parse_header(files.pread(self._handle, HEADER_BYTES, 0))
        except BaseException:
            files.close(self._handle)
            raise
        if self.header is None:
            on_damage(Damage(self._name, 0, HEADER_BYTES, None, None))
        self._tag = self.header.tag if self.header else None
        self._index = [(base_offset, HEADER_BYTES)]

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._handle)

    def size(self) -> int:
        """Length of the file in bytes."""
        return self._files.size(self._handle)

    def end_offset(self, limit: int) -> int | None:
        """Offset after the last frame that ends at or before `limit`; None without any."""
        end = None
        for frame in self.frames(self.base_offset, limit):
            end = frame.next_offset
        return end

    def frames(self, offset: int, limit: int) -> Iterator[Frame]:
        """Frames with a record at or behind `offset` that end at or before position `limit`."""
        at = bisect.bisect_right(self._index, offset, key=lambda entry: entry[0]) - 1
        position = self._index[max(at, 0)][1]
        while position < limit:
            head = self._files.pread(self._handle, FRAME_HEADER_BYTES, position)
            frame = parse_frame(head, position, self._tag)
            if frame is None or frame.end > limit:
                frame = find_frame(self._files, self._handle, position + 1, limit, self._tag)
                until = limit if frame is None else frame.position
                self._on_damage(Damage(self._name, position, until, None, None))
                if frame is None or frame.end > limit:
                    return
            if frame.position - self._index[-1][1] >= _INDEX_STEP:
                self._index.append((frame.first_offset, frame.position))
            position = frame.end
            if frame.next_offset > offset:
                yield frame

    def body(self, frame: Frame) -> bytes | None:
        """The frame's stored body, or None when it is cut short or its CRC differs."""
        return read_body(self._files, self._handle, frame)

    def is_damaged(self, frame: Frame) -> None:
        """Report a frame whose body is not what was written."""
        self._on_damage(
            Damage(self._name, frame.position, frame.end, frame.first_offset, frame.count)
        )


class SegmentReader(FrameReader):
    """One open segment of the log for reading records by offset."""

    def __init__(
        self, files: Files, path: Path, base_offset: int, on_damage: Callable[[Damage], None]
    ) -> None:
        super().__init__(files, path, base_offset, on_damage)
        self._held: tuple[int, list[StoredRecord]] = (-1, [])

    def read(self, offset: int, limit: int, max_bytes: int) -> list[StoredRecord]:
        """Records from `offset` on whose frames end at or before position `limit`.

        At least one if there is any, then until their values reach `max_bytes`.
        """
        records: list[StoredRecord] = []
        left = max_bytes
        for frame in self.frames(offset, limit):
            decoded = self._decode(frame, offset)
            for i, record in enumerate(decoded):
                records.append(record)
                left -= len(record.value)
                if left <= 0:
                    self._held = (frame.position, decoded[i + 1 :])
                    return records
        return records

    def _decode(self, frame: Frame, offset: int) -> list[StoredRecord]:
        position, held = self._held
        self._held = (-1, [])
        if position == frame.position and held and held[0].offset <= offset:
            return [r for r in held if r.offset >= offset]
        body = self.body(frame)
        decoded = None if body is None else decode_records(frame, body, offset)
        if decoded is None:
            self.is_damaged(frame)
            return []
        return decoded
