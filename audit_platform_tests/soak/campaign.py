"""Break what carries events, again and again, at random moments, under load; nothing is lost.

`run` starts a whole installation, puts it under load, and has a `Chaos` do its kind of fault as
often as asked: processes of ours are killed (`kills.py`), or servers (`server_faults.py`). At the
end the day is closed and sealed; a worker of Dagster that seals it may be killed too. The seed
fixes what is done and after how long; a run is replayed by its seed.
Belongs here: the plan, the judgement. Does not: faults, the load (`load.py`), starting processes
(`failures/installation.py`).
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from audit_platform.operations.closing import close_day
from audit_platform.record.merkle import NODE_BYTES
from audit_platform_tests.failures.installation import (
    DAY,
    GRACE_SECONDS,
    PATIENCE_SECONDS,
    TENANT,
    Installation,
    Judgement,
)
from audit_platform_tests.soak.load import Load

SERVICES: Final = ("edge-gateway", "ingest-gateway", "archive-writer", "search-indexer")

#: A worker imports for some seconds and then seals for about one.
WORKER_SECONDS: Final = 8.0

#: How long the load runs free to find the sustained rate.
CALIBRATION_SECONDS: Final = 3.0


class Chaos(Protocol):
    """One kind of fault, on an installation of its own."""

    #: Every so many faults are kills of the Dagster worker, at the end; 0: none.
    worker_share: int

    #: Events a second of the load; 0: half of what the whole way sustains in a short trial.
    rate: float

    def installation(self, folder: Path) -> AbstractContextManager[Installation]:
        """A new one on which these faults can be done."""
        ...

    def strike(self, made: Installation, chance: random.Random) -> tuple[str, float]:
        """Do one fault, see that it happened, undo it; what was done, after how many seconds."""
        ...


@dataclass
class Outcome:
    """What was done and what was found. Equal seeds give equal `faults`."""

    seed: int
    faults: list[tuple[str, float]] = field(default_factory=list)
    workers_killed: int = 0
    rate: float = 0.0
    acknowledged: int = 0
    retries: int = 0
    judgement: Judgement | None = None
    hot: int = 0

    def to_text(self) -> str:
        """One line for a log, with all that a replay needs."""
        done = Counter(what for what, _ in self.faults)
        what = ", ".join(f"{n} x {c}" for n, c in sorted(done.items()))
        sealed = self.judgement.sealed.rows if self.judgement else 0
        return (
            f"seed {self.seed}: {len(self.faults)} faults ({what}), {self.workers_killed} kills of "
            f"the Dagster worker; {self.acknowledged:,} events acknowledged at {self.rate:,.0f}/s, "
            f"{self.retries} bodies sent again; {sealed:,} rows sealed, {self.hot:,} in HOT"
        )


def run(folder: Path, seed: int, faults: int, chaos: Chaos) -> Outcome:
    """Do it all; an `AssertionError` says what was lost or did not come back."""
    chance = random.Random(seed)
    outcome = Outcome(seed)
    of_worker = faults // chaos.worker_share if chaos.worker_share else 0
    with chaos.installation(folder) as made:
        for name in SERVICES:
            made.launch(name)
        for name in SERVICES:
            made.wait_until_healthy(name)
        outcome.rate = chaos.rate or _sustained_rate(made) / 2
        load = _load(made, made.settings().clock, outcome.rate)
        load.start()
        for _ in range(faults - of_worker):
            outcome.faults.append(chaos.strike(made, chance))
        for name in SERVICES:
            made.wait_until_healthy(name)
        load.stop()
        outcome.retries = load.retries
        made.wait_for_the_edge()
        for name in ("edge-gateway", "ingest-gateway"):
            made.stop(name)
        made.wait_for_the_archive()
        made.wait_for_the_index()
        for name in ("archive-writer", "search-indexer"):
            made.stop(name)
        _kill_workers(made, chance, of_worker, outcome)
        outcome.judgement = made.seal_and_judge()
        outcome.acknowledged = outcome.judgement.receipts["acknowledged"]
        outcome.hot = _compare_hot(made)
        # Refused events would be kept, too, and prove less.
        assert outcome.judgement.sealed.rows >= outcome.acknowledged, outcome.to_text()
    return outcome


def _load(made: Installation, clock: str, rate: float) -> Load:
    from audit_platform.adapters.clock import parse_clock  # noqa: PLC0415 - the load imports nothing of ours; its clock is given

    receipts = made.devices_home / "receipts.ndjson"
    return Load(TENANT, made.edge_url, receipts, parse_clock(clock).now_ms, rate)


def _sustained_rate(made: Installation) -> float:
    """Events a second that the edge takes and forwards when nothing limits the devices."""
    load = _load(made, made.settings().clock, 0.0)
    load.prefix = "calibration"
    started = time.monotonic()
    load.start()
    time.sleep(CALIBRATION_SECONDS)
    load.stop()
    made.wait_for_the_edge()
    return load.acknowledged / (time.monotonic() - started)


def _kill_workers(made: Installation, chance: random.Random, count: int, outcome: Outcome) -> None:
    """Have Dagster seal the day, and kill the worker that does it."""
    if not count:
        return
    with made.platform(after_day=True) as opened:
        close_day(opened, DAY, GRACE_SECONDS * 1000)
    longest = WORKER_SECONDS
    while outcome.workers_killed < count:
        worker = made.start_sealing_worker()
        try:
            worker.wait(timeout=chance.uniform(longest / 4, longest))
            longest /= 2  # a fast machine: this one had ended before its time
        except subprocess.TimeoutExpired:
            worker.kill()
            assert worker.wait(timeout=PATIENCE_SECONDS) == -signal.SIGKILL
            outcome.workers_killed += 1


def _compare_hot(made: Installation) -> int:
    """HOT holds exactly the sealed events; how many."""
    sealed = made.sealed_hashes()
    hot: set[bytes] = set()
    with made.platform(after_day=True) as opened:
        for index in opened.hot.indexes(TENANT):
            if index.is_read:
                found = opened.hot.hashes(TENANT, index.day, index.generation)
                hot |= {row.tobytes() for row in found}
    assert hot, "HOT holds nothing"
    assert all(len(h) == NODE_BYTES for h in hot)
    assert hot == sealed, f"{len(sealed - hot)} not in HOT, {len(hot - sealed)} not sealed"
    return len(hot)
