"""Generated events for what no source has: connections, heartbeats, alarms, maintenance.

Every payload says `"synthetic": true`. The same excerpt gives the same events: what is chosen
follows from a hash of the device's name, never from chance. Belongs here: the rules of generating.
Does not: anything that a source has.
Source: `docs/data.md`; issue "Walking skeleton" (what is lacking is generated and labelled).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa

from audit_platform.demo.mapping import DeviceEvent, device_events, tenant_ids
from audit_platform.record.layout import MS_PER_DAY

#: An edge says every 15 minutes that it lives, a device every two hours while it is in use.
EDGE_HEARTBEAT_MS: Final = 15 * 60 * 1000
DEVICE_HEARTBEAT_MS: Final = 2 * 60 * 60 * 1000

#: How long before its first event a device joins its edge, and after its last one leaves it.
CONNECTED_BEFORE_MS: Final = 45 * 1000
DISCONNECTED_AFTER_MS: Final = 90 * 1000

#: The edge-gateway of a tenant is a device with its own events.
EDGE_DEVICE: Final = "edge-gateway"

#: One device in so many gets new firmware, a set clock, a changed setting.
FIRMWARE_ONE_IN: Final = 20
CLOCK_ONE_IN: Final = 15
CONFIGURATION_ONE_IN: Final = 10

#: Reading -> (alarm, limit, raised above it?, priority, unit): common default limits of monitors.
_ALARMS: Final = {
    "spo2": (("spo2_low", 88, False, "high"),),
    "heartRate": (("heart_rate_high", 120, True, "medium"), ("heart_rate_low", 50, False, "high")),
    "respiratoryRate": (("respiratory_rate_high", 30, True, "medium"),),
}


class _Generated(NamedTuple):
    """One generated event: milliseconds in the day, device, type, payload without the label."""

    sent_ms: int
    device_id: str
    event_type: str
    payload: dict[str, Any]


def synthetic_rows(excerpt: Path) -> pa.Table:
    """Rows (tenant_id, device_id, sent_ms, row_id, event_type, payload as JSON text).

    `excerpt` is the folder with the real tables, all written already.
    """
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("tenant_id", "device_id", "sent_ms", "row_id", "event_type", "payload")
    }
    for tenant in tenant_ids(excerpt):
        generated = sorted(_of_tenant(list(device_events(tenant, excerpt))), key=_order)
        for number, event in enumerate(generated):
            payload = orjson.dumps(event.payload | {"synthetic": True}, option=orjson.OPT_SORT_KEYS)
            columns["tenant_id"].append(tenant)
            columns["device_id"].append(event.device_id)
            columns["sent_ms"].append(min(max(event.sent_ms, 0), MS_PER_DAY - 1))
            columns["row_id"].append(f"{number:012d}")
            columns["event_type"].append(event.event_type)
            columns["payload"].append(payload.decode())
    return pa.table(columns)


def _order(event: _Generated) -> tuple[int, str, str, bytes]:
    return event.sent_ms, event.device_id, event.event_type, orjson.dumps(event.payload)


def _of_tenant(events: list[DeviceEvent]) -> Iterator[_Generated]:
    for start in range(0, MS_PER_DAY, EDGE_HEARTBEAT_MS):
        yield _Generated(start, EDGE_DEVICE, "heartbeat", {"uptimeSeconds": start // 1000})
    by_device: dict[str, list[DeviceEvent]] = {}
    for event in events:
        by_device.setdefault(event.device_id, []).append(event)
    for device, own in sorted(by_device.items()):
        yield from _life(device, own)
        yield from _maintenance(device, own)
        yield from _alarms(device, own)


def _life(device: str, own: list[DeviceEvent]) -> Iterator[_Generated]:
    """A device joins its edge, says that it lives, and leaves."""
    first, last = own[0].offset_ms - CONNECTED_BEFORE_MS, own[-1].offset_ms + DISCONNECTED_AFTER_MS
    stay = {k: own[0].payload[k] for k in ("stayId",) if k in own[0].payload}
    yield _Generated(first, device, "device_connected", {**stay, "firmware": _firmware(device, 0)})
    for at in range(first + DEVICE_HEARTBEAT_MS, last, DEVICE_HEARTBEAT_MS):
        alive = {
            "uptimeSeconds": (at - first) // 1000,
            "batteryPercent": 60 + _hash(device, at) % 41,
        }
        yield _Generated(at, device, "heartbeat", alive)
    yield _Generated(last, device, "device_disconnected", {**stay, "cause": "released"})


def _maintenance(device: str, own: list[DeviceEvent]) -> Iterator[_Generated]:
    """A few devices get new firmware, a set clock, another setting, between their own events."""
    middle = (own[0].offset_ms + own[-1].offset_ms) // 2
    if _hash(device, "firmware") % FIRMWARE_ONE_IN == 0:
        versions = {"from": _firmware(device, 0), "to": _firmware(device, 1)}
        image = hashlib.sha256(versions["to"].encode()).hexdigest()
        yield _Generated(middle, device, "firmware_updated", {**versions, "sha256": image})
    if _hash(device, "clock") % CLOCK_ONE_IN == 0:
        offset = {"value": _hash(device, "offset") % 4001 - 2000, "unit": "ms"}
        adjusted = {"offset": offset, "source": "ntp"}
        yield _Generated(middle + 1000, device, "clock_adjusted", adjusted)
    if _hash(device, "setting") % CONFIGURATION_ONE_IN == 0:
        setting = {"setting": "display.brightness", "from": 80, "to": 40, "actor": "user-biomed1"}
        yield _Generated(middle + 2000, device, "configuration_changed", setting)


def _alarms(device: str, own: list[DeviceEvent]) -> Iterator[_Generated]:
    """A monitor raises an alarm when a real reading crosses a limit, and clears it after."""
    raised: set[str] = set()
    for event in own:
        for name, quantity in event.payload.get("reading", {}).items():
            for alarm, limit, above, priority in _ALARMS.get(name, ()):
                if event.event_type != "vital_reading" or event.cause:
                    continue
                said = {"stayId": event.payload["stayId"], "alarm": alarm, "reading": quantity}
                beyond = quantity["value"] > limit if above else quantity["value"] < limit
                if beyond and alarm not in raised:
                    raised.add(alarm)
                    bound = {"limit": {"value": limit, "unit": quantity["unit"]}}
                    said |= {"priority": priority, **bound}
                    yield _Generated(event.offset_ms + 500, device, "alarm_raised", said)
                elif not beyond and alarm in raised:
                    raised.remove(alarm)
                    yield _Generated(event.offset_ms + 500, device, "alarm_cleared", said)


def _hash(device: str, what: object) -> int:
    return int.from_bytes(hashlib.sha256(f"{device}\n{what}".encode()).digest()[:4], "big")


def _firmware(device: str, step: int) -> str:
    return f"{device.split('-', 1)[0]}-4.{_hash(device, 'base') % 3 + step}.0"
