"""What several commands share: arguments, opening what they need, printing.

Not here: a command. Output for people is plain text with times in UTC; `--json` gives one JSON
document with times in the same text form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime

import click

from audit_platform.adapters.clock import parse_clock
from audit_platform.errors import AuditPlatformError
from audit_platform.ports import Clock, Keys, Metadata, Platform
from audit_platform.record.layout import TENANT_PATTERN
from audit_platform.settings import Settings

# -------------------------------------------------------------------------------------- arguments


def _tenant(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if not TENANT_PATTERN.fullmatch(value):
        raise click.BadParameter(f"{value!r}: wanted 1 to 63 of a-z 0-9 -, not - at an end")
    return value


def _day(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    return parse_day(value)


def parse_day(value: str) -> str:
    """A UTC day as text, as it is. Raises `click.BadParameter`."""
    try:
        good = date.fromisoformat(value).isoformat() == value
    except ValueError:
        good = False
    if not good:
        raise click.BadParameter(f"{value!r}: wanted a UTC day as YYYY-MM-DD")
    return value


tenant_argument = click.argument("tenant", callback=_tenant)
day_argument = click.argument("day", callback=_day)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document for machines."
)

# ----------------------------------------------------------------------------------- what is open


def settings() -> Settings:
    """The settings of this process. Raises `SettingInvalid`."""
    return Settings.from_environment(os.environ)


@contextmanager
def metadata() -> Iterator[tuple[Metadata, Clock]]:
    """The metadata store alone, closed at the end, and the clock.

    A tenant can be added before the log exists, whose partitions are then still to be chosen.
    """
    from audit_platform.wiring import open_metadata  # noqa: PLC0415 - only a command that runs

    given = settings()
    with closing(open_metadata(given)) as opened:
        yield opened, parse_clock(given.clock)


def keys() -> tuple[Keys, Clock]:
    """The signing keys alone, and the clock."""
    from audit_platform.wiring import open_keys  # noqa: PLC0415 - only a command that runs

    given = settings()
    return open_keys(given), parse_clock(given.clock)


@contextmanager
def platform(given: Settings) -> Iterator[Platform]:
    """The whole platform, closed at the end."""
    from audit_platform.wiring import open_platform  # noqa: PLC0415 - only a command that runs

    opened = open_platform(given)
    try:
        yield opened
    finally:
        opened.close()


def record_action(action: str, **about: str | int) -> None:
    """Put what an operator has just done on record, in the tenant `platform`; durable on return.

    `about` is what the schema `operator_action` allows. Before any service has made the log there
    is nothing to record in. Raises `AuditPlatformError` when the action stands without a record:
    the caller shows nothing then, and every command may be run again.
    """
    from audit_platform.operations.own_events import (  # noqa: PLC0415 - only a command that runs
        OwnEvent,
        OwnSource,
    )

    given = settings()
    if given.profile == "embedded" and not given.log_folder.is_dir():
        return
    payload = {"action": action, "actor": f"uid-{os.getuid()}", **about}
    try:
        with platform(given) as opened:
            OwnSource(opened, "cli").append([OwnEvent("operator_action", payload)])
    except AuditPlatformError as e:
        raise AuditPlatformError(
            f"{action} is done, but not on record: {e.reason}",
            remedy="run the same command again once the log and the keys answer",
        ) from e


# --------------------------------------------------------------------------------------- printing


def explain(error: AuditPlatformError) -> None:
    """Say on stderr what is wrong and what a person should do."""
    click.echo(f"error: {error.reason}", err=True)
    if error.remedy:
        click.echo(f"remedy: {error.remedy}", err=True)


def utc(ms: int) -> str:
    """A time as text: UTC, milliseconds, `Z`; "" for 0 (never)."""
    if ms == 0:
        return ""
    whole, rest = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(whole, tz=UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def show(value: Mapping[str, object], *, as_json: bool) -> None:
    """Print one thing: a line for each of its fields, or one JSON object."""
    if as_json:
        click.echo(json.dumps(value))
        return
    width = max(map(len, value), default=0)
    for name, part in value.items():
        click.echo(f"{name:<{width}}  {_plain(part)}")


def show_rows(rows: Sequence[Mapping[str, object]], *, as_json: bool, none: str) -> None:
    """Print a table, or one JSON array of objects; all rows have the same fields.

    `none` is what a person reads when there is no row.
    """
    if as_json:
        click.echo(json.dumps(list(rows)))
        return
    if not rows:
        click.echo(none)
        return
    table = [list(rows[0]), *([_plain(part) for part in row.values()] for row in rows)]
    widths = [max(len(row[n]) for row in table) for n in range(len(rows[0]))]
    for row in table:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value != "" else "-"
