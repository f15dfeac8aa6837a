"""The embedded object store: `ports.Objects` in a folder that an outsider can read.

Belongs here: put-if-absent, versions, retention and legal hold. Does not: where files lie and when
they are durable (`object_folder.py`), what keys mean (`record/layout.py`).
Source: `ports.Objects`; design sections 5 and 9; `README.md` beside this file.

The lock is honest about itself (`lock = "advisory"`): this code refuses to shorten or delete, a
person with the folder's rights need not.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from audit_platform.adapters.embedded.files import Files
from audit_platform.adapters.embedded.object_folder import ObjectFolder, VersionRecord, check_key
from audit_platform.errors import ObjectExists, ObjectLocked, ObjectNotFound, StoreUnavailable
from audit_platform.ports import Clock, ObjectVersion

#: The number finds the record at once; the random part keeps an id from ever meaning another body.
_VERSION_ID: Final = re.compile(r"([1-9][0-9]{0,8})-[0-9a-f]{16}")
_REMEDY: Final = "keep the data and try again; look at the disk if it goes on"


@contextlib.contextmanager
def _disk(doing: str) -> Iterator[None]:
    """Turn an `OSError` into `StoreUnavailable`."""
    try:
        yield
    except OSError as e:
        raise StoreUnavailable(f"{doing}: {e}", remedy=_REMEDY) from e


class EmbeddedObjects:
    """`ports.Objects` under one folder, for several threads and processes of one machine."""

    lock = "advisory"

    def __init__(self, root: Path, files: Files, clock: Clock) -> None:
        self._root = root
        self._files = files
        self._clock = clock
        with _disk("open the object store"):
            self._folder = ObjectFolder(root, files)

    # ----------------------------------------------------------------------------------- write

    def put(self, key: str, data: bytes, *, retain_until_ms: int, if_absent: bool) -> ObjectVersion:
        """See `ports.Objects.put`.

        A key may not lie under another object's key as under a folder, nor the other way round:
        `ValueError`. `StoreUnavailable` also when a file lies in a new key's place that the store
        has no record of: it might be evidence whose record was lost, so nothing is written over it.
        """
        check_key(key)
        with _disk(f"put {key}"):
            return self._store(key, data, retain_until_ms=retain_until_ms, if_absent=if_absent)

    def delete(self, key: str, version_id: str | None = None) -> None:
        """See `ports.Objects.delete`. A removed version's small record stays, its body does not."""
        check_key(key)
        with _disk(f"delete {key}"):
            if version_id is None:
                self._store(key, None, retain_until_ms=0, if_absent=False)
                return
            with self._folder.exclusive():
                record = self._find(key, version_id, even_removed=True)
                seen = record.seen
                if record.removed:
                    self._folder.remove_body(record)  # a crash may have left that undone
                    raise _not_found(key, version_id)
                if seen.legal_hold or seen.retain_until_ms > self._clock.now_ms():
                    hold = " and under legal hold" if seen.legal_hold else ""
                    raise ObjectLocked(
                        f"{key} {version_id} is locked until {seen.retain_until_ms}{hold}",
                        remedy="locked versions are kept; wait for the date or lift the hold",
                    )
                self._folder.change(replace(record, removed=True))
                self._folder.remove_body(record)

    def extend(self, key: str, version_id: str, retain_until_ms: int) -> ObjectVersion:
        """See `ports.Objects.extend`."""
        with _disk(f"extend {key}"), self._folder.exclusive():
            record = self._find_body(key, version_id)
            until = record.seen.retain_until_ms
            if retain_until_ms < until:
                raise ObjectLocked(
                    f"{key} {version_id} is locked until {until}, not to {retain_until_ms} only",
                    remedy="a lock can only be lengthened",
                )
            # Equal is written too: whoever wrote it first may have died before it was durable.
            seen = replace(record.seen, retain_until_ms=retain_until_ms)
            return self._folder.change(replace(record, seen=seen))

    def set_legal_hold(self, key: str, version_id: str, *, hold: bool) -> None:
        """See `ports.Objects.set_legal_hold`."""
        with _disk(f"hold {key}"), self._folder.exclusive():
            record = self._find_body(key, version_id)
            self._folder.change(replace(record, seen=replace(record.seen, legal_hold=hold)))

    # ------------------------------------------------------------------------------------ read

    def get(self, key: str, version_id: str) -> bytes:
        """See `ports.Objects.get`."""
        with self.open(key, version_id) as reader, _disk(f"read {key}"):
            return reader.read()

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:
        """See `ports.Objects.open`."""
        with _disk(f"open {key}"):
            record = self._find_body(key, version_id)
            try:
                return self._files.reader(self._folder.body(key, record.number))
            except FileNotFoundError:
                raise _not_found(key, version_id) from None

    def head(self, key: str, version_id: str) -> ObjectVersion:
        """See `ports.Objects.head`. A delete marker has a head, but no body."""
        with _disk(f"read the record of {key}"):
            return self._find(key, version_id).seen

    def oldest(self, key: str) -> ObjectVersion | None:
        """See `ports.Objects.oldest`."""
        check_key(key)
        with _disk(f"read the records of {key}"):
            for record in self._folder.records(key):
                if not record.removed and not record.seen.is_delete_marker:
                    self._folder.settle(record)
                    return record.seen
        return None

    def versions(self, prefix: str, *, after_key: str = "") -> Iterator[ObjectVersion]:
        """See `ports.Objects.versions`. Names of one folder at a time are in memory.

        `ValueError` for a prefix that is neither "", nor a folder ending in `/`, nor a key.
        """
        if prefix:
            check_key(prefix.removesuffix("/"))
        if not prefix or prefix.endswith("/"):
            keys = self._folder.keys(prefix, after_key)
        else:
            keys = iter([prefix] if prefix > after_key else [])
        return self._versions_of(keys, prefix)

    def _versions_of(self, keys: Iterator[str], prefix: str) -> Iterator[ObjectVersion]:
        while True:
            with _disk(f"list {prefix}"):
                key = next(keys, None)
                if key is None:
                    return
                found = [r for r in self._folder.records(key) if not r.removed]
                for record in found:
                    self._folder.settle(record)
            yield from (record.seen for record in found)

    # ---------------------------------------------------------------------------------- inside

    def _store(
        self, key: str, data: bytes | None, *, retain_until_ms: int, if_absent: bool
    ) -> ObjectVersion:
        """Claim the next version number for a body (or, without one, for a delete marker)."""
        number = self._next_number(key, if_absent=if_absent)
        seen = ObjectVersion(
            key=key,
            version_id="",
            size=len(data or b""),
            sha256="" if data is None else hashlib.sha256(data).hexdigest(),
            created_ms=self._clock.now_ms(),
            is_delete_marker=data is None,
            retain_until_ms=retain_until_ms,
            legal_hold=False,
        )
        self._folder.make_folder(self._folder.record(key, number).parent)
        with self._folder.draft() as draft:
            if data is not None:
                draft.write_body(data)
            while True:
                seen = replace(seen, version_id=f"{number}-{uuid.uuid4().hex[:16]}")
                if draft.claim(VersionRecord(seen, number, draft.draft_id)):
                    break
                number = self._next_number(key, if_absent=if_absent)
        return seen

    def _next_number(self, key: str, *, if_absent: bool) -> int:
        """The number to claim. Raises `ObjectExists`, once the winner is durable."""
        records = list(self._folder.records(key))
        there = [r for r in records if not r.removed]
        if if_absent and there:
            for record in there:
                self._folder.settle(record)
            raise ObjectExists(key)
        if not records:
            self._check_place(key)
        return len(records) + 1

    def _check_place(self, key: str) -> None:
        """Whether a first version's body can have its plain place."""
        folder = self._root
        for part in key.split("/")[:-1]:
            folder /= part
            found = self._files.stat(folder)
            if found is not None and not found.is_dir:
                raise ValueError(f"{key} would lie under an object as under a folder")
        self._folder.make_folder(folder)
        found = self._files.stat(self._root / key)
        if found is None or self._files.stat(self._folder.record(key, 1)) is not None:
            return  # free, or just put by somebody else
        if found.is_dir:
            raise ValueError(f"{key} is a folder of other objects")
        raise StoreUnavailable(
            f"a file lies at {key} that the store has no record of",
            remedy="find out whose it is (its record may be lost) and move it away",
        )

    def _find(self, key: str, version_id: str, *, even_removed: bool = False) -> VersionRecord:
        """A settled record by its version id. Raises `ObjectNotFound`."""
        check_key(key)
        m = _VERSION_ID.fullmatch(version_id)
        record = self._folder.read(key, int(m[1])) if m else None
        if record is None or record.seen.version_id != version_id:
            raise _not_found(key, version_id)
        if record.removed:
            if not even_removed:
                raise _not_found(key, version_id)
        else:
            self._folder.settle(record)
        return record

    def _find_body(self, key: str, version_id: str) -> VersionRecord:
        """As `_find`, but not a delete marker."""
        record = self._find(key, version_id)
        if record.seen.is_delete_marker:
            raise _not_found(key, version_id)
        return record


def _not_found(key: str, version_id: str) -> ObjectNotFound:
    return ObjectNotFound(f"no version {version_id} of {key}", remedy="list the key's versions")
