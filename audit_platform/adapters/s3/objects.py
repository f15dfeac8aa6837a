"""`ports.Objects` in an S3 store that has object lock.

Belongs here: the promises of the port. Does not: S3's errors (`client.py`), what is sent
(`upload.py`), the order of a listing (`versions.py`), the bucket (`bucket.py`).
Source: `ports.Objects`; design sections 2 and 5; `README.md` beside this file.

The lock is the store's own (`lock = "enforced"`): mode and date go with every version and are read
back before `put` returns. Nothing is believed that was only sent.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO, Final

from botocore.exceptions import ClientError

from audit_platform.adapters.embedded.object_folder import check_key
from audit_platform.adapters.s3.asked import Asked, Head
from audit_platform.adapters.s3.client import (
    READ_SECONDS,
    Endpoint,
    asking,
    check_bucket,
    is_refused,
    is_taken,
    make_client,
    repeated,
)
from audit_platform.adapters.s3.upload import Sent, send
from audit_platform.adapters.s3.versions import Facts, LaterVersion, rows_of, stored_ms
from audit_platform.errors import (
    AccessDenied,
    ObjectExists,
    ObjectLocked,
    ObjectNotFound,
    SettingInvalid,
    StoreUnavailable,
)
from audit_platform.ports import ObjectVersion

_log: Final = logging.getLogger(__name__)

#: A date that is past for the store is refused by it. A clock that runs behind real time (a scaled
#: one) still gets a lock, and one that is real: until this much from now.
LEAST_LOCK_MS: Final = 60_000


class S3Objects:
    """`ports.Objects` in one bucket, as one identity. Safe in several threads; close it.

    Raises `SettingInvalid` for a bucket without lock or versions, a URL that is no S3 store, or
    keys that it does not take. A store that does not answer yet is looked at by the first call that
    it answers, so that ingest starts while COLD is away.
    """

    lock = "enforced"

    def __init__(self, endpoint: Endpoint, *, read_seconds: float = READ_SECONDS) -> None:
        self._endpoint = endpoint
        self._host = endpoint.host
        self._bucket = endpoint.bucket
        self._client = make_client(endpoint, read_seconds=read_seconds)
        self._asked = Asked(self._client, endpoint.bucket, endpoint.host)
        self._is_checked = False
        try:
            self._check()
        except StoreUnavailable as e:
            _log.warning("the object store is not there yet: %s", e.reason)
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._client.close()

    # ----------------------------------------------------------------------------------- write

    def put(self, key: str, data: bytes, *, retain_until_ms: int, if_absent: bool) -> ObjectVersion:
        """See `ports.Objects.put`.

        With `if_absent`, also raises `ObjectExists` when another version turns out to be older than
        ours: it counts, ours lies over it and means nothing.
        """
        self._ready(key)
        # The condition of the request looks only at what lies on top: not under a delete marker.
        if if_absent and self.oldest(key) is not None:
            raise ObjectExists(key)
        digest = hashlib.sha256(data).digest()
        lock_ms = _lock_ms(retain_until_ms)
        sent = self._send(key, data, digest, lock_ms, if_absent=if_absent)
        version = self._read_back(key, data, digest, lock_ms, sent)
        if if_absent:
            first = self.oldest(key)
            if first is None or first.version_id != sent.version_id:
                raise ObjectExists(key)
        return version

    def extend(self, key: str, version_id: str, retain_until_ms: int) -> ObjectVersion:
        """See `ports.Objects.extend`."""
        version = self._head_body(key, version_id)
        if retain_until_ms < version.retain_until_ms:
            raise _locked(version, f"not to {retain_until_ms} only")
        if retain_until_ms == version.retain_until_ms:
            return version
        lock_ms = _lock_ms(retain_until_ms)
        retention = {
            "Mode": "COMPLIANCE",
            "RetainUntilDate": datetime.fromtimestamp(lock_ms / 1000, tz=UTC),
        }
        with asking(f"lengthen the lock of {key}", self._host):
            try:
                repeated(
                    lambda: self._client.put_object_retention(
                        Bucket=self._bucket, Key=key, VersionId=version_id, Retention=retention
                    )
                )
            except ClientError as e:
                if not is_refused(e):
                    raise
        found = self._head_body(key, version_id)
        if found.retain_until_ms < lock_ms:
            raise StoreUnavailable(
                f"the lock of {key} reads back as until {found.retain_until_ms}, not {lock_ms}",
                remedy="may AUDIT_S3_ACCESS_KEY lengthen locks? ask audit-platform store certify",
            )
        return found

    def set_legal_hold(self, key: str, version_id: str, *, hold: bool) -> None:
        """See `ports.Objects.set_legal_hold`. Raises `AccessDenied` for an identity that may not.

        The services' own identity may not: a hold is an operator's.
        """
        self._head_body(key, version_id)
        status = "ON" if hold else "OFF"
        with asking(f"hold {key}", self._host):
            try:
                repeated(
                    lambda: self._client.put_object_legal_hold(
                        Bucket=self._bucket,
                        Key=key,
                        VersionId=version_id,
                        LegalHold={"Status": status},
                    )
                )
            except ClientError as e:
                if is_refused(e):
                    raise _denied(f"set a legal hold on {key}") from e
                raise
        if self._head_body(key, version_id).legal_hold is not hold:
            raise StoreUnavailable(f"the legal hold of {key} reads back otherwise", remedy=_CERTIFY)

    def delete(self, key: str, version_id: str | None = None) -> None:
        """See `ports.Objects.delete`. Raises `AccessDenied` for an identity that may not.

        The services' own identity may neither remove a version nor put a marker.
        """
        self._ready(key)
        which: dict[str, str] = {}
        if version_id is not None:
            self.head(key, version_id)  # the store says yes to removing what is not there
            which = {"VersionId": version_id}
        with asking(f"delete {key}", self._host):
            try:
                self._client.delete_object(Bucket=self._bucket, Key=key, **which)
            except ClientError as e:
                if not is_refused(e):
                    raise
                if version_id is not None:
                    version = self.head(key, version_id)
                    if version.legal_hold or version.retain_until_ms > _now_ms():
                        raise _locked(version, "and stays") from e
                raise _denied(f"delete {key}") from e

    # ------------------------------------------------------------------------------------ read

    def get(self, key: str, version_id: str) -> bytes:
        """See `ports.Objects.get`. Raises `RecordMalformed` where the store's digest differs.

        That is a broken disk: `open` still gives the bytes as they are.
        """
        self._ready(key)
        return self._asked.whole(key, version_id)

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:
        """See `ports.Objects.open`."""
        self._ready(key)
        return self._asked.reader(key, version_id)

    def head(self, key: str, version_id: str) -> ObjectVersion:
        """See `ports.Objects.head`. A delete marker has a head, but no body.

        Where the store has no digest of the whole body (it came in parts, or the store keeps none),
        `sha256` is made from the body when it is first looked at.
        """
        self._ready(key)
        head = self._asked.head(key, version_id)
        if head is None:
            return self._marker(key, version_id)
        if head.facts.sha256:
            return _version(key, version_id, head, head.facts.sha256)
        return LaterVersion(
            key=key,
            version_id=version_id,
            size=head.size,
            facts=lambda: head.facts,
            digest=partial(self._asked.digest, key, version_id),
        )

    def oldest(self, key: str) -> ObjectVersion | None:
        """See `ports.Objects.oldest`."""
        check_key(key)
        return next((v for v in self.versions(key) if not v.is_delete_marker), None)

    def versions(self, prefix: str, *, after_key: str = "") -> Iterator[ObjectVersion]:
        """See `ports.Objects.versions`. SHA-256 and lock of each are asked for when looked at.

        `ValueError` for a prefix that is neither "", nor a folder ending in `/`, nor a key.
        """
        if prefix:
            check_key(prefix.removesuffix("/"))
        return self._versions(prefix, after_key)

    # ---------------------------------------------------------------------------------- inside

    def _check(self) -> None:
        """Look at the bucket, once it answers. Nothing is asked of a store that was not looked at.

        Raises `SettingInvalid`, `StoreUnavailable`.
        """
        if not self._is_checked:
            check_bucket(self._client, self._endpoint)
            self._is_checked = True

    def _ready(self, key: str) -> None:
        check_key(key)
        try:
            self._check()
        except SettingInvalid as e:  # no longer at the start: a service goes on and says so
            raise StoreUnavailable(e.reason, remedy=e.remedy) from e

    def _versions(self, prefix: str, after_key: str) -> Iterator[ObjectVersion]:
        self._ready(prefix.removesuffix("/") or "any")
        is_key = prefix != "" and not prefix.endswith("/")
        if is_key and prefix <= after_key:
            return
        if after_key and not after_key.startswith(prefix):
            if after_key > prefix:
                return
            after_key = ""  # MinIO refuses a marker outside of the prefix
        for row, is_marker in rows_of(partial(self._asked.page, prefix), after_key):
            if is_key and row["Key"] != prefix:
                return  # keys that go on behind this one
            yield _marker_of(row) if is_marker else self._listed(row)

    def _listed(self, row: dict[str, Any]) -> ObjectVersion:
        key, version_id = row["Key"], row["VersionId"]
        return LaterVersion(
            key=key,
            version_id=version_id,
            size=row["Size"],
            facts=partial(self._facts, key, version_id),
            digest=partial(self._asked.digest, key, version_id),
        )

    def _facts(self, key: str, version_id: str) -> Facts:
        head = self._asked.head(key, version_id)
        if head is None:
            raise ObjectNotFound(f"{version_id} of {key} is a delete marker")
        return head.facts

    def _marker(self, key: str, version_id: str) -> ObjectVersion:
        for version in self._versions(key, ""):
            if version.version_id == version_id:
                return version
        raise ObjectNotFound(f"no version {version_id} of {key}", remedy="list the key's versions")

    def _send(self, key: str, data: bytes, digest: bytes, lock_ms: int, *, if_absent: bool) -> Sent:
        put = partial(send, self._client, self._bucket, key, data, digest=digest, lock_ms=lock_ms)
        with asking(f"put {key}", self._host):
            try:
                sent = put(absent=if_absent)
            except ClientError as e:
                if not (if_absent and is_taken(e)):
                    raise
                if self.oldest(key) is not None:
                    raise ObjectExists(key) from e
                # Only a delete marker lies there: some stores take it for an object, some do not.
                sent = put(absent=False)
        if not sent.version_id or sent.version_id == "null":
            raise StoreUnavailable(
                f"{key} was stored without a version id", remedy="has the bucket lost its versions?"
            )
        return sent

    def _read_back(
        self, key: str, data: bytes, digest: bytes, lock_ms: int, sent: Sent
    ) -> ObjectVersion:
        try:
            head = self._asked.head(key, sent.version_id)
        except ObjectNotFound:
            head = None
        if head is None:
            raise StoreUnavailable(f"{key} was stored and is not there", remedy=_CERTIFY)
        # A store that keeps no checksum is not believed: the body is read.
        same = (
            head.checksum == sent.checksum
            if head.checksum
            else self._asked.digest(key, sent.version_id) == digest.hex()
        )
        if not same or head.size != len(data) or head.facts.retain_until_ms < lock_ms:
            raise StoreUnavailable(
                f"{key} was stored, but its lock, size or digest reads back otherwise",
                remedy=_CERTIFY,
            )
        return _version(key, sent.version_id, head, digest.hex())

    def _head_body(self, key: str, version_id: str) -> ObjectVersion:
        version = self.head(key, version_id)
        if version.is_delete_marker:
            raise ObjectNotFound(f"{version_id} of {key} is a delete marker")
        return version


_CERTIFY: Final = "what this store keeps is told by audit-platform store certify"


def _now_ms() -> int:
    """The real clock: the store has its own and knows nothing of ours."""
    return time.time_ns() // 1_000_000


def _lock_ms(retain_until_ms: int) -> int:
    """The date to send: whole seconds (some stores keep no fractions), never in the past."""
    if not retain_until_ms:
        return 0
    least = retain_until_ms if retain_until_ms > _now_ms() else _now_ms() + LEAST_LOCK_MS
    return -(-least // 1000) * 1000


def _version(key: str, version_id: str, head: Head, sha256: str) -> ObjectVersion:
    return ObjectVersion(
        key=key,
        version_id=version_id,
        size=head.size,
        sha256=sha256,
        created_ms=head.facts.created_ms,
        is_delete_marker=False,
        retain_until_ms=head.facts.retain_until_ms,
        legal_hold=head.facts.legal_hold,
    )


def _marker_of(row: dict[str, Any]) -> ObjectVersion:
    return ObjectVersion(
        key=row["Key"],
        version_id=row["VersionId"],
        size=0,
        sha256="",
        created_ms=stored_ms(row),
        is_delete_marker=True,
        retain_until_ms=0,
        legal_hold=False,
    )


def _locked(version: ObjectVersion, but: str) -> ObjectLocked:
    hold = " and under legal hold" if version.legal_hold else ""
    until = version.retain_until_ms
    return ObjectLocked(
        f"{version.key} {version.version_id} is locked until {until}{hold}, {but}",
        remedy="a lock can only be lengthened; wait for the date or lift the hold",
    )


def _denied(what: str) -> AccessDenied:
    return AccessDenied(
        f"the object store does not let us {what}",
        remedy="services may not; an operator with keys of their own may, where no lock stands",
    )
