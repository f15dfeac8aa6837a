"""Opening reads no more than it must, and whatever lies in the folder is no reason to refuse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.adapters.spool.spool import FileSpool
from audit_platform_tests.adapters.spool.bench import (
    ASIDE,
    SMALL,
    SPOOL,
    entry,
    open_spool,
    read_all,
)
from audit_platform_tests.powercut import PowerCutFiles


class Counting(PowerCutFiles):
    """Counts opened files."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: Counter[str] = Counter()

    def open(self, path: Path, *, create: bool = False) -> int:
        """See `Files.open`."""
        self.opened[path.suffix] += 1
        return super().open(path, create=create)


def filled(files: PowerCutFiles, count: int = 8) -> FileSpool:
    """A spool of `count` segments of one entry each, still open."""
    spool = open_spool(files)
    for i in range(count):
        spool.append([entry(bytes(range(i % 50, i % 50 + 200)) * 2)])
    assert spool.status().segments == count
    return spool


def put(files: PowerCutFiles, path: Path, data: bytes) -> None:
    """Make these a file's bytes."""
    handle = files.open(path, create=True)
    files.truncate(handle, 0)
    files.pwrite(handle, data, 0)
    files.close(handle)


def test_closed_segments_are_not_even_opened() -> None:
    files = Counting()
    filled(files, 200).close()
    files.opened.clear()
    spool = open_spool(files)
    assert files.opened[".seg"] == 0
    assert spool.status().entries == 200
    assert spool.append([entry(b"first")])[0] == [200]
    assert [e.position for e in spool.read(100, 1)] == [100]
    assert files.opened[".seg"] == 1


def test_after_a_crash_only_the_segment_that_was_written_is_looked_through() -> None:
    files = Counting()
    filled(files, 20)
    files.end_process()
    files.opened.clear()
    spool = open_spool(files)
    assert files.opened[".seg"] == 2  # looked through, then read
    assert [e.position for e in read_all(spool)] == list(range(20))


def test_a_closed_segment_that_was_cut_short_is_found_when_it_is_read() -> None:
    files = PowerCutFiles()
    filled(files, 3).close()
    path = SPOOL / f"{1:020d}.seg"
    data = files.reader(path).read()
    put(files, path, data[:-1])
    spool = open_spool(files)
    assert [e.position for e in read_all(spool)] == [0, 2]
    (report,) = spool.status().set_aside
    assert (report.file, report.first, report.next) == (path.name, 1, 2)
    assert files.reader(ASIDE / path.name).read() == data[:-1]


def test_without_an_index_everything_is_found_by_reading() -> None:
    files = PowerCutFiles()
    spool = filled(files)
    spool.close()
    before = open_spool(files)
    status, entries = before.status(), read_all(before)
    before.close()
    files.unlink(SPOOL / "index")
    spool = open_spool(files)
    assert read_all(spool) == entries
    assert spool.status() == status


def test_a_torn_end_is_cut_at_the_last_whole_frame() -> None:
    for cut in (1, 30, 36, 40, 100):
        files = PowerCutFiles()
        spool = open_spool(files)
        spool.append([entry(b"whole")])
        spool.append([entry(bytes(range(200)))])
        files.end_process()
        path = SPOOL / f"{0:020d}.seg"
        stat = files.stat(path)
        assert stat is not None
        data = files.reader(path).read()
        put(files, path, data[:-cut])
        spool = open_spool(files)
        assert [e.data for e in read_all(spool)] == [b"whole"]
        assert spool.status().set_aside == ()
        after = files.stat(path)
        assert after is not None
        assert after.size == spool.status().bytes < stat.size - cut
        assert spool.append([entry(b"next")])[0] == [1]


def test_a_segment_that_holds_nothing_yet_is_taken_away() -> None:
    files = PowerCutFiles()
    spool = open_spool(files)
    spool.append([entry(b"a")])
    whole = files.reader(SPOOL / f"{0:020d}.seg").read()
    files.end_process()
    for size in (0, 7, 40, 60):
        put(files, SPOOL / f"{5:020d}.seg", whole[:size])
        spool = open_spool(files)
        assert spool.status().set_aside == ()
        assert spool.bounds() == (0, 5)
        assert files.stat(SPOOL / f"{5:020d}.seg") is None
        spool.close()


