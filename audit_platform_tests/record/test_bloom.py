"""The Bloom filter's hash against known answers, its probe against filters that pyarrow wrote."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.record import bloom


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"message digest", 0x066ED728FCEEB3BE),
        (b"abcdefghijklmnopqrstuvwxyz", 0xCFE1F278FA89835C),
        (b"1234567890" * 8, 0xE04A477F19EE145D),
    ],
)
def test_the_hash_is_xxh64(data: bytes, digest: int) -> None:
    assert bloom.xxh64(data) == digest


def filter_of(texts: list[str]) -> tuple[bytes, int, int]:
    """(file, offset, length) of one row group's filter as a sealed part has it."""
    sink = io.BytesIO()
    options = {"id": {"ndv": max(1, len(texts)), "fpp": 0.01}}
    table = pa.table({"id": pa.array(texts, pa.string())})
    pq.write_table(table, sink, bloom_filter_options=options)
    column = pq.ParquetFile(io.BytesIO(sink.getvalue())).metadata.row_group(0).column(0)
    return sink.getvalue(), column.bloom_filter_offset, column.bloom_filter_length


def passes(data: bytes, offset: int, length: int, text: str) -> bool:
    """Whether the filter lets a text through."""
    value_hash = bloom.xxh64(text.encode())
    at = bloom.block_of(offset, length, value_hash)
    assert at is not None
    return bloom.may_hold(data[at : at + bloom.BLOCK_BYTES], value_hash)


@settings(max_examples=40)
@given(st.lists(st.text(max_size=80), min_size=1, max_size=200, unique=True))
def test_what_is_in_the_row_group_always_passes(texts: list[str]) -> None:
    filtered = filter_of(texts)
    assert all(passes(*filtered, text) for text in texts)


def test_hardly_anything_else_passes() -> None:
    filtered = filter_of([f"id-{n}" for n in range(2000)])
    passed = sum(passes(*filtered, f"other-{n}") for n in range(2000))
    assert passed < 100


@pytest.mark.parametrize("length", [0, 1, 31, 32, 2**20])
def test_a_filter_of_another_form_is_not_guessed_at(length: int) -> None:
    assert bloom.block_of(100, length, 1) is None
