"""The stack's own certificate authority: who servers prove to be when services speak TLS to them.

Belongs here: making the authority, a certificate for each server, new ones. Does not: how a server
is told of its certificate (its own module), what a client demands (`adapters/`).
Source: RFC 5280; issue "The same path on the real servers" (own CA, rotation by command).

    <home>/tls/ca.pem         what services are given: the newest authority, then the one before
    <home>/tls/ca-key.pem     the newest one's key
    <home>/<server>/tls/      certificate.pem, key.pem, and both in one file, of the server's user

A certificate is looked at whenever its server is prepared, and made anew when it is not of the
newest authority or has little time left.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from audit_platform.errors import StackError
from audit_platform.stack.model import HOST, Place

#: A stack is for demonstrations and tests; nobody keeps one for longer.
AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 90

#: With less than this left a certificate is made anew at its server's next start.
_LEFT_DAYS: Final = 30

#: Authorities that services believe: while servers change from one to the next, both.
_BELIEVED: Final = 2

#: Clocks of the same machine do not differ; a container's may have been stopped for a while.
_EARLIER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's files. `both` has the key, then the certificate."""

    certificate: Path
    key: Path
    both: Path


def certificate_of(place: Place, server: str) -> Certificate:
    """Where a server's files are; `prepare` makes them."""
    folder = place.folder(server) / "tls"
    return Certificate(folder / "certificate.pem", folder / "key.pem", folder / "both.pem")


def prepare(place: Place, server: str) -> None:
    """Have the authority, and a certificate of it for the server. Nothing without TLS."""
    if not place.tls:
        return
    if not _folder(place).is_dir():
        _make_folder(place)
    files = certificate_of(place, server)
    if not _is_good(files.certificate, _newest(place)):
        issue(place, server)


def issue(place: Place, server: str, names: Sequence[str] = (HOST, "localhost")) -> None:
    """A new key and certificate for a server, for these names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _newest(place)
    alternatives: list[x509.GeneralName] = [_alternative(name) for name in names]
    made = (
        _builder(server, authority.subject, key.public_key(), CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(_public(authority)), critical=False
        )
        .sign(_authority_key(place), hashes.SHA256())
    )
    files = certificate_of(place, server)
    files.key.parent.mkdir(parents=True, exist_ok=True)
    private, public = _private(key), made.public_bytes(serialization.Encoding.PEM)
    _write(files.key, private)
    _write(files.both, private + public)
    _write(files.certificate, public)


def renew_authority(place: Place) -> None:
    """A new authority; the one before is believed too until the next one.

    Servers keep their certificates until they are made anew. Raises `StackError` without TLS.
    """
    if not place.tls or not _folder(place).is_dir():
        raise StackError(
            f"the stack in {place.home} has no TLS",
            remedy="audit-platform stack up --tls, in another --home",
        )
    key, authority = _new_authority()
    believed = [authority, *_authorities(place)][:_BELIEVED]
    pem = serialization.Encoding.PEM
    _write(place.authority, b"".join(one.public_bytes(pem) for one in believed), mode=0o644)
    _write(_folder(place) / "ca-key.pem", _private(key))


# ---------------------------------------------------------------------------------- the authority


def _folder(place: Place) -> Path:
    return place.authority.parent


def _make_folder(place: Place) -> None:
    """Whole or not at all: several servers are prepared at the same time."""
    place.home.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".tls-", dir=place.home))
    draft.chmod(0o755)
    key, authority = _new_authority()
    _write(draft / "ca-key.pem", _private(key))
    pem = authority.public_bytes(serialization.Encoding.PEM)
    _write(draft / place.authority.name, pem, mode=0o644)
    try:
        draft.rename(_folder(place))
    except OSError:  # another server's preparation was first
        shutil.rmtree(draft)


def _new_authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"audit-platform stack {os.urandom(4).hex()}")]
    )
    usage = x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        _builder("", name, key.public_key(), AUTHORITY_DAYS, subject=name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, made


def _builder(
    server: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    subject: x509.Name | None = None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    named = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server)])
    return (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
    )


def _authorities(place: Place) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(place.authority.read_bytes())


def _newest(place: Place) -> x509.Certificate:
    return _authorities(place)[0]


def _authority_key(place: Place) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key((_folder(place) / "ca-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _public(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


# ------------------------------------------------------------------------------------ certificates


def _is_good(path: Path, authority: x509.Certificate) -> bool:
    """Whether a certificate is the authority's own and has time left."""
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        found.verify_directly_issued_by(authority)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    left = found.not_valid_after_utc - datetime.now(UTC)
    return left > timedelta(days=_LEFT_DAYS)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Whole or not at all."""
    handle, draft = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
    Path(draft).replace(path)
