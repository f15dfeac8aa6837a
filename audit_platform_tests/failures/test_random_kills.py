"""25 random kills under load; `make soak` does 200 with any seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.soak.kills import SERVICES, run

SEED = 20_261_124
KILLS = 25


@pytest.mark.timeout(900)
def test_nothing_is_lost_doubled_or_left_out_of_hot_by_25_random_kills(tmp_path: Path) -> None:
    outcome = run(tmp_path / "installation", SEED, KILLS)
    assert outcome.judgement is not None
    assert {name for name, _ in outcome.kills} == set(SERVICES), outcome.to_text()
    assert len(outcome.kills) + outcome.workers_killed == KILLS, outcome.to_text()
    assert outcome.retries > 0, "no device noticed a kill"
    assert outcome.hot == outcome.judgement.sealed.rows, outcome.to_text()
