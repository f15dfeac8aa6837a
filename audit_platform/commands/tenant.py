"""`audit-platform tenant`: hospital groups whose records are kept apart."""

from __future__ import annotations

import click

from audit_platform.commands._shared import (
    json_option,
    metadata,
    record_action,
    show,
    show_rows,
    tenant_argument,
    utc,
)
from audit_platform.ports import Tenant, UnknownDevices


def _fields(tenant: Tenant) -> dict[str, object]:
    return {
        "tenantId": tenant.tenant_id,
        "created": utc(tenant.created_ms),
        "suspended": tenant.suspended,
        "unknownDevices": tenant.unknown_devices.value,
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
    record_action("tenant add", tenant=tenant)
    show(_fields(added), as_json=as_json)


@command.command(epilog="Example: audit-platform tenant suspend north-clinic")
@tenant_argument
@json_option
def suspend(*, tenant: str, as_json: bool) -> None:
    """Take no more events of a tenant, within a minute.

    Its edges are told to keep everything, so nothing is lost while their spools have room. What is
    stored is sealed, verified and read as before.
    """
    with metadata() as (store, _):
        changed = store.set_suspended(tenant, suspended=True)
    record_action("tenant suspend", tenant=tenant)
    show(_fields(changed), as_json=as_json)


@command.command(epilog="Example: audit-platform tenant resume north-clinic")
@tenant_argument
@json_option
def resume(*, tenant: str, as_json: bool) -> None:
    """Take events of a suspended tenant again, within a minute."""
    with metadata() as (store, _):
        changed = store.set_suspended(tenant, suspended=False)
    record_action("tenant resume", tenant=tenant)
    show(_fields(changed), as_json=as_json)


@command.command(
    epilog="Example: audit-platform tenant policy north-clinic --unknown-devices dead_letter"
)
@tenant_argument
@click.option(
    "--unknown-devices",
    type=click.Choice([p.value for p in UnknownDevices]),
    required=True,
    help="What becomes of an event of a device that is not enrolled, or that is retired.",
)
@json_option
def policy(*, tenant: str, unknown_devices: str, as_json: bool) -> None:
    """Choose what becomes of events of unknown devices, within a minute.

    Refused events are kept as dead letters with their bytes and stay links of their chains.
    """
    with metadata() as (store, _):
        changed = store.set_unknown_devices(tenant, UnknownDevices(unknown_devices))
    record_action("tenant policy", tenant=tenant, subject=unknown_devices)
    show(_fields(changed), as_json=as_json)


@command.command("list", epilog="Example: audit-platform tenant list --json")
@json_option
def list_(*, as_json: bool) -> None:
    """List all tenants."""
    with metadata() as (store, _):
        rows = [_fields(t) for t in store.tenants()]
    show_rows(rows, as_json=as_json, none="no tenant yet: audit-platform tenant add TENANT")
