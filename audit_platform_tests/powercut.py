"""A file layer that forgets at a power cut what was not fsynced, names included.

Belongs here: `PowerCutFiles`, the `Files` of tests, wholly in memory, and what tests do to it: end
the process at an operation, cut the power, leave one fsync out, fail one call. Does not: tests.

The model is harsher than any real disk in one way (`cut()` keeps nothing that was not fsynced) and
as random as one in another (`cut(seed)` keeps any part of the rest: each changed name by itself,
of each file some of its unsynced writes, torn, with zeros where bytes did not arrive). A failed
fsync is Linux's: the bytes stay readable, later fsyncs succeed, and those bytes are never written.
"""

from __future__ import annotations

import errno
import io
import os
import random
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from audit_platform.adapters.embedded.files import FileStat, FsyncSite


class PowerCut(Exception):
    """The process ended here: this call and all later ones of this life do nothing."""


@dataclass(eq=False, slots=True)
class _File:
    inode: int
    permissions: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    #: What `data` has beyond `durable`, in order: (offset, bytes), or (length, None) for a cut.
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    owner: int | None = None  # the handle that has the lock


@dataclass(eq=False, slots=True)
class _Folder:
    inode: int
    live: dict[str, _File | _Folder] = field(default_factory=dict)
    durable: dict[str, _File | _Folder] = field(default_factory=dict)


def _apply(data: bytearray, offset: int, change: bytes | None) -> None:
    if change is None:
        del data[offset:]
        data.extend(bytes(offset - len(data)))
    else:
        data.extend(bytes(max(offset - len(data), 0)))
        data[offset : offset + len(change)] = change


