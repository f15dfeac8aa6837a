"""What ingest-gateway and query-api share of telling who calls: the bearer header, a short memory.

Belongs here: reading the header, remembering what metadata said of one name, tokens checked beside
the event loop, the hours of a break-glass key. Does not: who may do what, the answers to those who
may not (`ingest_credentials.py`, `query_access.py`).
Source: RFC 6750 (bearer tokens); failures 21 (metadata down: last-known configuration for 5
minutes) and 23 (provider down: good tokens stay good).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from audit_platform.errors import AccessDenied, MetadataUnavailable
from audit_platform.ports import ApiKey, Caller, Role, Tokens

_Found = TypeVar("_Found")

#: A revoked key, a suspended tenant, a change of its devices or of its policy counts after this at
#: the latest; one look-up a minute and edge costs nothing.
FRESH_SECONDS: Final = 60.0

#: How long the last good answer counts while metadata does not answer (failure 21: 5 minutes).
STALE_SECONDS: Final = 300.0

#: While metadata does not answer, it is asked again only this often for one name.
RETRY_SECONDS: Final = 2.0

#: An unknown key is remembered this long, so that an edge with a wrong key costs no look-up a
#: request; short, because a key may be made right after its first use failed.
UNKNOWN_SECONDS: Final = 2.0

#: Remembered names, good and bad: twenty sites' edges, and no more memory than a few MB.
MAX_REMEMBERED: Final = 10_000

#: A break-glass key is for the hours of one incident; whoever needs more makes another.
BREAK_GLASS_MS: Final = 4 * 3600 * 1000

#: Tokens are checked in these threads: 0.1 ms each, but seconds where a key is asked for first.
_TOKEN_THREADS: Final = 4

#: RFC 6750's token68. Longer ones are refused before anything is made of them: `adapters/oidc`
#: takes 8 KiB, an API key has 63 characters.
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]{1,8192}=*)", re.IGNORECASE)

#: Nothing longer is looked up as an API key: hashing it would be free work for anyone.
_MAX_KEY_CHARACTERS: Final = 256


def bearer_of(authorization: str) -> str:
    """The bearer token of an `Authorization` header, or ""."""
    match = _BEARER.fullmatch(authorization)
    return match[1] if match else ""


def is_token(bearer: str) -> bool:
    """Whether it is meant as a provider's token: three parts with dots. No API key has one."""
    return "." in bearer


def is_key(bearer: str) -> bool:
    """Whether it can be an API key at all."""
    return 0 < len(bearer) <= _MAX_KEY_CHARACTERS


def caller_of(key: ApiKey, now_ms: int) -> Caller | None:
    """Who calls by a good API key; None by a break-glass key whose hours are over."""
    if key.role is Role.BREAK_GLASS and now_ms - key.created_ms >= BREAK_GLASS_MS:
        return None
    return Caller(key.key_id, key.tenant_id, key.role)


class TokenCheck:
    """Checks tokens beside the event loop. Without a provider no token is good."""

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens
        self._threads = ThreadPoolExecutor(_TOKEN_THREADS, "tokens")

    async def caller(self, token: str) -> Caller:
        """Whom it speaks for. Raises `AccessDenied`, `TokensUnavailable`."""
        if self._tokens is None:
            raise AccessDenied("no tokens are taken here", remedy="use an API key")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._tokens.check, token)

    def close(self) -> None:
        """Stop the threads. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Known(Generic[_Found]):
    """What metadata said last of one name. Times are monotonic seconds."""

    found: _Found | None
    confirmed: float
    ask_again: float


class Remembered(Generic[_Found]):
    """Answers of metadata to one question about many names, kept for a short while.

    Used from one event loop; look-ups run in a thread of their own. `look_up` answers None for an
    unknown name; `on_stale` is called where an old answer stands in for metadata.
    """

    def __init__(
        self,
        look_up: Callable[[str], _Found | None],
        on_stale: Callable[[], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up = look_up
        self._on_stale = on_stale
        self._monotonic = monotonic
        self._known: dict[bytes, _Known[_Found]] = {}
        # One thread: a slow metadata store must not take the threads that handle bodies.
        self._thread = ThreadPoolExecutor(1, "metadata")
        self._asking = asyncio.Lock()

    async def find(self, name: str) -> _Found | None:
        """What metadata says of a name, or said a moment ago.

        Raises `MetadataUnavailable` when it does not answer and the name is not remembered.
        """
        # Remembered by digest: a copy of this process's memory should hold no list of secrets.
        digest = hashlib.sha256(name.encode()).digest()
        known = self._fresh(digest)
        if known is None:
            async with self._asking:
                # Another request may have asked meanwhile.
                known = self._fresh(digest) or await self._ask(digest, name)
        return known.found

    def _fresh(self, digest: bytes) -> _Known[_Found] | None:
        known = self._known.get(digest)
        return known if known is not None and self._monotonic() < known.ask_again else None

    async def _ask(self, digest: bytes, name: str) -> _Known[_Found]:
        loop = asyncio.get_running_loop()
        known = self._known.get(digest)
        try:
            found = await loop.run_in_executor(self._thread, self._look_up, name)
        except MetadataUnavailable:
            now = self._monotonic()
            if known is None or known.found is None or now - known.confirmed > STALE_SECONDS:
                raise
            self._on_stale()
            known.ask_again = min(now + RETRY_SECONDS, known.confirmed + STALE_SECONDS)
            return known
        now = self._monotonic()
        fresh = _Known(found, now, now + (UNKNOWN_SECONDS if found is None else FRESH_SECONDS))
        if digest not in self._known and len(self._known) >= MAX_REMEMBERED:
            self._forget()
        self._known[digest] = fresh
        return fresh

    def _forget(self) -> None:
        """Make room: unknown names first, and if there are none, the one confirmed longest ago."""
        unknown = [name for name, known in self._known.items() if known.found is None]
        for name in unknown or [min(self._known, key=lambda n: self._known[n].confirmed)]:
            del self._known[name]

    def close(self) -> None:
        """Stop the look-up thread. Idempotent."""
        self._thread.shutdown(wait=False, cancel_futures=True)
