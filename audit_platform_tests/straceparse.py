"""Follows every file below a folder through a trace, call by call.

Belongs here: what each system call does to files, names and descriptors. Does not: strace's text
(`stracetext.py`), what a power cut leaves (`cutdisk.py`). A call that is not understood raises
`NotUnderstoodError`, and `compare` proves at the end that nothing was missed. Not followed: bytes
written through a mapping, and the position of a descriptor that is also read through `read`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from audit_platform_tests.cutdisk import (
    ROOT,
    CutDisk,
    Fsync,
    FsyncBegun,
    Make,
    Name,
    Operation,
    Resize,
    Said,
    Unname,
    Write,
)
from audit_platform_tests.stracetext import (
    Call,
    NotUnderstoodError,
    descriptors,
    parents,
    read,
    strings,
)

#: Calls that write to files.
_WRITING = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
#: Calls whose effect on others begins when they are called, not when they return.
_SENDING = ("write", "writev", "sendto", "sendmsg", "sendmmsg")
_STARTING = ("clone", "clone3", "fork", "vfork")

TRACED_CALLS = (
    *("open", "openat", "creat", "close", "dup", "dup2", "dup3", "fcntl", "lseek"),
    *dict.fromkeys((*_WRITING, *_SENDING)),
    *("sendfile", "copy_file_range", "truncate", "ftruncate", "fallocate", "fsync", "fdatasync"),
    *("sync", "syncfs", "sync_file_range", "mkdir", "mkdirat", "rmdir", "chdir", "fchdir"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", *_STARTING),
)
#: Calls that would make other calls mean something else, whatever their arguments.
_REFUSED = ("sync", "syncfs", "chdir", "fchdir")


@dataclass(slots=True)
class _Open:
    """An open file description: shared by duplicates and forks."""

    inode: int
    append: bool
    offset: int = 0


@dataclass(slots=True)
class _Process:
    """The descriptors that a thread sees."""

    fds: dict[int, _Open] = field(default_factory=dict)


class Follower:
    """Follows the files below `root` through one trace. Make it before the program starts."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.normpath(root.absolute())
        self._cwd = str(Path.cwd())
        self._now = CutDisk()
        self._operations: list[Operation] = []
        self._next_inode = ROOT + 1
        self._processes: dict[int, _Process] = {}
        self._parents: dict[int, tuple[int, bool]] = {}
        self._handlers: dict[str, Callable[[Call], None]] = {
            **dict.fromkeys(("open", "openat", "creat"), self._open),
            **dict.fromkeys(("dup", "dup2", "dup3", "fcntl"), self._dup),
            "lseek": self._seek,
            **dict.fromkeys(_WRITING, self._write),
            **dict.fromkeys(("truncate", "ftruncate", "fallocate"), self._resize),
            **dict.fromkeys(("fsync", "fdatasync"), self._fsync),
            **dict.fromkeys(("mkdir", "mkdirat"), self._mkdir),
            **dict.fromkeys(("rename", "renameat", "renameat2", "link", "linkat"), self._rename),
            **dict.fromkeys(("unlink", "unlinkat", "rmdir"), self._unlink),
            **dict.fromkeys(("close", "sendto", "sendmsg", "sendmmsg", *_STARTING), lambda _: None),
        }
        self._take_in(root, ROOT)

    def _take_in(self, folder: Path, inode: int) -> None:
        """What was there before the program is durable."""
        for path in sorted(folder.iterdir()):
            data = b"" if path.is_dir() else path.read_bytes()
            child = self._new(is_folder=path.is_dir(), data=data, durable=True)
            self._do(Name(inode, path.name, child, durable=True))
            if path.is_dir():
                self._take_in(path, child)

    def follow(self, lines: Iterable[str]) -> list[Operation]:
        """The operations of a whole trace, in order."""
        calls = list(read(lines))
        self._parents = parents(calls)
        for has_returned, call in calls:
            if has_returned:
                self._handlers.get(call.name, self._refuse_if_ours)(call)
            else:
                self._begin(call)
        return self._operations

    def compare(self, root: Path, mapped: str) -> None:
        """Fail unless the followed files are exactly the real ones (`mapped` ones by name only)."""
        wanted = {p.relative_to(root).as_posix(): p for p in root.rglob("*")}
        found = self._paths()
        assert sorted(found) == sorted(wanted), "the trace was not followed: names differ"
        for name, path in wanted.items():
            node = self._now.nodes[found[name]]
            if not path.is_dir() and not name.endswith(mapped):
                assert path.read_bytes() == node.data, f"the trace was not followed: {name}"

    def _paths(self) -> dict[str, int]:
        found: dict[str, int] = {}
        waiting = [("", ROOT)]
        while waiting:
            prefix, inode = waiting.pop()
            for name, child in self._now.nodes[inode].names.items():
                found[prefix + name] = child
                if self._now.nodes[child].is_folder:
                    waiting.append((f"{prefix}{name}/", child))
        return found

    # ------------------------------------------------------------------------ descriptors, paths

    def _process(self, pid: int) -> _Process:
        if pid not in self._processes:
            parent, shares = self._parents.get(pid, (None, False))
            if parent is None:
                self._processes[pid] = _Process()
            elif shares:
                self._processes[pid] = self._process(parent)
            else:
                self._processes[pid] = _Process(dict(self._process(parent).fds))
        return self._processes[pid]

    def _opened(self, call: Call) -> _Open | None:
        """The followed file behind the first argument; None for anything outside the root."""
        fd = call.fd
        if not fd.is_path or self._below(fd.where) is None:
            return None
        opened = self._process(call.pid).fds.get(fd.number)
        if opened is None:
            raise NotUnderstoodError(f"nobody opened {fd.where}")
        return opened

    def _below(self, path: str) -> str | None:
        """Path below the root ("" for the root itself), or None."""
        path = os.path.normpath(path)
        if path == self._root:
            return ""
        return path[len(self._root) + 1 :] if path.startswith(self._root + "/") else None

    def _path(self, folder: str | None, text: str) -> str | None:
        """The path below the root that a folder descriptor and a string argument mean."""
        base = self._cwd
        if folder is not None:
            base = next(descriptors(folder)).where or base
        name = b"".join(strings(text)).decode()
        return self._below(os.path.join(base, name))  # noqa: PTH118 - text, no file is asked

    def _look_up(self, path: str) -> int | None:
        inode = ROOT
        for name in path.split("/") if path else []:
            found = self._now.nodes[inode].names.get(name)
            if found is None:
                return None
            inode = found
        return inode

    def _place(self, path: str) -> tuple[int, str]:
        above, _, name = path.rpartition("/")
        folder = self._look_up(above)
        if folder is None:
            raise NotUnderstoodError(f"no folder for {path}")
        return folder, name

    # ------------------------------------------------------------------------------ system calls

    def _do(self, operation: Operation) -> None:
        self._now.apply(operation)
        self._operations.append(operation)

    def _new(self, *, is_folder: bool, data: bytes = b"", durable: bool = False) -> int:
        inode = self._next_inode
        self._next_inode += 1
        self._do(Make(inode, is_folder, data, durable))
        return inode

    def _begin(self, call: Call) -> None:
        """What counts from the moment of the call: what an fsync covers, what is being sent."""
        if call.name in ("fsync", "fdatasync"):
            opened = self._opened(call)
            if opened is not None:
                self._do(FsyncBegun(opened.inode, call.number))
        elif call.name == "close":  # another thread may be given the number before this returns
            self._process(call.pid).fds.pop(call.fd.number, None)
        elif call.name in _SENDING and not call.fd.is_path:
            self._do(Said(call.fd.number, call.fd.where, call.data))

    def _refuse_if_ours(self, call: Call) -> None:
        texts = [fd.where for fd in descriptors(call.args) if fd.is_path]
        texts += [os.path.join(self._cwd, s.decode()) for s in strings(call.args)]  # noqa: PTH118 - text, no file is asked
        if call.name in _REFUSED or any(self._below(text) is not None for text in texts):
            raise NotUnderstoodError(f"{call.name}({call.args[:200]})")

    def _open(self, call: Call) -> None:
        assert call.result is not None
        parts = call.parts
        folder = parts.pop(0) if call.name == "openat" else None
        flags = parts[1].split("|") if call.name != "creat" else ["O_CREAT", "O_TRUNC"]
        fds = self._process(call.pid).fds
        fds.pop(call.result, None)
        path = self._path(folder, parts[0])
        if path is None:
            return
        if "O_TMPFILE" in flags:
            raise NotUnderstoodError(f"O_TMPFILE in {path}")
        inode = self._look_up(path)
        if inode is None:
            place = self._place(path)
            inode = self._new(is_folder=False)
            self._do(Name(*place, inode))
        elif "O_TRUNC" in flags:
            self._do(Resize(inode, 0))
        fds[call.result] = _Open(inode, "O_APPEND" in flags)

    def _dup(self, call: Call) -> None:
        assert call.result is not None
        if call.name == "fcntl" and not call.parts[1].startswith("F_DUPFD"):
            return
        fds = self._process(call.pid).fds
        fds.pop(call.result, None)
        opened = self._opened(call)
        if opened is not None:
            fds[call.result] = opened

    def _seek(self, call: Call) -> None:
        opened = self._opened(call)
        if opened is not None:
            opened.offset = call.result or 0

    def _write(self, call: Call) -> None:
        opened = self._opened(call)
        if opened is None:
            return
        if len(call.data) != call.result:
            raise NotUnderstoodError(f"{call.name}: {len(call.data)} of {call.result} bytes seen")
        offset = opened.offset
        if call.name.startswith("p"):
            offset = int(call.parts[-2 if call.name == "pwritev2" else -1])
        if opened.append:  # whatever the call says: pwrite(2), BUGS
            offset = len(self._now.nodes[opened.inode].data)
        if not call.name.startswith("p"):
            opened.offset = offset + call.result
        self._do(Write(opened.inode, offset, call.data))

    def _resize(self, call: Call) -> None:
        parts = call.parts
        if call.name == "truncate":
            path = self._path(None, parts[0])
            inode = None if path is None else self._look_up(path)
        else:
            opened = self._opened(call)
            inode = None if opened is None else opened.inode
        if inode is None:
            return
        if call.name != "fallocate":
            self._do(Resize(inode, int(parts[1])))
        elif parts[1] == "0":
            held = len(self._now.nodes[inode].data)
            self._do(Resize(inode, max(held, int(parts[2]) + int(parts[3]))))
        else:
            raise NotUnderstoodError(f"fallocate({call.args[:200]})")

    def _fsync(self, call: Call) -> None:
        opened = self._opened(call)
        if opened is not None:
            is_folder = self._now.nodes[opened.inode].is_folder
            path = self._below(call.fd.where) or ""
            self._do(Fsync(opened.inode, call.number, path, is_folder))

    def _mkdir(self, call: Call) -> None:
        parts = call.parts
        folder = parts.pop(0) if call.name == "mkdirat" else None
        path = self._path(folder, parts[0])
        if path is not None:
            place = self._place(path)
            self._do(Name(*place, self._new(is_folder=True)))

    def _rename(self, call: Call) -> None:
        parts = call.parts
        if "at" in call.name:
            source, target = self._path(parts[0], parts[1]), self._path(parts[2], parts[3])
        else:
            source, target = self._path(None, parts[0]), self._path(None, parts[1])
        if source is None and target is None:
            return
        if source is None or target is None or "RENAME_EXCHANGE" in call.args:
            raise NotUnderstoodError(f"{call.name}({call.args[:200]})")
        inode = self._look_up(source)
        if inode is None:
            raise NotUnderstoodError(f"{call.name} of a file that nobody made: {source}")
        self._do(Name(*self._place(target), inode))
        if call.name.startswith("rename"):
            self._do(Unname(*self._place(source)))

    def _unlink(self, call: Call) -> None:
        parts = call.parts
        folder = parts.pop(0) if call.name == "unlinkat" else None
        path = self._path(folder, parts[0])
        if path is not None:
            self._do(Unname(*self._place(path)))
