"""Folder and records under the embedded object store: how a version is claimed and brought to rest.

Belongs here: where each file lies, version records, drafts, finishing what somebody else began.
Does not: what may be put, locked or deleted (`objects.py`). Source: `README.md` beside this file.

    <root>/<key>                    body of the first version, a plain file under its own key
    <root>/.versions/<key>@<n>      bodies of newer versions
    <root>/.meta/<key>@<n>.json     record of version n = 1, 2, ...; who links it has claimed n
    <root>/.tmp/<id>.json, .body    a put under way; gone once all of it is durable and in place
    <root>/.tmp/<id>.change         a record about to be replaced, under the lock
    <root>/.lock                    flocked for changes of records and for drafts' beginnings
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from audit_platform.adapters.embedded.files import (
    Files,
    FsyncSite,
    mkdirs,
    read_whole,
    unlink_if_there,
    write_file,
)
from audit_platform.errors import StoreUnavailable
from audit_platform.ports import LockMode, ObjectVersion

#: No leading dot (our own folders have one, and `..` is one), no `@` (our own suffix). The length
#: leaves room for the suffix in a file name of 255 bytes.
_SEGMENT: Final = r"[A-Za-z0-9=_-][A-Za-z0-9=._-]{0,199}"
_KEY: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_RECORD_NAME: Final = re.compile(r"([^@]+)@[1-9][0-9]*\.json")

#: S3's limit, so that a key that works here works there.
MAX_KEY_BYTES: Final = 1024
#: Folders known to be durable are remembered, so that most puts fsync none; at this many the memory
#: is emptied and learned again.
_MAX_FOLDERS: Final = 10_000


def check_key(key: str) -> None:
    """`ValueError` unless the key is relative, of good segments, and not too long."""
    if len(key) > MAX_KEY_BYTES or not _KEY.fullmatch(key):
        raise ValueError(f"not an object key: {key!r}")


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """What a user sees of a version; its number; the draft it was put from; whether removed."""

    seen: ObjectVersion
    number: int
    draft: str
    removed: bool = False

    def to_bytes(self) -> bytes:
        """JSON for people to read."""
        v = self.seen
        return orjson.dumps(
            {
                "key": v.key,
                "number": self.number,
                "versionId": v.version_id,
                "size": v.size,
                "sha256": v.sha256,
                "createdMs": v.created_ms,
                "deleteMarker": v.is_delete_marker,
                "mode": LockMode.COMPLIANCE if v.retain_until_ms else "",
                "retainUntilMs": v.retain_until_ms,
                "legalHold": v.legal_hold,
                "removed": self.removed,
                "draft": self.draft,
            },
            option=orjson.OPT_INDENT_2,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> VersionRecord:
        """Parse; `ValueError` for anything else."""
        try:
            v = orjson.loads(data)
            seen = ObjectVersion(
                key=str(v["key"]),
                version_id=str(v["versionId"]),
                size=int(v["size"]),
                sha256=str(v["sha256"]),
                created_ms=int(v["createdMs"]),
                is_delete_marker=bool(v["deleteMarker"]),
                retain_until_ms=int(v["retainUntilMs"]),
                legal_hold=bool(v["legalHold"]),
            )
            return cls(seen, int(v["number"]), str(v["draft"]), bool(v["removed"]))
        except (KeyError, TypeError) as e:
            raise ValueError(repr(e)) from e


class ObjectFolder:
    """The store's files. All methods raise `OSError` as the calls beneath do."""

    def __init__(self, root: Path, files: Files) -> None:
        self._root = root
        self._files = files
        self._meta = root / ".meta"
        self._newer = root / ".versions"
        self._tmp = root / ".tmp"
        self._durable: set[Path] = set()
        mkdirs(files, root, FsyncSite.OBJECT_FOLDER)
        for folder in (self._meta, self._newer, self._tmp):
            self.make_folder(folder)
        self._sweep()

    # ---------------------------------------------------------------------------------- places

    def body(self, key: str, number: int) -> Path:
        """Where a version's body lies."""
        return self._root / key if number == 1 else self._newer / f"{key}@{number}"

    def record(self, key: str, number: int) -> Path:
        """Where a version's record lies."""
        return self._meta / f"{key}@{number}.json"

    def make_folder(self, path: Path) -> None:
        """A folder below the root, durable on return."""
        if path not in self._durable:
            if len(self._durable) >= _MAX_FOLDERS:
                self._durable = set()
            mkdirs(self._files, path, FsyncSite.OBJECT_FOLDER, below=self._root)
            self._durable.add(path)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """The store's lock, against threads and processes."""
        handle = self._files.open(self._root / ".lock", create=True)
        try:
            self._files.lock(handle)
            yield
        finally:
            self._files.close(handle)

    # ------------------------------------------------------------------------------------ read

    def read(self, key: str, number: int) -> VersionRecord | None:
        """The record of a version, or None. Raises `StoreUnavailable` for one that is garbled."""
        path = self.record(key, number)
        try:
            data = read_whole(self._files, path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return VersionRecord.from_bytes(data)
        except ValueError as e:
            raise StoreUnavailable(
                f"{path} is not a version record: {e}", remedy="restore it from a copy"
            ) from e

    def records(self, key: str) -> Iterator[VersionRecord]:
        """All records of a key, removed ones too: numbers have no holes, nothing is listed."""
        number = 1
        while (record := self.read(key, number)) is not None:
            yield record
            number += 1

    def keys(self, folder: str, after_key: str) -> Iterator[str]:
        """Keys that have records under a folder ("" or ending in `/`), in key order."""
        try:
            names = self._files.listdir(self._meta / folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        # A folder sorts as what its keys begin with: "a/" lies between "a-" and "a0".
        leaves = {m[1] for name in names if (m := _RECORD_NAME.fullmatch(name))}
        folders = {f"{name}/" for name in names if "@" not in name}
        for name in sorted(leaves | folders):
            path = folder + name
            if name.endswith("/"):
                if path > after_key or after_key.startswith(path):
                    yield from self.keys(path, after_key)
            elif path > after_key:
                yield path

    # ----------------------------------------------------------------------------------- write

    @contextlib.contextmanager
    def draft(self) -> Iterator[Draft]:
        """A new draft. At the end it is finished if it was claimed, else cleared away."""
        draft_id = uuid.uuid4().hex
        path = self._tmp / f"{draft_id}.json"
        with self.exclusive():
            handle = self._files.create(path)
            self._files.lock(handle)  # as long as we live, nobody sweeps it
        try:
            yield Draft(self, self._files, draft_id, path, handle)
            self._finish_or_clear(path)
        except Exception:
            # Claimed or not, whoever meets it next can tell; but do not keep a full disk full.
            with contextlib.suppress(OSError, StoreUnavailable):
                self._finish_or_clear(path)
            raise
        finally:
            self._files.close(handle)

    def settle(self, record: VersionRecord) -> None:
        """Bring a claimed version to its end: claim durable, body in place and durable.

        Done by the putter, and by anyone who meets the version before that: what a reader was told
        must not vanish. The draft's record is the sign that it is still to be done, and goes last.
        """
        json_path = self._tmp / f"{record.draft}.json"
        if self._files.stat(json_path) is None:
            return
        claim = self.record(record.seen.key, record.number)
        self._files.fsync_dir(claim.parent, FsyncSite.OBJECT_CLAIM)
        draft = json_path.with_suffix(".body")
        if not record.seen.is_delete_marker:
            body = self.body(record.seen.key, record.number)
            self.make_folder(body.parent)
            # A second name and not a rename: at no moment is the body without a durable one.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                self._files.link(draft, body)
            ours, placed = self._files.stat(draft), self._files.stat(body)
            if placed is None or (ours is not None and ours.inode != placed.inode):
                raise StoreUnavailable(
                    f"the body of {record.seen.key} cannot take its place",
                    remedy="another file lies there: find out whose it is and move it away",
                )
            self._files.fsync_dir(body.parent, FsyncSite.OBJECT_BODY_NAME)
        unlink_if_there(self._files, draft)
        unlink_if_there(self._files, json_path)

    def change(self, record: VersionRecord) -> ObjectVersion:
        """Replace a settled version's record, durably. Lock held."""
        path = self._tmp / f"{uuid.uuid4().hex}.change"
        target = self.record(record.seen.key, record.number)
        try:
            write_file(self._files, path, record.to_bytes(), FsyncSite.OBJECT_CHANGE)
            self._files.rename(path, target)
        except OSError:
            with contextlib.suppress(OSError):
                unlink_if_there(self._files, path)
            raise
        self._files.fsync_dir(target.parent, FsyncSite.OBJECT_CHANGE_NAME)
        return record.seen

    def remove_body(self, record: VersionRecord) -> None:
        """Take a version's body away, durably. Idempotent. Lock held."""
        if not record.seen.is_delete_marker:
            body = self.body(record.seen.key, record.number)
            unlink_if_there(self._files, body)
            self._files.fsync_dir(body.parent, FsyncSite.OBJECT_GONE)

    def _finish_or_clear(self, path: Path) -> None:
        """Settle a draft whose record was claimed, delete any other. The draft's lock is ours."""
        try:
            record = VersionRecord.from_bytes(read_whole(self._files, path))
        except FileNotFoundError:
            return
        except ValueError:
            record = None
        if record is not None:
            claim = self._files.stat(self.record(record.seen.key, record.number))
            ours = self._files.stat(path)
            if claim is not None and ours is not None and claim.inode == ours.inode:
                self.settle(record)
                return
        unlink_if_there(self._files, path.with_suffix(".body"))
        unlink_if_there(self._files, path)

    def _sweep(self) -> None:
        """Finish or clear away what dead processes left in `.tmp`."""
        with self.exclusive():
            for name in self._files.listdir(self._tmp):
                path = self._tmp / name
                if name.endswith(".json"):
                    self._sweep_draft(path)
                elif self._files.stat(path.with_suffix(".json")) is None:
                    unlink_if_there(self._files, path)

    def _sweep_draft(self, path: Path) -> None:
        try:
            handle = self._files.open(path)
        except FileNotFoundError:
            return
        try:
            if self._files.lock(handle, wait=False):
                self._finish_or_clear(path)
        finally:
            self._files.close(handle)


@dataclass(slots=True)
class Draft:
    """A put under way, known to nobody until it claims a number."""

    _folder: ObjectFolder
    _files: Files
    draft_id: str
    _path: Path
    _handle: int

    def write_body(self, data: bytes) -> None:
        """The bytes of the version, durable but nameless."""
        write_file(self._files, self._path.with_suffix(".body"), data, FsyncSite.OBJECT_BODY)

    def claim(self, record: VersionRecord) -> bool:
        """Claim the record's key and number; False when somebody else has them."""
        self._files.truncate(self._handle, 0)
        self._files.pwrite(self._handle, record.to_bytes(), 0)
        self._files.fsync(self._handle, FsyncSite.OBJECT_RECORD)
        # Both drafts have durable names before anybody sees the claim: it may be ended from them.
        self._files.fsync_dir(self._path.parent, FsyncSite.OBJECT_DRAFT_NAME)
        try:
            self._files.link(self._path, self._folder.record(record.seen.key, record.number))
        except FileExistsError:
            return False
        return True
