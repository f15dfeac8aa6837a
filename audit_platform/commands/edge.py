"""`audit-platform edge`: prepare an edge, and ask a running one how it is."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from audit_platform.commands._shared import json_option, settings, show
from audit_platform.errors import AuditPlatformError

#: A gateway on this machine or its network answers at once, or not at all.
_SECONDS: Final = 5.0


@click.group(epilog="Example: audit-platform edge status")
def command() -> None:
    """An edge: the service at a site that takes its devices' events."""


@command.command(epilog="Example: AUDIT_EDGE_TENANT=north audit-platform edge init")
@json_option
def init(*, as_json: bool) -> None:
    """Make the edge's keys, and say how the platform gets to know it.

    The keys are made once, in AUDIT_EDGE_HOME/keys: one signs new chains and losses, one encrypts
    the spool. Back the folder up: without the second, what is in the spool cannot be read.
    """
    given = settings()
    from audit_platform.adapters.clock import parse_clock  # noqa: PLC0415 - only when it runs
    from audit_platform.wiring import open_edge_keys  # noqa: PLC0415 - only when it runs

    store = open_edge_keys(given)
    key = next((k for k in store.public_keys() if k.purpose == "edge" and k.active), None)
    if key is None:
        key = store.new("edge", parse_clock(given.clock).now_ms())
    store.new_data_key()  # makes the wrapping key
    tenant = given.edge_tenant or "TENANT"
    show(
        {
            "keyId": key.key_id,
            "publicKey": key.public_key.hex(),
            "keys": str(given.edge_keys_folder),
            "register": f"audit-platform edge-key add {tenant} {key.public_key.hex()}",
            "credential": f"audit-platform apikey add {tenant} --role edge",
            "secretFile": str(given.edge_secret),
        },
        as_json=as_json,
    )


@command.command(epilog="Example: audit-platform edge status --url http://127.0.0.1:8504")
@click.option("--url", help="Of the edge-gateway; by default that of the settings.")
@json_option
@click.pass_context
def status(ctx: click.Context, *, url: str | None, as_json: bool) -> None:
    """Ask a running edge how it is.

    Exit code: 0 when it takes events, is connected and has nothing set aside, 1 otherwise.
    """
    given = settings()
    found = _ask(url or f"http://{given.edge_host}:{given.edge_port}")
    if as_json:
        click.echo(json.dumps(found))
    else:
        show(_plain(found), as_json=False)
    ctx.exit(0 if _is_well(found) else 1)


def _ask(url: str) -> dict[str, Any]:
    import urllib3  # noqa: PLC0415 - only when it runs

    remedy = "start it: audit-platform edge-gateway; or give --url"
    try:
        answer = urllib3.request(
            "GET", f"{url.rstrip('/')}/v1/status", timeout=_SECONDS, retries=False
        )
        found: dict[str, Any] = answer.json()
        if answer.status != 200 or "spool" not in found:  # noqa: PLR2004 - OK
            raise AuditPlatformError(
                f"{url} is no edge-gateway (HTTP {answer.status})", remedy=remedy
            )
    except (urllib3.exceptions.HTTPError, ValueError, TypeError) as e:
        raise AuditPlatformError(f"no edge answers at {url}: {e}", remedy=remedy) from e
    return found


def _is_well(found: dict[str, Any]) -> bool:
    uplink, spool = found["uplink"], found["spool"]
    return (
        bool(found["epoch"])
        and uplink["connected"]
        and not found["clock"]["off"]
        and not spool["setAside"]
        and not uplink["setAsideEvents"]
    )


def _plain(found: dict[str, Any]) -> dict[str, object]:
    uplink, spool, clock = found["uplink"], found["spool"], found["clock"]
    offset = clock["offsetMs"]
    silent = found["devices"]["silentLongest"][:1]
    return {
        "site": found["site"],
        "tenant": found["tenantId"],
        "epoch": found["epoch"] or "none: no event is taken",
        "connected": uplink["connected"],
        "trouble": uplink["trouble"],
        "clock": ("OFF, by " if clock["off"] else "good, within ")
        + ("an unknown time" if offset is None else f"{abs(offset) / 1000:.0f} s"),
        "waiting": f"{uplink['backlogEvents']} events, {uplink['replayProgress']:.0%} replayed",
        "not archived": f"{uplink['unarchivedRecords']} log records",
        "spool": f"{spool['bytes']} bytes, {spool['fill']:.1%} full, {spool['segments']} segments",
        "oldest": f"{spool['oldest']} ({spool['hours']:.1f} h)" if spool["oldest"] else "",
        "encrypted": spool["encrypted"],
        "set aside": f"{len(spool['setAside'])} segments, {uplink['setAsideEvents']} events",
        "quarantine": f"{found['quarantine']['files']} files",
        "devices": found["devices"]["known"],
        "silent longest": " since ".join(silent[0].values()) if silent else "",
    }
