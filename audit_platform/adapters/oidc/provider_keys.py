"""The public keys of an OIDC provider: asked for, remembered, asked again; never waited for twice.

Belongs here: discovery and key set, what is taken from them, how often they are asked for. Does
not: tokens (`tokens.py`). Source: OpenID Connect Discovery 1.0, RFC 7517 (JWK), RFC 7518.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import orjson
import urllib3
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from audit_platform.adapters.certificates import WANTED, disbelief
from audit_platform.errors import SettingInvalid, TokensUnavailable

_log: Final = logging.getLogger(__name__)

#: Signatures that are taken. No HMAC: who checks could sign. No `none`.
ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})

#: A key that the provider has taken back is not believed after this at the latest.
FRESH_SECONDS: Final = 600.0

#: Keys that could not be confirmed for this long are believed no more. Tokens last 15 minutes: a
#: provider that is away longer than this has none out.
STALE_SECONDS: Final = 86_400.0

#: Tokens with keys that nobody knows make us ask, but no more often than this.
ASK_SECONDS: Final = 5.0

#: A healthy provider answers in milliseconds; each of two questions may take this long.
ANSWER_SECONDS: Final = 2.0

#: How long a token with an unknown key waits for the answer.
WAIT_SECONDS: Final = 3.0

#: A provider has a handful of keys of half a kilobyte.
MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100

#: RFC 7518, 3.3. Shorter ones have been broken.
MIN_RSA_BITS: Final = 2048

_DISCOVERY: Final = "/.well-known/openid-configuration"


class OtherIssuer(ValueError):
    """The provider calls itself something else than we do: none of its tokens would be taken."""


class ProviderKeys:
    """Keys by their id. Safe from several threads; `close` ends the one of its own."""

    def __init__(
        self,
        issuer: str,
        *,
        ca_file: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer.rstrip("/")
        self._issuer_as_named = issuer
        self._monotonic = monotonic
        self._pool = urllib3.PoolManager(
            retries=False,
            timeout=urllib3.Timeout(connect=ANSWER_SECONDS, read=ANSWER_SECONDS),
            ca_certs=None if ca_file is None else str(ca_file),
        )
        self._thread = ThreadPoolExecutor(1, "oidc")
        self._changing = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._confirmed = float("-inf")
        self._asked = float("-inf")
        self._trouble = "it was not asked yet"
        self._asking: Future[None] | None = None

    def close(self) -> None:
        """Stop asking. Idempotent."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._pool.clear()

    def get(self, kid: str) -> jwt.PyJWK | None:
        """The key with that id; None when the provider says that it has none.

        A known key costs nothing, also while the provider is away. An unknown one makes us ask,
        unless we did so a moment ago. Raises `TokensUnavailable` when the provider cannot tell.
        """
        now = self._monotonic()
        known = self._keys.get(kid) if now - self._confirmed < STALE_SECONDS else None
        if known is not None:
            if now - self._confirmed >= FRESH_SECONDS:
                self._ask()  # nobody waits for it
            return known
        asking = self._ask()
        if asking is not None:
            try:
                asking.result(WAIT_SECONDS)
            except FutureTimeoutError:
                raise self._unavailable("it has not answered yet") from None
        if self._trouble:
            raise self._unavailable(self._trouble)
        return self._keys.get(kid)

    def ask_now(self) -> None:
        """Ask the provider, and keep nothing of it: is it there? Raises `TokensUnavailable`."""
        try:
            self._fetch()
        except (urllib3.exceptions.HTTPError, ValueError) as e:
            raise self._unavailable(f"{type(e).__name__}: {e}") from e

    def check(self) -> None:
        """Refuse a provider that answers and will never do; one that is away may come.

        Raises `SettingInvalid`.
        """
        try:
            self._fetch()
        except urllib3.exceptions.HTTPError as e:
            if why := disbelief(e):
                found = f"{self._issuer_as_named}: {why}"
                raise SettingInvalid("AUDIT_OIDC_ISSUER", found, WANTED) from e
        except OtherIssuer as e:
            raise SettingInvalid("AUDIT_OIDC_ISSUER", self._issuer_as_named, str(e)) from e
        except ValueError:
            pass  # it may be starting; the first token asks again

    def _unavailable(self, why: str) -> TokensUnavailable:
        return TokensUnavailable(
            f"the keys of {self._issuer_as_named} cannot be had: {why}",
            remedy="try again; an API key works meanwhile",
        )

    def _ask(self) -> Future[None] | None:
        """The question under way, begun now if it is time; None when it is too soon."""
        with self._changing:
            if self._asking is not None and not self._asking.done():
                return self._asking
            now = self._monotonic()
            if now - self._asked < ASK_SECONDS:
                return None
            self._asked = now
            self._asking = self._thread.submit(self._refresh)
            return self._asking

    def _refresh(self) -> None:
        """Replace the keys by the provider's, or keep them and remember why."""
        try:
            keys = self._fetch()
        except (urllib3.exceptions.HTTPError, ValueError) as e:
            self._trouble = f"{type(e).__name__}: {e}"
            _log.warning("%s", self._unavailable(self._trouble))
            return
        self._keys = keys
        self._confirmed = self._monotonic()
        self._trouble = ""

    def _fetch(self) -> dict[str, jwt.PyJWK]:
        """Raises `ValueError` for an answer that is not as it must be."""
        said = self._object(self._issuer + _DISCOVERY)
        if said.get("issuer") != self._issuer_as_named:
            named = str(said.get("issuer"))[:200]
            raise OtherIssuer(f"it says that it is the issuer {named!a}")
        uri = said.get("jwks_uri")
        if not isinstance(uri, str) or not _as_safe(uri, self._issuer):
            raise ValueError(f"its keys are at {str(uri)[:200]!a}")
        listed = self._object(uri).get("keys")
        if not isinstance(listed, list) or len(listed) > MAX_KEYS:
            raise ValueError(f"its keys are no list of at most {MAX_KEYS}")
        found = {}
        for value in listed:
            key = _usable(value)
            if key is not None:
                found[str(value["kid"])] = key
        if not found:
            raise ValueError("none of its keys can be used")
        return found

    def _object(self, url: str) -> dict[str, Any]:
        answer = self._pool.request("GET", url, redirect=False, preload_content=False)
        try:
            if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
                raise ValueError(f"{url} is answered with {answer.status}")
            data = answer.read(MAX_ANSWER_BYTES + 1)
        finally:
            answer.release_conn()
        if len(data) > MAX_ANSWER_BYTES:
            raise ValueError(f"{url} is answered with more than {MAX_ANSWER_BYTES} bytes")
        value = orjson.loads(data)
        if not isinstance(value, dict):
            raise ValueError(f"{url} is answered with no JSON object")  # noqa: TRY004 - a bad answer
        return value


def _as_safe(uri: str, issuer: str) -> bool:
    """Whether keys from there are as safe as the issuer itself: no step down from TLS."""
    parts = urlsplit(uri)
    return bool(parts.hostname) and parts.scheme in {"https", urlsplit(issuer).scheme}


def _usable(value: Any) -> jwt.PyJWK | None:
    """A key of a kind that we take, or None: a provider may list others beside."""
    if not isinstance(value, dict) or not isinstance(value.get("kid"), str):
        return None
    if value.get("use", "sig") != "sig" or value.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    try:
        key = jwt.PyJWK(value)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if key.algorithm_name not in ALGORITHMS:
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < MIN_RSA_BITS:
        return None
    return key
