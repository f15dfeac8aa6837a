"""A small signed JSON record: the object, its signature beside it, a context line under it.

The same form as an incident's. Belongs here: bytes and the statement that a signature covers. Does
not: what records say (`verified.py`, `hold.py`), keys and stores (`operations/signed_records.py`).
Source: design section 2 (one commit pattern); RFC 8785 (bytes), RFC 8032 (Ed25519).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from audit_platform.record.small import encode, headed, parse, signature_member


@dataclass(frozen=True, slots=True)
class Form:
    """What kind of record it is: its name in the file, and the context of its signature."""

    kind: str
    context: bytes

    def statement(self, said: dict[str, Any]) -> bytes:
        """The bytes that the signature covers. `said` holds texts, integers, booleans, lists."""
        return self.context + encode(headed(self.kind, said))

    def file(self, said: dict[str, Any], key_id: str, signature: bytes) -> bytes:
        """JCS bytes of the file."""
        return encode(headed(self.kind, said) | signature_member(key_id, signature.hex()))

    def parse(self, where: str, data: bytes) -> SignedFile:
        """A file as it says; the signature is not checked here. Raises `RecordMalformed`."""
        return parse(where, data, self.kind, _file)


@dataclass(frozen=True, slots=True)
class SignedFile:
    """A parsed file: what it says, and by whose key."""

    said: dict[str, Any]
    key_id: str
    signature: bytes


def _file(value: dict[str, Any]) -> SignedFile:
    said = dict(value)
    signature = said.pop("signature")
    del said["kind"], said["version"]
    return SignedFile(said, str(signature["keyId"]), bytes.fromhex(str(signature["value"])))
