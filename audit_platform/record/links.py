"""A refused event that is still a link of its device's chain, and its JSON form.

Belongs here: the fields and their check. Does not: deciding which refused line is a link
(`event.py`), dead letters (`deadletter.py`), judging the chain (`chain.py`).
Source: design sections 3 and 7; `docs/formats.md`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from audit_platform.errors import RecordMalformed

_WHERE: Final = "link"
_HEX: Final = frozenset("0123456789abcdef")
_HASH_DIGITS: Final = 64


@dataclass(frozen=True, slots=True)
class EventLink:
    """What the next event's `prevHash` is checked through. Hashes are 64 lower hex digits."""

    hospital_id: str
    device_id: str
    chain_id: str
    sequence_number: int
    event_hash: str
    prev_hash: str
    event_id: str
    event_time: str
    checksum: str

    def to_json(self) -> dict[str, Any]:
        """A camelCase object with exactly these fields."""
        return {_NAMES[name]: value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: object) -> EventLink:
        """Parse, strictly. Raises `RecordMalformed`, and nothing else."""
        if not isinstance(value, dict) or set(value) != set(_NAMES.values()):
            raise RecordMalformed(_WHERE, "", "not an object with exactly the fields of a link")
        fields = {name: value[key] for name, key in _NAMES.items()}
        sequence = fields.pop("sequence_number")
        if type(sequence) is not int or not 0 <= sequence < 2**53:
            raise RecordMalformed(_WHERE, "sequenceNumber", "not an integer from 0 to 2^53 - 1")
        for name, text in fields.items():
            if not isinstance(text, str):
                raise RecordMalformed(_WHERE, _NAMES[name], "not a text")
        for name in ("event_hash", "prev_hash", "checksum"):
            if len(fields[name]) != _HASH_DIGITS or not _HEX.issuperset(fields[name]):
                raise RecordMalformed(_WHERE, _NAMES[name], "not 64 lower hex digits")
        return cls(sequence_number=sequence, **fields)


_NAMES: Final = {
    "hospital_id": "hospitalId",
    "device_id": "deviceId",
    "chain_id": "chainId",
    "sequence_number": "sequenceNumber",
    "event_hash": "eventHash",
    "prev_hash": "prevHash",
    "event_id": "eventId",
    "event_time": "eventTime",
    "checksum": "checksum",
}
