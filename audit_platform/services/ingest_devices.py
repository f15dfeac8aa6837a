"""Which devices of a tenant may send, while events of unknown ones are refused.

Belongs here: the roster as ingest keeps it, the refusal of an event by it. Does not: where it comes
from (`ingest_credentials.py`), what becomes of a refused event (`ingest_body.py`).
Source: design sections 3 (who fills what) and 7 (a refused canonical event stays a link).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from audit_platform.errors import EventRefused
from audit_platform.ports import Device
from audit_platform.record.event import CheckedEvent
from audit_platform.record.schemas import EDGE, registry


@functools.cache
def edge_types() -> frozenset[str]:
    """Event types in which an edge speaks for itself.

    Without them the record of known devices could not be judged, so they pass whatever device they
    name; those that change a verdict are signed, and a wrong key is a finding of the seal.
    """
    schemas = registry()
    kinds = (schemas.get(name, version) for name, version in schemas.known())
    return frozenset(kind.event_type for kind in kinds if kind.device_class == EDGE)


@dataclass(frozen=True, slots=True)
class Roster:
    """The devices of a tenant after `changes` changes of them; names as they stand in events."""

    changes: int
    enrolled: frozenset[bytes]
    retired: frozenset[bytes]

    @classmethod
    def of(cls, changes: int, devices: Iterable[Device]) -> Roster:
        """From what metadata says."""
        names: tuple[set[bytes], set[bytes]] = set(), set()
        for device in devices:
            names[device.retired_ms > 0].add(device.device_id.encode("ascii"))
        return cls(changes, *map(frozenset, names))

    def check(self, event: CheckedEvent) -> None:
        """Raise `EventRefused` for an event of a device that may not send."""
        name = event.device_id.encode("ascii")
        if name in self.enrolled or event.event_type in edge_types():
            return
        if name in self.retired:
            raise EventRefused(
                "device_retired",
                "deviceId",
                f"device {event.device_id} is retired",
                remedy="find out why it still sends; audit-platform device enrol brings it back",
            )
        raise EventRefused(
            "unknown_device",
            "deviceId",
            f"device {event.device_id} is not enrolled",
            remedy="audit-platform device enrol, if it belongs to the tenant",
        )
