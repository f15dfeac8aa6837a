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
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final, TypeVar

import orjson

from audit_platform.errors import RecordMalformed
from audit_platform.record.chain import ChainSpan, ChainStart, LossRun
from audit_platform.record.layout import ZERO_HASH
from audit_platform.record.links import EventLink

_T = TypeVar("_T")

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

        def read(name: str, parse: Callable[[Any], _T]) -> _T:
            try:
                return parse(v[name])
            except (KeyError, TypeError, ValueError, AttributeError) as e:
                raise RecordMalformed(where, name, repr(e)) from e

        signature = read("signature", _signature)
        return cls(
            tenant_id=read("tenantId", str),
            day=read("day", _day),
            number=read("number", int),
            previous=read("previous", str),
            revision=read("revision", int),
            status=read("status", str),
            sealed_ms=read("sealedMs", int),
            software=read("software", str),
            lock=read("lock", str),
            rows=read("rows", int),
            duplicates=read("duplicates", int),
            root=read("root", str),
            parts=read("parts", _each(_part)),
            chains=read("chains", _each(ChainSpan.from_json)),
            starts=read("starts", _each(_start)),
            losses=read("losses", _each(_loss)),
            verdicts=read("verdicts", lambda x: {str(k): int(n) for k, n in x.items()}),
            quarantine=read("quarantine", _each(_object)),
            links=read("links", _each(_link)),
            undecodable=read("undecodable", _each(_object)),
            edge_keys=read("edgeKeys", lambda x: {str(k): str(key) for k, key in x.items()}),
            inputs=read("inputs", _each(_input)),
            key_id=signature[0],
            signature=signature[1],
            raw=data,
        )


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


def _each(parse: Callable[[Any], _T]) -> Callable[[Any], tuple[_T, ...]]:
    return lambda values: tuple(parse(value) for value in values)


def _signature(v: dict[str, Any]) -> tuple[str, str]:
    if v["algorithm"] != "Ed25519":
        raise ValueError("algorithm is not Ed25519")
    value = str(v["value"])
    bytes.fromhex(value)
    return str(v["keyId"]), value


def _day(v: str) -> str:
    if date.fromisoformat(v).isoformat() != v:
        raise ValueError("not a day as YYYY-MM-DD")
    return v


def _start(v: list[Any]) -> ChainStart:
    device, chain, sequence, event_hash = v
    return ChainStart(str(device), str(chain), int(sequence), str(event_hash))


def _loss(v: list[Any]) -> LossRun:
    device, chain, first, last, count = v
    return LossRun(str(device), str(chain), int(first), int(last), int(count))


def _link(v: dict[str, Any]) -> QuarantinedLink:
    return QuarantinedLink(str(v["entryId"]), str(v["slug"]), EventLink.from_json(v["link"]))


def _input(v: list[Any]) -> InputRange:
    topic, generation, partition, first, end = v
    return InputRange(str(topic), int(generation), int(partition), int(first), int(end))
