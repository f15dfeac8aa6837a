"""`audit-platform find`: search a tenant's events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from audit_platform.commands._ask import line, table, window, window_options
from audit_platform.commands._shared import json_option, platform, settings, tenant_argument

if TYPE_CHECKING:
    from audit_platform.operations.query.model import SearchResult
    from audit_platform.ports import EventQuery


@click.command(epilog="Example: audit-platform find north-clinic --from 2026-03-01 --text alarm")
@tenant_argument
@window_options
@click.option("--device", help="Of this device alone.")
@click.option("--hospital", help="Of this hospital alone.")
@click.option("--type", "event_type", help="Of this event type alone.")
@click.option("--criticality", type=click.Choice(["low", "normal", "high", "critical"]))
@click.option("--text", help="Words that must all stand in the event.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
def command(
    *,
    tenant: str,
    from_ms: int | None,
    to_ms: int | None,
    clock: str,
    tier: str,
    device: str | None,
    hospital: str | None,
    event_type: str | None,
    criticality: str | None,
    text: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Search a tenant's events, oldest first; without a window the last 24 hours.

    What was searched, up to when, and what is missing stands on stderr. Reads the store itself:
    reads that have to be on record go by query-api.
    """
    from audit_platform.operations.query.model import Tier  # noqa: PLC0415 - only when it runs
    from audit_platform.operations.query.reader import Reader  # noqa: PLC0415 - the same
    from audit_platform.operations.query.search import search  # noqa: PLC0415 - the same
    from audit_platform.ports import EventClock, EventQuery  # noqa: PLC0415 - the same

    with platform(settings()) as opened:
        begin, end = window(from_ms, to_ms, opened.clock.now_ms())
        query = EventQuery(
            tenant,
            begin,
            end,
            clock=EventClock(clock),
            device_id=device,
            hospital_id=hospital,
            event_type=event_type,
            criticality=criticality,
            text=text,
            limit=limit,
        )
        found = search(Reader(opened), query, tier=Tier(tier))
    _show(found, query, as_json=as_json)


def _show(found: SearchResult, query: EventQuery, *, as_json: bool) -> None:
    from audit_platform.services import query_render  # noqa: PLC0415 - only when it runs

    rows = query_render.event_rows(found.rows, query.tenant_id)
    if as_json:
        import orjson  # noqa: PLC0415 - only when it runs

        told = {
            "rows": rows,
            "tier": str(found.tier),
            "more": found.next is not None,
            "completeness": found.completeness.to_json(),
        }
        click.echo(orjson.dumps(told))
        return
    head = ("ingested", "device says", "device", "no.", "type", "standing", "payload")
    names = ("ingestionTime", "eventTime", "deviceId", "sequenceNumber", "eventType", "standing")
    payloads = found.rows["payload"].to_pylist()
    table(
        head,
        [
            (*(str(row[name]) for name in names), payload)
            for row, payload in zip(rows, payloads, strict=True)
        ],
    )
    if found.next is not None:
        click.echo(
            f"more than {query.limit} events match: narrow the window or raise --limit", err=True
        )
    line(found.completeness)
