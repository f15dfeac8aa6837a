"""Who may send: API keys of edges, looked up in metadata and remembered for a short while.

Belongs here: the bearer header, the cache with its ages, what holds while metadata is down. Does
not: storing or hashing of keys (the metadata port), rights of other roles.
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
from audit_platform.ports import ApiKey, Metadata, Role
from audit_platform.services.ingest_problems import Problem
from audit_platform.telemetry import INGEST_STALE_KEYS, Telemetry

#: A revoked key is refused after this at the latest; one look-up a minute and edge costs nothing.
FRESH_SECONDS: Final = 60.0

#: How long the last good answer counts while metadata does not answer (failure 21: 5 minutes).
STALE_SECONDS: Final = 300.0

#: While metadata does not answer, it is asked again only this often for one key.
RETRY_SECONDS: Final = 2.0

#: An unknown key is remembered this long, so that an edge with a wrong key costs no look-up a
#: request; short, because a key may be made right after its first use failed.
UNKNOWN_SECONDS: Final = 2.0

#: Remembered keys, good and bad: twenty sites' edges, and no more memory than a few MB.
MAX_REMEMBERED: Final = 10_000

#: RFC 6750's token68; a longer one is none of ours, and hashing it would be free work for anyone.
_BEARER: Final = re.compile(rb"bearer +([A-Za-z0-9._~+/-]{1,256}=*)", re.IGNORECASE)

_REMEDY: Final = "send `Authorization: Bearer <API key>` with a key that an operator made for it"


@dataclass(slots=True)
class _Known:
    """What metadata said last about one key. Times are monotonic seconds."""

    key: ApiKey | None
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
        # One thread: a slow metadata store must not take the threads that handle bodies.
        self._thread = ThreadPoolExecutor(1, "credentials")
        self._asking = asyncio.Lock()

    async def admit(self, authorization: bytes) -> ApiKey:
        """The edge's key that an `Authorization` header names (b"" when there is none).

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
        if known.key is None:
            raise _unauthenticated("the API key is unknown or revoked")
        if known.key.role is not Role.EDGE:
            raise Problem(
                "forbidden",
                f"key {known.key.key_id} has the role {known.key.role}, not {Role.EDGE}",
                remedy="make a key with the role edge for this gateway",
            )
        return known.key

    async def _ask(self, name: bytes, secret: str, known: _Known | None) -> _Known:
        loop = asyncio.get_running_loop()
        try:
            key = await loop.run_in_executor(self._thread, self._metadata.api_key_of, secret)
        except MetadataUnavailable as e:
            now = self._monotonic()
            if known is None or known.key is None or now - known.confirmed > STALE_SECONDS:
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
        fresh = _Known(key, now, now + (UNKNOWN_SECONDS if key is None else FRESH_SECONDS))
        if name not in self._known and len(self._known) >= MAX_REMEMBERED:
            self._forget()
        self._known[name] = fresh
        return fresh

    def _forget(self) -> None:
        """Make room: unknown keys first, and if there are none, the one confirmed longest ago."""
        unknown = [name for name, known in self._known.items() if known.key is None]
        for name in unknown or [min(self._known, key=lambda n: self._known[n].confirmed)]:
            del self._known[name]

    def close(self) -> None:
        """Stop the look-up thread. Idempotent."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _unauthenticated(detail: str) -> Problem:
    return Problem(
        "unauthenticated", detail, remedy=_REMEDY, headers=((b"www-authenticate", b"Bearer"),)
    )
