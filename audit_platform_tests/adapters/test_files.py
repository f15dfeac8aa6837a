"""The file layer, real and of tests: both do what the code above relies on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import (
    Files,
    FsyncSite,
    RealFiles,
    mkdirs,
    read_whole,
    unlink_if_there,
    write_file,
)
from audit_platform_tests.powercut import PowerCut, PowerCutFiles

SITE = FsyncSite.SEGMENT_FRAMES


@pytest.fixture(params=[RealFiles, PowerCutFiles])
def files(request: pytest.FixtureRequest) -> Files:
    """Each layer."""
    layer: Callable[[], Files] = request.param
    return layer()


@pytest.fixture
def folder(files: Files, tmp_path: Path) -> Path:
    """A folder that is there in this layer."""
    mkdirs(files, tmp_path, FsyncSite.LOG_FOLDER)
    return tmp_path


def test_bytes_are_read_as_written_also_behind_the_end(files: Files, folder: Path) -> None:
    handle = files.create(folder / "a")
    files.pwrite(handle, b"0123", 0)
    files.pwrite(handle, b"xy", 2)
    files.pwrite(handle, b"z", 6)
    assert files.pread(handle, 100, 1) == b"1xy\x00\x00z"
    assert files.pread(handle, 2, 0) == b"01"
    assert files.pread(handle, 2, 7) == b""
    assert files.size(handle) == 7
    files.truncate(handle, 3)
    assert files.pread(handle, 100, 0) == b"01x"
    files.close(handle)
    with files.reader(folder / "a") as reader:
        assert reader.seek(1) == 1
        assert reader.read() == b"1x"


def test_create_and_link_take_no_name_that_is_taken(files: Files, folder: Path) -> None:
    files.close(files.create(folder / "a", 0o600))
    write_file(files, folder / "b", b"b", SITE)
    with pytest.raises(FileExistsError):
        files.create(folder / "a")
    with pytest.raises(FileExistsError):
        files.link(folder / "b", folder / "a")
    files.link(folder / "b", folder / "c")
    (a, b, c) = [files.stat(folder / name) for name in "abc"]
    assert a is not None
    assert b is not None
    assert (a.permissions, a.size, b.size, b.is_dir) == (0o600, 0, 1, False)
    assert b == c
    assert a.inode != b.inode
    assert sorted(files.listdir(folder)) == ["a", "b", "c"]


def test_rename_replaces_and_unlink_takes_away(files: Files, folder: Path) -> None:
    write_file(files, folder / "a", b"long before", SITE)
    write_file(files, folder / "a", b"a", None)
    write_file(files, folder / "b", b"b", None)
    files.rename(folder / "a", folder / "b")
    assert read_whole(files, folder / "b") == b"a"
    assert files.stat(folder / "a") is None
    files.unlink(folder / "b")
    unlink_if_there(files, folder / "b")
    with pytest.raises(FileNotFoundError):
        files.unlink(folder / "b")
    with pytest.raises(FileNotFoundError):
        files.open(folder / "b")
    with pytest.raises(FileNotFoundError):
        files.reader(folder / "b")
    with pytest.raises(FileNotFoundError):
        files.listdir(folder / "b")


def test_folders_are_made_once_and_not_over_files(files: Files, folder: Path) -> None:
    mkdirs(files, folder / "x" / "y", FsyncSite.LOG_FOLDER, below=folder)
    mkdirs(files, folder / "x" / "y", FsyncSite.LOG_FOLDER, below=folder)
    found = files.stat(folder / "x" / "y")
    assert found is not None
    assert found.is_dir
    write_file(files, folder / "f", b"", None)
    assert files.stat(folder / "f" / "g") is None
    with pytest.raises(FileExistsError):
        files.mkdir(folder / "f")
    with pytest.raises(OSError, match="f"):
        mkdirs(files, folder / "f" / "g", FsyncSite.LOG_FOLDER, below=folder)


def test_a_lock_is_held_against_other_handles_until_unlock_or_close(
    files: Files, folder: Path
) -> None:
    one, two = files.open(folder / "l", create=True), files.open(folder / "l", create=True)
    assert files.lock(one)
    assert not files.lock(two, wait=False)
    files.unlock(one)
    assert files.lock(two, wait=False)
    assert not files.lock(one, wait=False)
    files.close(two)
    assert files.lock(one, wait=False)
    files.close(one)


# ------------------------------------------------------------------------------------ power cuts


@pytest.fixture
def power() -> PowerCutFiles:
    """A layer with the durable folder /d."""
    files = PowerCutFiles()
    mkdirs(files, Path("/d"), FsyncSite.LOG_FOLDER)
    return files


def test_a_cut_forgets_names_and_bytes_that_were_not_fsynced(power: PowerCutFiles) -> None:
    write_file(power, Path("/d/bytes-only"), b"x", SITE)
    write_file(power, Path("/d/both"), b"x", SITE)
    write_file(power, Path("/d/name-only"), b"x", None)
    power.unlink(Path("/d/bytes-only"))
    power.fsync_dir(Path("/d"), SITE)
    write_file(power, Path("/d/late"), b"x", SITE)
    power.unlink(Path("/d/both"))
    power.cut()
    assert power.paths() == ["/d/both", "/d/name-only"]
    assert read_whole(power, Path("/d/both")) == b"x"
    assert read_whole(power, Path("/d/name-only")) == b""


def test_a_cut_brings_old_bytes_back(power: PowerCutFiles) -> None:
    write_file(power, Path("/d/a"), b"0123456789", SITE)
    power.fsync_dir(Path("/d"), SITE)
    handle = power.open(Path("/d/a"))
    power.pwrite(handle, b"new", 0)
    power.truncate(handle, 5)
    power.cut()
    assert read_whole(power, Path("/d/a")) == b"0123456789"
    with pytest.raises(OSError, match="another life"):
        power.pread(handle, 1, 0)


def test_a_seeded_cut_keeps_parts_and_the_same_ones_again(power: PowerCutFiles) -> None:
    def life(seed: int) -> tuple[bytes, ...]:
        files = PowerCutFiles()
        mkdirs(files, Path("/d"), FsyncSite.LOG_FOLDER)
        for name in "abc":
            write_file(files, Path("/d") / name, b"12345678", None)
        files.cut(seed)
        return tuple(read_whole(files, Path(path)) for path in files.paths())

    assert [life(seed) for seed in range(20)] == [life(seed) for seed in range(20)]
    assert len({life(seed) for seed in range(20)}) > 10


def test_a_process_that_ends_half_way_leaves_half_a_write(power: PowerCutFiles) -> None:
    handle = power.create(Path("/d/a"))
    power.stop_at = power.operations + 1
    for _ in range(2):
        with pytest.raises(PowerCut):
            power.pwrite(handle, b"1234", 0)
    with pytest.raises(PowerCut):
        power.listdir(Path("/d"))
    power.end_process()
    assert read_whole(power, Path("/d/a")) == b"12"


def test_what_a_failed_fsync_lost_no_later_fsync_brings_back(power: PowerCutFiles) -> None:
    handle = power.create(Path("/d/a"))
    power.fsync_dir(Path("/d"), SITE)
    power.pwrite(handle, b"lost", 0)
    power.fail_at = power.operations + 1
    with pytest.raises(OSError, match="error"):
        power.fsync(handle, SITE)
    power.pwrite(handle, b"kept", 4)
    power.fsync(handle, SITE)
    assert power.pread(handle, 8, 0) == b"lostkept"
    power.cut()
    assert read_whole(power, Path("/d/a")) == b"\0\0\0\0kept"


def test_a_fsync_left_out_keeps_nothing(power: PowerCutFiles) -> None:
    power.omit = frozenset({SITE})
    write_file(power, Path("/d/a"), b"x", SITE)
    power.fsync_dir(Path("/d"), FsyncSite.LOG_FOLDER)
    power.cut()
    assert read_whole(power, Path("/d/a")) == b""
