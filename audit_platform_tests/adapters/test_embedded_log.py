"""The embedded log on its files: crashes, faults of the disk, segments, several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import FsyncSite, RealFiles
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.errors import LogUnavailable, OffsetOutOfRange
from audit_platform.killpoints import Killpoint
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform_tests.adapters.one_log import (
    append,
    cut_to,
    forget_mark,
    open_log,
    opened,
    read,
    segments_of,
    size_of,
)
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.powercut import PowerCut, PowerCutFiles

# -------------------------------------------------------------------------------------- crashes


def test_a_torn_tail_is_cut_at_the_last_whole_frame() -> None:
    with opened(files := PowerCutFiles()) as log:
        append(log, b"kept")
        (path,) = segments_of(files)
        whole = size_of(files, path)
        append(log, b"torn")
        end = size_of(files, path)
    for size in range(whole, end):
        cut_to(files, path, size)
        forget_mark(files)
        with opened(files) as log:
            assert read(log) == {0: b"kept"}
            assert size_of(files, path) == whole
            assert append(log, b"torn") == [1]
            assert read(log) == {0: b"kept", 1: b"torn"}
            assert log.damage() == []


def test_a_stub_of_a_segment_is_finished() -> None:
    for size in (0, 1, 39, 40):
        with opened(files := PowerCutFiles(), segment_bytes=1) as log:
            append(log, b"one")
            append(log, b"two")
        second = segments_of(files)[1]
        cut_to(files, second, size)
        forget_mark(files)
        with opened(files) as log:
            assert log.bounds(EVENTS_TOPIC, 0) == (0, 1)
            assert append(log, b"two") == [1]
            assert read(log) == {0: b"one", 1: b"two"}


def test_a_frame_that_a_dead_writer_left_whole_is_kept_by_the_next() -> None:
    files = PowerCutFiles()
    log = open_log(files)
    append(log, b"acknowledged")
    files.stop_at = files.operations + 2  # written; the process ends before the fsync
    with pytest.raises(Exception, match="ended"):
        append(log, b"written")
    files.end_process()
    log.close()
    with opened(files) as log:
        assert read(log) == {0: b"acknowledged", 1: b"written"}
        files.cut()
    with opened(files) as log:
        assert read(log) == {0: b"acknowledged", 1: b"written"}


class SpyingFiles(PowerCutFiles):
    """Calls back once, just before an fsync."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[FsyncSite, Callable[[], None]] = {}

    def fsync(self, handle: int, site: FsyncSite) -> None:
        """See `Files.fsync`."""
        self.before.pop(site, lambda: None)()
        super().fsync(handle, site)

    def fsync_dir(self, path: Path, site: FsyncSite) -> None:
        """See `Files.fsync_dir`."""
        self.before.pop(site, lambda: None)()
        super().fsync_dir(path, site)


def test_no_reader_sees_a_frame_before_its_fsync() -> None:
    files = SpyingFiles()
    seen = []
    with opened(files) as log, opened(files) as other:
        append(log, b"first")
        assert read(other) == {0: b"first"}
        files.before[FsyncSite.SEGMENT_FRAMES] = lambda: seen.extend([read(other), read(log)])
        append(log, b"second")
        assert seen == [{0: b"first"}, {0: b"first"}]
        assert read(other) == {0: b"first", 1: b"second"}


def test_a_process_notices_a_segment_that_another_began_and_died() -> None:
    def die() -> None:
        raise PowerCut

    files = SpyingFiles()
    with opened(files, segment_bytes=1) as dying, opened(files) as living:
        append(dying, b"one")
        append(living, b"two")
        files.before[FsyncSite.SEGMENT_NAME] = die
        with pytest.raises(PowerCut):
            append(dying, b"never written")
        first, second = segments_of(files)
        size = size_of(files, first)
        assert append(living, b"three") == [2]
        assert size_of(files, first) == size
        assert size_of(files, second) > 40
        assert read(living) == {0: b"one", 1: b"two", 2: b"three"}


def test_a_topic_that_two_make_at_once_is_one() -> None:
    files = SpyingFiles()
    ids = []

    def make_it_too() -> None:
        with opened(files) as log:
            ids.append(log.describe(EVENTS_TOPIC))

    files.before[FsyncSite.TOPIC_RECORD] = make_it_too
    with opened(files) as log:
        ids.append(log.describe(EVENTS_TOPIC))
        assert log.ensure_topic(EVENTS_TOPIC, 7) == ids[0]
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_callers_that_come_during_a_commit_share_the_next_one() -> None:
    files = SpyingFiles()
    with opened(files) as log:
        append(log, b"first")
        waiting = log._topics[EVENTS_TOPIC].committers[0]._waiting
        threads = [threading.Thread(target=append, args=(log, b"%d" % i)) for i in range(8)]

        def start_all() -> None:
            for thread in threads:
                thread.start()
            while len(waiting) < len(threads):
                threading.Event().wait(0.001)

        files.before[FsyncSite.SEGMENT_FRAMES] = start_all
        append(log, b"second")
        before = files.operations
        for thread in threads:
            thread.join()
        # One frame, its mark, and at most the tail of the second's commit; not eight of each.
        assert files.operations - before < len(threads)
        assert sorted(read(log).values()) == [*(b"%d" % i for i in range(8)), b"first", b"second"]


