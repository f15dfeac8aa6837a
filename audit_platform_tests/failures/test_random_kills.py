"""Random faults under load: 25 kills of processes, 10 faults of servers; `make soak` does more."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.soak.campaign import SERVICES, run
from audit_platform_tests.soak.kills import ProcessKills
from audit_platform_tests.soak.server_faults import ASKED, KINDS, ServerFaults

SEED = 20_261_124
KILLS = 25

#: Its ten faults are of every kind and on every server.
SERVERS_SEED = 58
SERVER_FAULTS = 10


@pytest.mark.timeout(900)
def test_nothing_is_lost_doubled_or_left_out_of_hot_by_25_random_kills(tmp_path: Path) -> None:
    outcome = run(tmp_path / "installation", SEED, KILLS, ProcessKills())
    assert outcome.judgement is not None
    assert {name for name, _ in outcome.faults} == set(SERVICES), outcome.to_text()
    assert len(outcome.faults) + outcome.workers_killed == KILLS, outcome.to_text()
    assert outcome.retries > 0, "no device noticed a kill"
    assert outcome.hot == outcome.judgement.sealed.rows, outcome.to_text()


@pytest.mark.timeout(900)
def test_nothing_is_lost_doubled_or_left_out_of_hot_by_10_random_faults_of_servers(
    tmp_path: Path,
) -> None:
    outcome = run(tmp_path / "installation", SERVERS_SEED, SERVER_FAULTS, ServerFaults())
    assert outcome.judgement is not None
    done = [what.split() for what, _ in outcome.faults]
    assert len(done) == SERVER_FAULTS
    assert {kind for kind, _ in done} == set(KINDS), outcome.to_text()
    assert {name for _, name in done} == set(ASKED), outcome.to_text()
    assert outcome.hot == outcome.judgement.sealed.rows >= outcome.acknowledged > 0
