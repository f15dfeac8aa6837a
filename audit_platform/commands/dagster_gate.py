"""`audit-platform dagster-gate`: the service through which people reach Dagster's pages."""

from __future__ import annotations

import click

from audit_platform.commands._shared import settings


@click.command(epilog="Example: AUDIT_DAGSTER=http://127.0.0.1:8503 audit-platform dagster-gate")
def command() -> None:
    """Run the service before Dagster's pages.

    People sign in at the identity provider (AUDIT_OIDC_ISSUER) and must be operators of the tenant
    `platform`; what they change is on record before Dagster hears of it. Listens on
    AUDIT_INGEST_HOST and AUDIT_GATE_PORT.
    """
    given = settings()
    from audit_platform.services.gate import run  # noqa: PLC0415 - only when it runs

    run(given)
