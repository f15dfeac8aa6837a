"""`audit-platform locations`: Dagster's workspace with the tenants in several code locations."""

from __future__ import annotations

import click

from audit_platform.settings_forms import MAX_TENANT_GROUPS


def workspace_of(count: int) -> str:
    """`workspace.yaml` of so many code locations."""
    lines = [
        f"# {count} code locations; each tenant is in one of them, by its name.",
        "# Made by `audit-platform locations`: do not edit.",
        "load_from:",
    ]
    for number in range(1, count + 1):
        lines += [
            "  - python_module:",
            "      module_name: audit_platform.defs.locations",
            f"      attribute: group_{number}_of_{count}",
            f"      location_name: audit-platform-{number}-of-{count}",
        ]
    return "\n".join(lines) + "\n"


@click.command(epilog="Example: audit-platform locations 3 > workspace.yaml")
@click.argument("count", type=click.IntRange(2, MAX_TENANT_GROUPS))
def command(*, count: int) -> None:
    """Print a workspace for Dagster in which tenants are divided into COUNT code locations.

    From about 130 tenants with two years of days on, one location has more partitions than Dagster
    advises (100,000). What exists once for all tenants is in the first location.
    """
    click.echo(workspace_of(count), nl=False)
