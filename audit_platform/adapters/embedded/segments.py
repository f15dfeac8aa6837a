"""Segment files: frames of records with checksums, readable after any crash.

Belongs here: the bytes of a segment, finding the end of what is whole, reading from an offset.
Does not: topics, who may append, when something is durable (`partition.py`, the edge's spool).
Source: `README.md` beside this file.

A segment is a header and then frames, one frame per commit. All numbers are big-endian.

    header  magic 8s, version u16, zero u16, base offset u64, segment id 16s, CRC-32 u32
    frame   magic 4s, tag 4s, first offset u64, count u32, body length u32, raw length u32,
            CRC-32 of the body u32, CRC-32 of the 32 bytes before it u32; then the body
    body    zstd level 1 over the records
    record  appended ms u64, headers length u16, value length u32, headers (JSON), value

The tag is the first four bytes of the random segment id: a disk that shows old blocks after a crash
cannot pass off another segment's frame as ours. The frame's header has its own
CRC-32 (it covers the body's), so that a reader may skip frames by their headers alone, and so that
a frame that is *shorter than it says* is told from one that is damaged: only the first is surely
the unacknowledged end of a crashed write and may be cut off.
"""

from __future__ import annotations

import bisect
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import orjson
import zstandard

from audit_platform.adapters.embedded.files import Files

FORMAT_VERSION: Final = 1
_MAGIC: Final = b"AUDITSEG"
_FRAME_MAGIC: Final = b"\xf5FRM"
_HEADER: Final = struct.Struct(">8sHHQ16sI")
_FRAME: Final = struct.Struct(">4s4sQIIIII")
_RECORD: Final = struct.Struct(">QHI")
_TAG_BYTES: Final = 4

HEADER_BYTES: Final = _HEADER.size
FRAME_HEADER_BYTES: Final = _FRAME.size

#: A frame is in memory as a whole when it is written and when it is read, once per partition; four
#: records of the largest size fit, and eight partitions cost a reader at most 32 MiB.
MAX_FRAME_BYTES: Final = 4 << 20
#: Bounds the offsets that one frame can take, so that we can step over a frame that is unreadable.
MAX_FRAME_RECORDS: Final = 4096
#: The largest value: design section 4 (and Kafka's own default).
MAX_VALUE_BYTES: Final = 1 << 20
#: Headers are short text; this keeps a bug from storing data in them.
MAX_HEADERS_BYTES: Final = 4096

#: A reader remembers one place per so many bytes: a jump to an offset walks at most this far.
_INDEX_STEP: Final = 256 << 10
#: How much is read at once when looking for the next good frame behind a damaged one.
_SEARCH_BYTES: Final = 1 << 20


class StoredRecord(NamedTuple):
    """A record as stored, with the offset that its frame gives it."""

    offset: int
    appended_ms: int
    headers: dict[str, str]
    value: bytes


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What the first bytes of a segment say."""

    base_offset: int
    segment_id: bytes

    @property
    def tag(self) -> bytes:
        """The bytes that every frame of this segment carries."""
        return self.segment_id[:_TAG_BYTES]


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of a frame and where it lies."""

    position: int
    tag: bytes
    first_offset: int
    count: int
    body_bytes: int
    raw_bytes: int
    body_crc: int

    @property
    def end(self) -> int:
        """Position after the frame."""
        return self.position + FRAME_HEADER_BYTES + self.body_bytes

    @property
    def next_offset(self) -> int:
        """Offset after the last record of the frame."""
        return self.first_offset + self.count


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that are not what was written. Their records are a hole.

    `first_offset` and `count` are what the frame's header says, or None when it is unreadable.
    """

    segment: str
    position: int
    end: int
    first_offset: int | None
    count: int | None


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies behind a position: see `scan`.

    `position`: end of the last whole frame; `next_offset`: the lowest offset that certainly no
    frame here uses; `end_offset`: after the last record whose frame header is readable, or None;
    `torn`: bytes of an unfinished frame follow and may be cut off.
    """

    position: int
    next_offset: int
    end_offset: int | None
    torn: bool
    damage: tuple[Damage, ...]


