"""The OIDC provider of the stack: the npm package `oidc-provider` with a script of ours.

Belongs here: having it, its keys and test clients, asking it for a token as a client does. Does
not: what a service makes of a token (`adapters/oidc/`), what the provider is told
(`deploy/stack/oidc/provider.mjs`). Source: RFC 9068, RFC 6749.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3
from cryptography.hazmat.primitives.asymmetric import rsa

import audit_platform
from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.errors import StackError
from audit_platform.stack import authority
from audit_platform.stack.model import HOST, Place, Program, Server, Tell

#: The version in `deploy/stack/oidc/package-lock.json`, which has the checksum of every package.
VERSION: Final = "9.13.3"

AUDIENCE: Final = "audit-platform"

#: Failure 23: tokens that are out stay good for this long.
TOKEN_SECONDS: Final = 900

#: Who can get a token: client -> claims. Tenants are those that tests and the demo make.
CLIENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "investigator": {"tenant": "hospital-a", "roles": ["investigator"]},
    "operator": {"tenant": "hospital-a", "roles": ["operator"]},
    "auditor": {"tenant": "hospital-a", "roles": ["auditor"]},
    "edge": {"tenant": "hospital-a", "roles": ["edge"]},
    "other-investigator": {"tenant": "hospital-b", "roles": ["investigator"]},
    "platform-admin": {"tenant": "platform", "roles": ["operator"]},
    "no-tenant": {"roles": ["investigator"]},
    "two-roles": {"tenant": "hospital-a", "roles": ["investigator", "auditor"]},
}

#: The client by which people sign in to Dagster's pages, and where they come back to, at any port.
GATE: Final = "dagster-gate"
_GATE_BACK: Final = "http://127.0.0.1/gate/callback"

#: People who can sign in: name -> claims.
PEOPLE: Final[Mapping[str, Mapping[str, Any]]] = {
    "platform-operator": {"tenant": "platform", "roles": ["operator"]},
    "hospital-operator": {"tenant": "hospital-a", "roles": ["operator"]},
    "platform-auditor": {"tenant": "platform", "roles": ["auditor"]},
}

#: Of the provider's key; as large as RS256 asks for (RFC 7518, 3.3).
_RSA_BITS: Final = 2048

#: One answer of a healthy provider takes milliseconds.
_ANSWER_SECONDS: Final = 2.0

#: 40 small packages: 3 s; a slow line gets its time.
_INSTALL_SECONDS: Final = 300

_SOURCES: Final = ("package.json", "package-lock.json", "provider.mjs")


def servers(size: str) -> tuple[Server, ...]:
    """The provider; the same in both sizes."""
    del size
    return (OidcProvider(),)


@dataclass(frozen=True, slots=True)
class OidcProvider:
    """See `model.Server`."""

    name: str = "oidc"
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`."""
        wanted = _program_folder(cache)
        if wanted.is_dir():
            return
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            raise StackError("there is no node with npm", remedy="install Node.js 20 or newer")
        cache.mkdir(parents=True, exist_ok=True)
        files = RealFiles()
        handle = files.open(cache / "oidc-provider.lock", create=True)
        try:
            files.lock(handle)  # another process may be fetching it: then it is there afterwards
            if not wanted.is_dir():
                tell(f"oidc: fetching oidc-provider {VERSION}")
                _install(npm, cache, wanted)
        finally:
            files.close(handle)

    def prepare(self, place: Place) -> None:
        """See `model.Server`. Keys and secrets are made once; ports may change."""
        folder = place.folder(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        path = _config_file(place)
        before = json.loads(path.read_bytes()) if path.exists() else {}
        known = {c["id"]: c["secret"] for c in before.get("clients", ())}
        persons = {p["id"]: p["secret"] for p in before.get("people", ())}
        config = {
            "issuer": _issuer(place),
            "host": HOST,
            "port": place.port("oidc"),
            "audience": AUDIENCE,
            "seconds": TOKEN_SECONDS,
            "keys": before.get("keys") or [new_key()],
            "cookieSecret": before.get("cookieSecret") or secrets.token_urlsafe(32),
            "clients": [
                {"id": name, "secret": known.get(name) or secrets.token_urlsafe(24), "claims": said}
                for name, said in CLIENTS.items()
            ]
            + [
                {
                    "id": GATE,
                    "secret": known.get(GATE) or secrets.token_urlsafe(24),
                    "claims": {},
                    "back": _GATE_BACK,
                }
            ],
            "people": [
                {
                    "id": name,
                    "secret": persons.get(name) or secrets.token_urlsafe(12),
                    "claims": said,
                }
                for name, said in PEOPLE.items()
            ],
        }
        if place.tls:
            authority.prepare(place, self.name)
            files = authority.certificate_of(place, self.name)
            config["tls"] = {"cert": str(files.certificate), "key": str(files.key)}
        _write(path, config)

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        node = shutil.which("node")
        if node is None:
            raise StackError("there is no node", remedy="install Node.js 20 or newer")
        script = _program_folder(place.cache) / "provider.mjs"
        return Program((node, str(script), str(_config_file(place))), {"NODE_ENV": "production"})

    def missing(self, place: Place) -> str:
        """See `model.Server`."""
        try:
            answer = _ask(place, "GET", "/.well-known/openid-configuration")
        except urllib3.exceptions.HTTPError as e:
            return f"no answer: {type(e).__name__}"
        if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
            return f"its configuration is answered with {answer.status}"
        said = answer.json().get("issuer")
        return "" if said == _issuer(place) else f"it is the issuer {said}, not {_issuer(place)}"

    def settle(self, place: Place) -> None:
        """See `model.Server`."""

    def settings(self, place: Place) -> dict[str, str]:
        """See `model.Server`."""
        return {
            "AUDIT_OIDC_ISSUER": _issuer(place),
            "AUDIT_OIDC_AUDIENCE": AUDIENCE,
            "AUDIT_OIDC_CLIENT": GATE,
            "AUDIT_OIDC_SECRET": people(place)[0],
        }


def people(place: Place) -> tuple[str, dict[str, str]]:
    """(the gate's secret, the secret of each of `PEOPLE`)."""
    config = json.loads(_config_file(place).read_bytes())
    secret = next(c["secret"] for c in config["clients"] if c["id"] == GATE)
    return str(secret), {p["id"]: p["secret"] for p in config["people"]}


def token(place: Place, client: str) -> str:
    """A fresh access token of one of `CLIENTS`. Raises `StackError` when there is none."""
    config = json.loads(_config_file(place).read_bytes())
    secret = next(c["secret"] for c in config["clients"] if c["id"] == client)
    try:
        answer = _ask(
            place,
            "POST",
            "/token",
            headers=urllib3.make_headers(basic_auth=f"{client}:{secret}"),
            fields={"grant_type": "client_credentials"},
            encode_multipart=False,
        )
    except urllib3.exceptions.HTTPError as e:
        raise StackError(
            f"oidc does not answer: {type(e).__name__}", remedy="audit-platform stack start oidc"
        ) from e
    if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
        raise StackError(f"oidc gives {client} no token: {answer.status} {answer.data[:200]!a}")
    return str(answer.json()["access_token"])


def rotate(place: Place) -> None:
    """Sign by a new key from the provider's next start on; the one before stays published."""
    path = _config_file(place)
    config = json.loads(path.read_bytes())
    config["keys"] = [new_key(), config["keys"][0]]
    _write(path, config)


def new_key() -> dict[str, str]:
    """A private RSA key as a JWK (RFC 7517); its id is random."""
    numbers = rsa.generate_private_key(65537, _RSA_BITS).private_numbers()
    public = numbers.public_numbers
    values = {
        "n": public.n,
        "e": public.e,
        "d": numbers.d,
        "p": numbers.p,
        "q": numbers.q,
        "dp": numbers.dmp1,
        "dq": numbers.dmq1,
        "qi": numbers.iqmp,
    }
    named = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": secrets.token_hex(8)}
    return named | {name: _base64(value) for name, value in values.items()}


def _base64(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _issuer(place: Place) -> str:
    """Its name in tokens: the address by which services reach it."""
    return place.url(place.front("oidc"))


def _config_file(place: Place) -> Path:
    return place.folder("oidc") / "provider.json"


def _write(path: Path, config: Mapping[str, Any]) -> None:
    """Readable by its owner only: it holds the private key and all secrets."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(config, file, indent=1)
    draft.replace(path)


def _ask(place: Place, method: str, path: str, **more: Any) -> urllib3.BaseHTTPResponse:
    authorities = None if place.ca_file is None else str(place.ca_file)
    pool = urllib3.PoolManager(retries=False, timeout=_ANSWER_SECONDS, ca_certs=authorities)
    try:
        return pool.request(method, f"{place.url(place.address('oidc'))}{path}", **more)
    finally:
        pool.clear()


def _sources() -> Path:
    folder = Path(audit_platform.__file__).parent.parent / "deploy" / "stack" / "oidc"
    if not folder.is_dir():
        raise StackError(
            f"there is no {folder}", remedy="the stack is started from a clone, not from a wheel"
        )
    return folder


def _program_folder(cache: Path) -> Path:
    """Where the program is once it is whole; another script or lock file gives another folder."""
    digest = hashlib.sha256(b"".join((_sources() / name).read_bytes() for name in _SOURCES))
    return cache / f"oidc-provider-{VERSION}-{digest.hexdigest()[:8]}"


def _install(npm: str, cache: Path, wanted: Path) -> None:
    draft = Path(tempfile.mkdtemp(prefix="oidc-provider-", dir=cache))
    try:
        for name in _SOURCES:
            shutil.copyfile(_sources() / name, draft / name)
        # `ci` takes what the lock file has, by checksum, or fails; no package runs anything.
        done = subprocess.run(  # noqa: S603 - npm itself, arguments of ours
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=draft,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
        if done.returncode:
            raise StackError(
                f"npm cannot have oidc-provider {VERSION}: {done.stderr.strip()[-500:]}",
                remedy="see whether npm reaches its registry (npm ping), then try again",
            )
        draft.chmod(0o755)  # other users of the stack's folder may run it
        draft.rename(wanted)
    except subprocess.TimeoutExpired as e:
        raise StackError(
            f"npm took longer than {_INSTALL_SECONDS} s", remedy="try again on a faster line"
        ) from e
    finally:
        shutil.rmtree(draft, ignore_errors=True)
