"""`audit-platform generation`: what is wrong with the log, and the next log generation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from audit_platform.cli import main
from audit_platform.operations.open_generation import open_generation
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform.services.search_indexer import GENERATION_SECONDS, METRICS, SearchIndexer
from audit_platform.telemetry import Telemetry
from audit_platform_tests.operations.lost_log import Sender, archive, lose_tail
from audit_platform_tests.services.uplink_world import Seconds
from audit_platform_tests.test_operator_actions import actions
from audit_platform_tests.world import DAY, World, open_world

TENANT = "north"
RUNBOOK = Path(__file__).parents[1] / "deploy" / "runbooks" / "log-generation.md"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        first = opened.platform.log
        yield opened
        if opened.platform.log is not first:
            opened.platform.log.close()  # type: ignore[attr-defined] # the embedded log has it


def run(world: World, *args: str) -> Result:
    environment = {
        "AUDIT_HOME": str(world.folder),
        "AUDIT_PARTITIONS": "2",
        "AUDIT_CLOCK": f"scaled:{world.clock.now_ms()}:1:0.000001",
    }
    return CliRunner().invoke(main, ["generation", *args], env=environment)


def answer(world: World, *args: str, exit_code: int = 0) -> Any:
    result = run(world, *args, "--json")
    assert result.exit_code == exit_code, result.output
    return orjson.loads(result.stdout)


def broken(world: World) -> Sender:
    """Partition 0 lost its tail and was filled again, past what was archived."""
    sender = Sender(world)
    edge = world.edge(TENANT)
    sender.send([edge.start(world.clock.now_ms())])
    for _ in range(4):
        sender.send(edge.heartbeats(6, 1, world.clock.now_ms()))
    archive(world)
    lose_tail(world, 0, 2)
    for _ in range(5):
        sender.send(edge.heartbeats(6, 1, world.clock.now_ms()))
    return sender


@pytest.mark.parametrize("verb", ["", "list", "check", "open"])
def test_the_help_says_what_a_verb_is_for(verb: str) -> None:
    result = CliRunner().invoke(main, ["generation", *verb.split(), "--help"])
    assert result.exit_code == 0
    assert "Example: audit-platform generation" in result.output


def test_check_names_partition_reason_and_remedy_and_open_mends_it(world: World) -> None:
    broken(world)
    (row,) = answer(world, "check", exit_code=1)
    assert (row["topic"], row["partition"], row["reason"]) == (EVENTS_TOPIC, 0, "digest")
    assert "audit-platform generation open" in row["remedy"]
    done = answer(world, "open")
    assert (done["generation"], done["reason"], done["byThisCommand"]) == (2, "digest", True)
    assert f"{EVENTS_TOPIC}/0:2 " in done["starts"]
    assert answer(world, "check") == []
    assert [r["generation"] for r in answer(world, "list")] == [1, 1, 2, 2]
    (action,) = actions(world)
    assert (action["action"], action["subject"]) == ("generation open", "2 digest")


def test_the_runbooks_commands_mend_a_log_that_was_filled_again(world: World) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
    lines = [line.split() for block in blocks for line in block.splitlines()]
    assert [line[:2] for line in lines] == [["audit-platform", "generation"]] * 4
    broken(world)
    assert [run(world, *line[2:]).exit_code for line in lines] == [1, 0, 0, 0]


def test_what_is_said_to_a_person_names_the_same(world: World) -> None:
    assert "no log generation yet" in run(world, "list").output
    broken(world)
    assert "another record at 2" in run(world, "check").output
    said = run(world, "open").output
    assert f"was broken: {EVENTS_TOPIC}/0" in said
    assert "the log is the one that was archived" in run(world, "check").output


def test_nothing_is_opened_when_nothing_is_wrong_unless_it_is_planned(world: World) -> None:
    sender = Sender(world)
    sender.send([world.edge(TENANT).start(world.clock.now_ms())])
    archive(world)
    refused = run(world, "open")
    assert refused.exit_code == 1
    assert "--reason partitions or store" in refused.stderr
    assert actions(world) == []
    assert answer(world, "open", "--reason", "partitions")["reason"] == "partitions"
    assert run(world, "open", "--reason", "boredom").exit_code == 2


def test_an_indexer_that_runs_goes_back_to_where_the_next_generation_starts(world: World) -> None:
    sender = Sender(world)
    edge = world.edge(TENANT)
    sender.send([edge.start(world.clock.now_ms())])
    for _ in range(4):
        sender.send(edge.heartbeats(6, 1, world.clock.now_ms()))
    archive(world)
    seconds = Seconds()
    indexer = SearchIndexer(world.platform, Telemetry(METRICS), member="i", monotonic=seconds)
    while indexer.step():
        pass
    lose_tail(world, 0, 2)
    for _ in range(5):
        sender.send(edge.heartbeats(6, 1, world.clock.now_ms()))
    # The same process goes on over the log as it is now.
    indexer._platform = world.platform
    for partition in indexer._partitions.values():
        partition.platform = world.platform
    while indexer.step():
        pass
    said = {orjson.loads(line)["eventHash"] for line in sender.receipts.lines}
    assert found(world) < said
    open_generation(world.platform)
    seconds.now += GENERATION_SECONDS
    while indexer.step():
        pass
    assert found(world) == said


def found(world: World) -> set[str]:
    """Hashes of what HOT holds."""
    (index,) = world.platform.hot.indexes(TENANT)
    return {bytes(h).hex() for h in world.platform.hot.hashes(TENANT, DAY, index.generation)}
