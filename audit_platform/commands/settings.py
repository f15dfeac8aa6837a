"""`audit-platform settings`: what the environment says, and what there is to say."""

from __future__ import annotations

import click

from audit_platform.commands._shared import json_option, settings, show, show_rows
from audit_platform.settings import SETTINGS, settings_page


@click.command(epilog="Example: AUDIT_PARTITIONS=8 audit-platform settings")
@json_option
@click.option("--markdown", is_flag=True, help="The page docs/settings.md instead.")
def command(*, as_json: bool, markdown: bool) -> None:
    """Show every setting as it holds here."""
    if markdown:
        click.echo(settings_page(), nl=False)
        return
    values = settings().to_environment()
    if as_json:
        show(values, as_json=True)
        return
    rows: list[dict[str, object]] = [
        {"name": s.name, "value": values[s.name], "default": s.default, "wanted": s.wanted}
        for s in SETTINGS
    ]
    show_rows(rows, as_json=False, none="")
