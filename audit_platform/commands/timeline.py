"""`audit-platform timeline`: one device's events in order, with what is wrong between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from audit_platform.commands._ask import line, table, window, window_options
from audit_platform.commands._shared import json_option, platform, settings, tenant_argument

if TYPE_CHECKING:
    from audit_platform.operations.query.model import Mark, Timeline


@click.command(
    epilog="Example: audit-platform timeline north-clinic pump-7 --from 2026-03-01 --tier cold"
)
@tenant_argument
@click.argument("device")
@window_options
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@json_option
def command(
    *,
    tenant: str,
    device: str,
    from_ms: int | None,
    to_ms: int | None,
    clock: str,
    tier: str,
    limit: int,
    as_json: bool,
) -> None:
    """Show a device's timeline; without a window the last 24 hours.

    Between the events stand gaps, declared gaps, new chains, forks and broken links. Reads the
    store itself: reads that have to be on record go by query-api.
    """
    from audit_platform.operations.query import timeline as asking  # noqa: PLC0415 - when it runs
    from audit_platform.operations.query.model import (  # noqa: PLC0415 - only when it runs
        Tier,
        TimelineQuery,
    )
    from audit_platform.operations.query.reader import Reader  # noqa: PLC0415 - the same
    from audit_platform.ports import EventClock  # noqa: PLC0415 - the same
    from audit_platform.services import query_render  # noqa: PLC0415 - the same

    with platform(settings()) as opened:
        begin, end = window(from_ms, to_ms, opened.clock.now_ms())
        query = TimelineQuery(tenant, device, begin, end, clock=EventClock(clock), limit=limit)
        found = asking.timeline(Reader(opened), query, tier=Tier(tier))
    if as_json:
        import orjson  # noqa: PLC0415 - only when it runs

        told = {
            "rows": query_render.timeline_rows(found, tenant, len(found.entries)),
            "tail": [mark.to_json() for mark in found.tail],
            "counts": found.counts,
            "events": found.events,
            "tier": str(found.tier),
            "more": found.next is not None,
            "completeness": found.completeness.to_json(),
        }
        click.echo(orjson.dumps(told))
        return
    table(("device says", "no.", "type", "standing", "remarks"), _rows(found))
    if found.next is not None:
        click.echo(f"the first {limit} of {found.events} events are shown", err=True)
    said = ", ".join(f"{n} {name}" for name, n in found.counts.items()) or "no remarks"
    click.echo(f"{found.events} events; {said}", err=True)
    line(found.completeness)


def _rows(found: Timeline) -> list[tuple[str, ...]]:
    from audit_platform.services.query_render import event_rows  # noqa: PLC0415 - when it runs

    rows: list[tuple[str, ...]] = []
    for told, entry in zip(event_rows(found.rows, ""), found.entries, strict=True):
        rows += [_mark(mark) for mark in entry.marks]
        remarks = [str(v) for v in entry.verdicts]
        if entry.skewed:
            remarks.append(f"clock off by {entry.skew_ms / 1000:.0f} s")
        remarks += [f"also in chain {c.chain_id} as {c.event_hash[:16]}" for c in entry.copies]
        names = ("eventTime", "sequenceNumber", "eventType")
        rows.append((*(str(told[name]) for name in names), str(entry.standing), "; ".join(remarks)))
    return rows + [_mark(mark) for mark in found.tail]


def _mark(mark: Mark) -> tuple[str, ...]:
    numbers = str(mark.first) if mark.first == mark.last else f"{mark.first}-{mark.last}"
    cause = f" ({mark.cause})" if mark.cause else ""
    return ("--", numbers, str(mark.verdict).upper(), "", f"{mark.detail}{cause}")
