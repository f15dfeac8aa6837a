"""Who may send what: an edge by its API key or its token, its tenant and that tenant's devices.

Belongs here: admitting a sender, and what is remembered of its tenant. Does not: the bearer header
and the memory (`callers.py`), storing or hashing of keys (the metadata port), rights of other
roles, devices themselves.
Source: design section 4; failure 21 (metadata down: last-known configuration for 5 minutes).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from audit_platform.errors import (
    AccessDenied,
    MetadataUnavailable,
    Recoverable,
    TenantUnknown,
    TokensUnavailable,
)
from audit_platform.metrics.ingest import INGEST_STALE_KEYS
from audit_platform.ports import Caller, Clock, Metadata, Role, Tokens, UnknownDevices
from audit_platform.services.callers import (
    Remembered,
    TokenCheck,
    bearer_of,
    caller_of,
    is_key,
    is_token,
)
from audit_platform.services.ingest_devices import Roster
from audit_platform.services.ingest_problems import Problem
from audit_platform.telemetry import Telemetry

#: What an edge of a suspended tenant should wait before it tries again: a suspension takes days,
#: and its end counts a minute later anyway.
SUSPENDED_RETRY_SECONDS: Final = 60

_REMEDY: Final = "send `Authorization: Bearer <API key>` with a key that an operator made for it"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a body. With a `roster`, events of other devices than its own are refused."""

    caller: Caller
    is_suspended: bool
    roster: Roster | None

    @property
    def tenant_id(self) -> str:
        """Whose events it sends."""
        return self.caller.tenant_id


class Credentials:
    """Admits requests. Used from one event loop only; look-ups run in threads of their own."""

    def __init__(
        self,
        metadata: Metadata,
        clock: Clock,
        telemetry: Telemetry,
        *,
        tokens: Tokens | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metadata = metadata
        self._clock = clock
        self._tokens = TokenCheck(tokens)
        stale = partial(telemetry.count, INGEST_STALE_KEYS)
        self._keys = Remembered(self._sender_by_key, stale, monotonic=monotonic)
        self._tenants = Remembered(self._tenant, stale, monotonic=monotonic)
        # The last roster of each tenant that has one: 10 MB for 100,000 devices.
        self._rosters: dict[str, Roster] = {}

    async def admit(self, authorization: bytes) -> Sender:
        """The edge that an `Authorization` header names (b"" when there is none).

        Raises `Problem` 401, 403, or 503 when metadata is down and the key is not remembered, or
        the provider is down and the token's key is not.
        """
        bearer = bearer_of(authorization.decode("latin-1"))
        if not bearer:
            raise _unauthenticated("the request has no bearer token")
        try:
            sender = await (self._by_token if is_token(bearer) else self._by_key)(bearer)
        except AccessDenied as e:
            raise _unauthenticated(e.reason) from e
        except MetadataUnavailable as e:
            raise _unavailable("metadata_unavailable", e) from e
        except TokensUnavailable as e:
            raise _unavailable("tokens_unavailable", e) from e
        if sender.caller.role is not Role.EDGE:
            who = f"token of {sender.caller.subject}" if sender.caller.subject else "key"
            raise Problem(
                "forbidden",
                f"{who} {sender.caller.key_id} has the role {sender.caller.role}, not {Role.EDGE}",
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

    async def _by_key(self, secret: str) -> Sender:
        sender = await self._keys.find(secret) if is_key(secret) else None
        if sender is None:
            raise AccessDenied("the API key is unknown or revoked")
        return sender

    async def _by_token(self, token: str) -> Sender:
        caller = await self._tokens.caller(token)
        tenant = await self._tenants.find(caller.tenant_id)
        if tenant is None:
            raise AccessDenied("the token names a tenant that is not there")
        is_suspended, roster = tenant
        return Sender(caller, is_suspended, roster)

    def _sender_by_key(self, secret: str) -> Sender | None:
        """What metadata says of a secret's owner. Runs in the look-up thread."""
        key = self._metadata.api_key_of(secret)
        caller = caller_of(key, self._clock.now_ms()) if key else None
        tenant = self._tenant(caller.tenant_id) if caller else None
        return Sender(caller, *tenant) if caller and tenant else None

    def _tenant(self, tenant_id: str) -> tuple[bool, Roster | None] | None:
        """(is suspended, roster), or None for an unknown tenant. Runs in a look-up thread."""
        try:
            tenant = self._metadata.tenant(tenant_id)
        except TenantUnknown:
            return None
        if tenant.unknown_devices is UnknownDevices.ACCEPT:
            return tenant.suspended, None
        roster = self._rosters.get(tenant.tenant_id)
        if roster is None or roster.changes != tenant.device_changes:
            # The tenant was read first: devices changed since then only make us read them again.
            devices = self._metadata.devices(tenant.tenant_id)
            roster = self._rosters[tenant.tenant_id] = Roster.of(tenant.device_changes, devices)
        return tenant.suspended, roster

    def close(self) -> None:
        """Stop all threads. Idempotent."""
        self._keys.close()
        self._tenants.close()
        self._tokens.close()


def _unauthenticated(detail: str) -> Problem:
    return Problem(
        "unauthenticated", detail, remedy=_REMEDY, headers=((b"www-authenticate", b"Bearer"),)
    )


def _unavailable(slug: str, error: Recoverable) -> Problem:
    return Problem(
        slug,
        error.reason,
        remedy="send the same body again later",
        retry_after_seconds=error.retry_after_seconds,
    )
