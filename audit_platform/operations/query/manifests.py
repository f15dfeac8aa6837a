"""A tenant's manifests as a list, and one as the file that it is.

Belongs here: reading them for people who check for themselves. Does not: judging a day
(`operations/verify.py`), what a question needs of them (`reader.py`).
Source: design section 5 (manifest).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import ObjectNotFound, QueryCancelled, RecordMalformed
from audit_platform.operations.claims import Claimed, read_claim
from audit_platform.operations.query.model import IsCancelled, never
from audit_platform.operations.query.reader import Reader
from audit_platform.ports import Objects
from audit_platform.record import layout, signing
from audit_platform.record.manifest import Manifest

_NO_KEY: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class ManifestFound:
    """A manifest and where it stands. `signed`: its signature is good by the key it names."""

    key: str
    version_id: str
    manifest: Manifest
    signed: bool


@dataclass(frozen=True, slots=True)
class ManifestList:
    """Manifests ascending by number; `next` is the last one's when there are more.

    `problems` says of files among them that are no manifest why not.
    """

    manifests: tuple[ManifestFound, ...]
    next: int | None
    problems: tuple[str, ...]


def list_manifests(
    reader: Reader,
    tenant_id: str,
    *,
    after: int = 0,
    limit: int = 100,
    is_cancelled: IsCancelled = never,
) -> ManifestList:
    """Manifests with a number above `after`. Raises `QueryCancelled`, `StoreUnavailable`."""
    trusted = {k.key_id: k.public_key for k in reader.platform.keys.public_keys()}
    found: list[ManifestFound] = []
    problems: list[str] = []
    for key, version_id in _manifest_objects(reader.platform.objects, tenant_id, after):
        if is_cancelled():
            raise QueryCancelled("the list was stopped", remedy="ask for a smaller page")
        if len(found) == limit:
            return ManifestList(tuple(found), found[-1].manifest.number, tuple(problems))
        try:
            m = reader.manifest(key, version_id)
            public = trusted.get(m.key_id, _NO_KEY)
            signed = signing.verify(public, bytes.fromhex(m.signature), m.statement())
        except (RecordMalformed, ObjectNotFound, ValueError) as e:
            problems.append(f"{key}: {e}")
        else:
            found.append(ManifestFound(key, version_id, m, signed))
    return ManifestList(tuple(found), None, tuple(problems))


def manifest_file(reader: Reader, tenant_id: str, number: int) -> Claimed | None:
    """The manifest file with a number, exactly as it is stored, or None."""
    return read_claim(reader.platform.objects, layout.manifest_key(tenant_id, number))


def _manifest_objects(objects: Objects, tenant_id: str, after: int) -> Iterator[tuple[str, str]]:
    """(key, oldest version) of manifests with a number above `after`, ascending."""
    prefix = layout.manifests_prefix(tenant_id)
    seen = layout.manifest_key(tenant_id, after)
    for version in objects.versions(prefix, after_key=seen):
        if not version.is_delete_marker and version.key != seen:
            seen = version.key
            yield version.key, version.version_id
