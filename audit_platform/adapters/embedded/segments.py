"""Segment files: frames of records with checksums, readable after any crash.

Belongs here: the bytes of a segment, finding the end of what is whole, checking all of it.
Does not: reading from an offset (`segment_reader.py`), who may append, when something is durable
(`partition.py`, the edge's spool). Source: `README.md` beside this file.

A segment is a header and then frames, one frame per commit. All numbers are big-endian.

    header  magic 8s, version u16, zero u16, base offset u64, segment id 16s, CRC-32 u32
    frame   magic 4s, tag 4s, first offset u64, count u32, body length u32, raw length u32,
            CRC-32 of the body u32, CRC-32 of the 32 bytes before it u32; then the body
    body    zstd over the records (written by the fast strategy)
    record  appended ms u64, headers length u16, value length u32, headers (JSON), value

The tag is the first four bytes of the random segment id: a disk that shows old blocks after a crash
cannot pass off another segment's frame as ours. The frame's header has its own
CRC-32 (it covers the body's), so that a reader may skip frames by their headers alone, and so that
a frame that is *shorter than it says* is told from one that is damaged: only the first is surely
the unacknowledged end of a crashed write and may be cut off. The log's bodies are plain; the edge's
spool passes a `BodyCodec`, which seals each compressed body under the header before the CRCs.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import orjson
import zstandard

from audit_platform.adapters.embedded.files import Files

FORMAT_VERSION: Final = 1
_MAGIC: Final = b"AUDITSEG"
_FRAME_MAGIC: Final = b"\xf5FRM"
_HEADER: Final = struct.Struct(">8sHHQ16sI")
_FRAME: Final = struct.Struct(">4s4sQIIIII")
_FRAME_HEAD: Final = struct.Struct(">4s4sQIII")  # the same without its CRCs
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

    @property
    def head(self) -> bytes:
        """What the frame's header says, as a codec gets it: the header without its CRCs."""
        return _FRAME_HEAD.pack(
            _FRAME_MAGIC,
            self.tag,
            self.first_offset,
            self.count,
            self.body_bytes,
            self.raw_bytes,
        )


class BodyCodec(Protocol):
    """Seals a compressed body for its place, `overhead` bytes longer, and opens it again."""

    overhead: int

    def seal(self, head: bytes, data: bytes) -> bytes:
        """The body to store under this frame header (see `Frame.head`)."""
        ...

    def open(self, head: bytes, sealed: bytes) -> bytes | None:
        """What was sealed, or None when header or body are not what `seal` was given."""
        ...


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


#: zstd's fast strategy with a window of 128 KiB and tables of 64 KiB, which stay in the processor's
#: second cache: 15 to 20 % less time than level 1 as it comes, for 3 % more bytes.
_ZSTD: Final = zstandard.ZstdCompressionParameters.from_level(
    1, window_log=17, hash_log=14, min_match=7
)


class _Coders(threading.local):
    """zstd contexts, one each per thread: they must not be shared while in use."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(compression_params=_ZSTD)
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
    return compress_raw(b"".join([piece for record in records for piece in record]), len(records))


def compress_raw(raw: bytes, count: int) -> FrameBody:
    """Body of a frame over bytes that hold `count` records in any form."""
    data = _coders.compressor.compress(raw)
    return FrameBody(data, count, len(raw), zlib.crc32(data))


def encode_frame(
    tag: bytes, first_offset: int, body: FrameBody, codec: BodyCodec | None = None
) -> bytes:
    """Bytes of a frame."""
    data, crc = body.data, body.crc
    size = len(data) if codec is None else len(data) + codec.overhead
    head = _FRAME_HEAD.pack(_FRAME_MAGIC, tag, first_offset, body.count, size, body.raw_bytes)
    if codec is not None:
        data = codec.seal(head, data)
        crc = zlib.crc32(data)
    head += crc.to_bytes(4, "big")
    return b"".join((head, zlib.crc32(head).to_bytes(4, "big"), data))


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


def raw_of(frame: Frame, body: bytes, codec: BodyCodec | None = None) -> bytes | None:
    """What was compressed; None when the body is not what a frame with this header holds."""
    opened = body if codec is None else codec.open(frame.head, body)
    try:
        if opened is None or zstandard.frame_content_size(opened) != frame.raw_bytes:
            return None
        return _coders.decompressor.decompress(opened, max_output_size=MAX_FRAME_BYTES)
    except zstandard.ZstdError:
        return None


def decode_records(frame: Frame, body: bytes, offset: int) -> list[StoredRecord] | None:
    """The frame's records from `offset` on; None when the body is not what a frame holds."""
    raw = raw_of(frame, body)
    if raw is None:
        return None
    try:
        records = []
        at = 0
        for o in range(frame.first_offset, frame.next_offset):
            appended_ms, head, size = _RECORD.unpack_from(raw, at)
            value_at = at + _RECORD.size + head
            at = value_at + size
            if o >= offset:
                headers = orjson.loads(raw[value_at - head : value_at])
                records.append(StoredRecord(o, appended_ms, headers, raw[value_at:at]))
    except (struct.error, orjson.JSONDecodeError):
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
        position = frame.end
        next_offset = max(next_offset, frame.next_offset)
        end_offset = max(end_offset or 0, frame.next_offset)
    return Scan(position, next_offset, end_offset, torn, tuple(damage))
