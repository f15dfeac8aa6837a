"""`audit-platform query-api`: the service that answers questions about the record."""

from __future__ import annotations

import click

from audit_platform.commands._shared import settings


@click.command(epilog="Example: AUDIT_QUERY_PORT=8506 audit-platform query-api")
def command() -> None:
    """Run the service that answers questions.

    Searches, timelines, single events with their proof, exports: over HTTP, with an API key, each
    of them on record before it is answered. Listens on AUDIT_INGEST_HOST and AUDIT_QUERY_PORT.
    """
    given = settings()
    from audit_platform.services.query_api import run  # noqa: PLC0415 - only when it runs

    run(given)
