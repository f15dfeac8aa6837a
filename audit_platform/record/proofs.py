"""The inclusion proof of one event as it is handed out, and its check by an outsider.

`check_event_proof` needs the event's stored bytes, the proof, the day's manifest file and the
public key; no store, no service. Belongs here: the proof's JSON form and that check. Does not:
making a path (`merkle.py`), finding the row (`operations/query/event.py`).
Source: design section 5 (Merkle tree, manifest); RFC 6962; `docs/formats.md`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from audit_platform.errors import RecordMalformed
from audit_platform.record import merkle, signing
from audit_platform.record.event import canonical_of_stored
from audit_platform.record.manifest import Manifest
from audit_platform.record.times import parse_time_ms

_WHERE: Final = "event proof"
_HEX32: Final = re.compile(r"[0-9a-f]{64}")
_INGESTION: Final = re.compile(rb',"ingestionTime":"([0-9T:.Z-]{24})","payload":')

#: Siblings in one of a proof's three paths: a tree of 2^64 leaves has no more.
_MAX_PATH: Final = 64
_MAX_NUMBER: Final = 2**53


@dataclass(frozen=True, slots=True)
class EventProof:
    """That a row is in a signed day. `path` leads from the row to `day_root`.

    The manifest is named by number, key, version and the SHA-256 of its file.
    """

    tenant_id: str
    day: str
    event_hash: str
    ingestion_ms: int
    manifest_number: int
    manifest_key: str
    manifest_version_id: str
    manifest_sha256: str
    key_id: str
    part_key: str
    part_root: str
    day_root: str
    path: merkle.RowProof

    def to_json(self) -> dict[str, Any]:
        """A camelCase object."""
        p = self.path
        return {
            "tenantId": self.tenant_id,
            "day": self.day,
            "eventHash": self.event_hash,
            "ingestionMs": self.ingestion_ms,
            "manifest": {
                "number": self.manifest_number,
                "key": self.manifest_key,
                "versionId": self.manifest_version_id,
                "sha256": self.manifest_sha256,
                "keyId": self.key_id,
            },
            "partKey": self.part_key,
            "partRoot": self.part_root,
            "dayRoot": self.day_root,
            "row": p.row,
            "rows": p.rows,
            "groupRows": p.group_rows,
            "part": p.part,
            "parts": p.parts,
            "groupPath": [h.hex() for h in p.group_path],
            "partPath": [h.hex() for h in p.part_path],
            "dayPath": [h.hex() for h in p.day_path],
        }

    @classmethod
    def from_json(cls, value: object) -> EventProof:
        """Parse. Raises `RecordMalformed`, and nothing else."""
        try:
            v: Any = value
            named = v["manifest"]
            path = merkle.RowProof(
                row=_number(v, "row"),
                rows=_number(v, "rows"),
                group_rows=_number(v, "groupRows"),
                part=_number(v, "part"),
                parts=_number(v, "parts"),
                group_path=_path(v, "groupPath"),
                part_path=_path(v, "partPath"),
                day_path=_path(v, "dayPath"),
            )
            return cls(
                tenant_id=_text(v, "tenantId"),
                day=_text(v, "day"),
                event_hash=_hex(v, "eventHash"),
                ingestion_ms=_number(v, "ingestionMs", least=-_MAX_NUMBER),
                manifest_number=_number(named, "number"),
                manifest_key=_text(named, "key"),
                manifest_version_id=_text(named, "versionId"),
                manifest_sha256=_hex(named, "sha256"),
                key_id=_text(named, "keyId"),
                part_key=_text(v, "partKey"),
                part_root=_hex(v, "partRoot"),
                day_root=_hex(v, "dayRoot"),
                path=path,
            )
        except (KeyError, TypeError) as e:
            raise RecordMalformed(_WHERE, "", f"a member is missing: {e!r}") from e


def check_event_proof(
    stored: bytes, proof: EventProof, manifest_file: bytes, public_key: bytes
) -> list[str]:
    """What speaks against this event being in that signed day; an empty list: it is proved.

    `stored` is the event's stored line without line end, `public_key` 32 bytes that the checker
    trusts by other means. Never raises for bad bytes.
    """
    # 1. The stored bytes are an event with this hash and this time.
    try:
        event_hash = hashlib.sha256(canonical_of_stored(stored)).digest()
        member = _INGESTION.search(stored)
        ingestion_ms = parse_time_ms(member[1].decode() if member else "")
        tenant_id = orjson.loads(stored)["tenantId"]
    except (ValueError, KeyError, TypeError) as e:
        return [f"the bytes are no stored event: {e}"]
    # 2. The manifest is the one that is named, of the event's tenant, and signed by the key.
    try:
        manifest = Manifest.from_bytes("manifest", manifest_file)
        signature, root = bytes.fromhex(manifest.signature), bytes.fromhex(manifest.root)
    except (RecordMalformed, ValueError) as e:
        return [f"the manifest cannot be read: {e}"]
    # 3. The path leads from the row to the root that the manifest signs, through the named part.
    path, named = proof.path, (proof.path.rows, proof.part_key, proof.part_root)
    parts = [(p.object.rows, p.object.key, p.root) for p in manifest.parts]
    is_part = path.parts == len(parts) and 0 <= path.part < len(parts)
    checks = (
        (event_hash.hex() == proof.event_hash, "the event's bytes do not have the proof's hash"),
        (ingestion_ms == proof.ingestion_ms, "the event's ingestionTime is not the proof's"),
        (manifest.sha256 == proof.manifest_sha256, "the manifest is not the one that is named"),
        ({tenant_id, manifest.tenant_id} == {proof.tenant_id}, "not all are of one tenant"),
        (manifest.day == proof.day, "the manifest is of another day"),
        (manifest.number == proof.manifest_number, "the manifest has another number"),
        (
            signing.verify(public_key, signature, manifest.statement()),
            "the manifest is not signed by this key",
        ),
        (manifest.root == proof.day_root, "the day's root is not the one in the manifest"),
        (is_part and parts[path.part] == named, "the manifest does not name the proof's part"),
        (
            merkle.row_is_included(path, event_hash, ingestion_ms, root),
            "the path does not lead from the event to the day's root",
        ),
    )
    return [problem for holds, problem in checks if not holds]


def _text(v: Any, name: str) -> str:
    found = v[name]
    if not isinstance(found, str):
        raise RecordMalformed(_WHERE, name, "not a text")
    return found


def _hex(v: Any, name: str) -> str:
    found = _text(v, name)
    if _HEX32.fullmatch(found) is None:
        raise RecordMalformed(_WHERE, name, "not 64 lower hex digits")
    return found


def _number(v: Any, name: str, least: int = 0) -> int:
    found = v[name]
    if type(found) is not int or not least <= found <= _MAX_NUMBER:
        raise RecordMalformed(_WHERE, name, "not a number in range")
    return found


def _path(v: Any, name: str) -> tuple[bytes, ...]:
    found = v[name]
    if not isinstance(found, list) or len(found) > _MAX_PATH:
        raise RecordMalformed(_WHERE, name, f"not a list of at most {_MAX_PATH} hashes")
    for text in found:
        if not isinstance(text, str) or _HEX32.fullmatch(text) is None:
            raise RecordMalformed(_WHERE, name, "not 64 lower hex digits each")
    return tuple(bytes.fromhex(text) for text in found)
