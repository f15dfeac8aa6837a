"""Verifying a sealed day by reading its bytes back from the store.

The steps are `record/fsck.py`'s own; here they read by way of the objects port and trust the keys
port. Belongs here: that source, and the scope of one tenant's day. Does not: any judgement.
Source: design section 5; the mission's rows 27 and 28.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from audit_platform.errors import ObjectNotFound
from audit_platform.ports import Objects, Platform
from audit_platform.record import fsck
from audit_platform.record.report import Entry, Report, Step


class ObjectsSource:
    """The objects port as fsck's source: the oldest version of a key counts."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys with a body, in order."""
        last = ""
        for version in self._objects.versions(prefix):
            if version.key != last and not version.is_delete_marker:
                last = version.key
                yield last

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:
        """A reader; `version_id` "" is the oldest version."""
        if not version_id:
            oldest = self._objects.oldest(key)
            if oldest is None:
                raise ObjectNotFound(f"{key} is not in the store")
            version_id = oldest.version_id
        return self._objects.open(key, version_id)

    def hidden(self, key: str) -> str:
        """What lies over the oldest version."""
        first = None
        for version in self._objects.versions(key):
            if version.key != key:
                continue
            if version.is_delete_marker:
                return "a delete marker lies over the object"
            first = first or version
            if version.sha256 != first.sha256:
                return f"a newer version with other bytes ({version.version_id}) lies over it"
        return ""


def trusted_keys(platform: Platform) -> list[fsck.TrustedKey]:
    """The manifest keys of the keys port."""
    return [
        fsck.TrustedKey(k.key_id, k.public_key, k.revoked_ms)
        for k in platform.keys.public_keys()
        if k.purpose == "manifest"
    ]


def verify_day(platform: Platform, tenant_id: str, day: str) -> Report:
    """Judge one sealed day: its manifest, every object and every row, links to other days.

    A day without a manifest is a failed check, not a clean one. Raises `StoreUnavailable`.
    """
    source = ObjectsSource(platform.objects)
    scope = fsck.Scope(frozenset([tenant_id]), day)
    report = fsck.check(source, trusted_keys(platform), scope=scope)
    if not report.could_not_check and day not in report.days.get(tenant_id, ()):
        text = f"{day} of {tenant_id} has no valid manifest: nothing was verified"
        report.entries.append(Entry(Step.READ, text, tenant_id=tenant_id, day=day))
    return report
