"""The file layer under log, objects, groups, keys: the few system calls that durability rests on.

Belongs here: one method per call, the name of every fsync (`FsyncSite`), and the short compositions
that everybody needs. Does not: formats, locks' meaning, retries. Code above never calls `os`
itself, so a test can put a layer beneath it that forgets at a power cut whatever was not fsynced
(`audit_platform_tests/powercut.py`). Source: design section 9; `README.md` beside this file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat as stat_module
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Protocol


class FsyncSite(StrEnum):
    """Each fsync in the code, one member per call, so that tests can take out any one of them."""

    LOG_FOLDER = "log_folder"  # folders of the log and its topics: their names
    TOPIC_RECORD = "topic_record"  # topic.json: its bytes
    TOPIC_NAME = "topic_name"  # topic.json: its name
    SEGMENT_NAME = "segment_name"  # a new segment: its name
    SEGMENT_FRAMES = "segment_frames"  # an appended frame
    SEGMENT_ADOPTED = "segment_adopted"  # frames that a dead writer left
    SEGMENT_ADOPTED_NAME = "segment_adopted_name"  # a segment that a dead writer made
    GROUP_FOLDER = "group_folder"  # folder of the groups: its name
    GROUP_OFFSETS = "group_offsets"  # committed offsets: their bytes
    GROUP_OFFSETS_NAME = "group_offsets_name"  # committed offsets: their name
    OBJECT_FOLDER = "object_folder"  # folders of objects: their names
    OBJECT_BODY = "object_body"  # a body: its bytes
    OBJECT_RECORD = "object_record"  # a new version record: its bytes
    OBJECT_DRAFT_NAME = "object_draft_name"  # body before the claim: its name
    OBJECT_CLAIM = "object_claim"  # a claimed version: its name
    OBJECT_BODY_NAME = "object_body_name"  # a body at its final place: its name
    OBJECT_CHANGE = "object_change"  # a changed version record (lock, hold, removal): its bytes
    OBJECT_CHANGE_NAME = "object_change_name"  # the same: its name
    OBJECT_GONE = "object_gone"  # a removed body: its name is gone
    KEY_FOLDER = "key_folder"  # folder of the keys: its name
    KEY_RECORD = "key_record"  # a key file: its bytes
    KEY_NAME = "key_name"  # a key file: its name
    KEY_ADOPTED_NAME = "key_adopted_name"  # a list of keys that a dead process put there: its name
    HOT_FOLDER = "hot_folder"  # folder of the search indexes: its name
    HOT_INDEX_NAME = "hot_index_name"  # a new search index: its name
    HOT_ALIASES = "hot_aliases"  # which index is read and written: the bytes
    HOT_ALIASES_NAME = "hot_aliases_name"  # the same: the name
    HOT_SNAPSHOTS = "hot_snapshots"  # folder of the snapshots: its name
    HOT_SNAPSHOT_LIST = "hot_snapshot_list"  # what a snapshot has: the bytes
    HOT_SNAPSHOT_FILES = "hot_snapshot_files"  # the files of a snapshot: their names
    HOT_SNAPSHOT_NAME = "hot_snapshot_name"  # a snapshot that is whole: its name
    KEY_WRAPPING_ADOPTED = "key_wrapping_adopted"  # the wrapping key, the same: its name
    SPOOL_FOLDER = "spool_folder"  # folder of the spool: its name
    SPOOL_SEGMENT_NAME = "spool_segment_name"  # a new segment of the spool: its name
    SPOOL_FRAMES = "spool_frames"  # appended frames of the spool
    SPOOL_ADOPTED = "spool_adopted"  # frames that a dead process left in the spool
    SPOOL_INDEX = "spool_index"  # the spool's index, written anew: its bytes
    SPOOL_INDEX_NAME = "spool_index_name"  # the same: its name
    SPOOL_RELEASED = "spool_released"  # marks of what is released
    SPOOL_ASIDE_FOLDER = "spool_aside_folder"  # folder of what is set aside: its name
    SPOOL_ASIDE_NAME = "spool_aside_name"  # a segment that was set aside: its name there


@dataclass(frozen=True, slots=True)
class FileStat:
    """What the code asks about a path. `inode` tells whether two names are one file.

    `permissions` are the nine bits of the mode; 0 from a layer that has none.
    """

    size: int
    inode: int
    is_dir: bool
    permissions: int = 0


class Files(Protocol):
    """System calls by path and by handle (an int). All raise `OSError` as the calls do."""

    def create(self, path: Path, permissions: int = 0o644) -> int:
        """Make a new file and open it for reading and writing. `FileExistsError` when there."""
        ...

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open a file for reading and writing; with `create`, make an empty one when missing."""
        ...

    def close(self, handle: int) -> None:
        """Close a handle; locks taken through it are released."""
        ...

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`, or raise: then any part of it may be there."""
        ...

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        ...

    def size(self, handle: int) -> int:
        """Length of the file in bytes."""
        ...

    def truncate(self, handle: int, size: int) -> None:
        """Cut (or extend with zeros) to `size` bytes."""
        ...

    def fsync(self, handle: int, site: FsyncSite) -> None:
        """Return once the file's bytes and length survive a power cut. Says nothing of its name."""
        ...

    def fsync_dir(self, path: Path, site: FsyncSite) -> None:
        """Return once the names in this folder survive a power cut."""
        ...

    def mkdir(self, path: Path) -> None:
        """Make a folder; nothing happens when it is there. `FileExistsError` over a file."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give the file this name instead, replacing what had it, at one instant."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give the file a second name. `FileExistsError` when the name is taken: the claim."""
        ...

    def unlink(self, path: Path) -> None:
        """Take the name away. `FileNotFoundError` when it is not there."""
        ...

    def listdir(self, path: Path) -> list[str]:
        """Names in a folder, in no order."""
        ...

    def stat(self, path: Path) -> FileStat | None:
        """What is at the path, or None."""
        ...

    def reader(self, path: Path) -> BinaryIO:
        """A seekable buffered binary reader."""
        ...

    def lock(self, handle: int, *, wait: bool = True) -> bool:
        """Lock the file against every other handle, in this process or another.

        Blocks unless `wait` is false; False when another handle has it. Ends with `unlock`,
        `close`, or the death of the process.
        """
        ...

    def unlock(self, handle: int) -> None:
        """Release the lock."""
        ...


class RealFiles:
    """`Files` on the operating system."""

    def create(self, path: Path, permissions: int = 0o644) -> int:
        """See `Files.create`."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, permissions)

    def open(self, path: Path, *, create: bool = False) -> int:
        """See `Files.open`."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)

    def close(self, handle: int) -> None:
        """See `Files.close`."""
        os.close(handle)

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """See `Files.pwrite`."""
        written = os.pwrite(handle, data, offset)
        while written < len(data):
            written += os.pwrite(handle, memoryview(data)[written:], offset + written)

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        """See `Files.pread`."""
        data = os.pread(handle, size, offset)
        if len(data) in (0, size):
            return data
        parts = [data]
        have = len(data)
        while have < size and (more := os.pread(handle, size - have, offset + have)):
            parts.append(more)
            have += len(more)
        return b"".join(parts)

    def size(self, handle: int) -> int:
        """See `Files.size`."""
        return os.fstat(handle).st_size

    def truncate(self, handle: int, size: int) -> None:
        """See `Files.truncate`."""
        os.ftruncate(handle, size)

    def fsync(self, handle: int, site: FsyncSite) -> None:  # noqa: ARG002 - names the call for tests
        """See `Files.fsync`. fdatasync keeps bytes and length; only time stamps may be older."""
        os.fdatasync(handle)

    def fsync_dir(self, path: Path, site: FsyncSite) -> None:  # noqa: ARG002 - names the call for tests
        """See `Files.fsync_dir`."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def mkdir(self, path: Path) -> None:
        """See `Files.mkdir`."""
        path.mkdir(exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """See `Files.rename`."""
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:
        """See `Files.link`."""
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        """See `Files.unlink`."""
        path.unlink()

    def listdir(self, path: Path) -> list[str]:
        """See `Files.listdir`."""
        return os.listdir(path)  # noqa: PTH208 - names only: iterdir builds a Path for each

    def stat(self, path: Path) -> FileStat | None:
        """See `Files.stat`."""
        try:
            found = os.stat(path)  # noqa: PTH116 - on the hot path of every object read
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_dir = stat_module.S_ISDIR(found.st_mode)
        return FileStat(found.st_size, found.st_ino, is_dir, found.st_mode & 0o777)

    def reader(self, path: Path) -> BinaryIO:
        """See `Files.reader`."""
        return path.open("rb")

    def lock(self, handle: int, *, wait: bool = True) -> bool:
        """See `Files.lock`."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def unlock(self, handle: int) -> None:
        """See `Files.unlock`."""
        fcntl.flock(handle, fcntl.LOCK_UN)


def mkdirs(files: Files, path: Path, site: FsyncSite, *, below: Path | None = None) -> None:
    """Make a folder and those above it, durable on return; `below` is known to be durable.

    Folders that are there are fsynced too: another process may have made them a moment ago and not
    have come to its own fsync yet. Without `below` the walk goes up to the first folder that we may
    not read (nobody like us has made anything in there).
    """
    chain = [path, *path.parents]
    if below is not None:
        chain = chain[: chain.index(below)]
    missing = []
    for folder in chain:
        if files.stat(folder) is not None:
            break
        missing.append(folder)
    for folder in reversed(missing):
        files.mkdir(folder)
    for folder in chain:
        if folder.parent == folder:
            break
        try:
            files.fsync_dir(folder.parent, site)
        except PermissionError:
            break


def read_whole(files: Files, path: Path) -> bytes:
    """All bytes of a file."""
    with files.reader(path) as reader:
        return reader.read()


def write_file(files: Files, path: Path, data: bytes, site: FsyncSite | None) -> None:
    """Make `data` the whole of a file that nobody reads yet; bytes (not name) durable if `site`."""
    handle = files.open(path, create=True)
    try:
        files.truncate(handle, 0)
        files.pwrite(handle, data, 0)
        if site is not None:
            files.fsync(handle, site)
    finally:
        files.close(handle)


def unlink_if_there(files: Files, path: Path) -> None:
    """Take a name away, or find that somebody has."""
    with contextlib.suppress(FileNotFoundError):
        files.unlink(path)
