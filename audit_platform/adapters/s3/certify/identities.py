"""Checks of identities, with their own keys, in the platform's own bucket."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from audit_platform.adapters.s3.certify.trial import Put, Trial, check, later
from audit_platform.adapters.s3.client import make_client

#: A request that is refused for its form alone would prove nothing about rights.
_FORBIDDEN: Final = 403

_NOBODY: Final = "identity: none"
_WRITER: Final = "identity: writer"
_READER: Final = "identity: reader"


@check(_NOBODY, "a request that is not signed is refused")
def _anonymous(t: Trial) -> None:
    put = t.put()
    client = make_client(t.endpoint, signed=False)
    try:
        t.refused(lambda: client.get_object(**put.which()), put)
        t.refused(lambda: client.put_object(Bucket=t.bucket, Key=put.key, Body=b"x"), put)
        t.refused(lambda: client.list_object_versions(Bucket=t.bucket), put)
    finally:
        client.close()


@check(_NOBODY, "a wrong secret is refused")
def _wrong_secret(t: Trial) -> None:
    put = t.put()
    client = make_client(replace(t.endpoint, secret_key=uuid.uuid4().hex))
    try:
        t.refused(lambda: client.get_object(**put.which()), put)
        t.refused(lambda: client.delete_object(**put.which()), put)
    finally:
        client.close()


@check(_WRITER, "it may put with a lock, read, list, and move a date on")
def _writer_may(t: Trial) -> None:
    client = t.as_identity("writer")
    put = t.put(client=client, bucket=t.real)
    client.get_object(**put.which())["Body"].read()
    client.head_object(**put.which())
    client.list_object_versions(Bucket=t.real, Prefix=put.key)
    until = later(300)
    retention = {"Mode": "COMPLIANCE", "RetainUntilDate": until}
    client.put_object_retention(**put.which(), Retention=retention)
    t.kept(put, until)


@check(_WRITER, "it may not remove a locked version, with bypass neither")
def _writer_locked(t: Trial) -> None:
    client = t.as_identity("writer")
    put = t.put(client=client, bucket=t.real)
    t.refused(lambda: client.delete_object(**put.which()), put)
    t.refused(lambda: client.delete_object(**put.which(), BypassGovernanceRetention=True), put)


@check(_WRITER, "it may not remove a version that has no lock")
def _writer_unlocked(t: Trial) -> None:
    client = t.as_identity("writer")
    put = t.put(client=client, bucket=t.real, locked=False)
    t.refused(lambda: client.delete_object(**put.which()), put)
    listed = {"Objects": [{"Key": put.key, "VersionId": put.version_id}]}
    t.refused(lambda: client.delete_objects(Bucket=t.real, Delete=listed), put)


@check(_WRITER, "it may not put a delete marker")
def _writer_marker(t: Trial) -> None:
    client = t.as_identity("writer")
    put = t.put(client=client, bucket=t.real)
    t.refused(lambda: client.delete_object(Bucket=t.real, Key=put.key), put)


@check(_WRITER, "it may not remove what others locked by GOVERNANCE, with bypass neither")
def _writer_bypass(t: Trial) -> None:
    client, put = t.as_identity("writer"), _governed(t)
    t.refused(lambda: client.delete_object(**put.which(), BypassGovernanceRetention=True), put)


@check(_WRITER, "it may not bring the date of such a lock nearer with bypass", relied_on=False)
def _writer_bypass_date(t: Trial) -> None:
    client, put = t.as_identity("writer"), _governed(t)
    near = {"Mode": "GOVERNANCE", "RetainUntilDate": later(30)}
    t.refused(
        lambda: client.put_object_retention(
            **put.which(), Retention=near, BypassGovernanceRetention=True
        ),
        put,
    )


@check(_WRITER, "it may not bring a date nearer, nor lift a legal hold")
def _writer_hold(t: Trial) -> None:
    client = t.as_identity("writer")
    put = t.put(client=client, bucket=t.real)
    near = {"Mode": "COMPLIANCE", "RetainUntilDate": later(30)}
    t.refused(lambda: client.put_object_retention(**put.which(), Retention=near), put)
    t.admin.put_object_legal_hold(**put.which(), LegalHold={"Status": "ON"})
    try:
        t.refused(
            lambda: client.put_object_legal_hold(**put.which(), LegalHold={"Status": "OFF"}), put
        )
    finally:
        t.admin.put_object_legal_hold(**put.which(), LegalHold={"Status": "OFF"})


@check(_WRITER, "it may not change the bucket's policy, versions or lock, nor remove it")
def _writer_bucket(t: Trial) -> None:
    _bucket_is_guarded(t, t.as_identity("writer"))


@check(_READER, "it may read and list")
def _reader_may(t: Trial) -> None:
    client = t.as_identity("reader")
    put = t.put(bucket=t.real)
    client.get_object(**put.which())["Body"].read()
    client.get_object_retention(**put.which())
    client.list_object_versions(Bucket=t.real, Prefix=put.key)


@check(_READER, "it may neither put, nor move a date, nor remove")
def _reader_may_not(t: Trial) -> None:
    client = t.as_identity("reader")
    put = t.put(bucket=t.real)
    far = {"Mode": "COMPLIANCE", "RetainUntilDate": later(600)}
    t.refused(lambda: client.put_object(Bucket=t.real, Key=put.key, Body=b"x"), put)
    t.refused(lambda: client.put_object_retention(**put.which(), Retention=far), put)
    t.refused(lambda: client.delete_object(**put.which()), put)
    t.refused(lambda: client.delete_object(Bucket=t.real, Key=put.key), put)


@check(_READER, "it may not change the bucket's policy, versions or lock, nor remove it")
def _reader_bucket(t: Trial) -> None:
    _bucket_is_guarded(t, t.as_identity("reader"))


def _governed(t: Trial) -> Put:
    """A version under the mode that the platform never uses: who may bypass, may lift it."""
    return t.put(
        bucket=t.real,
        locked=False,
        ObjectLockMode="GOVERNANCE",
        ObjectLockRetainUntilDate=later(120),
    )


def _bucket_is_guarded(t: Trial, client: Any) -> None:
    bucket = t.real
    put = t.put(bucket=bucket)
    acts: tuple[Callable[[], Any], ...] = (
        lambda: client.delete_bucket_policy(Bucket=bucket),
        lambda: client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
        ),
        lambda: client.put_object_lock_configuration(
            Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
        ),
        lambda: client.delete_bucket(Bucket=bucket),
    )
    for act in acts:
        t.refused(act, put, only=_FORBIDDEN)
