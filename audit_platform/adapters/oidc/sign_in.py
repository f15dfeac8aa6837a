"""Signing a person in: the authorization-code flow with PKCE against the provider.

Belongs here: where to send the browser, what its code is worth. Does not: sessions, what a token
says (`tokens.py`). Source: OpenID Connect Core 1.0, section 3.1; RFC 7636.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import orjson
import urllib3

from audit_platform.errors import AccessDenied, TokensUnavailable
from audit_platform.ports import Begun

#: A provider that is there answers within a second.
_SECONDS: Final = 5.0
_MAX_ANSWER_BYTES: Final = 65_536
_OK: Final = 200

_REMEDY: Final = "sign in again; if it stays so, look at the provider and AUDIT_OIDC_CLIENT"


class OidcSignIn:
    """`ports.SignIn` as one client of one provider."""

    def __init__(
        self, issuer: str, client: str, secret: str, back: str, *, ca_file: Path | None = None
    ) -> None:
        self._issuer = issuer.rstrip("/")
        self._client, self._secret, self._back = client, secret, back
        self._pool = urllib3.PoolManager(
            retries=False,
            timeout=_SECONDS,
            ca_certs=None if ca_file is None else str(ca_file),
        )

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._pool.clear()

    def begin(self) -> Begun:
        """Raises `TokensUnavailable` while the provider does not answer."""
        endpoint = self._endpoint("authorization_endpoint")
        state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
        digest = hashlib.sha256(verifier.encode()).digest()
        asked = {
            "client_id": self._client,
            "redirect_uri": self._back,
            "response_type": "code",
            "scope": "openid",
            "state": state,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        joint = "&" if urlsplit(endpoint).query else "?"
        return Begun(f"{endpoint}{joint}{urlencode(asked)}", state, verifier)

    def token(self, code: str, verifier: str) -> str:
        """The access token that a code is worth. Raises `AccessDenied`, `TokensUnavailable`."""
        answer = self._ask(
            "POST",
            self._endpoint("token_endpoint"),
            headers=urllib3.make_headers(basic_auth=f"{self._client}:{self._secret}"),
            fields={
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._back,
                "code_verifier": verifier,
            },
            encode_multipart=False,
        )
        token = answer.get("access_token")
        if not isinstance(token, str):
            raise AccessDenied(
                f"the provider gives no token: {str(answer.get('error'))[:100]}", remedy=_REMEDY
            )
        return token

    def _endpoint(self, name: str) -> str:
        found = self._ask("GET", f"{self._issuer}/.well-known/openid-configuration").get(name)
        scheme = urlsplit(self._issuer).scheme
        # No step down from TLS.
        if not isinstance(found, str) or urlsplit(found).scheme not in {"https", scheme}:
            raise TokensUnavailable(
                f"{self._issuer} names no good {name}: {str(found)[:100]}", remedy=_REMEDY
            )
        return found

    def _ask(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        try:
            answer = self._pool.request(method, url, redirect=False, **more)
            value = orjson.loads(answer.data[:_MAX_ANSWER_BYTES])
        except (urllib3.exceptions.HTTPError, ValueError) as e:
            raise TokensUnavailable(
                f"{self._issuer}: {type(e).__name__}: {e}", remedy=_REMEDY
            ) from e
        if not isinstance(value, dict) or (answer.status != _OK and "error" not in value):
            raise TokensUnavailable(f"{url} is answered with {answer.status}", remedy=_REMEDY)
        return value
