"""A tenant's manifests in the store: read them all, find what counts, lengthen their locks.

Belongs here: reading manifests by way of the objects port and keeping their objects locked. Does
not: making one (`seal.py`), full judgement (`record/fsck.py`).
Source: design section 5 (manifest, locks).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import RecordMalformed, SealRefused
from audit_platform.ports import Keys, Objects, Platform
from audit_platform.record import layout, signing
from audit_platform.record.manifest import Manifest, NamedObject

#: Retention of sealed data: the day's end + two years (731 days hold any two calendar years).
SEALED_LOCK_MS: Final = 731 * layout.MS_PER_DAY


@dataclass(frozen=True, slots=True)
class History:
    """All manifests of a tenant, by number. `counting` is the newest of each day."""

    manifests: tuple[Manifest, ...]

    @property
    def counting(self) -> dict[str, Manifest]:
        """Day -> the manifest that counts."""
        return {m.day: m for m in self.manifests}

    @property
    def newest(self) -> Manifest | None:
        """The manifest with the highest number."""
        return self.manifests[-1] if self.manifests else None


def read_history(platform: Platform, tenant_id: str) -> History:
    """Every manifest of a tenant, oldest version of each, checked for form, order and signature.

    Raises `SealRefused` when one does not hold: nothing may be built on it. `RecordMalformed`,
    `StoreUnavailable` as they come.
    """
    trusted = {k.key_id: k.public_key for k in platform.keys.public_keys()}
    manifests: list[Manifest] = []
    for key, version_id in _oldest(platform.objects, layout.manifests_prefix(tenant_id)):
        manifest = Manifest.from_bytes(key, platform.objects.get(key, version_id))
        before = manifests[-1] if manifests else None
        if manifest.number != (before.number if before else 0) + 1:
            raise _unsound(key, "its number does not follow")
        if before is not None and manifest.previous != before.sha256:
            raise _unsound(key, "it does not name the manifest before it")
        if not _is_signed(trusted, manifest):
            raise _unsound(key, "its signature is not by one of our keys")
        manifests.append(manifest)
    return History(tuple(manifests))


def read_valid(platform: Platform, tenant_id: str) -> Iterator[Manifest]:
    """The manifests of good form and signature, oldest first, for reading.

    One of another form or signature is left out: its day is unverified, the others are as good as
    before. Nothing may be built on this: `read_history`. One at a time, since that of a day of
    many chains is megabytes, and a tenant has 731 days. Raises `StoreUnavailable`.
    """
    trusted = {k.key_id: k.public_key for k in platform.keys.public_keys()}
    for key, version_id in _oldest(platform.objects, layout.manifests_prefix(tenant_id)):
        try:
            manifest = Manifest.from_bytes(key, platform.objects.get(key, version_id))
        except RecordMalformed:
            continue
        belongs = layout.manifest_key(manifest.tenant_id, manifest.number) == key
        if belongs and _is_signed(trusted, manifest):
            yield manifest


def valid_of_day(platform: Platform, tenant_id: str, day: str) -> Manifest | None:
    """The newest of a day's manifests that `read_valid` gives: the one that counts."""
    newest = None
    for manifest in read_valid(platform, tenant_id):
        if manifest.day == day:
            newest = manifest
    return newest


def sealed_days(platform: Platform, tenant_id: str) -> set[str]:
    """Days for which `read_valid` gives a manifest."""
    return {manifest.day for manifest in read_valid(platform, tenant_id)}


def _is_signed(trusted: Mapping[str, bytes], manifest: Manifest) -> bool:
    public = trusted.get(manifest.key_id)
    signature = bytes.fromhex(manifest.signature)
    return public is not None and signing.verify(public, signature, manifest.statement())


def _oldest(objects: Objects, prefix: str) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for version in objects.versions(prefix):
        if not version.is_delete_marker:
            found.setdefault(version.key, version.version_id)
    return list(found.items())


def _unsound(key: str, why: str) -> SealRefused:
    return SealRefused(
        f"{key}: {why}", remedy="run `audit-platform fsck` and keep everything as it is"
    )


def named_objects(manifest: Manifest) -> list[NamedObject]:
    """Every data object that a manifest names."""
    parts = [p.object for p in manifest.parts]
    return [*parts, *manifest.quarantine, *manifest.undecodable]


def lengthen_locks(objects: Objects, manifest: Manifest) -> None:
    """Lock exactly the manifest's objects until its day + 2 years. Safe to repeat."""
    until = layout.day_end_ms(manifest.day) + SEALED_LOCK_MS
    for named in named_objects(manifest):
        version = objects.head(named.key, named.version_id)
        if version.retain_until_ms < until:
            objects.extend(named.key, named.version_id, until)


def sign(keys: Keys, manifest: Manifest) -> Manifest:
    """The manifest signed with the active manifest key. Raises `KeyUnknown`."""
    key_id, signature = keys.sign("manifest", manifest.statement())
    return manifest.signed(key_id, signature)
