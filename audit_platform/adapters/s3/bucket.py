"""The bucket: made with object lock, and who may do what in it.

Belongs here: making the bucket, the rights of each identity as S3's own statements. Does not:
making the identities (each store has its own way; `stack/` has those of its stores).
Source: design section 5 (locks; "believed only after a probe has tried all this").

A bucket gets no default retention: one of the stores does not stamp it on the objects, so that a
default would only look like a lock. Mode and date are sent with every object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from botocore.exceptions import ClientError

from audit_platform.adapters.s3.client import Endpoint, asking, code_of, make_client
from audit_platform.errors import ObjectNotFound, StoreUnavailable

#: What a reader needs: bodies and locks by version id, and the listing of versions.
_READ_OBJECTS: Final = (
    "s3:GetObject",
    "s3:GetObjectVersion",
    "s3:GetObjectRetention",
    "s3:GetObjectLegalHold",
)
_READ_BUCKET: Final = (
    "s3:ListBucket",
    "s3:ListBucketVersions",
    "s3:GetBucketVersioning",
    "s3:GetBucketObjectLockConfiguration",
    "s3:GetBucketLocation",
)
#: What a writer needs besides: to put with a lock, and to lengthen one.
_WRITE_OBJECTS: Final = (
    "s3:PutObject",
    "s3:PutObjectRetention",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)
#: What the keeper, who runs Dagster's jobs, needs besides: legal holds, and to end versions whose
#: lock is over. What is locked it cannot end either: the lock asks for no rights.
_KEEP_OBJECTS: Final = (
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:PutObjectLegalHold",
)
#: What services may not, whatever else allows it: end a version, lift a lock, undo the bucket's
#: guards. A legal hold is an operator's: who writes must not be able to lift one.
_DENIED_OBJECTS: Final = (
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:BypassGovernanceRetention",
    "s3:PutObjectLegalHold",
)
_DENIED_BUCKET: Final = (
    "s3:DeleteBucket",
    "s3:PutBucketPolicy",
    "s3:DeleteBucketPolicy",
    "s3:PutBucketVersioning",
    "s3:PutBucketObjectLockConfiguration",
    "s3:PutLifecycleConfiguration",
)

#: Each kind of identity and what it may.
RIGHTS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "writer": ((*_READ_OBJECTS, *_WRITE_OBJECTS), _READ_BUCKET),
    "keeper": ((*_READ_OBJECTS, *_WRITE_OBJECTS, *_KEEP_OBJECTS), _READ_BUCKET),
    "reader": (_READ_OBJECTS, _READ_BUCKET),
}


def statements(bucket: str, kind: str) -> list[dict[str, object]]:
    """What an identity of that kind may and may not do, in S3's words, without its name."""
    of_objects, of_bucket = RIGHTS[kind]
    whole, inside = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"
    denied = [d for d in (*_DENIED_OBJECTS, *_WRITE_OBJECTS[:2]) if d not in of_objects]
    return [
        {"Effect": "Allow", "Action": list(of_objects), "Resource": [inside]},
        {"Effect": "Allow", "Action": list(of_bucket), "Resource": [whole]},
        {"Effect": "Deny", "Action": list(denied), "Resource": [inside]},
        {"Effect": "Deny", "Action": list(_DENIED_BUCKET), "Resource": [whole]},
    ]


def identity_policy(bucket: str, kind: str) -> bytes:
    """The policy of an identity, for stores that attach it to the identity (MinIO, Amazon)."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements(bucket, kind)}).encode()


def bucket_policy(bucket: str, names: Mapping[str, Sequence[str]]) -> str:
    """The policy of the bucket, for stores that know identities only by name (versitygw, Ceph).

    `names` maps a kind of `RIGHTS` to the principals of that kind.
    """
    rows = [
        {**row, "Principal": {"AWS": list(principals)}}
        for kind, principals in names.items()
        if principals
        for row in statements(bucket, kind)
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": rows})


def make_bucket(admin: Endpoint, *, names: Mapping[str, Sequence[str]] | None = None) -> bool:
    """Make the bucket with object lock and versions; whether it is new. Safe to repeat.

    With `names`, its policy names them (`bucket_policy`). Raises `StoreUnavailable`.
    """
    client = make_client(admin)
    try:
        with asking(f"make the bucket {admin.bucket}", admin.host):
            is_new = _create(client, admin.bucket)
            client.put_bucket_versioning(
                Bucket=admin.bucket, VersioningConfiguration={"Status": "Enabled"}
            )
            if names:
                client.put_bucket_policy(
                    Bucket=admin.bucket, Policy=bucket_policy(admin.bucket, names)
                )
    except ObjectNotFound as e:
        raise StoreUnavailable(e.reason, remedy="is this the URL of an S3 store?") from e
    finally:
        client.close()
    return is_new


def _create(client: Any, bucket: str) -> bool:
    try:
        client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    except ClientError as e:
        if code_of(e) in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            return False
        raise
    return True
