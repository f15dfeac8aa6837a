"""Does the store's lock hold? A canary with a one-day lock is attacked with our own rights.

The exporter asks every hour, for its metric; a job every night, for its check. Belongs here: the
canary, the attempts, what each came to. Does not: other identities (the store's certification).
Source: issue "`probe_lock` (canary with a one-day lock)"; row 27.

One canary a day, whose lock is lengthened each time: services may not delete even what is not
locked any more, so nobody would clear them away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import AccessDenied, ObjectExists, ObjectLocked
from audit_platform.operations.claims import lock_until
from audit_platform.ports import Objects, ObjectVersion, Platform
from audit_platform.record import layout

CANARY: Final = b"The platform tries in vain to delete this.\n"

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

    @property
    def held(self) -> bool:
        """Every attempt went as it must."""
        return all(a.held for a in self.attempts)

    @property
    def enforced(self) -> bool:
        """The store itself refuses, whoever asks."""
        return self.lock == ENFORCED


def probe_lock(platform: Platform) -> LockProbe:
    """Have a canary that is locked for a day, attack it, read it back.

    Raises `StoreUnavailable`: nothing was found out. An attempt that succeeds is no error here: it
    is what the probe is for.
    """
    objects, now_ms = platform.objects, platform.clock.now_ms()
    until = lock_until(now_ms, layout.MS_PER_DAY)
    canary = _locked(objects, layout.lock_probe_key(layout.day_of(now_ms)), until)
    key, version_id = canary.key, canary.version_id
    attempts = (
        _lock_reads_back(objects, canary, until),
        _refused("shorten the lock", lambda: objects.extend(key, version_id, until - 3_600_000)),
        _refused("put another body in its place", lambda: _put_again(objects, key, until)),
        _refused("delete the version", lambda: objects.delete(key, version_id)),
        _body_reads_back(objects, canary),
    )
    return LockProbe(key, objects.lock, attempts)


def _locked(objects: Objects, key: str, until: int) -> ObjectVersion:
    """The canary, with at least this lock."""
    try:
        return objects.put(key, CANARY, retain_until_ms=until, if_absent=True)
    except ObjectExists:
        canary = objects.oldest(key)
    if canary is None:  # deleted, and yet not free: the attempts below say what is wrong
        return objects.put(key, CANARY, retain_until_ms=until, if_absent=False)
    if canary.retain_until_ms < until:
        return objects.extend(key, canary.version_id, until)
    return canary


def _put_again(objects: Objects, key: str, until: int) -> None:
    objects.put(key, b"another body", retain_until_ms=until, if_absent=True)


def _refused(what: str, attempt: Callable[[], object]) -> Attempt:
    """Refused for a want of rights does not count: another identity might have them."""
    try:
        attempt()
    except (ObjectLocked, ObjectExists) as e:
        return Attempt(what, held=True, detail=f"refused: {e}")
    except AccessDenied as e:
        return Attempt(what, held=False, detail=f"refused, but not for a lock: {e}")
    return Attempt(what, held=False, detail="it was done")


def _lock_reads_back(objects: Objects, canary: ObjectVersion, until: int) -> Attempt:
    seen = objects.head(canary.key, canary.version_id).retain_until_ms
    held = seen >= until
    return Attempt("read the lock back", held, f"locked until {seen}, {until} was asked for")


def _body_reads_back(objects: Objects, canary: ObjectVersion) -> Attempt:
    oldest = objects.oldest(canary.key)
    if oldest is None or oldest.version_id != canary.version_id:
        return Attempt("read the body back", held=False, detail="the version is gone")
    read = objects.get(canary.key, canary.version_id)
    same = read == CANARY
    detail = f"{len(read)} bytes, {'the very ones' if same else 'others than were put'}"
    return Attempt("read the body back", same, detail)