# --------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("number", range(1, 30))
def test_a_failing_call_loses_nothing_and_the_log_goes_on(number: int) -> None:
    files = PowerCutFiles()
    told: dict[int, bytes] = {}
    with opened(files, segment_bytes=100) as log, opened(files, segment_bytes=100) as other:
        append(log, b"before")
        told |= read(other)
        files.fail_at = files.operations + number
        failed = 0
        for i in range(12):
            writer, reader = (log, other) if i % 3 else (other, log)
            value = b"%d" % i
            try:
                (offset,) = append(writer, value)
            except LogUnavailable:
                failed += 1
            else:
                assert offset not in told
                told[offset] = value
            told |= read(reader)
        assert failed == 1
        assert read(log).items() >= told.items()
    files.cut()
    with opened(files) as log:
        assert read(log).items() >= told.items()


def test_a_segment_takes_no_frame_after_a_failed_fsync() -> None:
    files = PowerCutFiles()
    with opened(files) as log, opened(files) as other:
        append(log, b"one")
        (path,) = segments_of(files)
        size = size_of(files, path)
        files.fail_at = files.operations + 2
        with pytest.raises(LogUnavailable, match="try again"):
            append(log, b"lost", b"lost")
        assert read(other) == {0: b"one"}
        assert size_of(files, path) == size
        assert append(log, b"two") == [3]  # 1 and 2 are used up
        assert append(other, b"three") == [4]
        assert size_of(files, path) == size
        assert read(other, 1) == {3: b"two", 4: b"three"}


def test_a_closed_log_refuses() -> None:
    log = open_log(PowerCutFiles())
    log.close()
    log.close()
    with pytest.raises(LogUnavailable, match="closed"):
        append(log, b"x")


# ------------------------------------------------------------------------- segments, processes


def test_reads_go_on_over_segments_from_any_offset() -> None:
    with opened(files := PowerCutFiles(), segment_bytes=200) as log:
        for i in range(30):
            assert append(log, b"%d" % i * 10) == [i]
        assert len(segments_of(files)) > 3
        for offset in (*range(31), 3, 17):
            assert list(read(log, offset)) == list(range(offset, 30))
            some = log.read(EVENTS_TOPIC, 0, offset, 1)
            assert [r.offset for r in some] == list(range(offset, min(offset + 1, 30)))


def test_retention_drops_whole_segments_and_never_the_last() -> None:
    with opened(files := PowerCutFiles(), segment_bytes=200) as log, opened(files) as other:
        for i in range(30):
            append(log, b"%d" % i * 10)
        assert list(read(other)) == list(range(30))
        first_kept = int(segments_of(files)[2].name[:20])
        assert log.drop_before(EVENTS_TOPIC, 0, first_kept - 1) == 1
        assert log.drop_before(EVENTS_TOPIC, 0, first_kept) == 1
        for reader in (log, other):
            assert reader.bounds(EVENTS_TOPIC, 0) == (first_kept, 30)
            with pytest.raises(OffsetOutOfRange) as caught:
                read(reader, first_kept - 1)
            assert (caught.value.start, caught.value.end) == (first_kept, 30)
            assert list(read(reader, first_kept)) == list(range(first_kept, 30))
        log.drop_before(EVENTS_TOPIC, 0, 1000)
        assert len(segments_of(files)) == 1
        assert append(other, b"next") == [30]


def test_an_append_larger_than_a_frame_is_written_in_several() -> None:
    with opened(PowerCutFiles()) as log:
        values = [bytes([i]) * (1 << 20) for i in range(9)]
        assert append(log, *values) == list(range(9))
        found = [r for i in range(9) for r in log.read(EVENTS_TOPIC, 0, i, 1)]
        assert [r.value for r in found] == values
        many = [b"%d" % i for i in range(5000)]
        assert append(log, *many) == list(range(9, 5009))
        assert list(read(log, 9).values()) == many


@pytest.mark.parametrize("point", [Killpoint.APPENDED, Killpoint.FSYNCED])
def test_a_process_killed_at_a_killpoint_leaves_a_log_that_goes_on(
    tmp_path: Path, point: Killpoint
) -> None:
    program = f"""
from pathlib import Path
from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.ports import NewRecord
from audit_platform_tests.clocks import ManualClock
log = EmbeddedLog(Path({str(tmp_path)!r}), RealFiles(), ManualClock(), 1)
for i in range(5):
    (offset,) = log.append({EVENTS_TOPIC!r}, [NewRecord(0, b"%d" % i)])
    print(offset, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "AUDIT_KILL_AT": f"{point}:3"},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == [b"0", b"1"]
    log = EmbeddedLog(tmp_path, RealFiles(), ManualClock(), 1)
    assert read(log) == {0: b"0", 1: b"1", 2: b"2"}
    assert append(log, b"next") == [3]
    assert log.damage() == []
    log.close()
