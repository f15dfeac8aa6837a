"""Verifying a sealed day by reading its bytes back from the store.

The steps are `record/fsck.py`'s own; here they read by way of the objects port and trust the keys
port. Belongs here: that source, and the scope of one tenant's day. Does not: any judgement.
Source: design section 5; the mission's rows 27 and 28.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import BinaryIO

from audit_platform.errors import ObjectNotFound, Recoverable
from audit_platform.ports import Objects, ObjectVersion, Platform
from audit_platform.record import fsck
from audit_platform.record.report import Entry, Report, Step


class ObjectsSource:
    """The objects port as fsck's source: the oldest version of a key counts.

    fsck names what cannot be read as a finding. A store that does not answer is none: `outage` is
    the last such error, and the report of a check that met one says nothing.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.outage: Recoverable | None = None

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Recoverable as e:
            self.outage = e
            raise

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys with a body, in order."""
        last = ""
        with self._noted():
            for version in self._objects.versions(prefix):
                if version.key != last and not version.is_delete_marker:
                    last = version.key
                    yield last

    @contextmanager
    def open(self, key: str, version_id: str) -> Iterator[BinaryIO]:
        """A reader; `version_id` "" is the oldest version."""
        with self._noted():
            if not version_id:
                oldest = self._objects.oldest(key)
                if oldest is None:
                    raise ObjectNotFound(f"{key} is not in the store")
                version_id = oldest.version_id
            with self._objects.open(key, version_id) as opened:
                yield opened

    def hidden(self, key: str) -> str:
        """What lies over the oldest version."""
        with self._noted():
            return _over(v for v in self._objects.versions(key) if v.key == key)

    def hidden_among(self, folder: str, first: str, last: str) -> Iterator[tuple[str, str]]:
        """As `hidden`, for keys of a folder: one listing."""
        with self._noted():
            listed = self._objects.versions(folder, after_key=first[:-1])
            for key, versions in groupby(listed, key=lambda v: v.key):
                if key > last:
                    return
                over = _over(versions)
                if over:
                    yield key, over


def _over(versions: Iterable[ObjectVersion]) -> str:
    """What lies over the oldest of a key's versions, or ""."""
    first = None
    for version in versions:
        if version.is_delete_marker:
            return "a delete marker lies over the object"
        if first is None:  # a store may have to be asked for a digest: not for one version alone
            first = version
        elif version.sha256 != first.sha256:
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

    A day without a manifest is a failed check, not a clean one. Raises `StoreUnavailable`: nothing
    was found out.
    """
    source = ObjectsSource(platform.objects)
    scope = fsck.Scope(frozenset([tenant_id]), day)
    report = fsck.check(source, trusted_keys(platform), scope=scope)
    if source.outage is not None:
        raise source.outage
    if not report.could_not_check and day not in report.days.get(tenant_id, ()):
        text = f"{day} of {tenant_id} has no valid manifest: nothing was verified"
        report.entries.append(Entry(Step.READ, text, tenant_id=tenant_id, day=day))
    return report
