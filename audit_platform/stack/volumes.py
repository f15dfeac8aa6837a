"""Bounded data volumes: a server's folder on a tmpfs of a stated size, which can be filled at once.

Belongs here: mounting, filling, emptying. Does not: which server has one (`state.Shape.volumes`).

Filled means: the volume is made as small as what lies on it. That costs no memory, takes no time,
and each write finds no space, as on a full disk.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError

#: A volume of 0 bytes would mean one without a bound.
_LEAST_BYTES: Final = 4096

#: A server may write between the look and the change; then the volume cannot become so small.
_TRIES: Final = 20


def mount(folder: Path, mebibytes: int) -> None:
    """Put a bounded volume under the folder, if there is none. Raises `StackError` without root."""
    if folder.is_mount():
        return
    if os.geteuid() != 0:
        raise StackError(
            f"{folder.name} cannot have a bounded volume: mounting needs root",
            remedy="run as root, or leave --volume away",
        )
    if any(folder.iterdir()):
        raise StackError(
            f"{folder.name} has data already, which a bounded volume would hide",
            remedy="audit-platform stack wipe, then up with --volume",
        )
    _call("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=755", "tmpfs", str(folder))


def unmount(folder: Path) -> None:
    """Take it away with what lies on it. Nothing happens where there is none."""
    if folder.is_mount():
        # Lazily: a process that is dying, or one that measures free space, may be in it for another
        # moment. It is gone for all who come now, and its memory goes with the last one inside.
        _call("umount", "--lazy", str(folder))


def fill(folder: Path) -> None:
    """Leave no free byte on the volume. Raises `StackError` where there is none."""
    if not folder.is_mount():
        raise StackError(
            f"{folder.name} has no bounded volume to fill",
            remedy=f"audit-platform stack wipe, then as root: up --volume {folder.name}=512",
        )
    for attempt in range(_TRIES):
        found = os.statvfs(folder)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        try:
            _call("mount", "-o", f"remount,size={max(used, _LEAST_BYTES)}", str(folder))
        except StackError:
            if attempt == _TRIES - 1:
                raise
        else:
            return


def empty(folder: Path, mebibytes: int) -> None:
    """Give a filled volume its stated size back. Raises `StackError` where there is none."""
    if not folder.is_mount():
        raise StackError(f"{folder.name} has no bounded volume", remedy="nothing to do")
    _call("mount", "-o", f"remount,size={mebibytes}m", str(folder))


def _call(*command: str) -> None:
    done = subprocess.run(  # noqa: S603 - mount and umount with a folder of ours
        command, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StackError(
            f"{' '.join(command)} failed: {done.stderr.strip()}",
            remedy="look at `mount` and the kernel's log",
        )
