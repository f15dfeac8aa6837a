"""Keys in files: signing keys with one public list replaced at one instant, and a wrapping key.

    <root>/private/<key id>.pem   PKCS8, readable by its owner only, written once
    <root>/private/wrapping.json  the key that wraps data keys, likewise
    <root>/keys.json              every key ever made here: what an auditor needs
    <root>/keys.lock              locked while the list changes

Belongs here: those files and signing with them. Does not: what is signed (`record/signing.py`).
A signing key counts once the list names it; a private .pem that no list names means nothing.
A wrapped data key is 48 bytes: id of the wrapping key (first 8 bytes of its SHA-256), then AES-256
key wrap, which needs no nonce, so a machine restored from a copy repeats none.
Source: design section 5 (manifests); RFC 8032, RFC 8410, RFC 3394; promises: `ports.Keys`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from audit_platform.adapters.embedded.files import (
    Files,
    FsyncSite,
    RealFiles,
    mkdirs,
    read_whole,
    unlink_if_there,
)
from audit_platform.errors import KeysUnavailable, KeyUnknown, RecordMalformed
from audit_platform.ports import DataKey, PublicKey
from audit_platform.record.signing import key_id_of, public_bytes

PURPOSES: Final = ("manifest", "edge")

FORMAT_VERSION: Final = 1

#: Data keys and the key that wraps them: AES-256.
DATA_KEY_BYTES: Final = 32
_WRAPPING_ID_BYTES: Final = 8
_WRAPPING_FILE: Final = "wrapping.json"

_OWNER_ONLY: Final = 0o600
_EVERYBODY_READS: Final = 0o644
#: Permission bits that let anybody but the owner at a private value.
_NOT_THE_OWNER: Final = 0o077

_log = logging.getLogger(__name__)


class FileKeys:
    """`ports.Keys` under one folder, for several processes of one machine at once."""

    def __init__(self, root: Path, files: Files | None = None) -> None:
        self._root = root
        self._files: Files = RealFiles() if files is None else files
        self._list = root / "keys.json"
        self._private = root / "private"
        self._warned: set[str] = set()
        self._durable = b""  # the last list whose name was durable for certain
        self._wrapping: bytes | None = None  # once its name was durable for certain

    def sign(self, purpose: str, message: bytes) -> tuple[str, bytes]:
        """See `ports.Keys`."""
        active = next((k for k in self.public_keys() if k.active and k.purpose == purpose), None)
        if active is None:
            raise KeyUnknown(
                f"no active {purpose} key", remedy=f"audit-platform keys rotate {purpose} (or new)"
            )
        return active.key_id, self._private_key(active).sign(message)

    def public_keys(self) -> list[PublicKey]:
        """See `ports.Keys`."""
        with _disk("reading the list of keys"):
            if self._files.stat(self._list) is None:
                return []
            data = read_whole(self._files, self._list)
            if data != self._durable:
                # Who wrote it may have died before its name was durable; nobody may sign, or be
                # told of a key, that a power cut takes away.
                self._files.fsync_dir(self._root, FsyncSite.KEY_ADOPTED_NAME)
                self._durable = data
            return _parse(str(self._list), data)

    def new(self, purpose: str, now_ms: int) -> PublicKey:
        """See `ports.Keys`."""
        if purpose not in PURPOSES:
            raise ValueError(f"purpose {purpose!r}: wanted one of {', '.join(PURPOSES)}")
        private = Ed25519PrivateKey.generate()
        public = public_bytes(private)
        key = PublicKey(key_id_of(public), public, purpose, now_ms, 0, active=True)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with _disk("making a key"), self._alone():
            before = self.public_keys()
            # Before the list: of two names in one folder a power cut may keep either alone.
            mkdirs(self._files, self._private, FsyncSite.KEY_FOLDER, below=self._root)
            self._replace(self._pem(key.key_id), pem, _OWNER_ONLY)
            others = [replace(k, active=False) if k.purpose == purpose else k for k in before]
            self._write([*others, key])
        return key

    def revoke(self, key_id: str, now_ms: int) -> PublicKey:
        """See `ports.Keys`."""
        with _disk("revoking a key"), self._alone():
            known = {k.key_id: k for k in self.public_keys()}
            if key_id not in known:
                raise KeyUnknown(
                    f"no key {key_id}", remedy="audit-platform keys list shows their ids"
                )
            if not known[key_id].revoked_ms:
                # 0 means good, so a clock that stands at 0 must not leave the key good.
                known[key_id] = replace(known[key_id], revoked_ms=max(now_ms, 1), active=False)
                self._write(list(known.values()))
            return known[key_id]

    def new_data_key(self) -> DataKey:
        """See `ports.Keys`. Raises `KeyUnknown` when the wrapping key's file is damaged."""
        with _disk("making a data key"):
            wrapping = self._wrapping_key() or self._make_wrapping_key()
        secret = secrets.token_bytes(DATA_KEY_BYTES)
        return DataKey(secret, _wrapping_id(wrapping) + aes_key_wrap(wrapping, secret))

    def open_data_key(self, wrapped: bytes) -> bytes:
        """See `ports.Keys`."""
        with _disk("reading the wrapping key"):
            wrapping = self._wrapping_key()
        remedy = f"bring private/{_WRAPPING_FILE} of that time back from the backup"
        if wrapping is None:
            raise KeyUnknown("there is no wrapping key", remedy=remedy)
        if not wrapped.startswith(_wrapping_id(wrapping)):
            raise KeyUnknown("not wrapped by our wrapping key", remedy=remedy)
        try:
            secret = aes_key_unwrap(wrapping, wrapped[_WRAPPING_ID_BYTES:])
        except (InvalidUnwrap, ValueError) as e:
            raise KeyUnknown("not a wrapped data key", remedy="the bytes are damaged") from e
        if len(secret) != DATA_KEY_BYTES:
            raise KeyUnknown("a wrapped key of another length", remedy="the bytes are damaged")
        return secret

    def _wrapping_key(self) -> bytes | None:
        """The wrapping key, or None when there is none; its name is durable on return."""
        if self._wrapping is None:
            path = self._private / _WRAPPING_FILE
            if (found := self._files.stat(path)) is None:
                return None
            self._warn_if_readable(path, found.permissions, "what it wraps is no secret any more")
            wrapping = _parse_wrapping(path, read_whole(self._files, path))
            # Who made it may have died before its name was durable; what it wraps must outlive us.
            self._files.fsync_dir(self._private, FsyncSite.KEY_WRAPPING_ADOPTED)
            self._wrapping = wrapping
        return self._wrapping

    def _make_wrapping_key(self) -> bytes:
        with self._alone():
            if (others := self._wrapping_key()) is not None:
                return others
            mkdirs(self._files, self._private, FsyncSite.KEY_FOLDER, below=self._root)
            wrapping = secrets.token_bytes(DATA_KEY_BYTES)
            value = {
                "kind": "wrapping-key",
                "version": FORMAT_VERSION,
                "keyId": _wrapping_id(wrapping).hex(),
                "key": wrapping.hex(),
            }
            data = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
            self._replace(self._private / _WRAPPING_FILE, data, _OWNER_ONLY)
            self._wrapping = wrapping
            return wrapping

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one process at a time changes the list."""
        mkdirs(self._files, self._root, FsyncSite.KEY_FOLDER)
        handle = self._files.open(self._root / "keys.lock", create=True)
        try:
            self._files.lock(handle)
            yield
        finally:
            self._files.close(handle)  # gives the lock back

    def _write(self, keys: list[PublicKey]) -> None:
        data = _text(keys)
        self._replace(self._list, data, _EVERYBODY_READS)
        self._durable = data

    def _replace(self, path: Path, data: bytes, permissions: int) -> None:
        """The file has these bytes instead, at one instant; durable on return."""
        written = path.with_name(path.name + ".new")
        unlink_if_there(self._files, written)  # we are alone: whoever began it is dead
        handle = self._files.create(written, permissions)
        try:
            self._files.pwrite(handle, data, 0)
            self._files.fsync(handle, FsyncSite.KEY_RECORD)
        finally:
            self._files.close(handle)
        self._files.rename(written, path)
        self._files.fsync_dir(path.parent, FsyncSite.KEY_NAME)

    def _pem(self, key_id: str) -> Path:
        return self._private / f"{key_id}.pem"

    def _warn_if_readable(self, path: Path, permissions: int, remedy: str) -> None:
        if permissions & _NOT_THE_OWNER and path.name not in self._warned:
            self._warned.add(path.name)
            _log.warning(
                "%s can be read by others than its owner: chmod 600 it; if somebody may have, %s",
                path,
                remedy,
            )

    def _private_key(self, key: PublicKey) -> Ed25519PrivateKey:
        path = self._pem(key.key_id)
        remedy = f"bring {path.name} back from the backup, or audit-platform keys rotate"
        with _disk("reading a private key"):
            found = self._files.stat(path)
            if found is None:
                raise KeyUnknown(f"the private value of {key.key_id} is missing", remedy=remedy)
            self._warn_if_readable(
                path,
                found.permissions,
                f"audit-platform keys rotate {key.purpose} and keys revoke {key.key_id}",
            )
            pem = read_whole(self._files, path)
        try:
            private = load_pem_private_key(pem, None)
        except ValueError as e:
            raise KeyUnknown(f"{path} is not a private key", remedy=remedy) from e
        if not isinstance(private, Ed25519PrivateKey) or public_bytes(private) != key.public_key:
            raise KeyUnknown(f"{path} is not the private value of {key.key_id}", remedy=remedy)
        return private


@contextmanager
def _disk(doing: str) -> Iterator[None]:
    """Turn an `OSError` into `KeysUnavailable`."""
    try:
        yield
    except OSError as e:
        raise KeysUnavailable(
            f"{doing}: {e}", remedy="check that the disk of AUDIT_HOME is writable and not full"
        ) from e


def _text(keys: list[PublicKey]) -> bytes:
    value = {
        "kind": "keys",
        "version": FORMAT_VERSION,
        "keys": [
            {
                "keyId": k.key_id,
                "publicKey": k.public_key.hex(),
                "purpose": k.purpose,
                "createdMs": k.created_ms,
                "revokedMs": k.revoked_ms,
                "active": k.active,
            }
            for k in keys
        ],
    }
    # People read this file and hand it on: one member a line.
    return json.dumps(value, indent=1).encode() + b"\n"


def _parse(where: str, data: bytes) -> list[PublicKey]:
    try:
        value = orjson.loads(data)
        if value["kind"] != "keys" or value["version"] != FORMAT_VERSION:
            raise RecordMalformed(where, "kind/version", f"wanted keys version {FORMAT_VERSION}")
        keys = [_parse_key(k) for k in value["keys"]]
    except (KeyError, TypeError, ValueError) as e:
        raise RecordMalformed(where, "keys", repr(e)) from e
    for k in keys:
        if key_id_of(k.public_key) != k.key_id:
            raise RecordMalformed(where, f"keys/{k.key_id}", "the id is not that of the key")
    return keys


def _parse_key(value: dict[str, Any]) -> PublicKey:
    return PublicKey(
        key_id=str(value["keyId"]),
        public_key=bytes.fromhex(value["publicKey"]),
        purpose=str(value["purpose"]),
        created_ms=int(value["createdMs"]),
        revoked_ms=int(value["revokedMs"]),
        active=bool(value["active"]),
    )


def _wrapping_id(wrapping: bytes) -> bytes:
    return hashlib.sha256(wrapping).digest()[:_WRAPPING_ID_BYTES]


def _parse_wrapping(path: Path, data: bytes) -> bytes:
    """The wrapping key in a file's bytes. A damaged one must never be replaced by a new one."""
    remedy = f"bring {path.name} back from the backup; never delete it while a spool holds data"
    try:
        value = orjson.loads(data)
        is_ours = value["kind"] == "wrapping-key" and value["version"] == FORMAT_VERSION
        wrapping = bytes.fromhex(value["key"])
        is_whole = (
            len(wrapping) == DATA_KEY_BYTES and value["keyId"] == _wrapping_id(wrapping).hex()
        )
    except (KeyError, TypeError, ValueError) as e:
        raise KeyUnknown(f"{path} is not a wrapping key", remedy=remedy) from e
    if not (is_ours and is_whole):
        raise KeyUnknown(f"{path} is not a wrapping key, or is damaged", remedy=remedy)
    return wrapping
