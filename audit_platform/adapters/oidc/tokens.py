"""Bearer tokens: whom a signed token speaks for, and why it is not believed.

Belongs here: what is demanded of a token, in numbered steps. Does not: where keys come from
(`provider_keys.py`), what a role may do (services).
Source: RFC 7519 (JWT), RFC 8725 (best practices), RFC 9068 (access tokens); failure 23.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt

from audit_platform.adapters.oidc.provider_keys import ALGORITHMS, ProviderKeys
from audit_platform.errors import AccessDenied, SettingInvalid
from audit_platform.ports import Caller, Role
from audit_platform.record.layout import TENANT_PATTERN

#: Clocks of the provider and of this machine may differ by this much.
LEEWAY_SECONDS: Final = 30.0

#: A token cannot be taken back; one that lasts longer than a day was not made for this.
MAX_LIFE_SECONDS: Final = 86_400.0

#: A provider's token with a few claims has 1 kB; one with hundreds of groups has 8.
MAX_TOKEN_BYTES: Final = 8192

#: RFC 7519 leaves it open; what is longer does not name a person. It goes on record.
MAX_SUBJECT_CHARACTERS: Final = 256

MAX_KID_CHARACTERS: Final = 256

#: Roles that a token can give. Not break-glass: that is for when the provider is away.
ROLES: Final = frozenset(Role) - {Role.BREAK_GLASS}

_REMEDY: Final = "sign in again, or use an API key"


class OidcTokens:
    """`ports.Tokens` by the keys of one provider."""

    def __init__(
        self,
        keys: ProviderKeys,
        issuer: str,
        audience: str,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._now = now

    def close(self) -> None:
        """Stop asking the provider. Idempotent."""
        self._keys.close()

    def check(self, token: str) -> Caller:
        """See `ports.Tokens`."""
        # 1. It is short, and its header is one of ours.
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused(f"it has more than {MAX_TOKEN_BYTES} characters")
        kid = _key_id(token)
        # 2. The provider has that key; what else the header says about keys is not looked at.
        key = self._keys.get(kid)
        if key is None:
            raise _refused("the provider has no key with its key id")
        # 3. Signature by that very key, with the one algorithm that the key is for.
        # 4. Issuer and audience; all claims that we need are there.
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                options={
                    "require": ["exp", "iat", "iss", "aud", "sub"],
                    # By our own clock, which a test can set; step 5.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError) as e:
            raise _refused(str(e)[:200]) from e
        # 5. It is good now.
        self._demand_now(claims)
        # 6. It names one person, one tenant, one role.
        subject = _subject(claims)
        digest = hashlib.sha256(f"{self._issuer}\n{subject}".encode()).hexdigest()
        return Caller(digest[:16], _tenant(claims), _role(claims), subject)

    def _demand_now(self, claims: dict[str, Any]) -> None:
        now = self._now()
        issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
        if expires <= now - LEEWAY_SECONDS:
            raise _refused("it has expired")
        if expires - issued > MAX_LIFE_SECONDS:
            raise _refused(f"it lasts longer than {MAX_LIFE_SECONDS:.0f} s")
        begins = max(issued, _seconds(claims, "nbf")) if "nbf" in claims else issued
        if begins > now + LEEWAY_SECONDS:
            raise _refused("it is not good yet")


def open_oidc(issuer: str, audience: str, *, ca_file: Path | None = None) -> OidcTokens:
    """Tokens of a provider. It need not answer yet; `close` when done.

    Raises `SettingInvalid` for one that answers and will never do.
    """
    keys = ProviderKeys(issuer, ca_file=ca_file)
    try:
        keys.check()
    except SettingInvalid:
        keys.close()
        raise
    return OidcTokens(keys, issuer, audience)


def _refused(why: str) -> AccessDenied:
    return AccessDenied(f"the token is not good: {why}", remedy=_REMEDY)


def _key_id(token: str) -> str:
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as e:
        raise _refused("it is no signed token") from e
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise _refused(f"its algorithm is not one of {', '.join(sorted(ALGORITHMS))}")
    kid = header.get("kid")
    if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID_CHARACTERS:
        raise _refused("it names no key")
    return kid


def _seconds(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refused(f"its {name} is no time")
    return float(value)


def _subject(claims: dict[str, Any]) -> str:
    value = claims["sub"]
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_SUBJECT_CHARACTERS:
        raise _refused("its subject is not 1 to 256 characters")
    if not value.isascii() or not value.isprintable():
        raise _refused("its subject has other characters than ASCII's printable ones")
    return value


def _tenant(claims: dict[str, Any]) -> str:
    value = claims.get("tenant")
    if not isinstance(value, str) or not TENANT_PATTERN.fullmatch(value):
        raise _refused("it has no claim `tenant` with a tenant's id")
    return value


def _role(claims: dict[str, Any]) -> Role:
    value = claims.get("roles")
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        raise _refused("it has no claim `roles`")
    ours = [role for role in ROLES if role.value in given]
    if len(ours) != 1:  # with two nobody could tell which one an act was done in
        raise _refused("its claim `roles` must name exactly one role of the platform")
    return ours[0]
