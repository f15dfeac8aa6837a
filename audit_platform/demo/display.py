"""What the demo shows while it runs: a table that moves on a terminal, plain lines elsewhere.

Belongs here: how it looks. Does not: where figures come from (`record_view.py`, `proofs.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from audit_platform.demo.proofs import TenantFigures
from audit_platform.record.times import format_time_ms

#: Without a terminal a line is printed this often: enough to see that it moves.
LINE_SECONDS: Final = 5.0

#: Tables need this width; a log file has no width of its own.
PLAIN_WIDTH: Final = 110


@dataclass(frozen=True, slots=True)
class Row:
    """A tenant's figures on the day that is played, in events; `share` of it is on its way."""

    share: float
    sent: int
    acknowledged: int
    refused: int
    archived: int
    sealed: int


def new_console() -> Console:
    """The console of the demo."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


class Display:
    """Shows progress between `start` and `stop`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Refreshed by hand: a second thread would make it unsafe to start processes.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._line_at = 0.0

    def start(self) -> None:
        """Begin to show."""
        if self._console.is_terminal:
            self._live.start()

    def stop(self) -> None:
        """Take the moving table away. Idempotent."""
        self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, doing: str, wall_ms: int, rows: Mapping[str, Row]) -> None:
        """The state of things now."""
        title = f"{format_time_ms(wall_ms)[:19]}Z  {doing}"
        if self._live.is_started:
            self._live.update(_table(title, rows), refresh=True)
        elif time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + LINE_SECONDS
            names = ("sent", "acknowledged", "archived", "refused", "sealed")
            sums = (f"{n} {sum(getattr(r, n) for r in rows.values())}" for n in names)
            self.say(f"{title}: {', '.join(sums)}")


def _table(title: str, rows: Mapping[str, Row]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("tenant")
    for name in ("sent", "acknowledged", "archived", "refused", "sealed"):
        table.add_column(name, justify="right")
    table.add_column("of the day")
    for tenant, row in rows.items():
        done = int(row.share * 20)
        figures = (row.sent, row.acknowledged, row.archived, row.refused, row.sealed)
        table.add_row(tenant, *map(str, figures), "█" * done + "·" * (20 - done))
    return table


def figures_table(table: Sequence[TenantFigures], title: str) -> Table:
    """The last table, with a line of sums."""
    names = ("sent", "acknowledged", "archived", "sealed", "duplicates", "refused", "unaccounted")
    shown = Table(title=title, title_justify="left", show_footer=True)
    shown.add_column("tenant", footer="all")
    for name in names:
        total = sum(getattr(f, name) for f in table)
        shown.add_column(name, justify="right", footer=str(total))
    for f in table:
        shown.add_row(f.tenant_id, *(str(getattr(f, name)) for name in names))
    return shown
