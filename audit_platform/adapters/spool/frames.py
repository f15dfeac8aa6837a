"""What a frame of the spool holds: entries in columns, sealed under a key of the segment's own.

Belongs here: the bytes inside a frame, and those of a segment's opening frame. Does not: frames
themselves (`embedded/segments.py`), files (`segment.py`).
Source: `README.md` beside this file; NIST SP 800-38D (GCM: a nonce never twice under one key).

All numbers are big-endian. Compressed and then sealed by the segment code:

    entries   appended ms i64, table length u32, table (JSON: devices, classes, counts, lengths),
              then the entries' bytes one after another
    sealed    frame number u32, ciphertext, tag 16s. Nonce: 8 zero bytes and the frame number.
              Authenticated besides: segment id 16s, base u64, the frame's header without its CRCs
    opening   the first frame of a segment, of no entries and never sealed: version u8, cipher u8
              (0 none, 1 AES-256-GCM), the wrapped data key
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise, repeat
from typing import Final, NamedTuple

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_platform.adapters.embedded.segments import (
    MAX_FRAME_BYTES,
    MAX_FRAME_RECORDS,
    SegmentHeader,
)
from audit_platform.ports import Entry, NewEntry

FORMAT_VERSION: Final = 1
_PLAIN: Final = 0
_AES_256_GCM: Final = 1

_HEAD: Final = struct.Struct(">qI")
_NUMBER_BYTES: Final = 4
_TAG_BYTES: Final = 16
_NONCE_ZEROS: Final = bytes(8)

#: An entry has to fit into one frame with its names; a request to the edge is far smaller.
MAX_ENTRY_BYTES: Final = 2 << 20
#: Names are identifiers of the record (ASCII, at most 128); this keeps a bug from more.
_MAX_NAME_CHARACTERS: Final = 256
#: JSON escapes of one ASCII character take at most six bytes.
_CHARACTER_BYTES: Final = 6
#: JSON around an entry in the table: quotes, commas, two numbers.
_ROW_BYTES: Final = 64
#: What entries of a frame may take by `Columns.bytes`.
_ENTRIES_BYTES: Final = MAX_FRAME_BYTES - _HEAD.size


class Columns(NamedTuple):
    """Entries, by column. `bytes`: what they take in a frame before compression, at most."""

    devices: tuple[str, ...]
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    data: tuple[bytes, ...]
    lengths: tuple[int, ...]
    bytes: int


def columns_of(entries: Sequence[NewEntry]) -> Columns:
    """The entries, at least one. `ValueError` for one that can not be kept."""
    devices, classes, counts, data = zip(*entries, strict=True)
    names = "".join(devices) + "".join(classes)
    lengths = tuple(map(len, data))
    longest = max(max(map(len, devices)), max(map(len, classes)))  # noqa: PLW3301 - unpacking costs more
    if longest > _MAX_NAME_CHARACTERS or not names.isascii():
        raise ValueError(
            f"a name of {longest} characters is over {_MAX_NAME_CHARACTERS}, or no ASCII"
        )
    if (largest := max(lengths)) > MAX_ENTRY_BYTES:
        raise ValueError(f"an entry of {largest} bytes is over {MAX_ENTRY_BYTES}")
    if min(counts) < 0 or max(counts) >= 1 << 32:
        raise ValueError(f"a count of {min(counts)} or {max(counts)}")
    size = sum(lengths) + len(names) * _CHARACTER_BYTES + len(data) * _ROW_BYTES
    return Columns(devices, classes, counts, data, lengths, size)


def joined(parts: Sequence[Columns]) -> Columns:
    """The entries of all parts."""
    if len(parts) == 1:
        return parts[0]
    devices, classes, counts, data, lengths, sizes = zip(*parts, strict=True)
    chain = itertools.chain.from_iterable
    return Columns(
        tuple(chain(devices)),
        tuple(chain(classes)),
        tuple(chain(counts)),
        tuple(chain(data)),
        tuple(chain(lengths)),
        sum(sizes),
    )


def in_frames(columns: Columns) -> Iterator[Columns]:
    """The same entries in parts that fit a frame each."""
    if columns.bytes <= _ENTRIES_BYTES and len(columns.data) <= MAX_FRAME_RECORDS:
        yield columns
        return
    part: list[NewEntry] = []
    left = _ENTRIES_BYTES
    for entry in itertools.starmap(NewEntry, zip(*columns[:4], strict=True)):
        size = columns_of([entry]).bytes
        if part and (size > left or len(part) == MAX_FRAME_RECORDS):
            yield columns_of(part)
            part, left = [], _ENTRIES_BYTES
        part.append(entry)
        left -= size
    yield columns_of(part)


def encode_entries(appended_ms: int, columns: Columns) -> bytes:
    """Bytes of a frame's entries."""
    table = orjson.dumps((columns.devices, columns.classes, columns.counts, columns.lengths))
    return b"".join((_HEAD.pack(appended_ms, len(table)), table, *columns.data))


