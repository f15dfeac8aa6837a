"""`audit-platform event`: one event with its exact bytes, where it stands, and its proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from audit_platform.commands._ask import line
from audit_platform.commands._shared import json_option, platform, settings, show, tenant_argument

if TYPE_CHECKING:
    from audit_platform.operations.query.model import EventCopy, Quarantined


@click.command(
    epilog="Example: audit-platform event north-clinic 019ca6a4-1180-7d3f-8a5c-0242ac120002 --json"
)
@tenant_argument
@click.argument("wanted", metavar="ID")
@json_option
@click.pass_context
def command(ctx: click.Context, *, tenant: str, wanted: str, as_json: bool) -> None:
    """Show an event by its eventId, its eventHash, or a quarantine entry's id.

    Exit code: 0 found, 1 not found. Reads the store itself: reads that have to be on record go by
    query-api.
    """
    from audit_platform.operations.query.event import event_by_id  # noqa: PLC0415 - when it runs
    from audit_platform.operations.query.reader import Reader  # noqa: PLC0415 - the same

    with platform(settings()) as opened:
        found = event_by_id(Reader(opened), tenant, wanted)
    if as_json:
        import orjson  # noqa: PLC0415 - only when it runs

        from audit_platform.services import query_render  # noqa: PLC0415 - the same

        click.echo(orjson.dumps(query_render.event(found, "")))
    else:
        for copy in found.copies:
            _copy(copy)
        for entry in found.quarantined:
            _entry(entry)
        if len(found.copies) > 1:
            click.echo(f"{len(found.copies)} copies: {found.verdict}")
        line(found.completeness)
    if not found.copies and not found.quarantined:
        click.echo(f"{tenant} has no event {wanted}", err=True)
        ctx.exit(1)


def _copy(copy: EventCopy) -> None:
    click.echo(copy.stored.decode("utf-8", "backslashreplace"))
    where = f"{copy.place.key} version {copy.place.version_id} row {copy.place.row}"
    facts: dict[str, object] = {
        "eventHash": copy.event_hash,
        "bytes": "have this hash" if copy.proven else "DO NOT HAVE THIS HASH",
        "standing": str(copy.standing),
        "stands in": where,
    }
    if copy.proof is not None:
        facts["manifest"] = f"{copy.proof.manifest_key} (SHA-256 {copy.proof.manifest_sha256})"
        facts["day root"] = f"{copy.proof.day_root}: the inclusion proof is in --json"
    show(facts, as_json=False)
    click.echo("")


def _entry(entry: Quarantined) -> None:
    click.echo(ascii(entry.data)[2:-1])
    show(
        {
            "refused": f"{entry.slug} at {entry.field or '-'}: {entry.reason}",
            "remedy": entry.remedy,
            "entry": entry.entry_id,
            "bytes": f"{len(entry.data)}" if entry.whole else f"{len(entry.data)}, not all of them",
            "stands in": f"{entry.place.key} row {entry.place.row}",
        },
        as_json=False,
    )
    click.echo("")
