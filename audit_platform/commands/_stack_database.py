"""`audit-platform stack backup-database` and `restore-database`: PostgreSQL at any earlier moment.

Here: arguments and words. What is done stands in `audit_platform/stack/postgres_backup.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from audit_platform.commands._shared import utc

# Loaded by the functions that use it: `--help` must answer within a second.
# ruff: noqa: PLC0415 - see the line above

_home = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".audit/stack"),
    show_default=True,
    help="Its folder: data, logs, process files.",
)


def _text(at: datetime) -> str:
    return utc(int(at.timestamp() * 1000))


@click.command(epilog="Example: audit-platform stack backup-database --home ~/full")
@_home
def backup_database(*, home: Path) -> None:
    """Copy the database while it runs; the archived log then gives back any later moment.

    The newest three copies are kept, and the log since the oldest of them.
    """
    from audit_platform.commands.stack import _there
    from audit_platform.stack.postgres_backup import backups, take_backup

    place = _there(home)
    made = take_backup(place)
    click.echo(f"backup {made.name}; earliest moment to restore: {_text(backups(place)[0])}")


@click.command(epilog="Example: audit-platform stack restore-database --until 2026-03-01T10:30:00Z")
@click.option("--until", metavar="TIME", help="RFC 3339 in UTC.  [default: all that is archived]")
@_home
def restore_database(*, until: str | None, home: Path) -> None:
    """Put the database back as it was; `stack start postgres` then replays the log and opens it.

    The servers must have been ended. What is there now is kept beside it, as data.lost-TIME.
    """
    from audit_platform.commands.stack import _there
    from audit_platform.stack.postgres_backup import restore

    try:
        moment = None if until is None else datetime.fromisoformat(until)
    except ValueError as e:
        raise click.BadParameter(f"--until {until}: wanted as 2026-03-01T10:30:00Z") from e
    if moment is not None and moment.utcoffset() != UTC.utcoffset(None):
        raise click.BadParameter(f"--until {until}: wanted in UTC, with Z at its end")
    begun = restore(_there(home), moment)
    click.echo(f"in place: the backup of {_text(begun)}; now: audit-platform stack start postgres")
