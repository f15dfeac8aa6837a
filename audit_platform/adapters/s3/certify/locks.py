"""Checks of locks, versions and legal holds. Belongs here: what a lock must withstand."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from botocore.exceptions import ClientError

from audit_platform.adapters.s3.certify.trial import Put, Trial, attempt, check, later, want
from audit_platform.adapters.s3.client import is_absent

_BUCKET: Final = "bucket"
_PUT: Final = "lock at put"
_REFUSE: Final = "lock refuses"
_HOLD: Final = "legal hold"


@check(_BUCKET, "a bucket made with lock says so")
def _lock_is_told(t: Trial) -> None:
    found = t.admin.get_object_lock_configuration(Bucket=t.bucket)["ObjectLockConfiguration"]
    want(found.get("ObjectLockEnabled") == "Enabled", f"it says {found}")


@check(_BUCKET, "it has versions without being asked")
def _versions_are_on(t: Trial) -> None:
    found = t.admin.get_bucket_versioning(Bucket=t.bucket).get("Status")
    want(found == "Enabled", f"versions are {found}")


@check(_BUCKET, "its versions cannot be suspended")
def _versions_stay_on(t: Trial) -> None:
    t.refused(
        lambda: t.admin.put_bucket_versioning(
            Bucket=t.bucket, VersioningConfiguration={"Status": "Suspended"}
        )
    )


@check(_BUCKET, "a bucket without lock says so")
def _no_lock_is_told(t: Trial) -> None:
    with _plain_bucket(t) as plain:
        t.refused(lambda: t.admin.get_object_lock_configuration(Bucket=plain))


@check(_BUCKET, "a bucket without lock takes no locked version", relied_on=False)
def _no_lock_no_locked(t: Trial) -> None:
    with _plain_bucket(t) as plain:
        t.refused(lambda: t.put(bucket=plain))


@check(_BUCKET, "a bucket that holds versions cannot be removed")
def _bucket_stays(t: Trial) -> None:
    put = t.put()
    t.refused(lambda: t.admin.delete_bucket(Bucket=t.bucket), put)


@check(_PUT, "mode and date that are sent with a put stand on the version's head")
def _head_tells(t: Trial) -> None:
    _head_has(t, t.put())


@check(_PUT, "they are what GetObjectRetention says")
def _retention_tells(t: Trial) -> None:
    t.kept(t.put())


@check(_PUT, "a date that is past is refused")
def _past_is_refused(t: Trial) -> None:
    t.refused(lambda: t.put(seconds=-3600))


@check(_PUT, "a mode without a date is refused")
def _mode_needs_date(t: Trial) -> None:
    t.refused(
        lambda: t.admin.put_object(
            Bucket=t.bucket, Key=t.key(), Body=b"x", ObjectLockMode="COMPLIANCE"
        )
    )


@check(_PUT, "a mode that does not exist is refused")
def _mode_must_exist(t: Trial) -> None:
    t.refused(
        lambda: t.put(locked=False, ObjectLockMode="STRONG", ObjectLockRetainUntilDate=later(60))
    )


@check(_PUT, "an unlocked version can be locked later")
def _lock_later(t: Trial) -> None:
    put = t.put(locked=False)
    until = later(60)
    _retain(t, put, "COMPLIANCE", 60)
    want(_until(t, put) >= until, "the lock does not read back")
    t.refused(lambda: t.admin.delete_object(**put.which()))


@check(_PUT, "a bucket's default retention is stamped on the version", relied_on=False)
def _default_is_stamped(t: Trial) -> None:
    _default(t, {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}})
    try:
        put = t.put(locked=False)
    finally:
        _default(t, None)
    found = t.admin.head_object(**put.which()).get("ObjectLockMode")
    want(found == "COMPLIANCE", f"its mode is {found}")
    t.refused(lambda: t.admin.delete_object(**put.which()), put)


@check(_REFUSE, "the version is removed by its id: refused")
def _delete(t: Trial) -> None:
    put = t.put()
    t.refused(lambda: t.admin.delete_object(**put.which()), put)


@check(_REFUSE, "it is removed with the right to bypass governance: refused")
def _delete_bypass(t: Trial) -> None:
    put = t.put()
    t.refused(lambda: t.admin.delete_object(**put.which(), BypassGovernanceRetention=True), put)


@check(_REFUSE, "it is removed in a list of several: refused")
def _delete_many(t: Trial) -> None:
    put = t.put()
    listed = {"Objects": [{"Key": put.key, "VersionId": put.version_id}]}
    t.refused(lambda: t.admin.delete_objects(Bucket=put.bucket, Delete=listed), put)


@check(_REFUSE, "its date is brought nearer: refused")
def _shorten(t: Trial) -> None:
    put = t.put()
    t.refused(lambda: _retain(t, put, "COMPLIANCE", 30), put)


@check(_REFUSE, "its date is brought nearer with bypass: refused")
def _shorten_bypass(t: Trial) -> None:
    put = t.put()
    t.refused(lambda: _retain(t, put, "COMPLIANCE", 30, BypassGovernanceRetention=True), put)


@check(_REFUSE, "its date is set to the past: refused")
def _past(t: Trial) -> None:
    put = t.put()
    t.refused(lambda: _retain(t, put, "COMPLIANCE", -60), put)


@check(_REFUSE, "its mode becomes GOVERNANCE: refused")
def _downgrade(t: Trial) -> None:
    put = t.put()
    t.refused(lambda: _retain(t, put, "GOVERNANCE", 600), put)


@check(_REFUSE, "its mode becomes GOVERNANCE with bypass: refused")
def _downgrade_bypass(t: Trial) -> None:
    put = t.put()
    t.refused(lambda: _retain(t, put, "GOVERNANCE", 600, BypassGovernanceRetention=True), put)


@check(_REFUSE, "its retention is taken off: refused")
def _take_off(t: Trial) -> None:
    put = t.put()
    t.refused(
        lambda: t.admin.put_object_retention(
            **put.which(), Retention={}, BypassGovernanceRetention=True
        ),
        put,
    )


@check(_REFUSE, "its date is moved on: allowed, and reads back")
def _lengthen(t: Trial) -> None:
    put = t.put()
    until = later(600)
    t.admin.put_object_retention(
        **put.which(), Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until}
    )
    t.kept(put, until)


@check(_REFUSE, "another body is put over it: it stays readable and locked")
def _overwritten(t: Trial) -> None:
    put = t.put()
    t.put(key=put.key, body=b"forged", locked=False)
    t.kept(put)
    t.refused(lambda: t.admin.delete_object(**put.which()), put)


@check(_REFUSE, "a copy is made over it: it stays readable and locked")
def _copied_over(t: Trial) -> None:
    put, other = t.put(), t.put(body=b"other", locked=False)
    t.admin.copy_object(
        Bucket=put.bucket, Key=put.key, CopySource={"Bucket": other.bucket, "Key": other.key}
    )
    t.kept(put)
    t.refused(lambda: t.admin.delete_object(**put.which()), put)


@check(_REFUSE, "a delete marker is put over it: it stays readable and locked")
def _marked(t: Trial) -> None:
    put = t.put()
    t.admin.delete_object(Bucket=put.bucket, Key=put.key)
    t.kept(put)
    t.refused(lambda: t.admin.delete_object(**put.which()), put)


@check(_REFUSE, "the head of a version under another one tells its lock", relied_on=False)
def _head_of_older_tells(t: Trial) -> None:
    put = t.put()
    t.put(key=put.key, body=b"newer", locked=False)
    _head_has(t, put)


@check(_REFUSE, "an unlocked version can be removed, and is gone")
def _unlocked_goes(t: Trial) -> None:
    put = t.put(locked=False)
    t.admin.delete_object(**put.which())
    try:
        t.admin.get_object(**put.which())["Body"].close()
    except ClientError as e:
        want(is_absent(e), f"asked for, it is answered {e}")
        return
    want(False, "it can still be read")  # noqa: FBT003 - as in every check


@check(_HOLD, "a hold on an unlocked version reads back, and refuses its removal")
def _hold(t: Trial) -> None:
    put = t.put(locked=False)
    _hold_set(t, put, "ON")
    t.refused(lambda: t.admin.delete_object(**put.which()), put)


@check(_HOLD, "the hold lifted, it can be removed")
def _hold_lifted(t: Trial) -> None:
    put = t.put(locked=False)
    _hold_set(t, put, "ON")
    _hold_set(t, put, "OFF")
    t.admin.delete_object(**put.which())


@check(_HOLD, "a held version stays when its date has passed")
def _hold_outlasts(t: Trial) -> None:
    put = t.put(seconds=3)
    assert put.until is not None
    _hold_set(t, put, "ON")
    # The store's own clock has to pass the date; there is nothing to ask it meanwhile.
    threading.Event().wait(max(0.0, put.until.timestamp() - time.time()) + 0.5)
    t.refused(lambda: t.admin.delete_object(**put.which()), put)
    _hold_set(t, put, "OFF")


@contextmanager
def _plain_bucket(t: Trial) -> Iterator[str]:
    name = f"certify-{uuid.uuid4().hex[:20]}"
    t.admin.create_bucket(Bucket=name)
    try:
        yield name
    finally:
        attempt(t.admin.delete_bucket, Bucket=name)


def _head_has(t: Trial, put: Put) -> None:
    head = t.admin.head_object(**put.which())
    found = (head.get("ObjectLockMode"), head.get("ObjectLockRetainUntilDate"))
    want(found == ("COMPLIANCE", put.until), f"it tells {found[0]} until {found[1]}")


def _retain(t: Trial, put: Put, mode: str, seconds: int, **more: Any) -> None:
    retention = {"Mode": mode, "RetainUntilDate": later(seconds)}
    t.admin.put_object_retention(**put.which(), Retention=retention, **more)


def _until(t: Trial, put: Put) -> Any:
    return t.admin.get_object_retention(**put.which())["Retention"]["RetainUntilDate"]


def _default(t: Trial, rule: dict[str, Any] | None) -> None:
    configuration: dict[str, Any] = {"ObjectLockEnabled": "Enabled"}
    if rule is not None:
        configuration["Rule"] = rule
    t.admin.put_object_lock_configuration(Bucket=t.bucket, ObjectLockConfiguration=configuration)


def _hold_set(t: Trial, put: Put, status: str) -> None:
    t.admin.put_object_legal_hold(**put.which(), LegalHold={"Status": status})
    found = t.admin.get_object_legal_hold(**put.which())["LegalHold"]["Status"]
    want(found == status, f"the hold reads back as {found}")
