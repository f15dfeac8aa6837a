"""The demo's folder: where everything lies, which day is played, what its clock shows.

Belongs here: names of files below the folder, the state that a next run goes on from, the choice
of the day, the clock's text, starting afresh. Does not: what is done there (`story.py`).
Source: issue "Walking skeleton", what a newcomer sees.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Final

import orjson

from audit_platform.adapters.clock import ScaledClock, parse_clock
from audit_platform.adapters.directory import DirectorySource
from audit_platform.errors import AuditPlatformError, SettingInvalid
from audit_platform.record import layout

FORMAT_VERSION: Final = 1

#: The first day that is played lies this far back, so that there are days to go on with and none
#: of them is in the future.
DAYS_BACK: Final = 30

#: From so long before midnight on, the wall clock runs as any other. The day's last events are due
#: seconds before midnight and count for the day in which they arrive: they need real time for it.
#: Six edges that are 10 s behind on two busy cores still make it.
LAST_SECONDS: Final = 20.0


class DemoStopped(AuditPlatformError):
    """The demo cannot go on: something it waits for failed or did not come in time."""


class DaysUsedUp(AuditPlatformError):
    """Every day up to yesterday has been played."""

    def __init__(self, first_day: str) -> None:
        super().__init__(
            f"every day from {first_day} to yesterday has been played",
            remedy="start afresh: make demo FRESH=1",
        )


@dataclass(slots=True)
class State:
    """What a next run goes on from. `wall_ms` is the time that the wall clock was last seen at."""

    first_day: str
    day: str
    tenants: list[str]
    wall_ms: int = 0
    version: int = FORMAT_VERSION


class DemoHome:
    """The folder and its files. `locked` keeps a second demo out."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.state_file = self.root / "state.json"
        self.children_file = self.root / "children.json"
        self.logs = self.root / "logs"
        self.edges = self.root / "edges"
        self.devices = self.root / "devices"
        self.objects = self.root / "objects"
        self.dagster = self.root / "dagster"
        self.auditor = self.root / "auditor"
        self.damaged_copy = self.auditor / "damaged-copy"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only demo here. Raises `DemoStopped` when there is another."""
        self.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.root / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as e:
            raise DemoStopped(
                f"another demo is running in {self.root}", remedy="stop it by Ctrl-C first"
            ) from e
        finally:
            os.close(handle)

    def forget(self) -> None:
        """Remove what earlier runs left. Raises `SettingInvalid` for a folder that is not ours."""
        inside = [p for p in self.root.iterdir() if p.name != "demo.lock"]
        if inside and not self.state_file.exists():
            raise SettingInvalid(str(self.root), "a folder of something else", "a demo's folder")
        if inside:
            # Until all is gone this is no state, and a run that finds it says to start afresh.
            self.state_file.write_bytes(b"being forgotten")
        for path in inside:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self.state_file:
                path.unlink()
        self.state_file.unlink(missing_ok=True)

    # ----------------------------------------------------------------------------------- state

    def load(self) -> State | None:
        """The state of the run before, or None. Raises `SettingInvalid` for a damaged file."""
        try:
            data = self.state_file.read_bytes()
        except FileNotFoundError:
            return None
        try:
            state = State(**orjson.loads(data))
            date.fromisoformat(state.day)
            date.fromisoformat(state.first_day)
        except (ValueError, TypeError) as e:
            raise _not_a_state(self.state_file, str(e)) from e
        if state.version != FORMAT_VERSION:
            raise _not_a_state(self.state_file, f"version {state.version}")
        return state

    def store(self, state: State) -> None:
        """Replace the state file."""
        draft = self.state_file.with_suffix(".new")
        draft.write_bytes(orjson.dumps(asdict(state)))
        draft.replace(self.state_file)

    def begin(
        self, today: str, tenants: Sequence[str], closings: Iterable[str] | None = None
    ) -> State:
        """The state of this run: the day that is played now, which may have been begun before.

        `today` is the real UTC day; `tenants` are those of a first run, later ones keep them.
        `closings` are the keys of the days' closings, without them those in the objects' folder.
        Raises `DaysUsedUp`, `SettingInvalid`.
        """
        before = self.load()
        first = layout.next_day(today, -DAYS_BACK) if before is None else before.first_day
        if closings is None:
            closings = DirectorySource(self.objects).keys(layout.closings_prefix())
        closed = map(layout.parse_closing, closings)
        day = choose_day(first, max((d for d in closed if d), default=None), today)
        state = State(first, day, list(tenants)) if before is None else replace(before, day=day)
        self.store(state)
        return state


def _not_a_state(path: Path, found: str) -> SettingInvalid:
    return SettingInvalid(str(path), found, "the state of a demo; start afresh: make demo FRESH=1")


def choose_day(first_day: str, last_closed: str | None, today: str) -> str:
    """The day to play: the one after the last closed day, else the first.

    A day that was begun and not closed is played on. Raises `DaysUsedUp`.
    """
    day = first_day if last_closed is None else layout.next_day(last_closed)
    if day >= today:
        raise DaysUsedUp(first_day)
    return day


def clock_text(state: State, day_seconds: float, real_ms: int) -> str:
    """`AUDIT_CLOCK` of this run, starting now: a day in `day_seconds`, then real time.

    It goes on from where the run before stopped where that lies within the day. Where that lies
    behind the day (a run that was stopped while it waited for the closing), it is set back to the
    day's last seconds: what is still to be sent belongs there.
    """
    start = layout.day_start_ms(state.day)
    until = layout.day_end_ms(state.day) - int(LAST_SECONDS * 1000)
    rate = (until - start) / (day_seconds * 1000)
    wall = min(max(start, state.wall_ms), until)
    return f"scaled:{wall}:{real_ms}:{rate!r}:{until}"


def resting_clock_text(state: State, real_ms: int) -> str:
    """`AUDIT_CLOCK` for looking at the data between two runs: on from there, at the real rate."""
    return f"scaled:{state.wall_ms}:{real_ms}:1.0"


def scaled_clock(text: str) -> ScaledClock:
    """The clock of a text that was made here."""
    clock = parse_clock(text)
    assert isinstance(clock, ScaledClock)
    return clock
