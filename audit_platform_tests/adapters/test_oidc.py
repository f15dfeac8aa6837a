"""Bearer tokens: what is believed, and every way to be fooled that is known.

A provider of our own stands in where the real one does not do such things: bad keys, garbage,
silence. The real one is in `test_row_23_oidc_outage.py`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.oidc.provider_keys import (
    ASK_SECONDS,
    FRESH_SECONDS,
    MAX_ANSWER_BYTES,
    STALE_SECONDS,
    ProviderKeys,
)
from audit_platform.adapters.oidc.tokens import (
    LEEWAY_SECONDS,
    MAX_LIFE_SECONDS,
    MAX_TOKEN_BYTES,
    OidcTokens,
)
from audit_platform.errors import AccessDenied, TokensUnavailable
from audit_platform.ports import Caller, Role

NOW = 1_795_529_667.0
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
SHORT_RSA = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it must be refused
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def listed(algorithm: str, key: Any, kid: str, **more: str) -> dict[str, Any]:
    value = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**value, "kid": kid, "use": "sig", **more}


KEYS = [
    listed("RS256", RSA, "rsa"),
    listed("ES256", EC, "ec"),
    listed("EdDSA", ED, "ed"),
    # What a provider may list beside, and what none should.
    listed("RS256", OTHER_RSA, "for-encryption") | {"use": "enc"},
    listed("RS256", SHORT_RSA, "short"),
    {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(b"s" * 32).decode()},
    {"kty": "RSA", "kid": "broken", "n": "AQAB", "e": "!"},
    {"kty": "EC", "crv": "P-256K", "kid": "unknown-curve"},
    "no key",
    {"kty": "RSA"},
    {"kty": ["RSA"], "kid": "list", "use": ["sig"]},
]


@dataclass
class Provider:
    """A provider whose answers the test chooses."""

    issuer: str = ""
    keys: Any = field(default_factory=lambda: list(KEYS))
    said: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    status: int = 200
    asked: int = 0

    def answer(self, path: str) -> tuple[int, bytes]:
        if path.startswith("/.well-known"):
            return 200, json.dumps(
                {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks"} | self.said
            ).encode()
        self.asked += 1
        body = json.dumps({"keys": self.keys}).encode() if self.raw is None else self.raw
        return self.status, body


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[ThreadingHTTPServer, list[Provider]]]:
    chosen: list[Provider] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = chosen[-1].answer(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield http, chosen
    http.shutdown()
    http.server_close()
    thread.join()


@dataclass
class Gate:
    """Tokens checked at a time that the test sets."""

    provider: Provider
    now: float = NOW
    monotonic: float = 1000.0

    def __post_init__(self) -> None:
        self.issuer = self.provider.issuer
        keys = ProviderKeys(self.issuer, monotonic=lambda: self.monotonic)
        self.tokens = OidcTokens(keys, self.issuer, "audit-platform", now=lambda: self.now)

    def claims(self, **more: Any) -> dict[str, Any]:
        good = {
            "iss": self.issuer,
            "aud": "audit-platform",
            "sub": "doctor@hospital-a",
            "iat": int(NOW),
            "exp": int(NOW) + 900,
            "tenant": "hospital-a",
            "roles": ["investigator"],
        }
        return {k: v for k, v in (good | more).items() if v is not None}

    def token(self, key: Any = RSA, algorithm: str = "RS256", kid: str = "rsa", **more: Any) -> str:
        headers = {"kid": kid, **more.pop("headers", {})}
        return jwt.encode(self.claims(**more), key, algorithm, headers=headers)

    def refused(self, token: str) -> str:
        with pytest.raises(AccessDenied) as caught:
            self.tokens.check(token)
        assert caught.value.remedy
        return caught.value.reason


@pytest.fixture
def gate(server: tuple[ThreadingHTTPServer, list[Provider]]) -> Iterator[Gate]:
    http, chosen = server
    chosen.append(Provider(f"http://127.0.0.1:{http.server_address[1]}"))
    made = Gate(chosen[-1])
    yield made
    made.tokens.close()


# -------------------------------------------------------------------------------- what is believed


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")]
)
def test_a_good_token_names_who_of_which_tenant_in_which_role(
    gate: Gate, key: Any, algorithm: str, kid: str
) -> None:
    digest = hashlib.sha256(f"{gate.issuer}\ndoctor@hospital-a".encode()).hexdigest()
    wanted = Caller(digest[:16], "hospital-a", Role.INVESTIGATOR, "doctor@hospital-a")
    assert gate.tokens.check(gate.token(key, algorithm, kid)) == wanted


def test_roles_of_other_programs_beside_ours_do_no_harm(gate: Gate) -> None:
    token = gate.token(roles=["offline_access", "auditor", "break_glass", 7])
    assert gate.tokens.check(token).role is Role.AUDITOR
    assert gate.tokens.check(gate.token(roles="operator")).role is Role.OPERATOR


def test_an_audience_among_others_is_ours(gate: Gate) -> None:
    assert gate.tokens.check(gate.token(aud=["other", "audit-platform"])).tenant_id == "hospital-a"


# ------------------------------------------------------------------------------------ what is not


def changed(token: str, **header: Any) -> str:
    """The same token with another header, its signature kept."""
    _, payload, signature = token.split(".")
    text = json.dumps(header).encode()
    return f"{base64.urlsafe_b64encode(text).rstrip(b'=').decode()}.{payload}.{signature}"


def signed_by_public_key(token: str, kid: str) -> str:
    """HS256 with what everybody has: the provider's public key."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = changed(token, alg="HS256", typ="JWT", kid=kid).rpartition(".")[0]
    mac = hmac.digest(pem, head.encode(), "sha256")
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_a_token_without_a_signature_is_refused(gate: Gate) -> None:
    bare = jwt.encode(gate.claims(), "", "none", headers={"kid": "rsa"})
    assert "algorithm" in gate.refused(bare)
    for name in ("none", "None", "NONE", "nOnE", "", None, 7, ["RS256"]):
        gate.refused(changed(gate.token(), alg=name, kid="rsa"))


