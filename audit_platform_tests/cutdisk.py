"""A disk that keeps, at a power cut, only what was fsynced: bytes by file, names by folder.

Belongs here: what each operation does to such a disk. Does not: where operations come from
(`straceparse.py`). The strictest reading of POSIX: fsync of a file keeps its bytes and length, not
its name; fsync of a folder keeps its names, not the files' bytes; nothing else ever survives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

ROOT = 0


@dataclass(frozen=True, slots=True)
class Make:
    """A new file or folder, without a name yet. `data` and `durable`: it was there before."""

    inode: int
    is_folder: bool
    data: bytes = b""
    durable: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """A folder has this name for the file now, replacing what had it."""

    folder: int
    name: str
    inode: int
    durable: bool = False


@dataclass(frozen=True, slots=True)
class Unname:
    """The name is gone from the folder."""

    folder: int
    name: str


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """The file was cut, or extended with zeros."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class FsyncBegun:
    """An fsync was called; what is written from here on it need not keep."""

    inode: int
    call: int


@dataclass(frozen=True, slots=True)
class Fsync:
    """An fsync returned. `path` is the file's name below the root when it was called."""

    inode: int
    call: int
    path: str
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Said:
    """Bytes written to something that is not a followed file: `where` is strace's name for it."""

    fd: int
    where: str
    data: bytes


Operation: TypeAlias = Make | Name | Unname | Write | Resize | FsyncBegun | Fsync | Said


@dataclass(slots=True)
class Node:
    """A file (`data`) or a folder (`names`): as it is, as it is on disk, as fsyncs found it."""

    is_folder: bool
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    kept_data: bytes = b""
    kept_names: dict[str, int] = field(default_factory=dict)
    begun: dict[int, tuple[bytes, dict[str, int]]] = field(default_factory=dict)


class CutDisk:
    """All files by inode; feed it operations with `apply`, ask it what a cut leaves."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {ROOT: Node(is_folder=True)}
        #: Grows whenever what a cut leaves may have changed.
        self.version = 0

    def apply(self, operation: Operation, omit: Callable[[Fsync], bool] | None = None) -> None:
        """Do one operation; an fsync for which `omit` is true does nothing."""
        match operation:
            case Make(inode, is_folder, data, durable):
                node = self.nodes[inode] = Node(is_folder, bytearray(data))
                node.kept_data = data if durable else b""
            case Name(folder, name, inode, durable):
                self.nodes[folder].names[name] = inode
                if durable:
                    self.nodes[folder].kept_names[name] = inode
            case Unname(folder, name):
                del self.nodes[folder].names[name]
            case Write() | Resize():
                self._change(operation)
            case FsyncBegun(inode, call):
                node = self.nodes[inode]
                node.begun[call] = (bytes(node.data), dict(node.names))
            case Fsync(inode, call):
                node = self.nodes[inode]
                seen = node.begun.pop(call)
                if omit is None or not omit(operation):
                    node.kept_data, node.kept_names = seen
                    self.version += 1
            case Said():
                pass

    def _change(self, operation: Write | Resize) -> None:
        held = self.nodes[operation.inode].data
        if isinstance(operation, Write):
            held.extend(bytes(max(0, operation.offset - len(held))))
            held[operation.offset : operation.offset + len(operation.data)] = operation.data
        else:
            held.extend(bytes(max(0, operation.size - len(held))))
            del held[operation.size :]

    def files(self) -> dict[str, bytes]:
        """Path below the root -> bytes, of every file that a power cut now leaves."""
        return {path: node.kept_data for path, node in self._kept() if not node.is_folder}

    def write_to(self, into: Path) -> None:
        """Make the folder `into` as a power cut now leaves the root."""
        into.mkdir()
        for path, node in self._kept():
            if node.is_folder:
                (into / path).mkdir()
            else:
                (into / path).write_bytes(node.kept_data)

    def _kept(self) -> list[tuple[str, Node]]:
        """Everything that durable names reach, folders before what is in them."""
        found: list[tuple[str, Node]] = []
        waiting = [("", ROOT)]
        while waiting:
            prefix, inode = waiting.pop()
            for name, child in self.nodes[inode].kept_names.items():
                found.append((prefix + name, self.nodes[child]))
                if self.nodes[child].is_folder:
                    waiting.append((f"{prefix}{name}/", child))
        return found
