"""`audit-platform apikey`: credentials for edges and people."""

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
from audit_platform.ports import ApiKey, Role


def _fields(key: ApiKey) -> dict[str, object]:
    return {
        "keyId": key.key_id,
        "tenantId": key.tenant_id,
        "role": key.role.value,
        "created": utc(key.created_ms),
        "revoked": utc(key.revoked_ms),
    }


@click.group(epilog="Example: audit-platform apikey add north-clinic --role edge")
def command() -> None:
    """Credentials of edges and people.

    Only a hash of each is stored.
    """


@command.command(epilog="Example: audit-platform apikey add north-clinic --role edge --json")
@tenant_argument
@click.option(
    "--role",
    type=click.Choice([r.value for r in Role if r is not Role.BREAK_GLASS]),
    default=Role.EDGE.value,
    show_default=True,
    help="What the credential may do.",
)
@json_option
def add(*, tenant: str, role: str, as_json: bool) -> None:
    """Make a credential. Its secret is shown once, here, and can never be shown again."""
    with metadata() as (store, clock):
        key, secret = store.add_api_key(tenant, Role(role), clock.now_ms())
    record_action("apikey add", tenant=tenant, subject=key.key_id, role=role)
    show(_fields(key) | {"secret": secret}, as_json=as_json)


@command.command("list", epilog="Example: audit-platform apikey list")
@json_option
def list_(*, as_json: bool) -> None:
    """List all credentials, revoked ones included, oldest first."""
    with metadata() as (store, _):
        rows = [_fields(k) for k in store.api_keys()]
    show_rows(rows, as_json=as_json, none="no credential yet: audit-platform apikey add TENANT")


@command.command(epilog="Example: audit-platform apikey revoke 1f0c3a5b7d9e2468")
@click.argument("key_id")
def revoke(*, key_id: str) -> None:
    """Revoke a credential for good."""
    with metadata() as (store, clock):
        store.revoke_api_key(key_id, clock.now_ms())
    record_action("apikey revoke", subject=key_id)
    click.echo(f"revoked {key_id}")