def test_a_public_key_is_no_shared_secret(gate: Gate) -> None:
    assert "algorithm" in gate.refused(signed_by_public_key(gate.token(), "rsa"))
    shared = jwt.encode(gate.claims(), b"s" * 32, "HS256", headers={"kid": "shared"})
    assert "algorithm" in gate.refused(shared)


def test_a_key_is_good_for_its_own_algorithm_only(gate: Gate) -> None:
    gate.refused(gate.token(EC, "ES256", "rsa"))
    gate.refused(gate.token(RSA, "RS256", "ec"))
    assert "algorithm" in gate.refused(gate.token(RSA, "PS256", "rsa"))
    assert "algorithm" in gate.refused(gate.token(RSA, "RS512", "rsa"))


@pytest.mark.parametrize(
    "kid", ["nobody", "for-encryption", "short", "shared", "broken", "", "../../etc/passwd"]
)
def test_a_key_that_is_not_the_providers_or_not_for_this_signs_nothing(
    gate: Gate, kid: str
) -> None:
    key = {"for-encryption": OTHER_RSA, "short": SHORT_RSA}.get(kid, RSA)
    with pytest.warns() if kid == "short" else nullcontext():
        token = gate.token(key, kid=kid)
    assert "key" in gate.refused(token)


def test_a_header_cannot_bring_its_own_key(gate: Gate) -> None:
    own = listed("RS256", OTHER_RSA, "rsa")
    brought = {"jwk": own, "jku": f"{gate.issuer}/evil", "x5u": f"{gate.issuer}/evil", "x5c": []}
    asked = gate.provider.asked
    gate.refused(gate.token(OTHER_RSA, headers=brought))
    gate.refused(gate.token(OTHER_RSA, kid="brought", headers=brought))
    assert gate.provider.asked <= asked + 1
    gate.refused(gate.token(headers={"crit": ["exp"]}))  # what we do not know is demanded of us


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"iss": "http://127.0.0.1:1"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"aud": "other"}, "Audience"),
        ({"aud": None}, "aud"),
        ({"aud": []}, "aud"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "subject"),
        ({"sub": "a" * 257}, "subject"),
        ({"sub": "a\nb"}, "subject"),
        ({"sub": "doctor\u202e"}, "subject"),
        ({"exp": None}, "exp"),
        ({"iat": None}, "iat"),
        ({"exp": True}, "exp"),
        ({"tenant": None}, "tenant"),
        ({"tenant": "Hospital A"}, "tenant"),
        ({"tenant": ["hospital-a"]}, "tenant"),
        ({"tenant": "hospital-a\n"}, "tenant"),
        ({"roles": None}, "roles"),
        ({"roles": []}, "roles"),
        ({"roles": ["nobody"]}, "roles"),
        ({"roles": ["investigator", "auditor"]}, "roles"),
        ({"roles": {"investigator": True}}, "roles"),
        ({"roles": ["break_glass"]}, "roles"),
        ({"exp": int(NOW) + int(MAX_LIFE_SECONDS) + 1}, "longer"),
    ],
)
def test_a_token_with_a_claim_that_is_wrong_or_missing_is_refused(
    gate: Gate, claims: dict[str, Any], said: str
) -> None:
    assert said in gate.refused(gate.token(**claims))


