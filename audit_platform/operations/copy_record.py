"""The record as plain files, for who trusts nobody: every key's oldest version in a folder.

The folder is what `fsck` and the independent checker read (`cold/v1/...`), from any store. Belongs
here: copying. Does not: what the copy proves (`record/fsck.py`), a second store with locks
(`second_store.py`).
Source: design section 5 (the oldest version counts) and 6 (an outsider's copy).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit_platform.errors import RecordMalformed
from audit_platform.operations.second_store import FOLDERS
from audit_platform.ports import Objects, ObjectVersion

#: What has not become a key's file yet. A name with a dot is no key.
_DRAFT: Final = ".copying"


@dataclass(slots=True)
class CopiedRecord:
    """What one walk did. `keys` = `copied` + those that were there already + `other`.

    `other` are keys whose file was there with other bytes: left as it is. `damaged` are keys whose
    body is not that of its digest: copied as it is, for fsck to name what is wrong with it.
    """

    keys: int = 0
    copied: int = 0
    copied_bytes: int = 0
    other: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def copy_record(
    objects: Objects, folder: Path, *, tell: Callable[[str], None] = lambda _key: None
) -> CopiedRecord:
    """Give `folder` each key's oldest version that has a body; `tell` is called with every key.

    Safe to repeat and to run while services write: a file is there whole or not at all, and one
    that is there is compared, never replaced. In memory: one body. Raises `StoreUnavailable`,
    `OSError` of the folder.
    """
    done = CopiedRecord()
    for prefix in FOLDERS:
        last = ""
        for version in objects.versions(prefix):
            if version.is_delete_marker or version.key == last:
                continue
            last = version.key
            done.keys += 1
            _copy(objects, version, folder, done)
            tell(version.key)
    return done


def _copy(objects: Objects, version: ObjectVersion, folder: Path, done: CopiedRecord) -> None:
    file = folder / version.key
    try:
        there = hashlib.sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        pass
    else:
        if there != version.sha256:
            done.other.append(version.key)
        return
    try:
        data = objects.get(version.key, version.version_id)
    except RecordMalformed:  # the store itself sees that the bytes are others
        with objects.open(version.key, version.version_id) as opened:
            data = opened.read()
    if hashlib.sha256(data).hexdigest() != version.sha256:
        done.damaged.append(version.key)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}{_DRAFT}-{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(file)
    done.copied += 1
    done.copied_bytes += len(data)
