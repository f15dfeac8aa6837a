"""`audit-platform break-glass`: a key for the hours in which nobody can sign in, recorded."""

from __future__ import annotations

import logging
import os
from typing import Final

import click

from audit_platform.commands._shared import json_option, platform, settings, show, utc
from audit_platform.errors import AuditPlatformError
from audit_platform.ports import Role
from audit_platform.record.layout import PLATFORM_TENANT

_log: Final = logging.getLogger(__name__)

#: As the schema has it.
MAX_REASON_CHARACTERS: Final = 256


def _reason(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if not 1 <= len(value.strip()) <= MAX_REASON_CHARACTERS:
        raise click.BadParameter(f"wanted 1 to {MAX_REASON_CHARACTERS} characters")
    return value.strip()


@click.command(epilog="Example: audit-platform break-glass --reason 'provider down, incident 4711'")
@click.option("--reason", required=True, callback=_reason, help="Why; it goes on record.")
@json_option
def command(*, reason: str, as_json: bool) -> None:
    """Make a key that reads the platform's own record for four hours without signing in.

    That it was made, by whom and why is durable on record before its secret is shown; so is every
    read by it, and each is logged as an error and counted. `apikey revoke` ends it early.
    """
    from audit_platform.operations.own_events import (  # noqa: PLC0415 - only a command that runs
        OwnEvent,
        OwnSource,
    )
    from audit_platform.services.callers import BREAK_GLASS_MS  # noqa: PLC0415 - the same

    with platform(settings()) as opened:
        now_ms = opened.clock.now_ms()
        opened.metadata.add_tenant(PLATFORM_TENANT, now_ms)
        key, secret = opened.metadata.add_api_key(PLATFORM_TENANT, Role.BREAK_GLASS, now_ms)
        until = utc(now_ms + BREAK_GLASS_MS)
        said = {
            "keyId": key.key_id,
            "actor": f"uid-{os.getuid()}",
            "reason": reason,
            "until": until,
        }
        try:
            OwnSource(opened, "cli").append([OwnEvent("break_glass_opened", said)])
        except BaseException as e:
            opened.metadata.revoke_api_key(key.key_id, now_ms)
            if isinstance(e, AuditPlatformError):
                raise AuditPlatformError(
                    f"no key was made, because it could not be put on record: {e.reason}",
                    remedy="run the same command again once the log and the keys answer",
                ) from e
            raise
    _log.error("a break-glass key was made: %s, until %s: %s", key.key_id, until, reason)
    show({"keyId": key.key_id, "until": until, "secret": secret}, as_json=as_json)