def test_a_claim_that_is_no_number_is_no_time(gate: Gate) -> None:
    values: tuple[Any, ...] = ("soon", [], 1e400)
    for value in values:
        claims = gate.claims(exp=value)
        token = jwt.api_jws.encode(
            json.dumps(claims).encode(), RSA, "RS256", headers={"kid": "rsa", "typ": "JWT"}
        )
        assert "exp" in gate.refused(token)


def test_a_token_is_good_from_its_time_on_until_it_expires_give_or_take_the_leeway(
    gate: Gate,
) -> None:
    token = gate.token(nbf=int(NOW) + 100)
    for at, good in (
        (NOW + 100 - LEEWAY_SECONDS - 1, False),
        (NOW + 100 - LEEWAY_SECONDS, True),
        (NOW + 900 + LEEWAY_SECONDS - 1, True),
        (NOW + 900 + LEEWAY_SECONDS, False),
    ):
        gate.now = at
        if good:
            assert gate.tokens.check(token).role is Role.INVESTIGATOR
        else:
            gate.refused(token)


def test_a_token_from_the_future_is_not_good_yet(gate: Gate) -> None:
    token = gate.token(iat=int(NOW) + 60, exp=int(NOW) + 900)
    assert "yet" in gate.refused(token)


def test_a_changed_token_is_refused(gate: Gate) -> None:
    head, payload, signature = gate.token().split(".")
    more = gate.token(tenant="hospital-b").split(".")[1]
    for token in (f"{head}.{more}.{signature}", f"{head}.{payload}.", f"{head}.{payload}", head):
        gate.refused(token)


def test_a_huge_token_is_refused_before_anything_is_made_of_it(gate: Gate) -> None:
    asked = gate.provider.asked
    assert str(MAX_TOKEN_BYTES) in gate.refused(gate.token(more="x" * MAX_TOKEN_BYTES))
    assert gate.provider.asked == asked


@given(st.one_of(st.text(max_size=300), st.text("eyJhbGciOi.-_AQ=", max_size=300)))
def test_any_other_text_is_refused_and_nothing_worse(text: str) -> None:
    tokens = OidcTokens(ProviderKeys("http://127.0.0.1:1"), "http://127.0.0.1:1", "audit-platform")
    with pytest.raises((AccessDenied, TokensUnavailable)):
        tokens.check(text)


def test_a_deeply_nested_header_is_refused(gate: Gate) -> None:
    text = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    gate.refused(f"{text}.e30.e30")


# -------------------------------------------------------------------------------------- the keys


def test_keys_are_asked_for_once_and_used_for_many_tokens(gate: Gate) -> None:
    for _ in range(20):
        gate.tokens.check(gate.token())
    assert gate.provider.asked == 1


