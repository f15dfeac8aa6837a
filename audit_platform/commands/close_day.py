"""`audit-platform close-day`: fix where each partition of the log ended for a day."""

from __future__ import annotations

import click

from audit_platform.commands._shared import day_argument, json_option, platform, settings, show, utc


@click.command(epilog="Example: audit-platform close-day 2026-03-01")
@day_argument
@json_option
def command(*, day: str, as_json: bool) -> None:
    """Close a UTC day for all tenants.

    Allowed once the day and its grace (AUDIT_GRACE_SECONDS) are over. A closed day stays as it is;
    what arrives for it later makes a revision.
    """
    from audit_platform.operations.closing import close_day  # noqa: PLC0415 - only when it runs

    given = settings()
    with platform(given) as opened:
        closing = close_day(opened, day, int(given.grace_seconds * 1000))
    ends = [f"{p.topic}/{p.partition}:{p.end_offset}" for p in closing.partitions]
    show(
        {
            "day": closing.day,
            "closed": utc(closing.closed_ms),
            "ends": ends if as_json else " ".join(ends),
        },
        as_json=as_json,
    )
