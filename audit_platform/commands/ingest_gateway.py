"""`audit-platform ingest-gateway`: the service that takes events and answers for them."""

from __future__ import annotations

import click

from audit_platform.commands._shared import settings


@click.command(epilog="Example: AUDIT_INGEST_PORT=8501 audit-platform ingest-gateway")
def command() -> None:
    """Run the service that takes events.

    It takes them over HTTP, checks them and makes them durable in the log, until SIGTERM.
    Listens on AUDIT_INGEST_HOST and AUDIT_INGEST_PORT.
    """
    given = settings()
    from audit_platform.services.ingest_gateway import run  # noqa: PLC0415 - only when it runs

    run(given)
