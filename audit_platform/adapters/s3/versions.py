"""Versions as S3 tells of them, turned into `ports.ObjectVersion`.

Belongs here: the order of a listing, what a listing does not tell. Does not: any promise.

A listing gives neither SHA-256 nor lock. Most callers of `versions()` look at keys and version ids
only (a record's bytes are fetched anyway), so one HEAD for each would double what a walk costs. A
`LaterVersion` asks when one of those fields is first looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from audit_platform.errors import StoreUnavailable
from audit_platform.ports import ObjectVersion

#: The first page is small: many callers want one key, or the first of a folder. S3's limit after.
FIRST_PAGE: Final = 50
PAGE: Final = 1000


class LaterVersion(ObjectVersion):
    """A version of which `sha256`, lock, hold and time are asked for when they are looked at.

    Asked once; raises what the asking raises (`StoreUnavailable`, `ObjectNotFound`). Equal to the
    plain version with the same fields, and pickled as it. The two askings: `facts` gives the lock
    and, where that is cheap, the digest; `digest` is called when `facts` has none.
    """

    __slots__ = ("_digest", "_facts", "_known_digest", "_known_facts")
    _digest: Callable[[], str]
    _facts: Callable[[], Facts]
    _known_digest: str
    _known_facts: Facts | None

    def __init__(
        self,
        *,
        key: str,
        version_id: str,
        size: int,
        facts: Callable[[], Facts],
        digest: Callable[[], str],
    ) -> None:
        values = {
            "key": key,
            "version_id": version_id,
            "size": size,
            "is_delete_marker": False,
            "_facts": facts,
            "_digest": digest,
            "_known_facts": None,
            "_known_digest": "",
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _learned(self) -> Facts:
        known = self._known_facts
        if known is None:
            known = self._facts()
            object.__setattr__(self, "_known_facts", known)
        return known

    @property
    def sha256(self) -> str:
        """Lower hex of the body."""
        if not self._known_digest:
            known = self._learned().sha256 or self._digest()
            object.__setattr__(self, "_known_digest", known)
        return self._known_digest

    @property
    def created_ms(self) -> int:
        """When it was put."""
        return self._learned().created_ms

    @property
    def retain_until_ms(self) -> int:
        """End of the lock; 0 without one."""
        return self._learned().retain_until_ms

    @property
    def legal_hold(self) -> bool:
        """Whether it is held."""
        return self._learned().legal_hold

    def plain(self) -> ObjectVersion:
        """The same with all fields known."""
        return ObjectVersion(*self._fields())

    def _fields(self) -> tuple[Any, ...]:
        return _fields_of(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectVersion) and self._fields() == _fields_of(other)

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        # Words for a person ask nobody.
        return f"LaterVersion(key={self.key!r}, version_id={self.version_id!r}, size={self.size})"

    def __reduce__(self) -> tuple[type[ObjectVersion], tuple[Any, ...]]:
        return ObjectVersion, self._fields()


@dataclass(frozen=True, slots=True)
class Facts:
    """What only a HEAD tells. `sha256` is "" where the store has no digest of the whole body.

    `created_ms` is what the writer sent with a body of ours, for versitygw's time of a version
    changes when another is put over it; else the store's time. Nothing of ours goes by it.
    """

    sha256: str
    created_ms: int
    retain_until_ms: int
    legal_hold: bool


def _fields_of(version: ObjectVersion) -> tuple[Any, ...]:
    return (
        version.key,
        version.version_id,
        version.size,
        version.sha256,
        version.created_ms,
        version.is_delete_marker,
        version.retain_until_ms,
        version.legal_hold,
    )


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return round(moment.timestamp() * 1000)


def stored_ms(row: dict[str, Any]) -> int:
    """The store's time of a version, in whole seconds: more is not told everywhere."""
    return to_ms(row["LastModified"]) // 1000 * 1000


@dataclass(slots=True)
class _Rows:
    """What a listing gave of one key, newest first as it came."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    markers: list[dict[str, Any]] = field(default_factory=list)

    def oldest_first(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """Each row, and whether it is a delete marker.

        Bodies keep the store's own order, and so do markers; the SDK gives them apart, so between
        the two the times decide. A body and a marker within a second (some round a body's time to
        the next one): the body first, unless the store says that it is the latest.
        """
        markers = self.markers[::-1]
        for body in reversed(self.bodies):
            while markers and (
                to_ms(markers[0]["LastModified"]) + 1000 <= stored_ms(body) or body.get("IsLatest")
            ):
                yield markers.pop(0), True
            yield body, False
        yield from ((marker, True) for marker in markers)


def rows_of(
    ask: Callable[..., dict[str, Any]], after_key: str
) -> Iterator[tuple[dict[str, Any], bool]]:
    """All rows of a listing behind a key, in key order, oldest first within a key.

    `ask` is one page: `list_object_versions` of a prefix. A key's rows are in memory, and
    those of one page.
    """
    held: dict[str, _Rows] = {}
    place: dict[str, str] = {"KeyMarker": after_key} if after_key else {}
    limit = FIRST_PAGE
    while True:
        page = ask(MaxKeys=limit, **place)
        limit = PAGE
        # The last page may have neither list.
        for row in page.get("Versions") or ():
            _add(held.setdefault(row["Key"], _Rows()).bodies, row)
        for row in page.get("DeleteMarkers") or ():
            _add(held.setdefault(row["Key"], _Rows()).markers, row)
        keys = sorted(held)
        is_last = not page.get("IsTruncated")
        # The page may end inside its last key.
        for key in keys if is_last else keys[:-1]:
            rows = held.pop(key)
            if key > after_key:
                yield from rows.oldest_first()
        if is_last:
            return
        before, place = place, {"KeyMarker": page["NextKeyMarker"]}
        if page.get("NextVersionIdMarker"):
            place["VersionIdMarker"] = page["NextVersionIdMarker"]
        if place == before:
            raise StoreUnavailable(
                f"the listing stays at {place['KeyMarker']} for ever",
                remedy="what this store keeps is told by audit-platform store certify",
            )


def _add(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Add a row, once: versitygw repeats a latest version that ended the page before."""
    if not rows or rows[-1]["VersionId"] != row["VersionId"]:
        rows.append(row)
