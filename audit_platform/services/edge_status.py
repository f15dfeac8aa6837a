"""How an edge is: one document for machines, one page for people, and the gauges.

Belongs here: gathering the figures and their forms. Does not: what they are (`edge_intake.py`, the
spool, the uplink), HTTP (`edge_gateway.py`).
Source: the issue's "The edge" (a local status page); failures 10, 11, 29.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any, Final

from audit_platform.metrics.edge import (
    EDGE_BACKLOG,
    EDGE_CLOCK_OFFSET,
    EDGE_CONNECTED,
    EDGE_DEVICE_LAST_SEEN,
    EDGE_QUARANTINE_FILES,
    EDGE_REPLAY_PROGRESS,
    EDGE_SPOOL_BYTES,
    EDGE_SPOOL_COMMITS,
    EDGE_SPOOL_COMMITTED,
    EDGE_SPOOL_FSYNC,
    EDGE_SPOOL_HOURS,
    EDGE_SPOOL_OLDEST,
    EDGE_SPOOL_SET_ASIDE,
)
from audit_platform.ports import EdgePorts
from audit_platform.record.times import format_time_ms
from audit_platform.services.edge_intake import Intake
from audit_platform.services.edge_placing import EdgeIdentity
from audit_platform.services.edge_quarantine import Quarantine
from audit_platform.services.edge_uplink import UplinkStatus
from audit_platform.telemetry import Telemetry

#: Devices in the metrics: a hospital's. They are the ones not heard of for longest, because those
#: are what anybody asks for.
MAX_METRIC_DEVICES: Final = 10_000

#: Devices in the document and on the page.
SHOWN_DEVICES: Final = 100

METRICS: Final = (
    EDGE_BACKLOG,
    EDGE_CLOCK_OFFSET,
    EDGE_CONNECTED,
    EDGE_DEVICE_LAST_SEEN,
    EDGE_QUARANTINE_FILES,
    EDGE_REPLAY_PROGRESS,
    EDGE_SPOOL_BYTES,
    EDGE_SPOOL_COMMITS,
    EDGE_SPOOL_COMMITTED,
    EDGE_SPOOL_FSYNC,
    EDGE_SPOOL_HOURS,
    EDGE_SPOOL_OLDEST,
    EDGE_SPOOL_SET_ASIDE,
)


@dataclass(frozen=True, slots=True)
class EdgeParts:
    """The parts of a running edge that can be asked how they are."""

    ports: EdgePorts
    identity: EdgeIdentity
    intake: Intake
    quarantine: Quarantine
    uplink: Callable[[], UplinkStatus]
    max_bytes: int
    max_hours: float


def document(parts: EdgeParts) -> dict[str, Any]:
    """Everything an operator asks, as a JSON object (`docs/edge.md`)."""
    spool, uplink = parts.ports.spool.status(), parts.uplink()
    kept = parts.quarantine.status()
    seen = parts.intake.devices()
    return {
        "time": format_time_ms(parts.ports.clock.now_ms()),
        "site": parts.identity.site,
        "tenantId": parts.identity.tenant_id,
        "hospitalId": parts.identity.hospital_id,
        "deviceId": parts.identity.device_id,
        "epoch": parts.intake.epoch,
        "clock": {"off": parts.intake.clock_is_off, "offsetMs": uplink.clock_offset_ms},
        "uplink": {
            "connected": uplink.connected,
            "trouble": uplink.trouble,
            "backlogEntries": uplink.backlog_entries,
            "backlogEvents": uplink.backlog_events,
            "replayProgress": uplink.replay_progress,
            "unarchivedRecords": uplink.unarchived_records,
            "setAsideEvents": uplink.set_aside,
        },
        "spool": {
            "bytes": spool.bytes,
            "maxBytes": parts.max_bytes,
            "fill": spool.bytes / parts.max_bytes,
            "entries": spool.entries,
            "segments": spool.segments,
            "oldest": format_time_ms(spool.oldest_ms) if spool.oldest_ms else "",
            "hours": spool.hours,
            "maxHours": parts.max_hours,
            "encrypted": spool.encrypted,
            "commits": spool.commits,
            "committedEntries": spool.committed_entries,
            "fsyncSeconds": spool.fsync_seconds,
            "setAside": [report._asdict() for report in spool.set_aside],
        },
        "quarantine": {
            "files": kept.files,
            "bytes": kept.bytes,
            "dropped": kept.dropped,
            "newest": list(kept.names),
        },
        "devices": {
            "known": len(seen),
            "silentLongest": [
                {"deviceId": name, "lastSeen": format_time_ms(ms)}
                for name, ms in _silent_longest(seen, SHOWN_DEVICES)
            ],
        },
    }


def _silent_longest(seen: Mapping[str, int], count: int) -> Sequence[tuple[str, int]]:
    return nsmallest(count, seen.items(), key=lambda item: (item[1], item[0]))


def set_gauges(parts: EdgeParts, telemetry: Telemetry) -> None:
    """Bring the gauges up to date; call it before metrics are shown."""
    spool, uplink = parts.ports.spool.status(), parts.uplink()
    telemetry.set(EDGE_CONNECTED, uplink.connected, site=parts.identity.site)
    telemetry.set(EDGE_BACKLOG, uplink.backlog_events)
    telemetry.set(EDGE_REPLAY_PROGRESS, uplink.replay_progress)
    telemetry.set(EDGE_CLOCK_OFFSET, (uplink.clock_offset_ms or 0) / 1000)
    telemetry.set(EDGE_SPOOL_BYTES, spool.bytes)
    telemetry.set(EDGE_SPOOL_HOURS, spool.hours)
    telemetry.set(EDGE_SPOOL_OLDEST, spool.oldest_ms / 1000)
    telemetry.set(EDGE_SPOOL_SET_ASIDE, len(spool.set_aside))
    telemetry.set(EDGE_SPOOL_COMMITS, spool.commits)
    telemetry.set(EDGE_SPOOL_COMMITTED, spool.committed_entries)
    telemetry.set(EDGE_SPOOL_FSYNC, spool.fsync_seconds)
    telemetry.set(EDGE_QUARANTINE_FILES, parts.quarantine.status().files)
    telemetry.clear(EDGE_DEVICE_LAST_SEEN)
    for name, ms in _silent_longest(parts.intake.devices(), MAX_METRIC_DEVICES):
        telemetry.set(EDGE_DEVICE_LAST_SEEN, ms / 1000, device=name)


# ------------------------------------------------------------------------------------------ page

_STYLE: Final = (
    "body{font:16px/1.4 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%;margin-bottom:1.5rem}"
    "th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8884;"
    "vertical-align:top}th{font-weight:600;width:16rem}"
    ".bad{color:#b00020;font-weight:600}.good{color:#1b6e3a;font-weight:600}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}"
    ".bad{color:#ff8a80}.good{color:#7bd88f}}"
)

_BYTES_PER_MB: Final = 1_000_000


def page(status: Mapping[str, Any]) -> str:
    """The status page: one HTML text that needs nothing else and loads itself again every 5 s."""
    uplink, spool, clock = status["uplink"], status["spool"], status["clock"]
    kept, devices = status["quarantine"], status["devices"]
    connected = _mark(
        good=uplink["connected"], yes="connected", no=uplink["trouble"] or "no answer yet"
    )
    offset = clock["offsetMs"]
    off = f"off by {0 if offset is None else offset / 1000:.0f} s: it stamps no event"
    sent = f"{uplink['replayProgress']:.0%} of the backlog sent"
    megabytes, most = spool["bytes"] / _BYTES_PER_MB, spool["maxBytes"] / _BYTES_PER_MB
    fill = f"{spool['fill']:.1%} full: {megabytes:,.1f} of {most:,.0f} MB"
    age = f"{spool['hours']:.1f} of {spool['maxHours']:g} h"
    rows = [
        ("Uplink", connected),
        ("Waiting to be sent", f"{uplink['backlogEvents']:,} events; {sent}"),
        ("Sent, not yet archived", f"{uplink['unarchivedRecords']:,} log records"),
        ("Spool", f"{fill} in {spool['segments']:,} segments"),
        ("Oldest event kept", f"{_text(spool['oldest'] or 'none')}, {age}"),
        ("Encrypted", _mark(good=spool["encrypted"], yes="yes", no="NO: keys are missing")),
        ("Own clock", _mark(good=not clock["off"], yes="good", no=off)),
        (
            "Epoch",
            _mark(good=bool(status["epoch"]), yes=status["epoch"], no="none could be opened"),
        ),
        ("Set aside: segments", _count(len(spool["setAside"]))),
        ("Set aside: events that ingest cannot read", _count(uplink["setAsideEvents"])),
        ("Quarantine", _count(kept["files"]) + f" files; {kept['dropped']} had to go"),
        ("Devices known", f"{devices['known']:,}"),
    ]
    aside = [
        (_text(s["file"]), f"positions {s['first']} to {s['next']}: {_text(s['reason'])}")
        for s in spool["setAside"]
    ]
    silent = [(_text(d["deviceId"]), d["lastSeen"]) for d in devices["silentLongest"]]
    title = f"Edge {_text(status['site'])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="refresh" content="5">'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{_text(status['tenantId'])} / {_text(status['hospitalId'])} at "
        f'{status["time"]}. The same <a href="/v1/status">as JSON</a>, '
        f'<a href="/metrics">metrics</a>.</p>'
        f"{_table(rows)}{_part('Segments set aside', aside)}"
        f"{_part('Quarantined, newest first', [(_text(name), '') for name in kept['newest']])}"
        f"{_part('Devices, longest silent first', silent)}</body></html>"
    )


def _text(value: str) -> str:
    return html.escape(value)


def _mark(*, good: bool, yes: str, no: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{_text(yes if good else no)}</span>'


def _count(number: int) -> str:
    return f'<span class="{"bad" if number else "good"}">{number:,}</span>'


def _part(title: str, rows: Sequence[tuple[str, str]]) -> str:
    return f"<h2>{title}</h2>{_table(rows)}" if rows else ""


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"
