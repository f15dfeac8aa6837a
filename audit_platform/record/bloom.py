"""Parquet's Bloom filter: may a row group hold this text?

pyarrow writes the filters of sealed parts and does not read them. Belongs here: the hash and the
probe of one block. Does not: where a filter lies (`operations/query/reader.py`), writing filters.
Source: Parquet format, "Bloom Filter" (split block); XXH64 as xxHash's specification has it.
"""

from __future__ import annotations

from typing import Final

BLOCK_BYTES: Final = 32

#: A filter's header is a few dozen bytes of Thrift before its bitset, whose size is a power of two.
_MAX_HEADER: Final = 64

_MASK: Final = 2**64 - 1
_P1: Final = 0x9E3779B185EBCA87
_P2: Final = 0xC2B2AE3D27D4EB4F
_P3: Final = 0x165667B19E3779F9
_P4: Final = 0x85EBCA77C2B2AE63
_P5: Final = 0x27D4EB2F165667C5

_SALTS: Final = (
    0x47B6137B,
    0x44974D91,
    0x8824AD5B,
    0xA2B7289D,
    0x705495C7,
    0x2DF1424B,
    0x9EFC4947,
    0x5C6BFB31,
)


def xxh64(data: bytes) -> int:
    """XXH64 with seed 0."""
    at, n = 0, len(data)
    if n >= BLOCK_BYTES:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
        while at + BLOCK_BYTES <= n:
            for i in range(4):
                lanes[i] = _round(lanes[i], int.from_bytes(data[at : at + 8], "little"))
                at += 8
        h = sum(_rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            h = ((h ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        h = _P5
    h = (h + n) & _MASK
    while at + 8 <= n:
        h ^= _round(0, int.from_bytes(data[at : at + 8], "little"))
        h = (_rotated(h, 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= n:
        h ^= int.from_bytes(data[at : at + 4], "little") * _P1 & _MASK
        h = (_rotated(h, 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        h ^= byte * _P5 & _MASK
        h = _rotated(h, 11) * _P1 & _MASK
    h = (h ^ (h >> 33)) * _P2 & _MASK
    h = (h ^ (h >> 29)) * _P3 & _MASK
    return h ^ (h >> 32)


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _MASK


def _round(lane: int, word: int) -> int:
    return _rotated((lane + word * _P2) & _MASK, 31) * _P1 & _MASK


def block_of(offset: int, length: int, value_hash: int) -> int | None:
    """Where the block of a value lies in a file; None when the filter is not of a known form.

    `offset` and `length` are of the whole filter with its header, as the footer says.
    """
    bitset = 1 << max(0, length.bit_length() - 1)
    header = length - bitset
    if bitset < BLOCK_BYTES or not 0 < header <= _MAX_HEADER:
        return None
    block = (value_hash >> 32) * (bitset // BLOCK_BYTES) >> 32
    return offset + header + block * BLOCK_BYTES


def may_hold(block: bytes, value_hash: int) -> bool:
    """Whether the value may be in the row group, by its 32-byte block; False is certain."""
    key = value_hash & 0xFFFFFFFF
    for i, salt in enumerate(_SALTS):
        word = int.from_bytes(block[4 * i : 4 * i + 4], "little")
        if not word >> ((key * salt & 0xFFFFFFFF) >> 27) & 1:
            return False
    return True
