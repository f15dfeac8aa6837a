"""`audit-platform search-indexer`: the service that makes events searchable."""

from __future__ import annotations

import click

from audit_platform.commands._shared import settings


@click.command(epilog="Example: audit-platform search-indexer")
def command() -> None:
    """Run the service that makes events searchable.

    It carries the log into HOT, the fast search over recent events, until SIGTERM. Health and
    metrics are on AUDIT_INDEXER_PORT.
    """
    given = settings()
    from audit_platform.services.search_indexer import run  # noqa: PLC0415 - only when it runs

    run(given)
