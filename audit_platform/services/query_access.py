"""Who may ask what: one table of routes and roles, and the check of every request against it.

Add a route to `RULES` when the app gets one: the app does not start with a route that is not here.
Belongs here: the table, who asks. Does not: the bearer header and the memory of keys
(`callers.py`), storing keys (the metadata port), what a route does.
Source: issue "One machine, whole" (access); design section 8 (reserved tenant); failure 21.

A tenant that is suspended keeps its readers: suspension stops new events, not an inquiry. Another
tenant's name is answered as one that does not exist, so no key tells which tenants there are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from audit_platform.errors import (
    AccessDenied,
    MetadataUnavailable,
    Recoverable,
    TokensUnavailable,
)
from audit_platform.metrics.query import BREAK_GLASS_USED, QUERY_STALE_KEYS
from audit_platform.ports import Caller, Clock, Metadata, Role, Tokens
from audit_platform.record.layout import PLATFORM_TENANT
from audit_platform.services.callers import (
    Remembered,
    TokenCheck,
    bearer_of,
    caller_of,
    is_key,
    is_token,
)
from audit_platform.services.query_problems import QueryProblem
from audit_platform.telemetry import Telemetry

_logger: Final = logging.getLogger(__name__)

ANY_ROLE: Final = frozenset(Role)
READERS: Final = frozenset({Role.INVESTIGATOR, Role.OPERATOR, Role.AUDITOR})
EVIDENCE: Final = frozenset({Role.INVESTIGATOR, Role.AUDITOR})
OVERSIGHT: Final = frozenset({Role.OPERATOR, Role.AUDITOR})

OPERATORS: Final = frozenset({Role.OPERATOR})

#: The path of every route -> the roles that may ask; None: no key is needed. All are GET but those
#: of `DECIDING`.
RULES: Final[dict[str, frozenset[Role] | None]] = {
    "/v1/tenants/{tenant}/events": READERS,
    "/v1/tenants/{tenant}/events/{event}": READERS,
    "/v1/tenants/{tenant}/devices/{device}/timeline": READERS,
    "/v1/tenants/{tenant}/export": EVIDENCE,
    "/v1/tenants/{tenant}/quarantine": READERS,
    "/v1/tenants/{tenant}/quarantine/{entry}": READERS,
    "/v1/tenants/{tenant}/dlq": READERS,
    "/v1/tenants/{tenant}/dlq/proposals": OPERATORS,
    "/v1/tenants/{tenant}/dlq/proposals/{proposal}": READERS,
    "/v1/tenants/{tenant}/dlq/proposals/{proposal}/approve": OPERATORS,
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

#: Routes that decide something: POST.
DECIDING: Final = frozenset(
    {
        "/v1/tenants/{tenant}/dlq/proposals",
        "/v1/tenants/{tenant}/dlq/proposals/{proposal}/approve",
    }
)

#: Who may read what the platform itself has said, with a credential of the tenant `platform`.
PLATFORM_READERS: Final = OVERSIGHT

#: What a break-glass key may ask of the tenant `platform`, and of no other: all that its operators
#: may.
BREAK_GLASS_AS: Final = Role.OPERATOR

_REMEDY: Final = (
    "send `Authorization: Bearer <API key>` with a key that an operator made for you, or a token"
)


def roles_of(path: str, tenant_id: str) -> frozenset[Role]:
    """Roles of a tenant's keys that may ask a route. Empty for none, every role where open."""
    roles = RULES[path]
    if roles is None:
        return ANY_ROLE
    if "{tenant}" in path and tenant_id == PLATFORM_TENANT:
        roles &= PLATFORM_READERS
        return roles | {Role.BREAK_GLASS} if BREAK_GLASS_AS in roles else roles
    return roles


def judge(path: str, asked_tenant: str | None, caller: Caller) -> None:
    """Let a caller ask a route about a tenant (None: the route is about none), or raise.

    Raises `QueryProblem` `not_found` for another tenant, `forbidden` for a role without the right.
    """
    if asked_tenant is not None and asked_tenant != caller.tenant_id:
        raise QueryProblem(
            "not_found",
            "there is no such tenant for this caller",
            remedy="ask for the tenant that /v1/whoami names",
        )
    roles = roles_of(path, caller.tenant_id)
    if caller.role not in roles:
        wanted = " or ".join(sorted(roles)) or "(none has the right)"
        raise QueryProblem(
            "forbidden",
            f"{caller.subject or 'key'} {caller.key_id} has the role {caller.role}",
            remedy=f"use a key or a token with the role {wanted}",
        )


class Keyring:
    """Finds who asks. Used from one event loop; look-ups run in threads of their own.

    Remembered as ingest-gateway remembers senders: a revoked key is refused after `FRESH_SECONDS`
    at the latest, and a known one is good for `STALE_SECONDS` while metadata does not answer.
    """

    def __init__(
        self,
        metadata: Metadata,
        clock: Clock,
        telemetry: Telemetry,
        *,
        tokens: Tokens | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._tokens = TokenCheck(tokens)
        self._keys = Remembered(
            metadata.api_key_of,
            partial(telemetry.count, QUERY_STALE_KEYS),
            monotonic=monotonic,
        )

    async def caller_of(self, authorization: str) -> Caller:
        """Who an `Authorization` header names ("" when there is none).

        Raises `QueryProblem` 401, or 503 when metadata is down and the key is not remembered, or
        the provider is down and the token's key is not.
        """
        bearer = bearer_of(authorization)
        if not bearer:
            raise _unauthenticated("the request has no bearer token")
        try:
            if is_token(bearer):
                return await self._tokens.caller(bearer)
            key = await self._keys.find(bearer) if is_key(bearer) else None
        except AccessDenied as e:
            raise _unauthenticated(e.reason) from e
        except MetadataUnavailable as e:
            raise _unavailable("metadata_unavailable", e) from e
        except TokensUnavailable as e:
            raise _unavailable("tokens_unavailable", e) from e
        caller = caller_of(key, self._clock.now_ms()) if key else None
        if caller is None:
            raise _unauthenticated("the API key is unknown or revoked, or its hours are over")
        if caller.role is Role.BREAK_GLASS:
            self._telemetry.count(BREAK_GLASS_USED)
            _logger.error("a break-glass key is used", extra={"key_id": caller.key_id})
        return caller

    def close(self) -> None:
        """Stop all threads. Idempotent."""
        self._keys.close()
        self._tokens.close()


def _unauthenticated(detail: str) -> QueryProblem:
    return QueryProblem("unauthenticated", detail, remedy=_REMEDY)


def _unavailable(slug: str, error: Recoverable) -> QueryProblem:
    return QueryProblem(
        slug,
        error.reason,
        remedy="ask again later",
        retry_after_seconds=error.retry_after_seconds,
    )
