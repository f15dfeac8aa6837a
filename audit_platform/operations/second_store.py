"""Two stores that must hold the same evidence: what one lacks is copied from the other.

Belongs here: comparing and copying, version by version, locks included. Does not: which store the
platform writes to, the new log generation of a fail-over (`generations.py`).
Source: issue of the stack ("primary back: both hold the same hash sets, locks read back on both").

A copy has another version id: stores give their own. What is equal in both is, for each key, the
set of SHA-256 of its bodies, and how long each is locked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final

from audit_platform.errors import RecordMalformed, StoreUnavailable
from audit_platform.ports import Objects, ObjectVersion
from audit_platform.record import layout

#: Everything that the platform keeps; other folders of the bucket are not its own.
FOLDERS: Final = tuple(
    f"{name}/"
    for name in (
        layout.COLD,
        layout.DECISIONS,
        layout.HOLDS,
        layout.INCIDENTS,
        layout.LANDING,
        layout.QUARANTINE,
        layout.VERIFIED,
    )
)


@dataclass(slots=True)
class Copied:
    """What one walk found and did.

    `other` are keys whose oldest body differs in the two stores: each store goes by its own, so a
    person must look. `damaged` are versions whose bytes are not those of their digest: not copied.
    """

    keys: int = 0
    bodies: int = 0
    copied: int = 0
    lengthened: int = 0
    other: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def copy_missing(
    source: Objects,
    target: Objects,
    *,
    after_key: str = "",
    tell: Callable[[str], None] = lambda _key: None,
) -> Copied:
    """Give `target` every body of `source` that it lacks, locked as long; lengthen shorter locks.

    Durable and read back for each key when `tell` is called with it: `after_key` with the last one
    goes on there. Safe to repeat and to run while services write. In memory: one body. Raises
    `StoreUnavailable` of either store.
    """
    done = Copied()
    for folder in FOLDERS:
        rows = (v for v in source.versions(folder, after_key=after_key) if not v.is_delete_marker)
        for key, versions in groupby(rows, key=attrgetter("key")):
            _copy_key(source, target, key, list(versions), done)
            tell(key)
    return done


def _copy_key(
    source: Objects, target: Objects, key: str, versions: list[ObjectVersion], done: Copied
) -> None:
    held = [v for v in target.versions(key) if not v.is_delete_marker]
    by_digest = {v.sha256: v for v in reversed(held)}
    if held and held[0].sha256 != versions[0].sha256:
        done.other.append(key)
    done.keys += 1
    for version in versions:
        done.bodies += 1
        same = by_digest.get(version.sha256)
        if same is None:
            same = _copy(source, target, version, done)
            if same is None:
                continue
            by_digest[version.sha256] = same
        elif same.retain_until_ms < version.retain_until_ms:
            target.extend(key, same.version_id, version.retain_until_ms)
            done.lengthened += 1
        _read_back(target, same, version)


def _copy(
    source: Objects, target: Objects, version: ObjectVersion, done: Copied
) -> ObjectVersion | None:
    try:
        data = source.get(version.key, version.version_id)
    except RecordMalformed:
        data = None
    if data is None or hashlib.sha256(data).hexdigest() != version.sha256:
        done.damaged.append(f"{version.key} {version.version_id}")
        return None
    done.copied += 1
    return target.put(version.key, data, retain_until_ms=version.retain_until_ms, if_absent=False)


def _read_back(target: Objects, copy: ObjectVersion, wanted: ObjectVersion) -> None:
    found = target.head(copy.key, copy.version_id)
    if found.sha256 != wanted.sha256 or found.retain_until_ms < wanted.retain_until_ms:
        raise StoreUnavailable(
            f"the copy of {copy.key} reads back with another digest or a shorter lock",
            remedy="look at the store that was copied to: audit-platform store certify",
        )
