"""TLS between services and servers: the stack's authority, certificates, who is not believed.

The whole path with it is in `failures/test_path_on_servers.py`.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from audit_platform.adapters.kafka.connection import KafkaServers
from audit_platform.adapters.kafka.log import KafkaLog
from audit_platform.adapters.oidc.tokens import open_oidc
from audit_platform.adapters.opensearch.hot import OpenSearchHot
from audit_platform.adapters.postgres.metadata import open_postgres
from audit_platform.adapters.redis.limits import open_redis
from audit_platform.adapters.s3.client import Endpoint
from audit_platform.adapters.s3.objects import S3Objects
from audit_platform.errors import (
    AuditPlatformError,
    LogUnavailable,
    MetadataUnavailable,
    SettingInvalid,
    StackError,
)
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform.stack import authority, registry, supervision
from audit_platform.stack.model import HOST, Place
from audit_platform.stack.s3_access import WRITER
from audit_platform_tests.bad_servers import answering
from audit_platform_tests.own_stack import OwnStack, own_stack
from audit_platform_tests.stack.tiny import Tiny
from audit_platform_tests.stores import as_other, fresh_bucket


@pytest.fixture(name="tls")
def _tls(tmp_path: Path) -> Place:
    """A place whose servers are to speak TLS; nothing is there yet."""
    return Place(tmp_path / "stack", tmp_path, 20_000, "small", tls=True)


def serial(place: Place, server: str) -> int:
    """Of the certificate that a server was given."""
    return _certificate(place, server).serial_number


def _certificate(place: Place, server: str) -> x509.Certificate:
    path = authority.certificate_of(place, server).certificate
    return x509.load_pem_x509_certificate(path.read_bytes())


# ------------------------------------------------------------------------------------ certificates


def test_a_server_has_one_certificate_of_the_authority_for_its_address(tls: Place) -> None:
    authority.prepare(tls, "redis")
    authority.prepare(tls, "oidc")
    (believed,) = x509.load_pem_x509_certificates(tls.authority.read_bytes())
    for server in ("redis", "oidc"):
        found = _certificate(tls, server)
        found.verify_directly_issued_by(believed)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == [HOST]
        files = authority.certificate_of(tls, server)
        assert files.both.read_bytes() == files.key.read_bytes() + files.certificate.read_bytes()
        assert {p.stat().st_mode & 0o077 for p in (files.key, files.both)} == {0}
    assert (tls.home / "tls" / "ca-key.pem").stat().st_mode & 0o077 == 0
    before = serial(tls, "redis")
    authority.prepare(tls, "redis")
    assert serial(tls, "redis") == before != serial(tls, "oidc")


def test_without_tls_nothing_is_made(tls: Place) -> None:
    plain = replace(tls, tls=False)
    authority.prepare(plain, "redis")
    assert not plain.home.exists()
    with pytest.raises(StackError, match="has no TLS"):
        authority.renew_authority(plain)
    with pytest.raises(StackError, match="has no TLS"):
        supervision.rotate(plain, {}, tell=lambda _: None)


@pytest.mark.parametrize("harm", ["gone", "garbage", "little time left"])
def test_a_certificate_that_will_not_do_is_made_anew(
    tls: Place, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        if harm == "little time left":
            patched.setattr(authority, "CERTIFICATE_DAYS", 29)
        authority.prepare(tls, "redis")
    before = serial(tls, "redis")
    path = authority.certificate_of(tls, "redis").certificate
    if harm == "gone":
        path.unlink()
    elif harm == "garbage":
        path.write_bytes(b"-----BEGIN CERTIFICATE-----")
    authority.prepare(tls, "redis")
    assert serial(tls, "redis") != before


def test_a_new_authority_stands_before_the_last_and_the_one_before_that_goes(tls: Place) -> None:
    authority.prepare(tls, "redis")
    (first,) = x509.load_pem_x509_certificates(tls.authority.read_bytes())
    authority.renew_authority(tls)
    second, last = x509.load_pem_x509_certificates(tls.authority.read_bytes())
    assert last == first
    authority.prepare(tls, "redis")  # at its server's next start
    _certificate(tls, "redis").verify_directly_issued_by(second)
    authority.renew_authority(tls)
    third, last = x509.load_pem_x509_certificates(tls.authority.read_bytes())
    assert last == second != third


def test_a_full_stack_with_tls_is_refused_and_shapes_are_not_mixed(place: Place) -> None:
    with pytest.raises(StackError, match="a full stack has no TLS"):
        registry.servers("full", tls=True)
    supervision.up(place, [Tiny("one", 0)], tell=lambda _: None)
    with pytest.raises(StackError, match=r"not of size small at port \d+, with TLS"):
        supervision.up(replace(place, tls=True), [Tiny("one", 0)], tell=lambda _: None)


# ----------------------------------------------------------------------------------------- servers


def presented(place: Place, server: str) -> int:
    """The serial number of the certificate that a running server shows."""
    context = ssl.create_default_context(cafile=place.authority)
    with (
        socket.create_connection((HOST, place.port(server)), timeout=10) as link,
        context.wrap_socket(link, server_hostname=HOST) as spoken,
    ):
        shown = spoken.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def _rotate(stack: OwnStack) -> None:
    every = registry.servers_at(stack.place)
    assert supervision.rotate(stack.place, every, tell=lambda _: None) == ["redis", "versitygw"]


def test_rotation_gives_servers_new_certificates_and_then_a_new_authority(tmp_path: Path) -> None:
    with own_stack("redis", "versitygw", tls=True) as stack:
        place = stack.place
        names = ("redis", "versitygw")
        before = {name: presented(place, name) for name in names}
        assert before == {name: serial(place, name) for name in names}
        owner = fresh_bucket(place, place.address("versitygw"))
        store = S3Objects(as_other(owner, place, WRITER))
        store.put("a", b"1", retain_until_ms=0, if_absent=True)
        _rotate(stack)
        after = {name: presented(place, name) for name in names}
        assert not set(after.values()) & set(before.values())
        # Who believes the authority goes on.
        store.put("b", b"2", retain_until_ms=0, if_absent=True)
        assert [v.key for v in store.versions("")] == ["a", "b"]
        store.close()

        old = shutil.copy(place.authority, tmp_path / "old.pem")
        authority.renew_authority(place)
        assert {name: presented(place, name) for name in names} == after
        _rotate(stack)
        assert not {presented(place, name) for name in names} & set(after.values())
        with pytest.raises(AuditPlatformError, match=r"AUDIT_S3 .*certificate verify failed"):
            S3Objects(replace(owner, ca_file=Path(old)))


# --------------------------------------------------------------------------------------- impostors

#: Opening each adapter at an address, believing an authority; the setting that names the server.
OPENERS: dict[str, Callable[[str, Path], object]] = {
    "AUDIT_KAFKA": lambda at, ca: KafkaLog(KafkaServers(at, ca_file=ca)),
    "AUDIT_S3": lambda at, ca: S3Objects(Endpoint(f"https://{at}", "audit", "key", "secret", ca)),
    "AUDIT_OPENSEARCH": lambda at, ca: OpenSearchHot(f"https://{at}", "t", ca_file=ca).check(),
    "AUDIT_DATABASE": lambda at, ca: open_postgres(f"postgresql://a:b@{at}/audit", ca_file=ca),
    "AUDIT_REDIS": lambda at, ca: open_redis(f"rediss://{at}/0", "t", 1.0, ca_file=ca),
    "AUDIT_OIDC_ISSUER": lambda at, ca: open_oidc(f"https://{at}", "audit-platform", ca_file=ca),
}


def impostor(place: Place) -> ssl.SSLContext:
    """Who shows the certificate of `impostor`."""
    files = authority.certificate_of(place, "impostor")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


def hung_up(_: bytes) -> bytes:
    """Nothing more is said."""
    return b""


def _refusal(setting: str, at: str, ca_file: Path) -> str:
    with pytest.raises(AuditPlatformError) as caught:
        OPENERS[setting](at, ca_file)
    said = str(caught.value)
    assert setting in said
    assert at in said
    assert "wanted: " in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize("setting", OPENERS)
def test_a_certificate_of_another_name_is_refused_at_start(setting: str, tls: Place) -> None:
    authority.prepare(tls, "impostor")
    authority.issue(tls, "impostor", ["elsewhere.example"])
    agrees = b"S" if setting == "AUDIT_DATABASE" else b""
    with answering(hung_up, tls=impostor(tls), agrees=agrees) as at:
        said = _refusal(setting, at, tls.authority)
    assert "certificate" in said


@pytest.mark.parametrize("setting", OPENERS)
def test_a_certificate_of_another_authority_is_refused_at_start(setting: str, tls: Place) -> None:
    authority.prepare(tls, "impostor")
    other = replace(tls, home=tls.home.with_name("other"))
    authority.prepare(other, "anybody")
    agrees = b"S" if setting == "AUDIT_DATABASE" else b""
    with answering(hung_up, tls=impostor(tls), agrees=agrees) as at:
        said = _refusal(setting, at, other.authority)
    assert "certificate" in said


@pytest.mark.parametrize("setting", OPENERS)
def test_a_server_without_tls_is_refused_where_an_authority_is_named(
    setting: str, tls: Place
) -> None:
    authority.prepare(tls, "anybody")
    plain = b"N" if setting == "AUDIT_DATABASE" else b"plainly said\r\n"
    with answering(lambda _: plain) as at:
        said = _refusal(setting, at, tls.authority)
    assert "TLS" in said or "certificate" in said


# -------------------------------------------------------------------------------------- no servers


def test_what_is_no_redis_is_refused_at_start_and_half_an_answer_is_one_that_is_away() -> None:
    with answering(lambda _: b"<html>\r\n") as at, pytest.raises(SettingInvalid) as caught:
        open_redis(f"redis://:geheim@{at}/0", "t", 1.0)
    assert caught.value.setting == "AUDIT_REDIS"
    assert at in caught.value.found
    assert "geheim" not in str(caught.value)
    with answering(lambda _: b"$100\r\nPO") as at:
        limits = open_redis(f"redis://{at}/0", "t", 100.0)
        assert limits.take("north", 1) == 0.0
        assert at in limits.trouble()
        limits.close()


def test_what_is_no_postgresql_is_refused_at_start_and_half_an_answer_is_one_that_is_away() -> None:
    def html(_: bytes) -> bytes:
        return b"<html>"

    with answering(html, agrees=b"N") as at, pytest.raises(SettingInvalid) as caught:
        open_postgres(f"postgresql://a:geheim@{at}/audit")
    assert caught.value.setting == "AUDIT_DATABASE"
    assert at in caught.value.found
    assert "no PostgreSQL" in caught.value.wanted
    assert "geheim" not in str(caught.value)
    with answering(lambda _: b"R\0\0", agrees=b"N") as at:
        store = open_postgres(f"postgresql://a:b@{at}/audit")
        with pytest.raises(MetadataUnavailable, match=at):
            store.tenants()
        store.close()


def test_half_an_answer_of_kafka_is_one_that_is_away_and_says_so() -> None:
    with answering(lambda _: struct.pack(">iih", 300, 1, 0)) as at:
        log = KafkaLog(KafkaServers(at))
        try:
            with pytest.raises(LogUnavailable, match=f"AUDIT_KAFKA '{at}'"):
                log.describe(EVENTS_TOPIC)
            assert at in log.health().trouble
        finally:
            log.close()
