"""`audit-platform device`: the devices of a tenant that may send."""

from __future__ import annotations

import hashlib
from typing import TextIO

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
from audit_platform.ports import Device
from audit_platform.record.layout import IDENTIFIER_PATTERN


def _fields(device: Device) -> dict[str, object]:
    return {
        "deviceId": device.device_id,
        "enrolled": utc(device.enrolled_ms),
        "retired": utc(device.retired_ms),
    }


@click.group(epilog="Example: audit-platform device list north-clinic")
def command() -> None:
    """Devices of a tenant.

    They matter once `tenant policy TENANT --unknown-devices dead_letter` holds: then events of any
    other device are kept as dead letters. Every change counts within a minute.
    """


@command.command(
    epilog="Example: audit-platform device enrol north-clinic pump-17 --from pumps.txt"
)
@tenant_argument
@click.argument("devices", nargs=-1)
@click.option(
    "--from",
    "source",
    type=click.File("r", encoding="utf-8"),
    help="A file with one device id a line; - is standard input.",
)
@json_option
def enrol(*, tenant: str, devices: tuple[str, ...], source: TextIO | None, as_json: bool) -> None:
    """Let devices send, all of them or none; a retired one is brought back."""
    listed = [] if source is None else [line.strip() for line in source]
    wanted = [*devices, *(name for name in listed if name)]
    if not wanted:
        raise click.UsageError("name devices, or give a file with --from")
    for device in wanted:
        if not IDENTIFIER_PATTERN.fullmatch(device):
            raise click.BadParameter(f"{device!r}: wanted 1 to 128 of A-Z a-z 0-9 . _ : / -")
    with metadata() as (store, clock):
        added = store.enrol_devices(tenant, wanted, clock.now_ms())
    names = sorted(set(wanted))
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    record_action("device enrol", tenant=tenant, count=len(names), digest=digest)
    show({"tenantId": tenant, "named": len(names), "enrolled": added}, as_json=as_json)


@command.command(epilog="Example: audit-platform device retire north-clinic pump-17")
@tenant_argument
@click.argument("device")
@json_option
def retire(*, tenant: str, device: str, as_json: bool) -> None:
    """Let a device send no more. What it sent stays; what its edge still spools is refused."""
    with metadata() as (store, clock):
        retired = store.retire_device(tenant, device, clock.now_ms())
    record_action("device retire", tenant=tenant, subject=device)
    show(_fields(retired), as_json=as_json)


@command.command("list", epilog="Example: audit-platform device list north-clinic --json")
@tenant_argument
@json_option
def list_(*, tenant: str, as_json: bool) -> None:
    """List the devices of a tenant, retired ones included."""
    with metadata() as (store, _):
        rows = [_fields(d) for d in store.devices(tenant)]
    none = f"no device of {tenant} yet: audit-platform device enrol {tenant} DEVICE"
    show_rows(rows, as_json=as_json, none=none)
