"""Checks of put-if-absent, checksums, parts and listings."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Any, Final

from botocore.exceptions import ClientError

from audit_platform.adapters.s3.certify.trial import Trial, check, later, want
from audit_platform.adapters.s3.client import is_taken
from audit_platform.adapters.s3.upload import b64

_ABSENT: Final = "put if absent"
_SUMS: Final = "checksums"
_PARTS: Final = "parts"
_LIST: Final = "listing"

#: S3's least for a part that is not the last.
_PART: Final = 5 << 20

#: What `_seven_rows` makes.
_SEVEN: Final = 7

#: Writers of the race.
_WRITERS: Final = 8


@check(_ABSENT, "a first put is taken, a second refused, and the first unchanged")
def _second_is_refused(t: Trial) -> None:
    put = t.put(IfNoneMatch="*")
    t.refused(lambda: t.put(key=put.key, body=b"second", IfNoneMatch="*"), put)
    want(len(_rows(t, put.key)) == 1, "the second left a version")


@check(_ABSENT, "of eight writers at once exactly one is taken, and one version is there")
def _race(t: Trial) -> None:
    for _ in range(5):
        key, ready = t.key(), threading.Barrier(_WRITERS)
        won: list[str] = []
        other: list[str] = []

        def write(who: int, key: str = key, ready: threading.Barrier = ready) -> None:
            ready.wait()
            try:
                won.append(t.put(key=key, body=b"%d" % who, IfNoneMatch="*").version_id)  # noqa: B023 - joined before the next turn
            except ClientError as e:
                if not is_taken(e):
                    other.append(str(e))  # noqa: B023 - the same

        threads = [threading.Thread(target=write, args=(n,)) for n in range(_WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        want(not other, f"a loser was told {other[:1]}")
        rows = _rows(t, key)
        want(len(won) == 1, f"{len(won)} writers were told that they are first")
        want([row["VersionId"] for row in rows] == won, f"{len(rows)} versions are there")


@check(_ABSENT, "a body in parts is refused where a key is taken")
def _parts_refused(t: Trial) -> None:
    put = t.put()
    t.refused(lambda: _in_parts(t, put.key, [b"small"], absent=True), put)


@check(_SUMS, "the SHA-256 that is sent is kept and told")
def _sum_is_told(t: Trial) -> None:
    put = t.put(body=b"summed")
    found = t.admin.head_object(**put.which(), ChecksumMode="ENABLED").get("ChecksumSHA256")
    want(found == b64(hashlib.sha256(b"summed").digest()), f"it tells {found}")


@check(_SUMS, "a body with another SHA-256 is refused, and nothing stored")
def _wrong_sum(t: Trial) -> None:
    key = t.key()
    t.refused(
        lambda: t.admin.put_object(
            Bucket=t.bucket, Key=key, Body=b"body", ChecksumSHA256=b64(bytes(32))
        )
    )
    want(_rows(t, key) == [], "a version is there")


@check(_SUMS, "a part with another SHA-256 is refused")
def _wrong_part_sum(t: Trial) -> None:
    begun = t.admin.create_multipart_upload(
        Bucket=t.bucket, Key=t.key(), ChecksumAlgorithm="SHA256"
    )
    upload = {"Bucket": t.bucket, "Key": begun["Key"], "UploadId": begun["UploadId"]}
    t.refused(
        lambda: t.admin.upload_part(
            **upload, PartNumber=1, Body=b"part", ChecksumSHA256=b64(bytes(32))
        )
    )
    t.admin.abort_multipart_upload(**upload)


@check(_SUMS, "a range of a body is those bytes")
def _range(t: Trial) -> None:
    put = t.put(body=bytes(range(256)) * 8)
    read = t.admin.get_object(**put.which(), Range="bytes=1000-1099")["Body"].read()
    want(read == put.body[1000:1100], f"{len(read)} other bytes came")


@check(_PARTS, "mode and date that are sent at the beginning stand on the version")
def _parts_locked(t: Trial) -> None:
    until, body = later(120), [b"1" * _PART, b"2" * 100]
    which = _in_parts(
        t, t.key(), body, ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until
    )
    head = t.admin.head_object(**which)
    found = (head.get("ObjectLockMode"), head.get("ObjectLockRetainUntilDate"))
    want(found == ("COMPLIANCE", until), f"it tells {found}")
    t.refused(lambda: t.admin.delete_object(**which))
    read = t.admin.get_object(**which)["Body"].read()
    want(read == b"".join(body), "other bytes came back")


@check(_PARTS, "the checksum over the parts' SHA-256 is told")
def _parts_summed(t: Trial) -> None:
    body = [b"1" * _PART, b"2" * 100]
    which = _in_parts(t, t.key(), body)
    digests = b"".join(hashlib.sha256(part).digest() for part in body)
    wanted = f"{b64(hashlib.sha256(digests).digest())}-2"
    found = t.admin.head_object(**which, ChecksumMode="ENABLED").get("ChecksumSHA256")
    want(found == wanted, f"it tells {found}")


@check(_PARTS, "an upload that is given up leaves no version")
def _given_up(t: Trial) -> None:
    key = t.key()
    begun = t.admin.create_multipart_upload(Bucket=t.bucket, Key=key)
    upload = {"Bucket": t.bucket, "Key": key, "UploadId": begun["UploadId"]}
    t.admin.upload_part(**upload, PartNumber=1, Body=b"part")
    t.admin.abort_multipart_upload(**upload)
    want(_rows(t, key) == [], "a version is there")


@check(_LIST, "the versions of a key come newest first")
def _order(t: Trial) -> None:
    key = t.key()
    put = [t.put(key=key, body=b"%d" % n, locked=False).version_id for n in range(5)]
    found = [row["VersionId"] for row in _rows(t, key)]
    want(found == put[::-1], "they come in another order")


@check(_LIST, "pages of three rows leave nothing out, inside a key neither")
def _pages(t: Trial) -> None:
    folder = _seven_rows(t)
    whole, paged = set(_listed(t, folder, 1000)), set(_listed(t, folder, 3))
    want(len(whole) == _SEVEN, f"{len(whole)} rows of {_SEVEN} came")
    want(paged == whole, f"{len(paged)} rows came by pages, {len(whole)} at once")


@check(_LIST, "pages give no row twice, of one row neither", relied_on=False)
def _small_pages(t: Trial) -> None:
    folder = _seven_rows(t)
    for limit in (3, 1):
        paged = list(_listed(t, folder, limit))
        want(len(paged) == _SEVEN, f"{len(paged)} rows of {_SEVEN} came by pages of {limit}")


@check(_LIST, "a listing behind a key begins with the next one", relied_on=False)
def _behind(t: Trial) -> None:
    folder = t.key()
    for n in range(3):
        t.put(key=f"{folder}/{n}", locked=False)
    page = t.admin.list_object_versions(
        Bucket=t.bucket, Prefix=f"{folder}/", KeyMarker=f"{folder}/0"
    )
    found = [row["Key"][-1] for row in page.get("Versions", [])]
    want(found == ["1", "2"], f"it begins with {found[:1]}")


@check(_LIST, "keys come in the order of their bytes")
def _byte_order(t: Trial) -> None:
    folder = t.key()
    names = ["b", "a-b", "a/c/d", "a/c.x", "a.b", "a0", "a/c-", "a/c0", "a_b/x", "A/z"]
    for name in names:
        t.put(key=f"{folder}/{name}", locked=False)
    page = t.admin.list_object_versions(Bucket=t.bucket, Prefix=f"{folder}/")
    found = [row["Key"].removeprefix(f"{folder}/") for row in page.get("Versions", [])]
    want(found == sorted(names), f"they come as {found}")


@check(_LIST, "what was put is in the next listing")
def _at_once(t: Trial) -> None:
    for n in range(20):
        put = t.put(locked=False)
        want(len(_rows(t, put.key)) == 1, f"put number {n + 1} was not listed")


def _seven_rows(t: Trial) -> str:
    """A folder of three keys with two versions each, and a delete marker over the middle one."""
    folder = t.key()
    for n in range(3):
        for body in (b"1", b"2"):
            t.put(key=f"{folder}/{n}", body=body, locked=False)
    t.admin.delete_object(Bucket=t.bucket, Key=f"{folder}/1")
    return folder


def _rows(t: Trial, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = t.admin.list_object_versions(Bucket=t.bucket, Prefix=key).get(
        "Versions", []
    )
    return found


def _listed(t: Trial, prefix: str, limit: int) -> Iterator[tuple[str, str]]:
    place: dict[str, str] = {}
    while True:
        page = t.admin.list_object_versions(Bucket=t.bucket, Prefix=prefix, MaxKeys=limit, **place)
        for row in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            yield row["Key"], row["VersionId"]
        if not page.get("IsTruncated"):
            return
        before, place = place, {"KeyMarker": page["NextKeyMarker"]}
        if page.get("NextVersionIdMarker"):
            place["VersionIdMarker"] = page["NextVersionIdMarker"]
        want(place != before, "a page was followed by the same page")


def _in_parts(
    t: Trial,
    key: str,
    body: list[bytes],
    *,
    absent: bool = False,
    **lock: Any,
) -> dict[str, str]:
    begun = t.admin.create_multipart_upload(
        Bucket=t.bucket, Key=key, ChecksumAlgorithm="SHA256", **lock
    )
    upload = {"Bucket": t.bucket, "Key": key, "UploadId": begun["UploadId"]}
    parts = []
    for number, part in enumerate(body, 1):
        checksum = b64(hashlib.sha256(part).digest())
        answer = t.admin.upload_part(
            **upload, PartNumber=number, Body=part, ChecksumSHA256=checksum
        )
        parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum})
    condition = {"IfNoneMatch": "*"} if absent else {}
    try:
        done = t.admin.complete_multipart_upload(
            **upload, **condition, MultipartUpload={"Parts": parts}
        )
    except ClientError:
        t.admin.abort_multipart_upload(**upload)
        raise
    return {"Bucket": t.bucket, "Key": key, "VersionId": done["VersionId"]}
