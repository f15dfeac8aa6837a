"""`audit-platform keys`: the signing keys of this installation."""

from __future__ import annotations

import secrets

import click

from audit_platform.commands._shared import (
    json_option,
    keys,
    record_action,
    show,
    show_rows,
    utc,
)
from audit_platform.errors import AuditPlatformError, KeyUnknown
from audit_platform.ports import PublicKey

_PURPOSE = click.argument("purpose", type=click.Choice(["manifest", "edge"]))


def _fields(key: PublicKey) -> dict[str, object]:
    return {
        "keyId": key.key_id,
        "purpose": key.purpose,
        "active": key.active,
        "created": utc(key.created_ms),
        "revoked": utc(key.revoked_ms),
        "publicKey": key.public_key.hex(),
    }


@click.group(epilog="Example: audit-platform keys list --json")
def command() -> None:
    """Signing keys of this installation.

    `manifest` signs sealed days, `edge` signs new chains. The private values stay in
    AUDIT_HOME/keys/private; the list of public keys is what an auditor needs, and should reach
    them by another way than the record itself.
    """


@command.command(epilog="Example: audit-platform keys new manifest")
@_PURPOSE
@json_option
def new(*, purpose: str, as_json: bool) -> None:
    """Make the first key of a purpose."""
    store, clock = keys()
    if any(k.purpose == purpose for k in store.public_keys()):
        raise AuditPlatformError(
            f"there is a {purpose} key already", remedy=f"audit-platform keys rotate {purpose}"
        )
    made = store.new(purpose, clock.now_ms())
    record_action("keys new", subject=made.key_id)
    show(_fields(made), as_json=as_json)


@command.command(epilog="Example: audit-platform keys rotate manifest")
@_PURPOSE
@json_option
def rotate(*, purpose: str, as_json: bool) -> None:
    """Make a new key and sign with it from now on; older keys stay good to verify."""
    store, clock = keys()
    if not any(k.purpose == purpose for k in store.public_keys()):
        raise KeyUnknown(
            f"there is no {purpose} key to rotate", remedy=f"audit-platform keys new {purpose}"
        )
    made = store.new(purpose, clock.now_ms())
    record_action("keys rotate", subject=made.key_id)
    show(_fields(made), as_json=as_json)


@command.command(epilog="Example: audit-platform keys check")
@json_option
def check(*, as_json: bool) -> None:
    """Sign something with every active key and check it: the private values are there and fit."""
    from audit_platform.record.signing import verify  # noqa: PLC0415 - imports slowly

    store, _ = keys()
    active = [k for k in store.public_keys() if k.active]
    if not active:
        raise KeyUnknown("no key is active", remedy="audit-platform keys new manifest")
    # A context of its own: it can stand for nothing that is signed elsewhere.
    message = b"audit-platform keys check v1\n" + secrets.token_bytes(16)
    for key in active:
        key_id, signature = store.sign(key.purpose, message)
        if key_id != key.key_id or not verify(key.public_key, signature, message):
            raise KeyUnknown(
                f"{key.key_id} does not sign as its public key says",
                remedy="bring the keys back from the backup (deploy/runbooks/signing-key.md)",
            )
    rows: list[dict[str, object]] = [
        {"keyId": k.key_id, "purpose": k.purpose, "signs": True} for k in active
    ]
    show_rows(rows, as_json=as_json, none="")


@command.command("list", epilog="Example: audit-platform keys list")
@json_option
def list_(*, as_json: bool) -> None:
    """List every key ever made here, revoked ones included, oldest first."""
    store, _ = keys()
    rows = [_fields(k) for k in store.public_keys()]
    show_rows(rows, as_json=as_json, none="no key yet: audit-platform keys new manifest")


@command.command(epilog="Example: audit-platform keys revoke 1f0c3a5b7d9e2468")
@click.argument("key_id")
@json_option
def revoke(*, key_id: str, as_json: bool) -> None:
    """Stop trusting what a key signs from now on. It is not used any more.

    Days that it signed before keep their good signature. If it was the active key of its purpose,
    nothing can be signed until `keys rotate` makes the next one.
    """
    store, clock = keys()
    revoked = store.revoke(key_id, clock.now_ms())
    record_action("keys revoke", subject=key_id)
    show(_fields(revoked), as_json=as_json)
    if not any(k.active and k.purpose == revoked.purpose for k in store.public_keys()):
        click.echo(
            f"nothing signs {revoked.purpose} now: audit-platform keys rotate {revoked.purpose}",
            err=True,
        )
