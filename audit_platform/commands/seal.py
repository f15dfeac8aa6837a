"""`audit-platform seal`: make a tenant's closed day final, and sign it."""

from __future__ import annotations

import click

from audit_platform.commands._shared import (
    day_argument,
    json_option,
    platform,
    settings,
    show,
    tenant_argument,
)


@click.command(epilog="Example: audit-platform seal north-clinic 2026-03-01")
@tenant_argument
@day_argument
@json_option
def command(*, tenant: str, day: str, as_json: bool) -> None:
    """Seal and sign a closed day of a tenant.

    A day that has its manifest gets a revision when events came for it since; else it is left as it
    is: the command may be repeated.
    """
    from audit_platform.operations.late import close_again  # noqa: PLC0415 - only when it runs
    from audit_platform.operations.seal import seal_day  # noqa: PLC0415 - only when it runs

    with platform(settings()) as opened:
        close_again(opened, day)
        sealed = seal_day(opened, tenant, day)
    show(
        {
            "tenantId": sealed.tenant_id,
            "day": sealed.day,
            "manifest": sealed.manifest_key,
            "number": sealed.manifest_number,
            "revision": sealed.revision,
            "sha256": sealed.manifest_sha256,
            "rows": sealed.rows,
            "duplicates": sealed.duplicates,
            "parts": sealed.parts,
            "bytes": sealed.bytes,
            "root": sealed.root,
            "quarantinedLinks": sealed.quarantined_links,
            "verdicts": sealed.verdicts if as_json else _counts(sealed.verdicts),
            "adopted": sealed.adopted,
        },
        as_json=as_json,
    )


def _counts(verdicts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(verdicts.items()))
