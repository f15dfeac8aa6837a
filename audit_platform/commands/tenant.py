"""`audit-platform tenant`: hospital groups whose records are kept apart."""

from __future__ import annotations

import click

from audit_platform.commands._shared import (
    json_option,
    metadata,
    show,
    show_rows,
    tenant_argument,
    utc,
)
from audit_platform.ports import Tenant


def _fields(tenant: Tenant) -> dict[str, object]:
    return {
        "tenantId": tenant.tenant_id,
        "created": utc(tenant.created_ms),
        "suspended": tenant.suspended,
    }


@click.group(epilog="Example: audit-platform tenant add north-clinic")
def command() -> None:
    """Hospital groups whose records are kept apart."""


@command.command(epilog="Example: audit-platform tenant add north-clinic")
@tenant_argument
@json_option
def add(*, tenant: str, as_json: bool) -> None:
    """Add a tenant; one that is there stays as it is."""
    with metadata() as (store, clock):
        added = store.add_tenant(tenant, clock.now_ms())
    show(_fields(added), as_json=as_json)


@command.command("list", epilog="Example: audit-platform tenant list --json")
@json_option
def list_(*, as_json: bool) -> None:
    """List all tenants."""
    with metadata() as (store, _):
        rows = [_fields(t) for t in store.tenants()]
    show_rows(rows, as_json=as_json, none="no tenant yet: audit-platform tenant add TENANT")
