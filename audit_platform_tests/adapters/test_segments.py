"""Segment files: a byte that is not as it was written is noticed and costs its own frame only."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.embedded import segments
from audit_platform.adapters.embedded.segment_reader import SegmentReader
from audit_platform.adapters.embedded.segments import Damage, StoredRecord
from audit_platform_tests.powercut import PowerCutFiles

PATH: Final = Path("/00.seg")
BASE: Final = 100

Records = list[tuple[dict[str, str], bytes]]

records_of_frames: Final = st.lists(
    st.lists(
        st.tuples(
            st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
            st.binary(max_size=60),
        ),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=4,
)


class Segment:
    """A segment in memory with given frames; `ends[i]` is the position after frame i."""

    def __init__(self, frames: list[Records]) -> None:
        self.files = PowerCutFiles()
        self.handle = self.files.create(PATH)
        self.header = segments.new_header(BASE)
        parsed = segments.parse_header(self.header)
        assert parsed is not None
        assert parsed.base_offset == BASE
        self.tag = parsed.tag
        self.files.pwrite(self.handle, self.header, 0)
        self.records: list[StoredRecord] = []
        self.frame_of: list[int] = []
        self.ends: list[int] = []
        at = len(self.header)
        for i, frame in enumerate(frames):
            body = segments.compress([segments.encode_record(7, h, v) for h, v in frame])
            data = segments.encode_frame(self.tag, BASE + len(self.records), body)
            self.files.pwrite(self.handle, data, at)
            at += len(data)
            self.ends.append(at)
            for headers, value in frame:
                self.records.append(StoredRecord(BASE + len(self.records), 7, headers, value))
                self.frame_of.append(i)
        self.damage: list[Damage] = []

    def read(self, offset: int = BASE, max_bytes: int = 1 << 30) -> list[StoredRecord]:
        """Everything from an offset, by a fresh reader, in calls of about `max_bytes`."""
        reader = SegmentReader(self.files, PATH, BASE, self.damage.append)
        records: list[StoredRecord] = []
        while more := reader.read(offset, reader.size(), max_bytes):
            records += more
            offset = more[-1].offset + 1
        reader.close()
        return records

    def scan(self) -> segments.Scan:
        """From the first frame on."""
        return segments.scan(
            self.files, self.handle, PATH.name, len(self.header), next_offset=BASE, tag=self.tag
        )


@given(records_of_frames, st.integers(0, 12), st.integers(1, 200))
def test_records_are_read_as_written_from_any_offset(
    frames: list[Records], skip: int, max_bytes: int
) -> None:
    segment = Segment(frames)
    assert segment.read(BASE + skip, max_bytes) == segment.records[skip:]
    assert segment.damage == []
    scan = segment.scan()
    end = BASE + len(segment.records)
    assert scan == segments.Scan(segment.ends[-1], end, end, torn=False, damage=())


@given(records_of_frames, st.data())
def test_an_unfinished_end_is_found_and_everything_before_it_is_kept(
    frames: list[Records], data: st.DataObject
) -> None:
    segment = Segment(frames)
    size = data.draw(st.integers(len(segment.header), segment.ends[-1]))
    segment.files.truncate(segment.handle, size)
    whole = sum(end <= size for end in segment.ends)
    expected = [r for r, f in zip(segment.records, segment.frame_of, strict=True) if f < whole]
    scan = segment.scan()
    assert scan.position == ([len(segment.header), *segment.ends])[whole]
    assert scan.next_offset == BASE + len(expected)
    assert scan.torn == (scan.position < size)
    assert scan.damage == ()
    assert segment.read() == expected


@given(records_of_frames, st.data())
def test_a_flipped_bit_costs_its_own_frame_and_is_reported(
    frames: list[Records], data: st.DataObject
) -> None:
    segment = Segment(frames)
    position = data.draw(st.integers(len(segment.header), segment.ends[-1] - 1))
    segment.files.flip(PATH, position, 1 << data.draw(st.integers(0, 7)))
    hit = sum(end <= position for end in segment.ends)
    expected = [r for r, f in zip(segment.records, segment.frame_of, strict=True) if f != hit]
    assert segment.read() == expected
    (damage,) = set(segment.damage)
    assert damage.position <= position < damage.end
    scan = segment.scan()
    assert not scan.torn
    assert len(scan.damage) == 1
    assert scan.position == segment.ends[-1]  # nothing that may have been acknowledged is cut
    assert scan.next_offset >= BASE + len(segment.records)


@given(records_of_frames, st.integers(0, segments.HEADER_BYTES - 1))
def test_a_damaged_header_is_reported_and_costs_nothing(
    frames: list[Records], position: int
) -> None:
    segment = Segment(frames)
    segment.files.flip(PATH, position)
    assert segments.parse_header(segment.files.pread(segment.handle, 40, 0)) is None
    assert segment.read() == segment.records
    assert {d.position for d in segment.damage} == {0}


@given(records_of_frames, st.binary(max_size=200))
def test_bytes_that_are_no_frames_behind_the_last_one_are_not_taken_for_some(
    frames: list[Records], junk: bytes
) -> None:
    segment = Segment(frames)
    segment.files.pwrite(segment.handle, junk, segment.ends[-1])
    assert segment.read() == segment.records
    scan = segment.scan()
    assert scan.torn == (0 < len(junk) < segments.FRAME_HEADER_BYTES)
    assert scan.next_offset >= BASE + len(segment.records)
    assert scan.end_offset == BASE + len(segment.records)


def test_a_frame_of_another_segment_is_not_taken() -> None:
    segment, other = Segment([[({}, b"ours")]]), Segment([[({}, b"theirs")], [({}, b"theirs too")]])
    stale = other.files.pread(other.handle, 1000, other.ends[0])
    segment.files.pwrite(segment.handle, stale, segment.ends[-1])
    assert [r.value for r in segment.read()] == [b"ours"]
    assert segment.scan().damage == (
        Damage(PATH.name, segment.ends[0], segment.ends[0] + len(stale), None, None),
    )


def test_a_body_that_is_no_list_of_records_is_damage() -> None:
    segment = Segment([[({}, b"good")]])
    good = segments.compress([segments.encode_record(7, {}, b"value")])
    two = segments.compress([segments.encode_record(7, {}, b"value")] * 2)
    huge = segments.compress([segments.encode_record(7, {}, bytes(5 << 20))])
    wrong = [
        segments.compress([[b"\xff" * 30]]),
        segments.FrameBody(good.data, 2, good.raw_bytes, good.crc),
        segments.FrameBody(good.data, 1, good.raw_bytes + 1, good.crc),
        segments.FrameBody(b"", 1, 0, 0),
        segments.FrameBody(two.data, 1, two.raw_bytes, two.crc),
        huge,
    ]
    at = segment.ends[-1]
    for body in wrong:
        data = segments.encode_frame(segment.tag, BASE + 1, body)
        segment.files.pwrite(segment.handle, data, at)
        at += len(data)
    data = segments.encode_frame(segment.tag, BASE + 9, good)
    segment.files.pwrite(segment.handle, data, at)
    assert [(r.offset, r.value) for r in segment.read()] == [(BASE, b"good"), (BASE + 9, b"value")]
    assert len(set(segment.damage)) == len(wrong)


def test_a_reader_jumps_without_reading_everything() -> None:
    # Values that do not compress, so that the segment spans several steps of the index.
    chance = random.Random(1)
    values = [chance.randbytes(9000) for _ in range(120)]
    segment = Segment([[({}, value)] for value in values])
    reader = SegmentReader(segment.files, PATH, BASE, segment.damage.append)
    assert len(reader.read(BASE, reader.size(), 1 << 30)) == len(values)
    assert len(reader._index) >= 2
    for i in (119, 3, 60, 59, 118, 0):
        (record,) = reader.read(BASE + i, reader.size(), 1)
        assert (record.offset, record.value) == (BASE + i, values[i])
    assert segment.damage == []
