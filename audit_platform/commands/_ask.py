"""What the asking commands share: windows, tiers, tables of rows, the completeness line.

Not here: a command. These commands read the store itself, as anybody on its machine can; reads that
have to be on record go by query-api.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from audit_platform.operations.query.model import Completeness

_F = TypeVar("_F", bound=Callable[..., Any])

_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,3})?)?Z)?", re.ASCII)
_WANTED: Final = "wanted UTC as YYYY-MM-DD or YYYY-MM-DDTHH:MM[:SS[.mmm]]Z"


def _time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Milliseconds since 1970 of a day's beginning or a time."""
    if value is None:
        return None
    if not _TIME.fullmatch(value):
        raise click.BadParameter(f"{value!r}: {_WANTED}")
    try:
        parsed = datetime.fromisoformat(value.removesuffix("Z")).replace(tzinfo=UTC)
    except ValueError as e:
        raise click.BadParameter(f"{value!r}: {e}; {_WANTED}") from e
    since = parsed - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


_OPTIONS: Final = (
    click.option("--from", "from_ms", callback=_time, help="Beginning of the window, included."),
    click.option("--to", "to_ms", callback=_time, help="End of the window, not included."),
    click.option(
        "--clock",
        type=click.Choice(["ingestion", "event"]),
        default="ingestion",
        show_default=True,
        help="The gateway's clock, or the device's own.",
    ),
    click.option(
        "--tier",
        type=click.Choice(["auto", "hot", "cold"]),
        default="auto",
        show_default=True,
        help="HOT where it covers the window, else COLD with landing; or one of them.",
    ),
)

_DAY_MS: Final = 86_400_000


def window_options(command: _F) -> _F:
    """`--from --to --clock --tier`."""
    return functools.reduce(lambda f, option: option(f), reversed(_OPTIONS), command)


def window(from_ms: int | None, to_ms: int | None, now_ms: int) -> tuple[int, int]:
    """The window asked for: until now without an end, a day long without a beginning."""
    end = now_ms + 1 if to_ms is None else to_ms
    begin = end - _DAY_MS if from_ms is None else from_ms
    if begin >= end:
        raise click.UsageError("the window is empty: --from must be before --to")
    return begin, end


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table for people; wide cells are folded."""
    from rich.console import Console  # noqa: PLC0415 - slow, and only for people
    from rich.table import Table  # noqa: PLC0415 - the same

    drawn = Table(box=None, pad_edge=False)
    for name in head:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(_plain(cell) for cell in row))
    Console().print(drawn)


def _plain(cell: str) -> str:
    """Text of the record as text: no markup, no control characters that move a terminal."""
    from rich.markup import escape  # noqa: PLC0415 - only for people

    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cell))


def line(told: Completeness) -> None:
    """The completeness line, on stderr: stdout is the answer."""
    click.echo(told.sentence, err=True)
    for key in told.unavailable:
        click.echo(f"could not be read: {key}", err=True)
