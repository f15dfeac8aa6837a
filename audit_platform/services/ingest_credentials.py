"""Who may send what: API keys of edges, their tenant and its devices, remembered for a short while.

Belongs here: the bearer header, the cache with its ages, what holds while metadata is down. Does
not: storing or hashing of keys (the metadata port), rights of other roles, devices themselves.
Source: design section 4; failure 21 (metadata down: last-known configuration for 5 minutes).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import MetadataUnavailable
from audit_platform.ports import ApiKey, Metadata, Role, UnknownDevices
from audit_platform.services.ingest_devices import Roster
from audit_platform.services.ingest_problems import Problem
from audit_platform.telemetry import INGEST_STALE_KEYS, Telemetry

#: A revoked key, a suspended tenant, a change of its devices or of its policy counts after this at
#: the latest; one look-up a minute and edge costs nothing.
FRESH_SECONDS: Final = 60.0

#: How long the last good answer counts while metadata does not answer (failure 21: 5 minutes).
STALE_SECONDS: Final = 300.0

#: While metadata does not answer, it is asked again only this often for one key.
RETRY_SECONDS: Final = 2.0

#: An unknown key is remembered this long, so that an edge with a wrong key costs no look-up a
#: request; short, because a key may be made right after its first use failed.
UNKNOWN_SECONDS: Final = 2.0

#: What an edge of a suspended tenant should wait before it tries again: a suspension takes days,
#: and its end counts a minute later anyway.
SUSPENDED_RETRY_SECONDS: Final = 60

#: Remembered keys, good and bad: twenty sites' edges, and no more memory than a few MB.
MAX_REMEMBERED: Final = 10_000

#: RFC 6750's token68; a longer one is none of ours, and hashing it would be free work for anyone.
_BEARER: Final = re.compile(rb"bearer +([A-Za-z0-9._~+/-]{1,256}=*)", re.IGNORECASE)

_REMEDY: Final = "send `Authorization: Bearer <API key>` with a key that an operator made for it"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a body. With a `roster`, events of other devices than its own are refused."""

    key: ApiKey
    is_suspended: bool
    roster: Roster | None

    @property
    def tenant_id(self) -> str:
        """Whose events it sends."""
        return self.key.tenant_id


@dataclass(slots=True)
class _Known:
    """What metadata said last about one key. Times are monotonic seconds."""

    sender: Sender | None
    confirmed: float
    ask_again: float


class Credentials:
    """Admits requests. Used from one event loop only; look-ups run in a thread of their own."""

    def __init__(
        self,
        metadata: Metadata,
        telemetry: Telemetry,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metadata = metadata
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._known: dict[bytes, _Known] = {}
        # The last roster of each tenant that has one: 10 MB for 100,000 devices.
        self._rosters: dict[str, Roster] = {}
        # One thread: a slow metadata store must not take the threads that handle bodies.
        self._thread = ThreadPoolExecutor(1, "credentials")
        self._asking = asyncio.Lock()

    async def admit(self, authorization: bytes) -> Sender:
        """The edge that an `Authorization` header names (b"" when there is none).

        Raises `Problem` 401, 403, or 503 when metadata is down and the key is not remembered.
        """
        match = _BEARER.fullmatch(authorization)
        if match is None:
            raise _unauthenticated("the request has no bearer token")
        secret = match[1]
        # Remembered by digest: a copy of this process's memory should hold no list of secrets.
        name = hashlib.sha256(secret).digest()
        known = self._known.get(name)
        if known is None or self._monotonic() >= known.ask_again:
            async with self._asking:
                known = self._known.get(name)  # another request may have asked meanwhile
                if known is None or self._monotonic() >= known.ask_again:
                    known = await self._ask(name, secret.decode("ascii"), known)
        sender = known.sender
        if sender is None:
            raise _unauthenticated("the API key is unknown or revoked")
        if sender.key.role is not Role.EDGE:
            raise Problem(
                "forbidden",
                f"key {sender.key.key_id} has the role {sender.key.role}, not {Role.EDGE}",
                remedy="make a key with the role edge for this gateway",
            )
        if sender.is_suspended:
            raise Problem(
                "tenant_suspended",
                f"the tenant {sender.tenant_id} is suspended; nothing is acknowledged",
                remedy="keep everything in the spool and send it again once the tenant goes on",
                retry_after_seconds=SUSPENDED_RETRY_SECONDS,
            )
        return sender

    async def _ask(self, name: bytes, secret: str, known: _Known | None) -> _Known:
        loop = asyncio.get_running_loop()
        try:
            sender = await loop.run_in_executor(self._thread, self._look_up, secret)
        except MetadataUnavailable as e:
            now = self._monotonic()
            if known is None or known.sender is None or now - known.confirmed > STALE_SECONDS:
                raise Problem(
                    "metadata_unavailable",
                    e.reason,
                    remedy="send the same body again later",
                    retry_after_seconds=e.retry_after_seconds,
                ) from e
            self._telemetry.count(INGEST_STALE_KEYS)
            known.ask_again = min(now + RETRY_SECONDS, known.confirmed + STALE_SECONDS)
            return known
        now = self._monotonic()
        fresh = _Known(sender, now, now + (UNKNOWN_SECONDS if sender is None else FRESH_SECONDS))
        if name not in self._known and len(self._known) >= MAX_REMEMBERED:
            self._forget()
        self._known[name] = fresh
        return fresh

    def _look_up(self, secret: str) -> Sender | None:
        """What metadata says of a secret's owner. Runs in the look-up thread."""
        key = self._metadata.api_key_of(secret)
        if key is None:
            return None
        tenant = self._metadata.tenant(key.tenant_id)
        if tenant.unknown_devices is UnknownDevices.ACCEPT:
            return Sender(key, tenant.suspended, None)
        roster = self._rosters.get(tenant.tenant_id)
        if roster is None or roster.changes != tenant.device_changes:
            # The tenant was read first: devices changed since then only make us read them again.
            devices = self._metadata.devices(tenant.tenant_id)
            roster = self._rosters[tenant.tenant_id] = Roster.of(tenant.device_changes, devices)
        return Sender(key, tenant.suspended, roster)

    def _forget(self) -> None:
        """Make room: unknown keys first, and if there are none, the one confirmed longest ago."""
        unknown = [name for name, known in self._known.items() if known.sender is None]
        for name in unknown or [min(self._known, key=lambda n: self._known[n].confirmed)]:
            del self._known[name]

    def close(self) -> None:
        """Stop the look-up thread. Idempotent."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _unauthenticated(detail: str) -> Problem:
    return Problem(
        "unauthenticated", detail, remedy=_REMEDY, headers=((b"www-authenticate", b"Bearer"),)
    )
