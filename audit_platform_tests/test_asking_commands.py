"""`find`, `timeline` and `event` on the command line: what people and machines read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from audit_platform.cli import main
from audit_platform_tests.operations.query.story import DAYS, TENANT, counting, tell
from audit_platform_tests.world import open_world


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story's folder, closed; its first day is sealed."""
    folder = tmp_path_factory.mktemp("asking")
    with open_world(folder) as world:
        tell(world, 1)
    return folder


def run(*args: str, home: Path) -> Result:
    environment = {"AUDIT_HOME": str(home), "COLUMNS": "200"}
    return CliRunner().invoke(main, list(args), env=environment, prog_name="audit-platform")


def done(*args: str, home: Path) -> Any:
    result = run(*args, "--json", home=home)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


WINDOW = ("--from", DAYS[0], "--to", f"{DAYS[2]}T23:00Z")


def test_find_gives_every_event_that_matches(home: Path) -> None:
    with open_world(home) as world:
        wanted = [s for s in counting(world) if s.event["deviceId"] == "pump-001"]
    found = done("find", TENANT, *WINDOW, "--device", "pump-001", home=home)
    assert {row["eventHash"] for row in found["rows"]} == {s.event_hash.hex() for s in wanted}
    assert found["tier"] == "cold"
    assert found["more"] is False
    result = run("find", TENANT, *WINDOW, "--text", "straße", home=home)
    assert result.exit_code == 0
    assert "STRASSE straße" in result.stdout
    assert result.stderr.startswith("Searched COLD: 3 days")


def test_find_says_when_there_is_more(home: Path) -> None:
    result = run("find", TENANT, *WINDOW, "--limit", "2", home=home)
    assert "more than 2 events match" in result.stderr
    assert done("find", TENANT, *WINDOW, "--limit", "2", home=home)["more"] is True


def test_timeline_shows_what_is_wrong_between_events(home: Path) -> None:
    result = run("timeline", TENANT, "pump-000", *WINDOW, "--tier", "cold", home=home)
    assert result.exit_code == 0
    assert "GAP" in result.stdout
    assert "sequences 6 to 7 are missing" in result.stdout
    assert "1 gap" in result.stderr
    found = done("timeline", TENANT, "pump-001", *WINDOW, home=home)
    assert found["counts"] == {"fork": 1, "skewed": 2}
    assert found["events"] == len(found["rows"])


def test_event_shows_its_bytes_and_its_proof(home: Path) -> None:
    with open_world(home) as world:
        s = counting(world)[0]
    event_id = str(s.event["eventId"])
    found = done("event", TENANT, event_id, home=home)
    assert found["copies"][0]["storedText"] == s.stored.decode()
    assert found["copies"][0]["proof"]["eventHash"] == s.event_hash.hex()
    result = run("event", TENANT, event_id, home=home)
    assert s.stored.decode() in result.stdout
    assert "have this hash" in result.stdout


def test_an_event_that_is_not_held_is_exit_code_1(home: Path) -> None:
    result = run("event", TENANT, "0" * 64, home=home)
    assert result.exit_code == 1
    assert "has no event" in result.stderr
    result = run("event", TENANT, "x", home=home)
    assert result.exit_code == 1
    assert "remedy: wanted an eventId" in result.stderr


@pytest.mark.parametrize(
    "window",
    [("--from", "yesterday"), ("--from", "2026-02-30"), ("--from", DAYS[1], "--to", DAYS[0])],
)
def test_a_window_that_is_none_is_exit_code_2(home: Path, window: tuple[str, ...]) -> None:
    assert run("find", TENANT, *window, home=home).exit_code == 2
