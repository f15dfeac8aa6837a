"""A small signed JSON record: the object, its signature beside it, a context line under it.

The same form as an incident's. Belongs here: bytes and the statement that a signature covers. Does
not: what records say (`verified.py`, `hold.py`), keys and stores (`operations/signed_records.py`).
Source: design section 2 (one commit pattern); RFC 8785 (bytes), RFC 8032 (Ed25519).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from audit_platform.errors import RecordMalformed

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Form:
    """What kind of record it is: its name in the file, and the context of its signature."""

    kind: str
    context: bytes

    def statement(self, said: dict[str, Any]) -> bytes:
        """The bytes that the signature covers. `said` holds texts, integers, booleans, lists."""
        return self.context + _encode(self._body(said))

    def file(self, said: dict[str, Any], key_id: str, signature: bytes) -> bytes:
        """JCS bytes of the file."""
        value = {"algorithm": "Ed25519", "keyId": key_id, "value": signature.hex()}
        return _encode(self._body(said) | {"signature": value})

    def parse(self, where: str, data: bytes) -> SignedFile:
        """A file as it says; the signature is not checked here. Raises `RecordMalformed`."""
        try:
            value = orjson.loads(data)
            signature = value.pop("signature")
            found = SignedFile(
                value, str(signature["keyId"]), bytes.fromhex(str(signature["value"]))
            )
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise RecordMalformed(where, "", f"not a signed record: {e!r}") from e
        if (value.pop("kind", None), value.pop("version", None)) != (self.kind, FORMAT_VERSION):
            raise RecordMalformed(
                where, "kind/version", f"wanted {self.kind} version {FORMAT_VERSION}"
            )
        return found

    def _body(self, said: dict[str, Any]) -> dict[str, Any]:
        return {"kind": self.kind, "version": FORMAT_VERSION, **said}


@dataclass(frozen=True, slots=True)
class SignedFile:
    """A parsed file: what it says, and by whose key."""

    said: dict[str, Any]
    key_id: str
    signature: bytes


def _encode(value: dict[str, Any]) -> bytes:
    # ASCII keys, integers, strings and lists: sorted compact JSON in UTF-8 is RFC 8785 here.
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
