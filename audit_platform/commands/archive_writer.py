"""`audit-platform archive-writer`: the service that moves the log into locked objects."""

from __future__ import annotations

import click

from audit_platform.commands._shared import settings


@click.command(epilog="Example: AUDIT_RANGE_SECONDS=60 audit-platform archive-writer")
def command() -> None:
    """Run the service that archives the log.

    It turns ranges of the log into locked objects and their range records, until SIGTERM.
    Health and metrics are on AUDIT_ARCHIVE_PORT.
    """
    given = settings()
    from audit_platform.services.archive_writer import run  # noqa: PLC0415 - only when it runs

    run(given)
