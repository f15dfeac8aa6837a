"""What one bucket is asked about versions: heads, pages of a listing, bytes.

Belongs here: each question, with what it takes to get a true answer out of the stores that there
are. Does not: what is promised (`objects.py`), writing (`upload.py`). All raise the port's errors.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final, cast

from botocore.exceptions import ClientError, FlexibleChecksumError

from audit_platform.adapters.s3.client import asking, code_of, repeated, status_of
from audit_platform.adapters.s3.reader import TAIL_BYTES, RangeReader
from audit_platform.adapters.s3.upload import CREATED_META
from audit_platform.adapters.s3.versions import Facts, stored_ms, to_ms
from audit_platform.errors import RecordMalformed, StoreUnavailable

#: How much at once when a digest has to be made from a body.
_HASHED_BYTES: Final = 4 << 20

_MS: Final = re.compile(r"[0-9]{1,15}")

_BAD_RANGE: Final = 416
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_IS_MARKER: Final = 405
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Head:
    """One version with a body as the store has it now. `checksum` is as S3 writes it, or ""."""

    size: int
    checksum: str
    facts: Facts


class Asked:
    """One bucket, asked by one client. Safe in several threads."""

    def __init__(self, client: Any, bucket: str, host: str) -> None:
        self._client = client
        self._bucket = bucket
        self._host = host

    def head(self, key: str, version_id: str) -> Head | None:
        """A version's head; None for a delete marker."""
        with asking(f"look at {key}", self._host):
            try:
                answer = repeated(partial(self._head, key, version_id))
            except ClientError as e:
                if status_of(e) == _IS_MARKER:
                    return None
                raise
            checksum = answer.get("ChecksumSHA256", "")
            until, hold = self._lock(key, version_id, answer)
        return Head(
            size=answer["ContentLength"],
            checksum=checksum,
            facts=Facts(_whole_digest(checksum), _created_ms(answer), until, hold),
        )

    def page(self, prefix: str, **which: Any) -> dict[str, Any]:
        """One page of `list_object_versions`."""
        with asking(f"list {prefix or 'the bucket'}", self._host):
            try:
                page: dict[str, Any] = repeated(
                    lambda: self._client.list_object_versions(
                        Bucket=self._bucket, Prefix=prefix, **which
                    )
                )
            except ClientError as e:
                if status_of(e) == _NOT_FOUND:  # a listing can lack nothing but its bucket
                    raise StoreUnavailable(
                        f"list {prefix}: the bucket {self._bucket} is gone",
                        remedy="look at AUDIT_S3 and AUDIT_S3_BUCKET: is this the right store?",
                    ) from e
                raise
        return page

    def whole(self, key: str, version_id: str) -> bytes:
        """A body, compared with the digest that the store keeps. Raises `RecordMalformed`."""
        with asking(f"read {key}", self._host):
            for _ in range(2):  # a bit that broke on the way is whole the second time
                try:
                    return repeated(partial(self._whole, key, version_id))
                except FlexibleChecksumError:
                    continue
        raise RecordMalformed(
            key, "sha256", f"version {version_id} is not what was put: its bytes have changed"
        )

    def reader(self, key: str, version_id: str) -> BinaryIO:
        """A body to seek in, as it is. Costs one request, which brings its last bytes."""
        with asking(f"open {key}", self._host):
            size, tail = repeated(partial(self._tail, key, version_id))
        # A raw reader that never reads short: it has every method of `BinaryIO` that is used.
        return cast("BinaryIO", RangeReader(size, tail, partial(self._range, key, version_id)))

    def digest(self, key: str, version_id: str) -> str:
        """Lower hex of the SHA-256 of a body, made by reading it."""
        digest = hashlib.sha256()
        with self.reader(key, version_id) as reader:
            while block := reader.read(_HASHED_BYTES):
                digest.update(block)
        return digest.hexdigest()

    # ---------------------------------------------------------------------------------- inside

    def _head(self, key: str, version_id: str) -> dict[str, Any]:
        which = {"Bucket": self._bucket, "Key": key, "VersionId": version_id}
        try:
            answer: dict[str, Any] = self._client.head_object(**which, ChecksumMode="ENABLED")
        except ClientError as e:
            # A HEAD's error has no words: an expired key, a lost bucket and a foreign form of
            # version id look like an absent version. A GET says which.
            if _BAD_REQUEST <= status_of(e) < _SERVER_ERROR and status_of(e) != _IS_MARKER:
                self._client.get_object(**which, Range="bytes=0-0")["Body"].close()
            raise
        return answer

    def _lock(self, key: str, version_id: str, answer: dict[str, Any]) -> tuple[int, bool]:
        """End of the lock (0 without one) and legal hold. No other mode than COMPLIANCE locks.

        A head that tells of a lock is believed. One that does not may be silent: versitygw's is
        for any version but the latest.
        """
        hold = answer.get("ObjectLockLegalHoldStatus") == "ON"
        until = answer.get("ObjectLockRetainUntilDate")
        mode = answer.get("ObjectLockMode")
        if mode is None:
            which = {"Bucket": self._bucket, "Key": key, "VersionId": version_id}
            kept = _if_any(partial(self._client.get_object_retention, **which), "Retention")
            mode, until = kept.get("Mode"), kept.get("RetainUntilDate")
            held = _if_any(partial(self._client.get_object_legal_hold, **which), "LegalHold")
            hold = held.get("Status") == "ON"
        return to_ms(until) if mode == "COMPLIANCE" and until is not None else 0, hold

    def _whole(self, key: str, version_id: str) -> bytes:
        answer = self._client.get_object(
            Bucket=self._bucket, Key=key, VersionId=version_id, ChecksumMode="ENABLED"
        )
        body: bytes = answer["Body"].read()
        return body

    def _tail(self, key: str, version_id: str) -> tuple[int, bytes]:
        which = {"Bucket": self._bucket, "Key": key, "VersionId": version_id}
        try:
            answer = self._client.get_object(**which, Range=f"bytes=-{TAIL_BYTES}")
        except ClientError as e:
            if status_of(e) == _BAD_RANGE:
                return 0, b""  # an empty body has no last bytes
            raise
        tail = answer["Body"].read()
        # "bytes 1000-1999/2000"; without it the whole came.
        size = int(str(answer.get("ContentRange", f"/{len(tail)}")).rpartition("/")[2])
        return size, tail

    def _range(self, key: str, version_id: str, start: int, end: int) -> bytes:
        def get() -> bytes:
            answer = self._client.get_object(
                Bucket=self._bucket, Key=key, VersionId=version_id, Range=f"bytes={start}-{end - 1}"
            )
            data: bytes = answer["Body"].read()
            return data

        with asking(f"read {key}", self._host):
            data = repeated(get)
        if len(data) != end - start:
            raise StoreUnavailable(
                f"read {key}: {len(data)} bytes of {end - start} came", remedy="try again"
            )
        return data


def _if_any(ask: Any, name: str) -> dict[str, Any]:
    """A version's retention or hold; empty where it has none."""
    try:
        found: dict[str, Any] = repeated(ask).get(name) or {}
    except ClientError as e:
        if code_of(e) == "NoSuchObjectLockConfiguration":
            return {}
        raise
    return found


def _created_ms(answer: dict[str, Any]) -> int:
    sent = str(answer.get("Metadata", {}).get(CREATED_META, ""))
    return int(sent) if _MS.fullmatch(sent) else stored_ms(answer)


def _whole_digest(checksum: str) -> str:
    """Lower hex of a checksum over the whole body; "" for one over parts (`...-3`), or for none."""
    try:
        return base64.b64decode(checksum, validate=True).hex()
    except binascii.Error:
        return ""
