"""Does the store's lock hold? A canary with a one-day lock is attacked with our own rights.

Belongs here: the canary, the attempts, what each came to. Does not: other identities (the store's
certification), metrics. Source: issue "`probe_lock` (canary with a one-day lock)"; row 27.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import AccessDenied, ObjectExists, ObjectLocked
from audit_platform.operations.claims import lock_until
from audit_platform.ports import Objects, ObjectVersion, Platform
from audit_platform.record import layout

CANARY_BYTES: Final = 4096

ENFORCED: Final = "enforced"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing that was tried; `held` when it went as it must."""

    what: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class LockProbe:
    """All attempts on one canary. `lock` is the store's own word: `enforced` or `advisory`."""

    key: str
    lock: str
    attempts: tuple[Attempt, ...]
    removed: int

    @property
    def held(self) -> bool:
        """Every attempt went as it must."""
        return all(a.held for a in self.attempts)

    @property
    def enforced(self) -> bool:
        """The store itself refuses, whoever asks."""
        return self.lock == ENFORCED


def probe_lock(platform: Platform) -> LockProbe:
    """Put a canary locked for a day, attack it, read it back; clear canaries whose day is over.

    Raises `StoreUnavailable`: nothing was found out. An attempt that succeeds is no error here: it
    is what the probe is for.
    """
    objects, now_ms = platform.objects, platform.clock.now_ms()
    body = secrets.token_bytes(CANARY_BYTES)
    until = lock_until(now_ms, layout.MS_PER_DAY)
    put = _put(objects, layout.day_of(now_ms), body, until)
    attempts = (
        _lock_reads_back(objects, put, until),
        _refused(
            "shorten the lock", lambda: objects.extend(put.key, put.version_id, until - 3_600_000)
        ),
        _refused("put another body in its place", lambda: _put_again(objects, put.key, until)),
        _refused("delete the version", lambda: objects.delete(put.key, put.version_id)),
        _body_reads_back(objects, put, body),
    )
    return LockProbe(put.key, objects.lock, attempts, _clear(objects, now_ms))


def _put(objects: Objects, day: str, body: bytes, until: int) -> ObjectVersion:
    number = 1
    while True:
        try:
            key = layout.probe_key(day, number)
            return objects.put(key, body, retain_until_ms=until, if_absent=True)
        except ObjectExists:
            number += 1


def _put_again(objects: Objects, key: str, until: int) -> None:
    objects.put(key, b"another body", retain_until_ms=until, if_absent=True)


def _refused(what: str, attempt: Callable[[], object]) -> Attempt:
    try:
        attempt()
    except (ObjectLocked, ObjectExists, AccessDenied) as e:
        return Attempt(what, held=True, detail=f"refused: {e}")
    return Attempt(what, held=False, detail="it was done")


def _lock_reads_back(objects: Objects, put: ObjectVersion, until: int) -> Attempt:
    seen = objects.head(put.key, put.version_id).retain_until_ms
    held = seen >= until
    return Attempt("read the lock back", held, f"locked until {seen}, {until} was asked for")


def _body_reads_back(objects: Objects, put: ObjectVersion, body: bytes) -> Attempt:
    oldest = objects.oldest(put.key)
    if oldest is None or oldest.version_id != put.version_id:
        return Attempt("read the body back", held=False, detail="the version is gone")
    read = objects.get(put.key, put.version_id)
    same = read == body
    detail = f"{len(read)} bytes, {'the very ones' if same else 'others than were put'}"
    return Attempt("read the body back", same, detail)


def _clear(objects: Objects, now_ms: int) -> int:
    """Remove canaries whose lock is over; who may not remove anything leaves them."""
    over = [
        v
        for v in objects.versions(f"{layout.PROBES}/")
        if v.retain_until_ms <= now_ms and not v.legal_hold
    ]
    removed = 0
    for version in over:
        try:
            objects.delete(version.key, version.version_id)
        except (ObjectLocked, AccessDenied):
            continue
        removed += 1
    return removed