class PowerCutFiles:
    """`Files` in memory. Several adapters over one instance are several processes of one machine.

    `omit`: sites whose fsync does nothing. `stop_at`: the operation (from 1) in which the process
    ends; a write gets half-way. `fail_at`: the operation that fails with EIO instead.
    """

    def __init__(self, *, omit: Collection[FsyncSite] = ()) -> None:
        self.omit = frozenset(omit)
        self.stop_at: int | None = None
        self.fail_at: int | None = None
        self.fail_errno = errno.EIO
        self.operations = 0
        self._stopped = False
        self.synced: set[FsyncSite] = set()
        self._guard = threading.RLock()
        self._unlocked = threading.Condition(self._guard)
        self._inodes = 0
        self._root = _Folder(self._next_inode())
        self._handles: dict[int, _File] = {}
        self._last_handle = 0

    # ------------------------------------------------------------------------- what tests do

    def end_process(self) -> None:
        """All handles and locks are gone, as at kill -9; what was written is still readable."""
        with self._guard:
            for file in self._handles.values():
                file.owner = None
            self._handles.clear()
            self.stop_at = self.fail_at = None
            self._stopped = False
            self._unlocked.notify_all()

    def cut(self, seed: int | None = None) -> None:
        """Cut the power: only what was fsynced is left; with a seed, any part of the rest too."""
        with self._guard:
            self.end_process()
            chance = None if seed is None else random.Random(seed)
            self._cut_folder(self._root, chance, set())

    def _cut_folder(self, folder: _Folder, chance: random.Random | None, done: set[int]) -> None:
        names = dict(folder.durable)
        if chance is not None:
            for name in sorted(folder.live.keys() | folder.durable.keys()):
                if folder.live.get(name) is not folder.durable.get(name) and chance.random() < 0.5:
                    names.pop(name, None)
                    if name in folder.live:
                        names[name] = folder.live[name]
        folder.live, folder.durable = dict(names), dict(names)
        for node in names.values():
            if isinstance(node, _Folder):
                self._cut_folder(node, chance, done)
            elif node.inode not in done:
                done.add(node.inode)
                self._cut_file(node, chance)

    @staticmethod
    def _cut_file(file: _File, chance: random.Random | None) -> None:
        if chance is not None:
            for offset, change in file.pending[: chance.randrange(len(file.pending) + 1)]:
                if change is None:
                    _apply(file.durable, offset, None)
                    continue
                kept = chance.randrange(len(change) + 1)
                shown = change[:kept]
                if chance.random() < 0.3:
                    shown += bytes(chance.randrange(len(change) - kept + 1))
                _apply(file.durable, offset, shown)
        file.data = bytearray(file.durable)
        file.pending.clear()

    def flip(self, path: Path, position: int, mask: int = 1) -> None:
        """Change a byte on the disk behind everybody's back."""
        file = self._file(path)
        file.data[position] ^= mask
        if position < len(file.durable):
            file.durable[position] ^= mask

    def paths(self) -> list[str]:
        """Every file's path."""
        found: list[str] = []

        def walk(folder: _Folder, at: str) -> None:
            for name, node in sorted(folder.live.items()):
                if isinstance(node, _Folder):
                    walk(node, f"{at}/{name}")
                else:
                    found.append(f"{at}/{name}")

        with self._guard:
            walk(self._root, "")
        return found

    # ----------------------------------------------------------------------------- the layer

    def create(self, path: Path, permissions: int = 0o644) -> int:
        """See `Files.create`."""
        with self._guard:
            self._step()
            folder, name = self._parent(path)
            if name in folder.live:
                raise FileExistsError(errno.EEXIST, "exists", str(path))
            folder.live[name] = file = _File(self._next_inode(), permissions)
            return self._open(file)

    def open(self, path: Path, *, create: bool = False) -> int:
        """See `Files.open`."""
        with self._guard:
            folder, name = self._parent(path)
            if create and name not in folder.live:
                return self.create(path)
            self._alive()
            return self._open(self._file(path))

    def close(self, handle: int) -> None:
        """See `Files.close`."""
        with self._guard:
            file = self._handles.pop(handle, None)
            if file is not None and file.owner == handle:
                file.owner = None
                self._unlocked.notify_all()

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """See `Files.pwrite`."""
        with self._guard:
            file = self._of(handle)
            try:
                self._step()
            except (PowerCut, OSError):
                self._change(file, offset, data[: len(data) // 2])
                raise
            self._change(file, offset, data)

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        """See `Files.pread`."""
        with self._guard:
            return bytes(self._of(handle).data[offset : offset + size])

    def size(self, handle: int) -> int:
        """See `Files.size`."""
        with self._guard:
            return len(self._of(handle).data)

    def truncate(self, handle: int, size: int) -> None:
        """See `Files.truncate`."""
        with self._guard:
            file = self._of(handle)
            self._step()
            if size != len(file.data):
                self._change(file, size, None)

    def fsync(self, handle: int, site: FsyncSite) -> None:
        """See `Files.fsync`."""
        with self._guard:
            file = self._of(handle)
            try:
                self._step()
            except OSError:
                file.pending.clear()
                raise
            self.synced.add(site)
            if site not in self.omit:
                for offset, change in file.pending:
                    _apply(file.durable, offset, change)
                file.pending.clear()

    def fsync_dir(self, path: Path, site: FsyncSite) -> None:
        """See `Files.fsync_dir`."""
        with self._guard:
            folder = self._folder(path)
            self._step()
            self.synced.add(site)
            if site not in self.omit:
                folder.durable = dict(folder.live)

    def mkdir(self, path: Path) -> None:
        """See `Files.mkdir`."""
        with self._guard:
            self._step()
            folder, name = self._parent(path)
            if isinstance(folder.live.setdefault(name, _Folder(self._next_inode())), _File):
                raise FileExistsError(errno.EEXIST, "a file", str(path))

    def rename(self, source: Path, target: Path) -> None:
        """See `Files.rename`."""
        with self._guard:
            file = self._file(source)
            self._step()
            folder, name = self._parent(source)
            del folder.live[name]
            folder, name = self._parent(target)
            folder.live[name] = file

    def link(self, source: Path, target: Path) -> None:
        """See `Files.link`."""
        with self._guard:
            file = self._file(source)
            folder, name = self._parent(target)
            self._step()
            if name in folder.live:
                raise FileExistsError(errno.EEXIST, "exists", str(target))
            folder.live[name] = file

    def unlink(self, path: Path) -> None:
        """See `Files.unlink`."""
        with self._guard:
            self._file(path)
            self._step()
            folder, name = self._parent(path)
            del folder.live[name]

    def listdir(self, path: Path) -> list[str]:
        """See `Files.listdir`."""
        with self._guard:
            self._alive()
            return list(self._folder(path).live)

    def stat(self, path: Path) -> FileStat | None:
        """See `Files.stat`."""
        with self._guard:
            self._alive()
            try:
                node = self._node(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if isinstance(node, _Folder):
                return FileStat(0, node.inode, is_dir=True, permissions=0o755)
            return FileStat(len(node.data), node.inode, is_dir=False, permissions=node.permissions)

    def reader(self, path: Path) -> BinaryIO:
        """See `Files.reader`."""
        with self._guard:
            self._alive()
            return io.BytesIO(bytes(self._file(path).data))

    def lock(self, handle: int, *, wait: bool = True) -> bool:
        """See `Files.lock`."""
        with self._guard:
            file = self._of(handle)
            while file.owner not in (None, handle):
                if not wait:
                    return False
                self._unlocked.wait()
                self._of(handle)
            file.owner = handle
            return True

    def unlock(self, handle: int) -> None:
        """See `Files.unlock`."""
        with self._guard:
            file = self._handles.get(handle)
            if file is not None and file.owner == handle:
                file.owner = None
                self._unlocked.notify_all()

    # ------------------------------------------------------------------------------- inside

    def _alive(self) -> None:
        if self._stopped:
            raise PowerCut(f"ended at operation {self.stop_at}")

    def _step(self) -> None:
        """Count an operation that changes something; end or fail when it is its turn."""
        self.operations += 1
        if self.operations == self.stop_at:
            self._stopped = True
        self._alive()
        if self.operations == self.fail_at:
            raise OSError(self.fail_errno, os.strerror(self.fail_errno))

    def _next_inode(self) -> int:
        self._inodes += 1
        return self._inodes

    def _open(self, file: _File) -> int:
        self._last_handle += 1
        self._handles[self._last_handle] = file
        return self._last_handle

    def _of(self, handle: int) -> _File:
        self._alive()
        if handle not in self._handles:
            raise OSError(errno.EBADF, "this handle was of another life")
        return self._handles[handle]

    @staticmethod
    def _change(file: _File, offset: int, change: bytes | None) -> None:
        _apply(file.data, offset, change)
        file.pending.append((offset, change))

    def _node(self, path: Path) -> _File | _Folder:
        node: _File | _Folder = self._root
        for part in path.parts[1:]:
            if isinstance(node, _File):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
            if part not in node.live:
                raise FileNotFoundError(errno.ENOENT, "not there", str(path))
            node = node.live[part]
        return node

    def _file(self, path: Path) -> _File:
        node = self._node(path)
        if isinstance(node, _Folder):
            raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
        return node

    def _folder(self, path: Path) -> _Folder:
        node = self._node(path)
        if isinstance(node, _File):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
        return node

    def _parent(self, path: Path) -> tuple[_Folder, str]:
        return self._folder(path.parent), path.name