class _Coders(threading.local):
    """zstd contexts, one each per thread: they must not be shared while in use."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_coders: Final = _Coders()


def new_header(base_offset: int) -> bytes:
    """Bytes of the header of a new segment, with a fresh random id."""
    head = _HEADER.pack(_MAGIC, FORMAT_VERSION, 0, base_offset, os.urandom(16), 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "big")


def parse_header(data: bytes) -> SegmentHeader | None:
    """The header, or None when these bytes are not one of a version that we know."""
    if len(data) < HEADER_BYTES:
        return None
    magic, version, _, base, segment_id, crc = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != FORMAT_VERSION:
        return None
    if crc != zlib.crc32(data[: HEADER_BYTES - 4]):
        return None
    return SegmentHeader(base, segment_id)


def encode_record(appended_ms: int, headers: Mapping[str, str], value: bytes) -> list[bytes]:
    """Pieces of one record that `record_bytes` has let through."""
    head = orjson.dumps(dict(headers))
    return [_RECORD.pack(appended_ms, len(head), len(value)), head, value]


def record_bytes(headers: Mapping[str, str], value: bytes) -> int:
    """What a record takes in a frame before compression.

    `ValueError` when value or headers are over their limit, or a header is not text.
    """
    try:
        head = len(orjson.dumps(dict(headers)))
    except TypeError as e:
        raise ValueError(f"headers that are not text: {e}") from e
    if len(value) > MAX_VALUE_BYTES:
        raise ValueError(f"value of {len(value)} bytes is over {MAX_VALUE_BYTES}")
    if head > MAX_HEADERS_BYTES:
        raise ValueError(f"headers of {head} bytes are over {MAX_HEADERS_BYTES}")
    return _RECORD.size + head + len(value)


@dataclass(frozen=True, slots=True)
class FrameBody:
    """A compressed body that waits for its place in a segment."""

    data: bytes
    count: int
    raw_bytes: int
    crc: int


def compress(records: Sequence[Sequence[bytes]]) -> FrameBody:
    """Body of a frame over encoded records. About 1.6 microseconds per 700 bytes."""
    raw = b"".join([piece for record in records for piece in record])
    data = _coders.compressor.compress(raw)
    return FrameBody(data, len(records), len(raw), zlib.crc32(data))


def encode_frame(tag: bytes, first_offset: int, body: FrameBody) -> bytes:
    """Bytes of a frame."""
    head = _FRAME.pack(
        _FRAME_MAGIC,
        tag,
        first_offset,
        body.count,
        len(body.data),
        body.raw_bytes,
        body.crc,
        0,
    )[:-4]
    return b"".join((head, zlib.crc32(head).to_bytes(4, "big"), body.data))


def parse_frame(data: bytes, position: int, tag: bytes | None) -> Frame | None:
    """The frame header in `data`, or None. Without a `tag` any segment's frame is taken."""
    if len(data) < FRAME_HEADER_BYTES:
        return None
    magic, found, first, count, body, raw, body_crc, crc = _FRAME.unpack_from(data)
    if magic != _FRAME_MAGIC or (tag is not None and found != tag):
        return None
    if crc != zlib.crc32(data[: FRAME_HEADER_BYTES - 4]) or raw > MAX_FRAME_BYTES:
        return None
    return Frame(position, found, first, count, body, raw, body_crc)


def read_body(files: Files, handle: int, frame: Frame) -> bytes | None:
    """The frame's compressed body, or None when it is cut short or its CRC differs."""
    data = files.pread(handle, frame.body_bytes, frame.position + FRAME_HEADER_BYTES)
    if len(data) != frame.body_bytes or zlib.crc32(data) != frame.body_crc:
        return None
    return data


def decode_records(frame: Frame, body: bytes, offset: int) -> list[StoredRecord] | None:
    """The frame's records from `offset` on; None when the body is not what a frame holds."""
    try:
        if zstandard.frame_content_size(body) != frame.raw_bytes:
            return None
        raw = _coders.decompressor.decompress(body, max_output_size=MAX_FRAME_BYTES)
        records = []
        at = 0
        for o in range(frame.first_offset, frame.next_offset):
            appended_ms, head, size = _RECORD.unpack_from(raw, at)
            value_at = at + _RECORD.size + head
            at = value_at + size
            if o >= offset:
                headers = orjson.loads(raw[value_at - head : value_at])
                records.append(StoredRecord(o, appended_ms, headers, raw[value_at:at]))
    except (zstandard.ZstdError, struct.error, orjson.JSONDecodeError):
        return None
    return records if at == len(raw) else None


