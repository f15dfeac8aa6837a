"""The manifest: one signed JSON file that says what a tenant's day holds.

Belongs here: its fields, its bytes, its signature, the hash that chains it to the one before.
Does not: making one (`operations/seal.py`), judging one against the objects (`fsck`).
Source: design section 5 (manifest); RFC 8032 (Ed25519), RFC 8785 (bytes); `docs/formats.md`.

The file is the JCS bytes of the object with its `signature` member. The signature covers `CONTEXT`
(a line of text) and the JCS bytes of the object without that member. `previous` is the SHA-256 of
the whole file of the manifest before (`sha256sum` gives it).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from audit_platform.errors import RecordMalformed
from audit_platform.record.chain import ChainSpan, ChainStart, LossRun
from audit_platform.record.layout import ZERO_HASH
from audit_platform.record.links import EventLink

FORMAT_VERSION: Final = 1
CONTEXT: Final = b"audit-platform manifest v1\n"

#: A day that cannot be sealed gets an `unsealed` manifest, so that later days go on.
SEALED: Final = "sealed"


@dataclass(frozen=True, slots=True)
class NamedObject:
    """An object that a manifest names; hex SHA-256 of its bytes."""

    key: str
    version_id: str
    sha256: str
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class Part:
    """A sealed part with its Merkle roots (lower hex)."""

    object: NamedObject
    root: str
    row_group_roots: tuple[str, ...]
    first_device: str
    last_device: str


@dataclass(frozen=True, slots=True)
class QuarantinedLink:
    """A refused event that stays a link of its chain."""

    entry_id: str
    slug: str
    link: EventLink


@dataclass(frozen=True, slots=True)
class InputRange:
    """Offsets of one partition that this manifest was made from: first <= offset < end."""

    topic: str
    generation: int
    partition: int
    first_offset: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One tenant's day, as signed. `raw` is the whole file when it was read from one."""

    tenant_id: str
    day: str
    number: int
    previous: str
    revision: int
    status: str
    sealed_ms: int
    software: str
    lock: str
    rows: int
    duplicates: int
    root: str
    parts: tuple[Part, ...]
    chains: tuple[ChainSpan, ...]
    starts: tuple[ChainStart, ...]
    losses: tuple[LossRun, ...]
    verdicts: dict[str, int]
    quarantine: tuple[NamedObject, ...]
    links: tuple[QuarantinedLink, ...]
    undecodable: tuple[NamedObject, ...]
    edge_keys: dict[str, str]
    inputs: tuple[InputRange, ...]
    key_id: str = ""
    signature: str = ""
    raw: bytes = b""

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the whole file: what the next manifest names as `previous`."""
        return hashlib.sha256(self.raw).hexdigest()

    def statement(self) -> bytes:
        """The bytes that the signature covers."""
        return CONTEXT + _encode(self._body())

    def signed(self, key_id: str, signature: bytes) -> Manifest:
        """The same manifest with its signature and its file bytes."""
        body = self._body()
        value = signature.hex()
        body["signature"] = {"algorithm": "Ed25519", "keyId": key_id, "value": value}
        return replace(self, key_id=key_id, signature=value, raw=_encode(body))

    def _body(self) -> dict[str, Any]:
        return {
            "kind": "manifest",
            "version": FORMAT_VERSION,
            "tenantId": self.tenant_id,
            "day": self.day,
            "number": self.number,
            "previous": self.previous,
            "revision": self.revision,
            "status": self.status,
            "sealedMs": self.sealed_ms,
            "software": self.software,
            "lock": self.lock,
            "rows": self.rows,
            "duplicates": self.duplicates,
            "root": self.root,
            "parts": [
                _object_json(p.object)
                | {
                    "root": p.root,
                    "rowGroupRoots": list(p.row_group_roots),
                    "firstDevice": p.first_device,
                    "lastDevice": p.last_device,
                }
                for p in self.parts
            ],
            "chains": [c.to_json() for c in self.chains],
            "starts": [[s.device_id, s.chain_id, s.sequence, s.event_hash] for s in self.starts],
            "losses": [[x.device_id, x.chain_id, x.first, x.last, x.count] for x in self.losses],
            "verdicts": self.verdicts,
            "quarantine": [_object_json(o) for o in self.quarantine],
            "links": [
                {"entryId": q.entry_id, "slug": q.slug, "link": q.link.to_json()}
                for q in self.links
            ],
            "undecodable": [_object_json(o) for o in self.undecodable],
            "edgeKeys": self.edge_keys,
            "inputs": [
                [i.topic, i.generation, i.partition, i.first_offset, i.end_offset]
                for i in self.inputs
            ],
        }

    @classmethod
    def from_bytes(cls, where: str, data: bytes) -> Manifest:
        """Parse a manifest file; raises `RecordMalformed` naming the field.

        The bytes must be exactly those that this manifest would be written as: a member that the
        signature does not cover cannot hide in them.
        """
        manifest = cls._parse(where, data)
        again = manifest.signed(manifest.key_id, bytes.fromhex(manifest.signature)).raw
        if again != data:
            raise RecordMalformed(where, "", "not the canonical bytes of a manifest")
        return manifest

    @classmethod
    def _parse(cls, where: str, data: bytes) -> Manifest:
        try:
            v = orjson.loads(data)
        except orjson.JSONDecodeError as e:
            raise RecordMalformed(where, "", f"not JSON: {e}") from e
        if not isinstance(v, dict):
            raise RecordMalformed(where, "", "not an object")
        if v.get("kind") != "manifest" or v.get("version") != FORMAT_VERSION:
            raise RecordMalformed(where, "kind/version", f"wanted manifest {FORMAT_VERSION}")
        field = ""
        try:
            field = "signature"
            signature = v["signature"]
            if signature["algorithm"] != "Ed25519":
                raise RecordMalformed(where, field, "algorithm is not Ed25519")
            bytes.fromhex(signature["value"])
            field = "parts"
            parts = tuple(_part(p) for p in v["parts"])
            field = "chains"
            chains = tuple(ChainSpan.from_json(c) for c in v["chains"])
            field = "starts/losses"
            starts = tuple(ChainStart(str(d), str(c), int(n), str(h)) for d, c, n, h in v["starts"])
            losses = tuple(
                LossRun(str(d), str(c), int(a), int(b), int(n)) for d, c, a, b, n in v["losses"]
            )
            field = "links"
            links = tuple(
                QuarantinedLink(str(q["entryId"]), str(q["slug"]), EventLink.from_json(q["link"]))
                for q in v["links"]
            )
            field = "quarantine/undecodable/inputs"
            quarantine = tuple(_object(o) for o in v["quarantine"])
            undecodable = tuple(_object(o) for o in v["undecodable"])
            inputs = tuple(
                InputRange(str(t), int(g), int(p), int(a), int(b)) for t, g, p, a, b in v["inputs"]
            )
            field = "edgeKeys/verdicts"
            edge_keys = {str(k): str(x) for k, x in v["edgeKeys"].items()}
            verdicts = {str(k): int(x) for k, x in v["verdicts"].items()}
            field = "tenantId ... root"
            return cls(
                tenant_id=str(v["tenantId"]),
                day=str(v["day"]),
                number=int(v["number"]),
                previous=str(v["previous"]),
                revision=int(v["revision"]),
                status=str(v["status"]),
                sealed_ms=int(v["sealedMs"]),
                software=str(v["software"]),
                lock=str(v["lock"]),
                rows=int(v["rows"]),
                duplicates=int(v["duplicates"]),
                root=str(v["root"]),
                parts=parts,
                chains=chains,
                starts=starts,
                losses=losses,
                verdicts=verdicts,
                quarantine=quarantine,
                links=links,
                undecodable=undecodable,
                edge_keys=edge_keys,
                inputs=inputs,
                key_id=str(signature["keyId"]),
                signature=str(signature["value"]),
                raw=data,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise RecordMalformed(where, field, repr(e)) from e


def previous_hash(manifest: Manifest | None) -> str:
    """What the manifest after this one names as `previous`."""
    return ZERO_HASH if manifest is None else manifest.sha256


def _encode(body: dict[str, Any]) -> bytes:
    # ASCII keys, strings and integers only: sorted compact JSON is RFC 8785 here.
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def _object_json(o: NamedObject) -> dict[str, Any]:
    return {
        "key": o.key,
        "versionId": o.version_id,
        "sha256": o.sha256,
        "size": o.size,
        "rows": o.rows,
    }


def _object(v: dict[str, Any]) -> NamedObject:
    return NamedObject(
        key=str(v["key"]),
        version_id=str(v["versionId"]),
        sha256=str(v["sha256"]),
        size=int(v["size"]),
        rows=int(v["rows"]),
    )


def _part(v: dict[str, Any]) -> Part:
    return Part(
        object=_object(v),
        root=str(v["root"]),
        row_group_roots=tuple(str(r) for r in v["rowGroupRoots"]),
        first_device=str(v["firstDevice"]),
        last_device=str(v["lastDevice"]),
    )