def test_a_segment_set_aside_and_mended_is_read_when_it_is_put_back() -> None:
    files = PowerCutFiles()
    filled(files, 3).close()
    name = f"{1:020d}.seg"
    files.flip(SPOOL / name, 10)
    spool = open_spool(files)
    assert [e.position for e in read_all(spool)] == [0, 2]
    (report,) = spool.status().set_aside
    assert (report.file, report.first, report.next) == (name, 1, 2)
    spool.close()
    spool = open_spool(files)
    assert spool.status().set_aside == (report,)  # it stays reported
    spool.close()
    files.flip(ASIDE / name, 10)
    files.rename(ASIDE / name, SPOOL / name)
    spool = open_spool(files)
    assert [e.position for e in read_all(spool)] == [0, 1, 2]
    assert spool.status().set_aside == ()


def test_two_segments_of_one_name_are_both_kept_aside() -> None:
    files = PowerCutFiles()
    filled(files, 3).close()
    name = f"{1:020d}.seg"
    put(files, ASIDE.parent / "other", b"another file of that name")
    files.mkdir(ASIDE)
    files.rename(SPOOL / "other", ASIDE / name)
    files.flip(SPOOL / name, 10)
    spool = open_spool(files)
    read_all(spool)
    assert sorted(files.listdir(ASIDE)) == [name, f"{name}.2"]
    assert [r.file for r in spool.status().set_aside] == [name, f"{name}.2"]


def test_a_segment_with_the_positions_of_another_is_set_aside() -> None:
    files = PowerCutFiles()
    spool = open_spool(files)
    spool.append([entry(b"%d" % i) for i in range(4)])
    spool.close()
    other = PowerCutFiles()
    foreign = filled(other, 3)
    foreign.close()
    put(files, SPOOL / f"{2:020d}.seg", other.reader(SPOOL / f"{2:020d}.seg").read())
    spool = open_spool(files)
    assert [e.data for e in read_all(spool)] == [b"0", b"1", b"2", b"3"]
    (report,) = spool.status().set_aside
    assert "another segment" in report.reason


def test_strange_names_are_left_alone() -> None:
    files = PowerCutFiles()
    filled(files, 2).close()
    strange = ["notes.txt", "1.seg", "x" * 20 + ".seg", f"{3:020d}.seg.bak"]
    for name in strange:
        put(files, SPOOL / name, b"not ours")
    spool = open_spool(files)
    assert len(read_all(spool)) == 2
    assert {*strange} <= {*files.listdir(SPOOL)}


SEGMENT_BYTES: Final = st.binary(max_size=300)


@given(SEGMENT_BYTES)
@settings(max_examples=60)
def test_any_bytes_as_a_segment_cost_that_segment_only(data: bytes) -> None:
    files = PowerCutFiles()
    filled(files, 2).close()
    put(files, SPOOL / f"{7:020d}.seg", data)
    spool = open_spool(files)
    assert [e.position for e in read_all(spool)] == [0, 1]
    assert files.stat(SPOOL / f"{7:020d}.seg") is None
    if len(data) > 40:
        assert files.reader(ASIDE / f"{7:020d}.seg").read() == data
    (position,), _ = spool.append([entry(b"next")])
    assert position >= 7


@given(data=st.binary(max_size=300), instead=st.booleans())
@settings(max_examples=60)
def test_any_bytes_as_the_index_cost_nothing_but_marks(*, data: bytes, instead: bool) -> None:
    files = PowerCutFiles()
    filled(files, 4).close()
    index = files.reader(SPOOL / "index").read()
    put(files, SPOOL / "index", data if instead else index[: len(data)] + data + index)
    spool = open_spool(files)
    assert [e.position for e in read_all(spool)] == [0, 1, 2, 3]
    assert spool.status().set_aside == ()
    assert spool.append([entry(b"next")])[0] == [4]


@given(st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=60)
def test_a_changed_bit_of_the_index_costs_nothing_but_marks(place: int, bit: int) -> None:
    files = PowerCutFiles()
    spool = filled(files, 4)
    spool.release([(1, 2)])
    spool.close()
    stat = files.stat(SPOOL / "index")
    assert stat is not None
    files.flip(SPOOL / "index", place % stat.size, 1 << bit)
    spool = open_spool(files, SMALL)
    assert {0, 2, 3} <= {e.position for e in read_all(spool)} <= {0, 1, 2, 3}
    assert spool.append([entry(b"next")])[0] == [4]
