"""Death of the job `replay_dlq` behind a chunk's append, and behind its record, by SIGKILL.

`test_killpoints.py` has the other points, and the test that none is left out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from audit_platform.killpoints import Killpoint
from audit_platform.operations.dlq.records import State, case_of
from audit_platform.record.decision import CHUNK_LINES
from audit_platform_tests.operations.dlq.desk import TENANT, Dlq
from audit_platform_tests.world import open_world

REPLAYING = [Killpoint.DLQ_APPENDED, Killpoint.DLQ_REPLAYED]

#: Runs the job as a worker process does.
WORKER = """
import sys
import dagster as dg
from audit_platform.defs.build import build_definitions
with dg.DagsterInstance.ephemeral() as instance:
    job = build_definitions().resolve_job_def("replay_dlq")
    config = {"tenant": sys.argv[1], "proposal": sys.argv[2], "events_per_second": 100_000}
    job.execute_in_process(
        instance=instance, run_config={"ops": {"replay_letters": {"config": config}}}
    )
"""


def worker(folder: Path, proposal: str, kill_at: str) -> subprocess.CompletedProcess[str]:
    """One run of the job in a process of its own, which dies."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AUDIT_")}
    return subprocess.run(
        [sys.executable, "-c", WORKER, TENANT, proposal],
        env=environment
        | {"AUDIT_HOME": str(folder), "AUDIT_PARTITIONS": "2", "AUDIT_KILL_AT": kill_at},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


@pytest.mark.parametrize("point", REPLAYING)
def test_the_replay_dies_at_four_of_five_chunks_and_the_next_run_does_the_rest(
    point: Killpoint, tmp_path: Path
) -> None:
    with open_world(tmp_path) as world:
        dlq = Dlq.open(world)
        lines = dlq.refused(5 * CHUNK_LINES)
        proposal = dlq.approved()
        died = worker(tmp_path, proposal, f"{point}:4")
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert case_of(dlq.reader, TENANT, proposal).state is State.REPLAYING
        done = 3 if point is Killpoint.DLQ_APPENDED else 4
        rest = dlq.replay(proposal)
        assert (rest.chunks, rest.skipped, rest.done) == (5, done, 5 - done)
        assert rest.counts == {"accepted": 5 * CHUNK_LINES}
        assert case_of(dlq.reader, TENANT, proposal).state is State.REPLAYED
        held = Counter(dlq.in_log())
        assert held.keys() >= set(lines)
        assert sum(held.values()) - len(held) == (4 - done) * CHUNK_LINES
