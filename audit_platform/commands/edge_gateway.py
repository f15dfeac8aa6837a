"""`audit-platform edge-gateway`: the service that takes events of one site's devices."""

from __future__ import annotations

import click

from audit_platform.commands._shared import settings


@click.command(epilog="Example: audit-platform edge-gateway")
def command() -> None:
    """Run the service that takes events of one site's devices.

    It completes them into chains, keeps them on its own disk, encrypted, and brings them to
    ingest-gateway (AUDIT_EDGE_UPLINK) as soon as that can be reached. Run `audit-platform edge
    init` first. Listens on AUDIT_EDGE_HOST and AUDIT_EDGE_PORT, until SIGTERM.
    """
    given = settings()
    from audit_platform.services.edge_gateway import run  # noqa: PLC0415 - only when it runs

    run(given)
