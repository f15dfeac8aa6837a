"""Who may ask what: one table of routes and roles, and the check of every request against it.

Add a route to `RULES` when the app gets one: the app does not start with a route that is not here.
Belongs here: the table, the bearer header, keys remembered for a short while. Does not: storing
keys (the metadata port), what a route does.
Source: issue "One machine, whole" (access); design section 8 (reserved tenant); failure 21.

A tenant that is suspended keeps its readers: suspension stops new events, not an inquiry. Another
tenant's name is answered as one that does not exist, so no key tells which tenants there are.
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
from audit_platform.record.layout import PLATFORM_TENANT
from audit_platform.services.ingest_credentials import (
    FRESH_SECONDS,
    MAX_REMEMBERED,
    RETRY_SECONDS,
    STALE_SECONDS,
    UNKNOWN_SECONDS,
)
from audit_platform.services.query_problems import QueryProblem
from audit_platform.telemetry import QUERY_STALE_KEYS, Telemetry

ANY_ROLE: Final = frozenset(Role)
READERS: Final = frozenset({Role.INVESTIGATOR, Role.OPERATOR, Role.AUDITOR})
EVIDENCE: Final = frozenset({Role.INVESTIGATOR, Role.AUDITOR})
OVERSIGHT: Final = frozenset({Role.OPERATOR, Role.AUDITOR})

#: The path of every route (all are GET) -> the roles that may ask; None: no key is needed.
RULES: Final[dict[str, frozenset[Role] | None]] = {
    "/v1/tenants/{tenant}/events": READERS,
    "/v1/tenants/{tenant}/events/{event}": READERS,
    "/v1/tenants/{tenant}/devices/{device}/timeline": READERS,
    "/v1/tenants/{tenant}/export": EVIDENCE,
    "/v1/tenants/{tenant}/quarantine": READERS,
    "/v1/tenants/{tenant}/quarantine/{entry}": READERS,
    "/v1/tenants/{tenant}/manifests": EVIDENCE,
    "/v1/tenants/{tenant}/manifests/{number}": EVIDENCE,
    "/v1/tenants/{tenant}/reads": OVERSIGHT,
    "/v1/keys": ANY_ROLE,
    "/v1/whoami": ANY_ROLE,
    "/healthz": None,
    "/readyz": None,
    "/metrics": None,
    "/openapi.json": None,
}

#: Who may read what the platform itself has said, with a key of the tenant `platform`.
PLATFORM_READERS: Final = OVERSIGHT

#: RFC 6750's token68; a longer one is none of ours, and hashing it would be free work for anyone.
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]{1,256}=*)", re.IGNORECASE)

_REMEDY: Final = "send `Authorization: Bearer <API key>` with a key that an operator made for you"


def roles_of(path: str, tenant_id: str) -> frozenset[Role]:
    """Roles of a tenant's keys that may ask a route. Empty for none, every role where open."""
    roles = RULES[path]
    if roles is None:
        return ANY_ROLE
    if "{tenant}" in path and tenant_id == PLATFORM_TENANT:
        return roles & PLATFORM_READERS
    return roles


def judge(path: str, asked_tenant: str | None, key: ApiKey) -> None:
    """Let a key ask a route about a tenant (None: the route is about none), or raise.

    Raises `QueryProblem` `not_found` for another tenant, `forbidden` for a role without the right.
    """
    if asked_tenant is not None and asked_tenant != key.tenant_id:
        raise QueryProblem(
            "not_found",
            "there is no such tenant for this key",
            remedy="ask for the tenant that /v1/whoami names",
        )
    roles = roles_of(path, key.tenant_id)
    if key.role not in roles:
        wanted = " or ".join(sorted(roles)) or "(none has the right)"
        raise QueryProblem(
            "forbidden",
            f"key {key.key_id} has the role {key.role}",
            remedy=f"use a key with the role {wanted}",
        )


@dataclass(slots=True)
class _Known:
    """What metadata said last about one key. Times are monotonic seconds."""

    key: ApiKey | None
    confirmed: float
    ask_again: float


class Keyring:
    """Finds the key of a request. Used from one event loop; look-ups run in a thread of their own.

    Remembered as ingest-gateway remembers senders: a revoked key is refused after `FRESH_SECONDS`
    at the latest, and a known one is good for `STALE_SECONDS` while metadata does not answer.
    """

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
        self._thread = ThreadPoolExecutor(1, "credentials")
        self._asking = asyncio.Lock()

    async def key_of(self, authorization: str) -> ApiKey:
        """The key that an `Authorization` header names ("" when there is none).

        Raises `QueryProblem` 401, or 503 when metadata is down and the key is not remembered.
        """
        match = _BEARER.fullmatch(authorization)
        if match is None:
            raise QueryProblem("unauthenticated", "the request has no bearer token", remedy=_REMEDY)
        secret = match[1]
        # Remembered by digest: a copy of this process's memory should hold no list of secrets.
        name = hashlib.sha256(secret.encode("ascii")).digest()
        known = self._fresh(name)
        if known is None:
            async with self._asking:
                # Another request may have asked meanwhile.
                known = self._fresh(name) or await self._ask(name, secret)
        if known.key is None:
            raise QueryProblem(
                "unauthenticated", "the API key is unknown or revoked", remedy=_REMEDY
            )
        return known.key

    def _fresh(self, name: bytes) -> _Known | None:
        known = self._known.get(name)
        return known if known is not None and self._monotonic() < known.ask_again else None

    async def _ask(self, name: bytes, secret: str) -> _Known:
        loop = asyncio.get_running_loop()
        known = self._known.get(name)
        try:
            key = await loop.run_in_executor(self._thread, self._metadata.api_key_of, secret)
        except MetadataUnavailable as e:
            now = self._monotonic()
            if known is None or known.key is None or now - known.confirmed > STALE_SECONDS:
                raise QueryProblem(
                    "metadata_unavailable",
                    e.reason,
                    remedy="ask again later",
                    retry_after_seconds=e.retry_after_seconds,
                ) from e
            self._telemetry.count(QUERY_STALE_KEYS)
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