def find_frame(
    files: Files, handle: int, position: int, limit: int, tag: bytes | None
) -> Frame | None:
    """The next frame whose header is good, at `position` or behind it, or None."""
    wanted = _FRAME_MAGIC + (tag or b"")
    while position + FRAME_HEADER_BYTES <= limit:
        chunk = files.pread(handle, min(_SEARCH_BYTES, limit - position), position)
        at = chunk.find(wanted)
        while at >= 0:
            head = files.pread(handle, FRAME_HEADER_BYTES, position + at)
            if (frame := parse_frame(head, position + at, tag)) is not None:
                return frame
            at = chunk.find(wanted, at + 1)
        position += max(len(chunk) - len(wanted) + 1, 1)
    return None


def scan(
    files: Files, handle: int, segment: str, position: int, *, next_offset: int, tag: bytes | None
) -> Scan:
    """Walk from a frame boundary to the end of the file, checking every byte.

    Torn (may be cut): fewer bytes than a frame header, or a good header with fewer bytes behind it
    than it promises; a frame that was fsynced can be neither. All else that is not a whole frame
    is damage: it may have been acknowledged, so it stays, and its offsets are used up.
    """
    size = files.size(handle)
    end_offset: int | None = None
    damage: list[Damage] = []
    torn = False
    while position < size:
        head = files.pread(handle, FRAME_HEADER_BYTES, position)
        frame = parse_frame(head, position, tag)
        if frame is None:
            if torn := len(head) < FRAME_HEADER_BYTES:
                break
            frame = find_frame(files, handle, position + 1, size, tag)
            until = size if frame is None else frame.position
            damage.append(Damage(segment, position, until, None, None))
            if frame is None:
                next_offset += ((size - position) // FRAME_HEADER_BYTES + 1) * MAX_FRAME_RECORDS
                position = size
                break
            position = frame.position
        if torn := frame.end > size:
            break
        if read_body(files, handle, frame) is None:
            damage.append(Damage(segment, position, frame.end, frame.first_offset, frame.count))
        position, next_offset, end_offset = frame.end, frame.next_offset, frame.next_offset
    return Scan(position, next_offset, end_offset, torn, tuple(damage))


class SegmentReader:
    """One open segment for reading by offset. Not for several threads at once."""

    def __init__(
        self, files: Files, path: Path, base_offset: int, on_damage: Callable[[Damage], None]
    ) -> None:
        self._files = files
        self._name = path.name
        self._on_damage = on_damage
        self.base_offset = base_offset
        self._handle = files.open(path)
        header = parse_header(files.pread(self._handle, HEADER_BYTES, 0))
        if header is None:
            on_damage(Damage(self._name, 0, HEADER_BYTES, None, None))
        self._tag = header.tag if header else None
        self._index = [(base_offset, HEADER_BYTES)]
        self._held: tuple[int, list[StoredRecord]] = (-1, [])

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._handle)

    def size(self) -> int:
        """Length of the file in bytes."""
        return self._files.size(self._handle)

    def read(self, offset: int, limit: int, max_bytes: int) -> list[StoredRecord]:
        """Records from `offset` on whose frames end at or before position `limit`.

        At least one if there is any, then until their values reach `max_bytes`.
        """
        records: list[StoredRecord] = []
        left = max_bytes
        for frame in self._frames(offset, limit):
            decoded = self._decode(frame, offset)
            for i, record in enumerate(decoded):
                records.append(record)
                left -= len(record.value)
                if left <= 0:
                    self._held = (frame.position, decoded[i + 1 :])
                    return records
        return records

    def end_offset(self, limit: int) -> int | None:
        """Offset after the last frame that ends at or before `limit`; None without any."""
        end = None
        for frame in self._frames(self.base_offset, limit):
            end = frame.next_offset
        return end

    def _frames(self, offset: int, limit: int) -> Iterator[Frame]:
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

    def _decode(self, frame: Frame, offset: int) -> list[StoredRecord]:
        position, held = self._held
        self._held = (-1, [])
        if position == frame.position and held and held[0].offset <= offset:
            return [r for r in held if r.offset >= offset]
        body = read_body(self._files, self._handle, frame)
        decoded = None if body is None else decode_records(frame, body, offset)
        if decoded is None:
            self._on_damage(
                Damage(self._name, frame.position, frame.end, frame.first_offset, frame.count)
            )
            return []
        return decoded
