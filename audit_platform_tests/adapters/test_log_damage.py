"""The embedded log over bytes that are not as they were written: holes, no refusal to start."""

from __future__ import annotations

import pytest

from audit_platform.errors import LogUnavailable
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.adapters.one_log import (
    ROOT,
    append,
    cut_to,
    forget_mark,
    open_log,
    opened,
    read,
    segments_of,
    size_of,
)
from audit_platform_tests.powercut import PowerCutFiles


def test_a_damaged_frame_is_a_hole_and_is_reported_once() -> None:
    with opened(files := PowerCutFiles()) as log:
        ends = []
        for i in range(4):
            append(log, b"%d" % i)
            (path,) = segments_of(files)
            ends.append(size_of(files, path))
    files.flip(path, ends[1] + 40)
    expected = {0: b"0", 1: b"1", 3: b"3"}
    for _ in range(2):
        with opened(files) as log:
            assert read(log) == expected
            assert list(read(log, 2)) == list(expected)[2:]
            (damage,) = log.damage()
            assert (damage.position, damage.end) == (ends[1], ends[2])
            assert (damage.first_offset, damage.count) == (2, 1)
            (offset,) = append(log, b"more")
            expected[offset] = b"more"
        forget_mark(files)


def test_a_damaged_end_is_kept_as_it_is_and_its_offsets_are_not_given_again() -> None:
    for position, known in ((50, True), (2, False)):
        with opened(files := PowerCutFiles()) as log:
            append(log, b"kept")
            (path,) = segments_of(files)
            whole = size_of(files, path)
            append(log, b"rotten", b"rotten too")
            end = size_of(files, path)
        files.flip(path, whole + position)
        forget_mark(files)
        with opened(files) as log:
            (offset,) = append(log, b"next")
            assert offset == 3 if known else offset > 3
            assert read(log) == {0: b"kept", offset: b"next"}
            assert size_of(files, path) == end
            assert len(segments_of(files)) == 2
            assert log.bounds(EVENTS_TOPIC, 0) == (0, offset + 1)
            assert [d.position for d in log.damage()] == [whole]


def test_a_damaged_segment_header_stops_nobody() -> None:
    with opened(files := PowerCutFiles()) as log:
        append(log, b"one")
        append(log, b"two")
    (path,) = segments_of(files)
    files.flip(path, 12)
    forget_mark(files)
    with opened(files) as log:
        assert read(log) == {0: b"one", 1: b"two"}
        assert append(log, b"three") == [2]
        assert read(log) == {0: b"one", 1: b"two", 2: b"three"}
        assert len(segments_of(files)) == 2
        assert len(log.damage()) == 1


def test_a_topic_record_that_is_garbled_says_so() -> None:
    with opened(files := PowerCutFiles()):
        pass
    path = ROOT / EVENTS_TOPIC / "topic.json"
    cut_to(files, path, 3)
    with pytest.raises(LogUnavailable, match=r"topic\.json.*restore"):
        open_log(files)


def test_a_folder_copied_back_gives_no_offset_twice() -> None:
    with opened(files := PowerCutFiles()) as log:
        append(log, b"one")
        (path,) = segments_of(files)
        old = size_of(files, path)
        append(log, b"two", b"three")
    cut_to(files, path, old)  # an old copy of the segment beside a newer mark
    with opened(files) as log:
        assert append(log, b"four") == [3]
        assert read(log) == {0: b"one", 3: b"four"}
