"""What an edge says of itself: new chains, losses, its clock, a segment that it could not read.

Belongs here: the payloads of these events, signed where the design says so. Does not: chaining and
spooling them (`edge_intake.py`), what a signature covers (`record/signing.py`).
Source: design section 3 (chains, losses).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from audit_platform.errors import KeyUnknown, RecordMalformed
from audit_platform.ports import Dropped, Keys, SetAside
from audit_platform.record import signing
from audit_platform.record.signing import CHAIN_START, LOSS
from audit_platform.services.edge_entry import decode

EDGE_KEY: Final = "edge"

CLOCK: Final = "edge_clock"
SEGMENT_SET_ASIDE: Final = "edge_segment_set_aside"

#: Runs in one `loss` event, as its schema says.
MAX_RUNS: Final = 1000

#: Characters of a reason, as the schemas say.
MAX_REASON: Final = 256

__all__ = ["CHAIN_START", "CLOCK", "LOSS", "SEGMENT_SET_ASIDE"]


@dataclass(slots=True)
class LostRun:
    """Consecutive sequences of one device in one chain that were dropped."""

    device_id: str
    chain_id: str
    first: int
    last: int
    count: int

    def to_json(self) -> dict[str, Any]:
        """As a `loss` event says it."""
        return {
            "deviceId": self.device_id,
            "chainId": self.chain_id,
            "first": self.first,
            "last": self.last,
            "count": self.count,
        }


def signed_payload(
    keys: Keys, kind: str, place: Mapping[str, Any], said: Mapping[str, Any]
) -> dict[str, Any]:
    """The payload of a `chain_start` (`reason`) or a `loss` (`runs`) that stands at `place`.

    Raises `KeyUnknown` when the edge has no key, `KeysUnavailable`.
    """
    active = next((k for k in keys.public_keys() if k.active and k.purpose == EDGE_KEY), None)
    if active is None:
        raise KeyUnknown("the edge has no key to sign with", remedy="audit-platform edge init")
    public = active.public_key.hex()
    payload = {**said, "edgeKeyId": active.key_id, "publicKey": public}
    statement = signing.edge_statement({**place, "eventType": kind, "payload": payload})
    key_id, signature = keys.sign(EDGE_KEY, statement)
    if key_id != active.key_id:  # rotated in between
        return signed_payload(keys, kind, place, said)
    return {**payload, "signature": signature.hex()}


def lost_runs(dropped: Iterable[Dropped]) -> tuple[list[LostRun], int]:
    """The runs of dropped entries, in order, and how many of their events are in no chain.

    Those are dead letters on their way and entries that cannot be read: no `loss` can name them.
    """
    runs: list[LostRun] = []
    open_runs: dict[tuple[str, str], LostRun] = {}
    nameless = 0
    for entry in (entry for part in dropped for entry in part.entries):
        try:
            found = decode(entry.data)
        except RecordMalformed:
            found = None
        if found is None:
            nameless += entry.count
            continue
        chain = found.place.device_id, found.place.chain_id
        for said in found.events:
            run = open_runs.get(chain)
            if run is not None and said.sequence == run.last + 1:
                run.last, run.count = said.sequence, run.count + 1
                continue
            run = open_runs[chain] = LostRun(*chain, said.sequence, said.sequence, 1)
            runs.append(run)
    return runs, nameless


def loss_parts(runs: Sequence[LostRun]) -> Iterator[list[dict[str, Any]]]:
    """The runs as `loss` events take them."""
    for at in range(0, len(runs), MAX_RUNS):
        yield [run.to_json() for run in runs[at : at + MAX_RUNS]]


def clock_payload(offset_ms: int, *, is_off: bool) -> dict[str, Any]:
    """The payload of an `edge_clock` event. `offset_ms` is what the platform's clock is ahead."""
    return {"state": "off" if is_off else "good", "offset": {"value": offset_ms, "unit": "ms"}}


def set_aside_payload(report: SetAside) -> dict[str, Any]:
    """The payload of an `edge_segment_set_aside` event."""
    return {
        "file": report.file[:128],
        "firstPosition": report.first,
        "nextPosition": report.next,
        "reason": report.reason[:MAX_REASON],
    }
