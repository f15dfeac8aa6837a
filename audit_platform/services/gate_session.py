"""Who is signed in: a sealed cookie, good for an hour, worthless after a restart.

Belongs here: sealing and opening what a cookie carries. Does not: signing in
(`adapters/oidc/sign_in.py`), what a person may do (`gate.py`).
Source: RFC 6265; RFC 2104.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final

import orjson

#: After it the person is sent to the provider again, who need not ask them: who may not work here
#: any more is out within it.
SESSION_SECONDS: Final = 3600.0

#: From the first page to the end of the sign-in: a password and a second factor take minutes.
SIGN_IN_SECONDS: Final = 600.0


class Sealer:
    """Seals small values by a key of this process, each for one purpose and a time."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._key = secrets.token_bytes(32)
        self._now = now

    def seal(self, purpose: str, value: Mapping[str, str], seconds: float) -> str:
        """The value as text for a cookie."""
        data = orjson.dumps([purpose, self._now() + seconds, dict(value)])
        text = base64.urlsafe_b64encode(data).decode().rstrip("=")
        return f"{text}.{self._mark(text)}"

    def open(self, purpose: str, sealed: str) -> dict[str, str] | None:
        """What was sealed, or None for anything that was not, for another purpose, or too old."""
        text, _, mark = sealed.partition(".")
        if not hmac.compare_digest(mark.encode(), self._mark(text).encode()):
            return None
        given, until, value = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if given != purpose or until <= self._now():
            return None
        return {str(k): str(v) for k, v in value.items()}

    def _mark(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def cookie_of(header: str, name: str) -> str:
    """A cookie's value out of a `Cookie` header, or ""."""
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def set_cookie(name: str, value: str, *, path: str, seconds: float, secure: bool) -> str:
    """A `Set-Cookie` header that no script reads and no other site's form sends."""
    parts = [f"{name}={value}", f"Path={path}", f"Max-Age={int(seconds)}"]
    parts += ["HttpOnly", "SameSite=Lax", *(["Secure"] if secure else [])]
    return "; ".join(parts)