def test_a_new_key_of_the_provider_is_found_at_its_first_token(gate: Gate) -> None:
    gate.tokens.check(gate.token())
    gate.provider.keys = [*KEYS, listed("RS256", OTHER_RSA, "next")]
    gate.monotonic += ASK_SECONDS
    assert gate.tokens.check(gate.token(OTHER_RSA, kid="next")).tenant_id == "hospital-a"
    assert gate.tokens.check(gate.token()).tenant_id == "hospital-a"


def test_tokens_with_unknown_keys_do_not_make_us_ask_without_end(gate: Gate) -> None:
    for n in range(50):
        gate.refused(gate.token(kid=f"made-up-{n}"))
    assert gate.provider.asked == 1
    gate.monotonic += ASK_SECONDS
    gate.refused(gate.token(kid="made-up"))
    assert gate.provider.asked == 2


def until(gate: Gate, holds: Callable[[], bool]) -> None:
    """Wait for the question that is under way, which nobody else waits for."""
    asking = gate.tokens._keys._asking
    assert asking is not None
    asking.result(30)
    assert holds()


def test_a_key_that_the_provider_takes_back_is_believed_no_more_after_ten_minutes(
    gate: Gate,
) -> None:
    token = gate.token()
    gate.tokens.check(token)
    gate.provider.keys = KEYS[1:]
    gate.monotonic += FRESH_SECONDS
    gate.tokens.check(token)  # this one makes us ask, and does not wait
    until(gate, lambda: gate.provider.asked == 2)
    gate.monotonic += ASK_SECONDS
    gate.refused(token)


@pytest.mark.parametrize(
    "trouble",
    [
        {"raw": b"<html>"},
        {"raw": b"[]"},
        {"raw": b"{}"},
        {"raw": b'{"keys":{}}'},
        {"raw": b'{"keys":[]}'},
        {"raw": b"[" * 100_000},
        {"raw": b'{"keys":[' + b" " * MAX_ANSWER_BYTES + b"]}"},
        {"keys": [KEYS[0]] * 101},
        {"keys": KEYS[3:]},
        {"status": 500},
        {"status": 302},
        {"said": {"issuer": "http://somebody.else"}},
        {"said": {"jwks_uri": "file:///etc/passwd"}},
        {"said": {"jwks_uri": 7}},
        {"said": {"jwks_uri": "http://127.0.0.1:1/jwks"}},
    ],
)
def test_a_provider_that_answers_garbage_changes_nothing_and_is_named(
    gate: Gate, trouble: dict[str, Any]
) -> None:
    gate.tokens.check(gate.token())
    for name, value in trouble.items():
        setattr(gate.provider, name, value)
    gate.monotonic += ASK_SECONDS
    with pytest.raises(TokensUnavailable) as caught:
        gate.tokens.check(gate.token(kid="next"))
    assert gate.issuer in caught.value.reason
    assert gate.tokens.check(gate.token()).tenant_id == "hospital-a"


def test_keys_that_could_not_be_confirmed_for_a_day_are_believed_no_more(gate: Gate) -> None:
    gate.tokens.check(gate.token())
    gate.provider.status = 500
    gate.monotonic += STALE_SECONDS - 1
    assert gate.tokens.check(gate.token()).subject
    until(gate, lambda: gate.provider.asked == 2)
    gate.monotonic += ASK_SECONDS
    with pytest.raises(TokensUnavailable):
        gate.tokens.check(gate.token())


def test_a_provider_with_tls_may_not_send_us_to_keys_without() -> None:
    from audit_platform.adapters.oidc.provider_keys import _as_safe  # noqa: PLC0415 - one rule

    assert _as_safe("https://keys.example/jwks", "https://login.example")
    assert not _as_safe("http://login.example/jwks", "https://login.example")
    assert _as_safe("http://127.0.0.1:1/jwks", "http://127.0.0.1:1")
    assert not _as_safe("https:///jwks", "https://login.example")