def decode_entries(raw: bytes, first: int, count: int) -> list[Entry] | None:
    """The entries of a frame whose first has this position; None when it does not hold `count`."""
    try:
        appended_ms, size = _HEAD.unpack_from(raw)
        at = _HEAD.size + size
        devices, classes, counts, lengths = orjson.loads(raw[_HEAD.size : at])
        ends = list(accumulate(lengths, initial=at))
        is_whole = len(raw) == ends[-1] and len(lengths) == count and min(lengths) >= 0
        if not is_whole or {*map(type, devices), *map(type, classes)} != {str}:
            return None
        if {*map(type, counts), *map(type, lengths)} != {int}:
            return None
        data = [raw[start:end] for start, end in pairwise(ends)]
        positions = range(first, first + count)
        columns = (positions, repeat(appended_ms, count), devices, classes, counts, data)
        return [Entry(*row) for row in zip(*columns, strict=True)]
    except (struct.error, TypeError, ValueError):
        return None


class FrameSeal:
    """`segments.BodyCodec` of one segment. Only who made the segment seals, each number once."""

    overhead = _NUMBER_BYTES + _TAG_BYTES

    def __init__(self, secret: bytes, header: SegmentHeader) -> None:
        self._cipher = AESGCM(secret)
        self._segment = header.segment_id + header.base_offset.to_bytes(8, "big")
        self._sealed = 0

    def seal(self, head: bytes, data: bytes) -> bytes:
        """See `segments.BodyCodec`."""
        self._sealed += 1
        number = self._sealed.to_bytes(_NUMBER_BYTES, "big")
        return number + self._cipher.encrypt(_NONCE_ZEROS + number, data, self._segment + head)

    def open(self, head: bytes, sealed: bytes) -> bytes | None:
        """See `segments.BodyCodec`."""
        if len(sealed) < self.overhead:
            return None
        nonce = _NONCE_ZEROS + sealed[:_NUMBER_BYTES]
        try:
            return self._cipher.decrypt(nonce, sealed[_NUMBER_BYTES:], self._segment + head)
        except InvalidTag:
            return None


def encode_opening(wrapped: bytes | None) -> bytes:
    """Bytes of the opening frame: the wrapped data key, or that there is none."""
    return bytes((FORMAT_VERSION, _PLAIN if wrapped is None else _AES_256_GCM)) + (wrapped or b"")


def decode_opening(raw: bytes) -> bytes | None:
    """The wrapped data key, None for a plain segment. `ValueError` for anything else."""
    if raw[:1] != bytes((FORMAT_VERSION,)):
        raise ValueError("it is of another version")
    if raw[1:] == bytes((_PLAIN,)):
        return None
    if raw[1:2] != bytes((_AES_256_GCM,)):
        raise ValueError("it names another cipher")
    return raw[2:]
