"""The commit pattern: claim a small record by put-if-absent, adopt the winner's when we lose.

Belongs here: how a claim is made and read back, and how long records stay locked. Does not: what
the records say (`record/`), which data objects they name (services, `seal.py`).
Source: design section 2 (one commit pattern) and section 5 (locks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from audit_platform.errors import ObjectExists, StoreUnavailable
from audit_platform.ports import Objects
from audit_platform.record.layout import MS_PER_DAY

#: Records are locked for two years at once; 731 days hold any two calendar years.
RECORD_LOCK_MS: Final = 731 * MS_PER_DAY


@dataclass(frozen=True, slots=True)
class Claimed:
    """The record that counts under a key: which version, its body, and whether it is as offered."""

    key: str
    version_id: str
    data: bytes
    ours: bool


def lock_until(now_ms: int, lock_ms: int) -> int:
    """End of a lock of `lock_ms` from now, as a whole second: some stores keep no fractions."""
    return -(-(now_ms + lock_ms) // 1000) * 1000


def claim(objects: Objects, key: str, data: bytes, now_ms: int) -> Claimed:
    """Claim `key` with `data`; returns the oldest version, whoever wrote it.

    Durable on return. Safe to repeat: the same bytes win again. Raises `StoreUnavailable`: the
    claim may or may not stand, the next call tells.
    """
    try:
        put = objects.put(
            key, data, retain_until_ms=lock_until(now_ms, RECORD_LOCK_MS), if_absent=True
        )
    except ObjectExists:
        put = None
    winner = read_claim(objects, key)
    if winner is None:
        raise StoreUnavailable(f"{key} was claimed and cannot be read", remedy="try again")
    ours = winner.data == data or (put is not None and put.version_id == winner.version_id)
    return Claimed(key, winner.version_id, winner.data, ours)


def read_claim(objects: Objects, key: str) -> Claimed | None:
    """The record that counts under `key`, or None. `ours` is False: nothing was offered."""
    oldest = objects.oldest(key)
    if oldest is None:
        return None
    return Claimed(key, oldest.version_id, objects.get(key, oldest.version_id), ours=False)
