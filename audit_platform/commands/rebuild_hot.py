"""`audit-platform rebuild-hot`: make search indexes anew from what the record holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from audit_platform.commands._shared import json_option, parse_day, platform, settings, show_rows
from audit_platform.record.layout import TENANT_PATTERN

_EXAMPLE = "audit-platform rebuild-hot north-clinic 2026-03-01"


@click.command(epilog=f"Example: {_EXAMPLE}")
@click.argument("tenant", required=False)
@click.argument("day", required=False)
@click.option("--all", "every", is_flag=True, help="All days: of the tenant, or of all tenants.")
@json_option
@click.pass_context
def command(
    context: click.Context, *, tenant: str | None, day: str | None, every: bool, as_json: bool
) -> None:
    """Rebuild the search index of a tenant's day, or of all days.

    The new index is filled from COLD, landing and the log, and held against them, before it is
    read instead of the old one. May be repeated, and runs beside all services. Exit code 1 when
    something that the record names could not be read.
    """
    _check(tenant, day, every=every)
    from audit_platform.operations.hot_source import rebuildable  # noqa: PLC0415 - only when it runs
    from audit_platform.operations.rebuild_hot import rebuild_hot  # noqa: PLC0415 - only when it runs

    with platform(settings()) as opened:
        places = [(tenant, day)] if tenant and day else rebuildable(opened, tenant)
        with _progress(len(places), hidden=as_json) as begin:
            results = [rebuild_hot(opened, *place, progress=begin(*place)) for place in places]
    show_rows(
        [
            {
                "tenantId": r.tenant_id,
                "day": r.day,
                "generation": r.generation,
                "manifest": r.manifest,
                "documents": r.documents,
                "fromCold": r.from_cold,
                "fromLanding": r.from_landing,
                "fromLog": r.from_log,
                "lacking": r.lacking,
                "foreign": r.foreign,
                "removed": r.removed,
                "refused": r.refused,
                "skipped": list(r.skipped) if as_json else len(r.skipped),
                "problems": list(r.problems) if as_json else len(r.problems),
            }
            for r in results
        ],
        as_json=as_json,
        none="nothing to rebuild: no manifest, no landing object and no index",
    )
    for problem in (p for r in results for p in r.problems):
        click.echo(f"problem: {problem}", err=True)
    if not all(r.complete for r in results):
        context.exit(1)


def _check(tenant: str | None, day: str | None, *, every: bool) -> None:
    if tenant is not None and not TENANT_PATTERN.fullmatch(tenant):
        raise click.BadParameter(f"{tenant!r}: wanted 1 to 63 of a-z 0-9 -, not - at an end")
    if day is not None:
        parse_day(day)
    if every == (day is not None) or not (every or tenant):
        raise click.UsageError(f"name a TENANT and a DAY, or give --all: {_EXAMPLE}")


@contextmanager
def _progress(days: int, *, hidden: bool) -> Iterator[Callable[[str, str], Callable[[int], None]]]:
    """A line that says which day is filled and how far; on stderr, nothing when it is no terminal.

    Yields what begins a day, and gives back what is told its rows.
    """
    from rich.console import Console  # noqa: PLC0415 - only when it runs
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - only when it runs

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=hidden or not console.is_terminal) as shown:
        task = shown.add_task("", total=None)
        begun = 0

        def begin(tenant: str, day: str) -> Callable[[int], None]:
            nonlocal begun
            begun += 1
            name = f"{tenant} {day} ({begun} of {days})"
            shown.update(task, description=name)
            return lambda rows: shown.update(task, description=f"{name}: {rows:,} rows")

        yield begin
