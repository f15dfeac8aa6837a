"""`audit-platform edge-key`: the public keys with which a tenant's edges sign."""

from __future__ import annotations

import click

from audit_platform.commands._shared import (
    json_option,
    metadata,
    record_action,
    show,
    show_rows,
    tenant_argument,
)

#: Hex digits of a raw Ed25519 public key.
_HEX_DIGITS = 64


def _public_key(_ctx: click.Context, _param: click.Parameter, value: str) -> bytes:
    try:
        key = bytes.fromhex(value)
    except ValueError:
        key = b""
    if len(value) != _HEX_DIGITS or len(key) * 2 != _HEX_DIGITS:
        raise click.BadParameter(f"wanted {_HEX_DIGITS} hex digits, an Ed25519 public key")
    return key


@click.group(epilog="Example: audit-platform edge-key list north-clinic")
def command() -> None:
    """Public keys of a tenant's edges.

    The edges sign new chains and declared losses with them; a signature by any other key is a
    finding.
    """


@command.command(epilog='Example: audit-platform edge-key add north-clinic "$EDGE_PUBLIC_KEY"')
@tenant_argument
@click.argument("public_key", callback=_public_key)
@json_option
def add(*, tenant: str, public_key: bytes, as_json: bool) -> None:
    """Register the public key (64 hex digits) of a tenant's edge; idempotent."""
    with metadata() as (store, clock):
        key_id = store.add_edge_key(tenant, public_key, clock.now_ms())
    record_action("edge-key add", tenant=tenant, subject=key_id)
    show({"keyId": key_id, "tenantId": tenant, "publicKey": public_key.hex()}, as_json=as_json)


@command.command("list", epilog="Example: audit-platform edge-key list north-clinic --json")
@tenant_argument
@json_option
def list_(*, tenant: str, as_json: bool) -> None:
    """List the edge keys of a tenant, oldest first."""
    with metadata() as (store, _):
        found = store.edge_keys(tenant)
    rows = [{"keyId": key_id, "publicKey": key.hex()} for key_id, key in found.items()]
    show_rows(
        rows,
        as_json=as_json,
        none=f"no edge key of {tenant} yet: audit-platform edge-key add {tenant} PUBLIC_KEY",
    )
