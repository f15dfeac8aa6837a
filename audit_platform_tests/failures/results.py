"""What a failure test saw, as one line of a run's results, and the page that is made of them.

Belongs here: the clock of one failure (broken, fired, ended, recovered, cleared), the file of a
run, the table. Does not: breaking anything (`lab.py`), any test.

The page of a run's file: `python -m audit_platform_tests.failures.results FILE > docs/failures.md`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from audit_platform_tests.failures.installation import Judgement

#: A run's file, in the folder that pytest gives the run.
FILE_NAME: Final = "failures.jsonl"

#: What is between two moments that a row does not have.
_NONE: Final = "-"


@dataclass(frozen=True, slots=True)
class Result:
    """One failure of one run. Times are seconds; None where a row has no such moment.

    `fired` counts from the fault, `recovered` and `cleared` from its end. `objective` is the
    mission's own time to recover, in seconds, and counts for `recovered`. `lost` are receipts of
    all failures of the run that no sealed or quarantined row answers.
    """

    row: str
    fault: str
    seen: str
    alert: str
    fired: float | None
    recovered: float | None
    cleared: float | None
    objective: float | None
    acknowledged: int
    lost: int
    date: str

    def append(self, file: Path) -> None:
        """Add it to a run's file as one line."""
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(self)) + "\n")


@dataclass
class Trial:
    """One failure while it lasts: a test calls the moments in their order; `judged` comes last.

    `row` is the mission's number, or "" for a failure that its document does not number.
    """

    file: Path
    row: str
    fault: str
    alert: str = ""
    objective: float | None = None
    seen: list[str] = field(default_factory=list)
    _broken: float | None = None
    _ended: float | None = None
    _fired: float | None = None
    _recovered: float | None = None
    _cleared: float | None = None

    def broken(self) -> None:
        """The fault is about to begin."""
        self._broken = time.monotonic()

    def saw(self, what: str) -> None:
        """What a client, a user or an operator saw, in a few words."""
        self.seen.append(what)

    def fired(self) -> None:
        """The alert is at the webhook."""
        assert self._broken is not None
        self._fired = time.monotonic() - self._broken

    def ended(self) -> None:
        """The fault is about to end: what comes now comes by itself."""
        self._ended = time.monotonic()

    def recovered(self) -> None:
        """All works as before. Fails the test when that took longer than its objective."""
        assert self._ended is not None
        self._recovered = time.monotonic() - self._ended
        assert self.objective is None or self._recovered < self.objective

    def cleared(self) -> None:
        """The webhook was told that the alert is over."""
        assert self._ended is not None
        self._cleared = time.monotonic() - self._ended

    def judged(self, judgement: Judgement) -> None:
        """Add the line to the run's file: the test has ended well, and nothing was lost."""
        result = Result(
            row=self.row,
            fault=self.fault,
            seen="; ".join(self.seen),
            alert=self.alert,
            fired=self._fired,
            recovered=self._recovered,
            cleared=self._cleared,
            objective=self.objective,
            acknowledged=judgement.receipts["acknowledged"],
            lost=judgement.receipts["lost"],
            date=datetime.now(UTC).date().isoformat(),
        )
        result.append(self.file)


def read(file: Path) -> list[Result]:
    """A run's results, in the order of their rows; those without a number last."""
    found = [Result(**json.loads(line)) for line in file.read_text().splitlines()]
    return sorted(found, key=lambda r: (int(r.row) if r.row else sys.maxsize, r.fault))


def page(results: Iterable[Result]) -> str:
    """The page for people."""
    rows = list(results)
    if not rows:
        raise ValueError("no result is in the file")
    lines = [
        f"| {r.row or _NONE} | {r.fault} | {r.seen or _NONE} | {_code(r.alert)} | {_s(r.fired)} |"
        f" {_s(r.recovered)} | {_s(r.objective)} | {_s(r.cleared)} | {r.acknowledged} | {r.lost} |"
        for r in rows
    ]
    days = sorted({r.date for r in rows})
    run = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return _HEAD.format(run=run) + "\n".join(lines) + "\n"


def _s(seconds: float | None) -> str:
    return _NONE if seconds is None else f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _code(name: str) -> str:
    return f"`{name}`" if name else _NONE


_HEAD: Final = """\
# Failures on the real servers

Run of {run}. Written by `python -m audit_platform_tests.failures.results FILE > docs/failures.md`
from the file that a run of the tests marked `full_stack` leaves; do not edit it.

Every server of the full stack and one installation with two instances of our services, on one
machine of two cores, events coming in all the time; the failures came one after the other. *Row* is
the number in the mission's failure matrix. Times: *fired* from the fault to the alert at the
webhook; *recovered*, with its objective, and *cleared* from the end of the fault. *Receipts* is
what the sender was promised in all failures of the run; *lost* is what of it a checker that shares
no code with us does not find, sealed or quarantined, after the last of them.

| row | fault | seen | alert | fired | recovered | objective | cleared | receipts | lost |
|---|---|---|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    sys.stdout.write(page(read(Path(sys.argv[1]))))
