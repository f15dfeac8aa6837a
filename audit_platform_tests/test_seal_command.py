"""`audit-platform seal` takes in what came late, and says which revision it made."""

from __future__ import annotations

import json
import time
from pathlib import Path

from click.testing import CliRunner

from audit_platform.cli import main
from audit_platform.record import layout
from audit_platform_tests.world import DAY, open_world, sealed_day


def test_sealing_by_hand_makes_a_revision_of_what_came_late_and_then_none(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        edge = sealed_day(world)
        late = edge.heartbeats(1, 2, world.clock.now_ms())
        world.ingest("north", late, at_ms=layout.day_end_ms(DAY) - 1)
        world.archive()
        clock = f"scaled:{world.clock.now_ms()}:{time.time_ns() // 1_000_000}:0.000001"
    environment = {"AUDIT_HOME": str(tmp_path), "AUDIT_PARTITIONS": "2", "AUDIT_CLOCK": clock}

    def seal(*more: str) -> str:
        result = CliRunner().invoke(main, ["seal", "north", DAY, *more], env=environment)
        assert result.exit_code == 0, result.output
        return result.stdout

    made = json.loads(seal("--json"))
    assert (made["revision"], made["number"], made["rows"], made["adopted"]) == (2, 2, 33, False)
    again = json.loads(seal("--json"))
    assert (again["revision"], again["adopted"], again["sha256"]) == (2, True, made["sha256"])
    assert "revision" in seal()
