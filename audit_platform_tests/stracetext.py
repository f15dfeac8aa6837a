"""strace's text (`-f -yy -xx`) as system calls: when each began, when it returned, by whom.

Belongs here: the form of the lines. Does not: what a call does to files (`straceparse.py`).
Source: strace(1). With `-xx` every string is hex, so commas and quotes always divide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_UNFINISHED = "<unfinished ...>"
_BEGUN = re.compile(r"(\w+)\((.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?).*")
_FD = re.compile(r"(-?\d+|AT_FDCWD)(?:<((?:->|<[^>]*>|[^>])*)>)?(?:\(deleted\))?")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


class NotUnderstoodError(Exception):
    """A line of strace that this code cannot follow."""


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass(frozen=True, slots=True)
class Fd:
    """A descriptor argument; `where` is its path, or words for a socket or a pipe; -1: the cwd."""

    number: int
    where: str

    @property
    def is_path(self) -> bool:
        """Whether it is something in the file system."""
        return self.where.startswith("/")


def descriptors(args: str) -> Iterator[Fd]:
    """Everything in an argument list that looks like a descriptor."""
    for found in _FD.finditer(args):
        annotation = found[2] or ""
        path = annotation.partition("<")[0]  # a device has its numbers behind the path
        where = _unhex(path).decode() if path.startswith("\\x") else annotation
        yield Fd(-1 if found[1] == "AT_FDCWD" else int(found[1]), where)


def strings(args: str) -> list[bytes]:
    """The strings in an argument list. Raises when strace has cut one."""
    found = _STRING.findall(args)
    if any(cut for _, cut in found):
        raise NotUnderstoodError(f"a string longer than strace's limit: {args[:80]}")
    return [_unhex(body) for body, _ in found]


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. `number` is its own; `result` is None while it is under way."""

    number: int
    pid: int
    name: str
    args: str
    result: int | None

    @property
    def parts(self) -> list[str]:
        """Arguments one by one."""
        return self.args.split(", ")

    @property
    def fd(self) -> Fd:
        """The first argument, a descriptor."""
        found = next(descriptors(self.parts[0]), None)
        if found is None:
            raise NotUnderstoodError(f"{self.name}({self.args[:200]})")
        return found

    @property
    def data(self) -> bytes:
        """All strings, joined; of a call that has returned, as much as it took."""
        return b"".join(strings(self.args))[: self.result]


def read(lines: Iterable[str]) -> Iterator[tuple[bool, Call]]:
    """(whether it has returned, call): every call when it begins and when it returns.

    Calls that failed do not return, and do not begin either when strace knew it at once.
    """
    under_way: dict[int, Call] = {}
    for number, line in enumerate(lines):
        found = _LINE.fullmatch(line.rstrip("\n"))
        if found is None:
            raise NotUnderstoodError(line[:200])
        pid, text = int(found[1]), found[2]
        if text.startswith(("+++", "---")):
            continue
        if text.endswith(_UNFINISHED):
            begun = _BEGUN.fullmatch(text.removesuffix(_UNFINISHED).rstrip())
            if begun is None:
                raise NotUnderstoodError(text[:200])
            under_way[pid] = Call(number, pid, begun[1], begun[2], None)
            yield False, under_way[pid]
            continue
        resumed = _RESUMED.fullmatch(text)
        earlier = under_way.pop(pid) if resumed is not None else None
        if resumed is not None and earlier is not None:
            text = f"{earlier.name}({earlier.args}{resumed[1]}"
        whole = _CALL.fullmatch(text)
        if whole is None:
            raise NotUnderstoodError(text[:200])
        if whole[3] == "?" or int(whole[3]) < 0:
            continue
        call = Call(number, pid, whole[1], whole[2], int(whole[3]))
        if earlier is None:
            yield False, call
        else:
            call = replace(call, number=earlier.number)
        yield True, call


def parents(calls: Iterable[tuple[bool, Call]]) -> dict[int, tuple[int, bool]]:
    """Thread or process -> (who started it, whether they share their descriptors)."""
    return {
        call.result: (call.pid, "CLONE_FILES" in call.args)
        for has_returned, call in calls
        if has_returned and call.result and call.name in ("clone", "clone3", "fork", "vfork")
    }
