"""`audit-platform verify`: judge a sealed day by its bytes in the store."""

from __future__ import annotations

import json

import click

from audit_platform.commands._shared import (
    day_argument,
    explain,
    json_option,
    platform,
    settings,
    tenant_argument,
)
from audit_platform.errors import AuditPlatformError

#: As fsck: neither clean nor found wrong.
COULD_NOT_CHECK = 2


@click.command(epilog="Example: audit-platform verify north-clinic 2026-03-01 --json")
@tenant_argument
@day_argument
@json_option
@click.pass_context
def command(ctx: click.Context, *, tenant: str, day: str, as_json: bool) -> None:
    """Verify a sealed day of a tenant.

    Reads every byte of it back from the store. Exit code: 0 clean, 1 findings, 2 could not check.
    """
    from audit_platform.commands._fsck import print_report  # noqa: PLC0415 - only when it runs
    from audit_platform.operations.verify import verify_day  # noqa: PLC0415 - only when it runs

    try:
        with platform(settings()) as opened:
            report = verify_day(opened, tenant, day)
    except AuditPlatformError as e:
        explain(e)
        ctx.exit(COULD_NOT_CHECK)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        print_report(report)
    ctx.exit(report.exit_code)
