"""`audit-platform fsck`: is a copy of the record whole and unchanged? Offline, public keys only."""

from __future__ import annotations

from pathlib import Path

import click

from audit_platform.commands._shared import json_option


@click.command(epilog="Example: audit-platform fsck .audit/objects --key manifest-key.pem")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--key",
    "key_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public manifest key: PEM, 64 hex digits, or a keys.json with several. Repeatable. "
    "Default: keys/keys.json beside DIRECTORY.",
)
@click.option(
    "--trusted-head",
    "heads",
    multiple=True,
    metavar="TENANT:NUMBER:SHA256",
    help="A manifest that somebody outside saw: proves that nothing was cut off at the end.",
)
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant. Repeatable.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    directory: Path,
    key_files: tuple[Path, ...],
    heads: tuple[str, ...],
    tenants: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Check a copy of the record in DIRECTORY.

    DIRECTORY holds what the buckets hold (cold/v1/..., quarantine/v1/...): the embedded store's
    objects folder, or a copy of the buckets. Nothing else is needed, no service, no network.

    Exit code: 0 clean, 1 findings, 2 could not check (nothing read, no key).
    """
    from audit_platform.commands._fsck import run  # noqa: PLC0415 - only when it runs

    ctx.exit(run(directory, key_files, heads, tenants, as_json=as_json))
