"""`audit-platform reconcile`: is every event of the log in the objects, once?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from audit_platform.commands._shared import json_option, platform, settings, show, show_rows

if TYPE_CHECKING:
    from audit_platform.operations.reconcile import Reconciliation


@click.command(epilog="Example: audit-platform reconcile --json")
@json_option
@click.option(
    "--metrics",
    is_flag=True,
    help="Prometheus text: audit_unaccounted_events, audit_lost_events (for a textfile collector).",
)
@click.pass_context
def command(ctx: click.Context, *, as_json: bool, metrics: bool) -> None:
    """Compare the log with what is archived.

    Counts by log position, in events. Exit code: 0 when nothing is unaccounted, lost or doubled,
    1 otherwise.
    """
    from audit_platform.operations.reconcile import reconcile  # noqa: PLC0415 - only when it runs

    with platform(settings()) as opened:
        result = reconcile(opened)
    if metrics:
        click.echo(_metrics(result), nl=False)
        ctx.exit(0 if result.ok else 1)
    rows: list[dict[str, object]] = [
        {
            "topic": p.topic,
            "partition": p.partition,
            "events": p.events,
            "archived": p.archived,
            "undecodable": p.undecodable,
            "pending": p.pending,
            "lost": p.lost,
            "doubled": p.doubled,
            "unaccounted": p.unaccounted,
        }
        for p in result.partitions
    ]
    totals: dict[str, object] = {
        "events": result.events,
        "archived": result.archived,
        "undecodable": result.undecodable,
        "pending": result.pending,
        "lost": result.lost,
        "doubled": result.doubled,
        "unaccounted": result.unaccounted,
        "ranges": result.ranges,
        "objects": result.objects,
        "rows": result.rows,
        "ok": result.ok,
    }
    if as_json:
        click.echo(json.dumps({**totals, "partitions": rows, "findings": result.findings}))
    else:
        show_rows(rows, as_json=False, none="the log has no partition")
        show(totals, as_json=False)
        for finding in result.findings:
            click.echo(f"FINDING {finding}")
    ctx.exit(0 if result.ok else 1)


def _metrics(result: Reconciliation) -> str:
    from audit_platform.metrics.probes import (  # noqa: PLC0415 - only when it runs
        LOST_EVENTS,
        UNACCOUNTED_EVENTS,
    )
    from audit_platform.telemetry import Telemetry  # noqa: PLC0415 - only when it runs

    telemetry = Telemetry([UNACCOUNTED_EVENTS, LOST_EVENTS])
    telemetry.set(UNACCOUNTED_EVENTS, result.unaccounted)
    telemetry.set(LOST_EVENTS, result.lost)
    return telemetry.text().decode()
