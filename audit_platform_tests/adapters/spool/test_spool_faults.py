"""Each call of a good life fails in turn, with EIO and with ENOSPC; a disk that stays full.

Whatever failed: what was told stays, the same process goes on, and so does the next one. (Each call
as the last one of the process: `test_power_cut_spool.py`.)
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import pytest

from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.errors import SpoolUnavailable
from audit_platform.ports import SpoolLimits
from audit_platform_tests.adapters.spool.bench import (
    POLICY,
    SMALL,
    SPOOL,
    Model,
    entry,
    open_spool,
    read_all,
)
from audit_platform_tests.powercut import PowerCutFiles

TIGHT: Final = SpoolLimits(2500, 72.0, POLICY, segment_bytes=400)


def opened(files: PowerCutFiles) -> FileSpool:
    """The spool, opened once more if the call that fails is one of opening."""
    try:
        return open_spool(files, TIGHT)
    except SpoolUnavailable:
        return open_spool(files, TIGHT)


def life(files: PowerCutFiles, model: Model) -> FileSpool:
    """Two openings with rolls, releases, drops and a damaged segment; the last stays open."""
    spool = opened(files)
    for i in range(7):
        model.append(spool, entry(bytes(range(i, i + 180))), entry(b"%d" % i))
    model.release(spool, 3, 6)
    model.release(spool, 0, 3)
    model.read(spool)
    for i in range(7):
        model.append(spool, entry(bytes(range(20 + i, 200 + i))))
    assert model.missing(spool) == []
    spool.close()
    spool = opened(files)
    model.append(spool, entry(b"another opening"))
    model.release(spool, 12, 15)
    model.read(spool)
    return spool


def calls_of_a_good_life() -> int:
    files = PowerCutFiles()
    model = Model()
    life(files, model)
    assert model.let_go - model.released  # something was dropped, too
    return files.operations


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_whichever_call_fails_nothing_told_is_lost_and_the_spool_goes_on(number: int) -> None:
    calls = calls_of_a_good_life()
    assert calls > 80
    broken = []
    for fail_at in range(1, calls + 1):
        files = PowerCutFiles()
        files.fail_at, files.fail_errno = fail_at, number
        model = Model()
        spool = life(files, model)
        assert files.operations >= fail_at
        model.append(spool, entry(b"goes on"))
        assert b"goes on" in {e.data for e in model.told.values()}
        broken += [f"call {fail_at}: {b}" for b in model.missing(spool)]
        files.cut()
        spool = open_spool(files, TIGHT)
        broken += [f"call {fail_at}, after a cut: {b}" for b in model.missing(spool)]
        assert model.append(spool, entry(b"next"))
        spool.close()
    assert broken == []


class FullDisk(PowerCutFiles):
    """A disk that can be full: what needs room fails, and a write gets half-way."""

    is_full = False

    def create(self, path: Path, permissions: int = 0o644) -> int:
        """See `Files.create`."""
        self._refuse()
        return super().create(path, permissions)

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """See `Files.pwrite`."""
        if self.is_full:
            super().pwrite(handle, data[: len(data) // 2], offset)
        self._refuse()
        super().pwrite(handle, data, offset)

    def _refuse(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_appends_fail_and_pass_again_when_there_is_room() -> None:
    files, model = FullDisk(), Model()
    spool = open_spool(files)
    assert model.append(spool, entry(b"before"))
    files.is_full = True
    for _ in range(3):
        with pytest.raises(SpoolUnavailable, match="No space") as caught:
            spool.append([entry(b"no room")])
        assert "not full" in caught.value.remedy
    assert model.missing(spool) == []
    files.is_full = False
    assert model.append(spool, entry(b"after"))
    assert [e.data for e in read_all(spool)] == [b"before", b"after"]
    files.cut()
    assert model.missing(open_spool(files)) == []


def test_a_full_disk_is_drained_by_releasing() -> None:
    files, model = FullDisk(), Model()
    spool = open_spool(files)
    for i in range(9):
        model.append(spool, entry(bytes(range(i, i + 180))))
    before = spool.status().segments
    files.is_full = True
    with pytest.raises(SpoolUnavailable):
        spool.release([(0, 6)])
    # The marks found no room, but the segments are gone: the uplink asks again, and it passes.
    assert spool.status().segments < before
    assert spool.bounds()[0] == 6
    files.is_full = False
    spool.release([(0, 6)])
    assert [e.position for e in read_all(spool)] == [6, 7, 8]


def test_a_full_disk_opens_and_is_read() -> None:
    files, model = FullDisk(), Model()
    spool = open_spool(files)
    for i in range(5):
        model.append(spool, entry(bytes(range(i, i + 180))))
    spool.close()
    files.is_full = True
    spool = open_spool(files)
    assert model.missing(spool) == []
    with pytest.raises(SpoolUnavailable):
        spool.release([(0, 1)])
    files.is_full = False
    spool.release([(0, 1)])
    assert model.append(spool, entry(b"room"))


def test_marks_stay_while_a_released_segment_can_not_be_deleted() -> None:
    files = PowerCutFiles()
    spool = open_spool(files)
    for i in range(3):
        spool.append([entry(bytes(range(i, i + 250)))])
    files.fail_at = files.operations + 1  # deleting segment 0
    spool.release([(0, 2)])
    assert [int(n[:20]) for n in sorted(files.listdir(SPOOL)) if n.endswith(".seg")] == [0, 2]
    spool.release([(2, 3)])
    assert [n for n in files.listdir(SPOOL) if n.endswith(".seg")] == []
    files.cut()
    assert read_all(open_spool(files)) == []


class Stubborn(PowerCutFiles):
    """A disk on which nothing can be cut off, or deleted, for a while."""

    cuts_nothing = False
    deletes_nothing = False

    def truncate(self, handle: int, size: int) -> None:
        """See `Files.truncate`."""
        if self.cuts_nothing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().truncate(handle, size)

    def unlink(self, path: Path) -> None:
        """See `Files.unlink`."""
        if self.deletes_nothing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().unlink(path)


def test_marks_outlive_segments_that_can_not_be_deleted() -> None:
    files = Stubborn()
    spool = open_spool(files)
    for i in range(3):
        spool.append([entry(bytes(range(i, i + 250)))])
    files.deletes_nothing = True
    spool.release([(0, 3)])
    spool._shelf._rewrite_index()
    spool.close()
    files.cut()
    files.deletes_nothing = False
    spool = open_spool(files)
    assert read_all(spool) == []
    assert [n for n in files.listdir(SPOOL) if n.endswith(".seg")] == []


def test_frames_that_could_not_be_cut_off_take_nobody_elses_positions() -> None:
    files, model = Stubborn(), Model()
    spool = open_spool(files)
    model.append(spool, entry(b"a"))
    files.cuts_nothing = True
    files.fail_at = files.operations + 2  # the fsync, when the frame is written
    assert not model.append(spool, entry(b"not promised, but there"))
    model.append(spool, entry(b"b"))
    model.release(spool, max(model.ever), max(model.ever) + 1)
    files.end_process()
    files.cuts_nothing = False
    files.unlink(SPOOL / "index")  # which tells how much of the first segment counts
    spool = open_spool(files)
    model.read(spool)  # position by position what it was told to be
    assert [e.data for e in read_all(spool)] == [b"a", b"not promised, but there"]
    assert spool.status().set_aside == ()


class BadSector(PowerCutFiles):
    """A disk that does not read a part of one file."""

    bad: tuple[str, int] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[int, str] = {}

    def open(self, path: Path, *, create: bool = False) -> int:
        """See `Files.open`."""
        handle = super().open(path, create=create)
        self.names[handle] = path.name
        return handle

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        """See `Files.pread`."""
        name, place = self.bad or ("", 0)
        if self.names.get(handle) == name and offset <= place < offset + size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread(handle, size, offset)


def test_a_segment_that_the_disk_does_not_read_is_set_aside_after_some_tries() -> None:
    files = BadSector()
    spool = open_spool(files)
    for i in range(3):
        spool.append([entry(bytes(range(i, i + 250)))])
    names = sorted(n for n in files.listdir(SPOOL) if n.endswith(".seg"))
    files.bad = (names[1], 300)
    assert [e.position for e in spool.read(0, 1)] == [0]
    for _ in range(2):
        with pytest.raises(SpoolUnavailable):
            spool.read(1, 1000)
    assert [e.position for e in spool.read(1, 1000)] == [2]
    (report,) = spool.status().set_aside
    assert (report.file, report.first, report.next) == (names[1], 1, 2)
    assert "does not read" in report.reason


def test_a_full_spool_whose_oldest_segment_the_disk_does_not_read_goes_on_without_it() -> None:
    files = BadSector()
    spool = open_spool(files, TIGHT)
    for i in range(3):
        spool.append([entry(bytes(range(i, i + 180)))])
    files.bad = (f"{0:020d}.seg", 150)
    failures, dropped = 0, []
    for i in range(20):
        try:
            dropped += spool.append([entry(bytes(range(i, i + 180)))])[1]
        except SpoolUnavailable:
            failures += 1
    assert failures == 2
    (report,) = spool.status().set_aside
    assert (report.first, report.next) == (0, 1)
    assert 0 not in [lost.position for one in dropped for lost in one.entries]
    assert dropped


def test_a_segment_that_can_not_be_read_at_opening_is_set_aside() -> None:
    files = BadSector()
    spool = open_spool(files)
    for i in range(3):
        spool.append([entry(bytes(range(i, i + 250)))])
    spool.close()
    files.unlink(SPOOL / "index")
    names = sorted(n for n in files.listdir(SPOOL) if n.endswith(".seg"))
    files.bad = (names[0], 20)
    spool = open_spool(files, SMALL)
    assert [e.position for e in read_all(spool)] == [1, 2]
    assert [r.file for r in spool.status().set_aside] == [names[0]]
    assert spool.append([entry(b"goes on")])[0] == [3]
