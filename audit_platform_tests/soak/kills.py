"""Kill what carries events, again and again, at random moments; then nothing is lost.

`run` starts a whole installation, puts it under load, kills a random process at a random moment as
often as asked, starts it again, and at the end has the day closed and sealed by a worker of Dagster
that is killed too. The seed fixes who is killed and after how long; a run is replayed by its seed.
Belongs here: the plan, the kills, the judgement. Does not: the load (`load.py`), starting
processes (`failures/installation.py`).
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit_platform.operations.closing import close_day
from audit_platform.record.merkle import NODE_BYTES
from audit_platform_tests.failures.installation import (
    DAY,
    GRACE_SECONDS,
    PATIENCE_SECONDS,
    TENANT,
    Installation,
    Judgement,
    installation,
)
from audit_platform_tests.soak.load import Load

SERVICES: Final = ("edge-gateway", "ingest-gateway", "archive-writer", "search-indexer")

#: Seconds between a kill and the next one. Services are up after about 2 s, so some die while they
#: start.
SHORTEST_SECONDS: Final = 0.1
LONGEST_SECONDS: Final = 2.5

#: Every so many kills are of the Dagster worker, at the end.
WORKER_SHARE: Final = 8

#: A worker imports for some seconds and then seals for about one.
WORKER_SECONDS: Final = 8.0

#: How long the load runs free to find the sustained rate.
CALIBRATION_SECONDS: Final = 3.0


@dataclass
class Outcome:
    """What was done and what was found. Equal seeds give equal `kills`."""

    seed: int
    kills: list[tuple[str, float]] = field(default_factory=list)
    workers_killed: int = 0
    rate: float = 0.0
    acknowledged: int = 0
    retries: int = 0
    judgement: Judgement | None = None
    hot: int = 0

    def to_text(self) -> str:
        """One line for a log, with all that a replay needs."""
        who = ", ".join(f"{n} x {c}" for n, c in sorted(Counter(k for k, _ in self.kills).items()))
        sealed = self.judgement.sealed.rows if self.judgement else 0
        return (
            f"seed {self.seed}: {len(self.kills)} kills ({who}), {self.workers_killed} of the "
            f"Dagster worker; {self.acknowledged:,} events acknowledged at {self.rate:,.0f}/s, "
            f"{self.retries} bodies sent again; {sealed:,} rows sealed, {self.hot:,} in HOT"
        )


def run(folder: Path, seed: int, kills: int) -> Outcome:
    """Do it all; an `AssertionError` says what was lost or did not come back."""
    chance = random.Random(seed)
    outcome = Outcome(seed)
    of_worker = kills // WORKER_SHARE
    with installation(folder) as made:
        for name in SERVICES:
            made.start(name)
        outcome.rate = _sustained_rate(made) / 2
        clock = made.settings().clock
        load = _load(made, clock, outcome.rate)
        load.start()
        for _ in range(kills - of_worker):
            wait = chance.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
            name = chance.choice(SERVICES)
            time.sleep(wait)
            made.kill(name)
            outcome.kills.append((name, wait))
            made.launch(name)
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


def main() -> int:
    """`python -m audit_platform_tests.soak [kills] [seed]`."""
    import tempfile  # noqa: PLC0415 - only the command needs it

    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6)
    sys.stdout.write(f"seed {seed}: {kills} kills; replay: make soak KILLS={kills} SEED={seed}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder) / "installation", seed, kills)
    sys.stdout.write(outcome.to_text() + "\n")
    return 0
