"""`audit-platform exporter`: the service that says what no server says of itself."""

from __future__ import annotations

import click

from audit_platform.commands._shared import settings


@click.command(epilog="Example: AUDIT_EXPORTER_PORT=8507 audit-platform exporter")
def command() -> None:
    """Run the service that tells how servers, groups and the archive are.

    It asks them over and over and shows what they answer as metrics, until SIGTERM: lag of the
    consumers, the search cluster, the object lock, what is unaccounted. Health and metrics are on
    AUDIT_EXPORTER_PORT. One is enough.
    """
    given = settings()
    from audit_platform.services.exporter import run  # noqa: PLC0415 - only when it runs

    run(given)
