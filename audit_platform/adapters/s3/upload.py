"""Sending one body: in one piece, or in parts, with its digest and its lock.

Belongs here: what is sent. Does not: whether it counts (`objects.py`).

No call here is repeated: a write whose answer is lost may stand, and who called `put` reads before
it puts again.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

#: Bodies beyond this go in parts: one piece must be stored within the client's time limit.
ONE_PIECE_BYTES: Final = 64 << 20

#: Of 5 MiB (S3's least) to 5 GiB; 10,000 of these hold 160 GB.
PART_BYTES: Final = 16 << 20


#: The name under which a version says when it was put.
CREATED_META: Final = "created-ms"


@dataclass(frozen=True, slots=True)
class Sent:
    """What the store said of a body. `checksum` is what a HEAD must show for it."""

    version_id: str
    checksum: str


def b64(digest: bytes) -> str:
    """A checksum as S3 writes it."""
    return base64.b64encode(digest).decode("ascii")


def lock_fields(retain_until_ms: int) -> dict[str, Any]:
    """The lock of a new version; none for 0."""
    if not retain_until_ms:
        return {}
    return {
        "ObjectLockMode": "COMPLIANCE",
        "ObjectLockRetainUntilDate": datetime.fromtimestamp(retain_until_ms / 1000, tz=UTC),
    }


def send(
    client: Any, bucket: str, key: str, data: bytes, *, digest: bytes, lock_ms: int, absent: bool
) -> Sent:
    """Store one body. With `absent`, only if the key has no current version.

    Raises what the client raises. What was begun in parts and failed is taken back if the store
    still answers; parts are no version and mean nothing.
    """
    about = {
        "Bucket": bucket,
        "Key": key,
        # The digest is for people with other tools: nothing of ours believes it (README).
        "Metadata": {"sha256": digest.hex(), CREATED_META: str(time.time_ns() // 1_000_000)},
        **lock_fields(lock_ms),
    }
    condition = {"IfNoneMatch": "*"} if absent else {}
    if len(data) > ONE_PIECE_BYTES:
        return _send_parts(client, about, data, condition)
    answer = client.put_object(**about, **condition, Body=data, ChecksumSHA256=b64(digest))
    return Sent(answer.get("VersionId", ""), b64(digest))


def _send_parts(client: Any, about: dict[str, Any], data: bytes, condition: dict[str, str]) -> Sent:
    begun = client.create_multipart_upload(**about, ChecksumAlgorithm="SHA256")
    upload = {"Bucket": about["Bucket"], "Key": about["Key"], "UploadId": begun["UploadId"]}
    try:
        view = memoryview(data)
        parts, digests = [], hashlib.sha256()
        for number, start in enumerate(range(0, len(data), PART_BYTES), 1):
            part = bytes(view[start : start + PART_BYTES])
            digest = hashlib.sha256(part).digest()
            digests.update(digest)
            answer = client.upload_part(
                **upload, PartNumber=number, Body=part, ChecksumSHA256=b64(digest)
            )
            parts.append(
                {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": b64(digest)}
            )
        answer = client.complete_multipart_upload(
            **upload, **condition, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            client.abort_multipart_upload(**upload)
        raise
    return Sent(answer.get("VersionId", ""), f"{b64(digests.digest())}-{len(parts)}")
