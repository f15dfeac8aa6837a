"""The reader over ranges gives what a file gives, and asks for little."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.s3 import reader as reader_module
from audit_platform.adapters.s3.reader import KEPT_BYTES, TAIL_BYTES, RangeReader
from audit_platform.record import parquet


class Body:
    """A body that counts what is asked of it."""

    def __init__(self, data: bytes, tail: int = TAIL_BYTES) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []
        self.reader = RangeReader(len(data), data[max(0, len(data) - tail) :], self.fetch)

    def fetch(self, start: int, end: int) -> bytes:
        """One range; never empty, never outside."""
        assert 0 <= start < end <= len(self.data)
        self.asked.append((start, end))
        return self.data[start:end]


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 700)),
        st.tuples(st.just("set"), st.integers(0, 1500)),
        st.tuples(st.just("end"), st.integers(-1000, 0)),
        st.tuples(st.just("current"), st.integers(0, 300)),
        st.tuples(st.just("into"), st.integers(0, 300)),
    ),
    max_size=30,
)


@given(st.integers(0, 1200), st.integers(0, 200), MOVES)
def test_any_moves_and_reads_give_what_a_file_gives(
    size: int, tail: int, moves: list[tuple[str, int]]
) -> None:
    data = bytes(n * 7 % 251 for n in range(size))
    body, file = Body(data, tail), io.BytesIO(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader_module, "LEAST_BYTES", 40)
        patch.setattr(reader_module, "MOST_AHEAD_BYTES", 160)
        patch.setattr(reader_module, "KEPT_BYTES", 300)
        for move, number in moves:
            if move == "read":
                assert body.reader.read(number) == file.read(number)
            elif move == "into":
                ours, theirs = bytearray(number), bytearray(number)
                assert body.reader.readinto(ours) == file.readinto(theirs)
                assert ours == theirs
            else:
                whence = {"set": io.SEEK_SET, "end": io.SEEK_END, "current": io.SEEK_CUR}[move]
                if whence == io.SEEK_END and size + number < 0:
                    with pytest.raises(ValueError, match="position"):
                        body.reader.seek(number, whence)
                    continue
                assert body.reader.seek(number, whence) == file.seek(number, whence)
            assert body.reader.tell() == file.tell()
            assert sum(len(kept) for _, kept in body.reader._kept) <= 300


def test_a_walk_through_a_body_asks_seldom_and_for_no_byte_twice() -> None:
    body = Body(bytes(40 << 20))
    while body.reader.read(1 << 20):
        pass
    assert sum(end - start for start, end in body.asked) == (40 << 20) - TAIL_BYTES
    assert len(body.asked) <= 12
    assert sum(len(kept) for _, kept in body.reader._kept) <= KEPT_BYTES


def test_a_small_body_came_whole_with_its_opening() -> None:
    body = Body(bytes(range(256)))
    assert body.reader.read() == body.data
    assert body.asked == []


def test_one_column_of_a_parquet_file_is_a_fraction_of_its_bytes() -> None:
    rows = 200_000
    noise = pa.array([(n * 2654435761) % 2**31 for n in range(rows)])
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": pa.array(range(rows)), "b": noise, "c": noise}), sink)
    body = Body(sink.getvalue())
    table = parquet.read_columns(body.reader, ["a"])  # type: ignore[arg-type] # has all that is read
    assert table["a"].to_pylist() == list(range(rows))
    assert len(body.data) > 1 << 20
    assert sum(end - start for start, end in body.asked) < len(body.data) * 3 // 4


def test_a_closed_reader_reads_nothing() -> None:
    body = Body(b"body")
    with body.reader as reader:
        assert reader.readable()
        assert reader.seekable()
    with pytest.raises(ValueError, match="closed"):
        body.reader.read()
    with pytest.raises(ValueError, match="closed"):
        body.reader.seek(0)
