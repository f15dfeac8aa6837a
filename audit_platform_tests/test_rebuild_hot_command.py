"""`audit-platform rebuild-hot` and `search-indexer`: as a person and as a machine reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.test_cli import done, run
from audit_platform_tests.world import DAY, open_world


def fill(home: Path) -> None:
    """A tenant's events in the log and in landing, and no HOT."""
    with open_world(home) as world:
        edge = world.edge("north")
        start = edge.start(world.clock.now_ms())
        world.ingest("north", [start, *edge.heartbeats(3, 5, world.clock.now_ms())])
        world.archive()


def test_a_day_is_rebuilt_and_told_in_text_and_json(tmp_path: Path) -> None:
    fill(tmp_path)
    shown = run("rebuild-hot", "north", DAY, home=tmp_path)
    assert shown.exit_code == 0
    assert "documents" in shown.stdout
    (day,) = done("rebuild-hot", "--all", home=tmp_path)
    assert (day["tenantId"], day["day"], day["generation"]) == ("north", DAY, 2)
    assert (day["documents"], day["fromLanding"], day["lacking"]) == (16, 16, 0)
    assert day["problems"] == []


def test_what_could_not_be_read_is_told_and_ends_with_exit_code_1(tmp_path: Path) -> None:
    fill(tmp_path)
    bodies = [p for p in (tmp_path / "objects/landing/v1/tenant=north").rglob("*") if p.is_file()]
    largest = max(bodies, key=lambda p: p.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
    result = run("rebuild-hot", "north", DAY, home=tmp_path)
    assert result.exit_code == 1
    assert "problem: landing/v1/tenant=north" in result.stderr


@pytest.mark.parametrize(
    "args", [[], ["north"], ["north", DAY, "--all"], ["NORTH", DAY], ["north", "2026-02-30"]]
)
def test_a_wrong_call_is_explained(args: list[str], tmp_path: Path) -> None:
    result = run("rebuild-hot", *args, home=tmp_path)
    assert result.exit_code == 2
    assert not (tmp_path / "hot").exists()


def test_nothing_to_rebuild_is_said(tmp_path: Path) -> None:
    with open_world(tmp_path):
        pass
    assert "nothing to rebuild" in run("rebuild-hot", "--all", home=tmp_path).stdout
    assert done("rebuild-hot", "north", "--all", home=tmp_path) == []


def test_the_indexer_gets_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audit_platform.services import search_indexer  # noqa: PLC0415 - only here

    seen: list[int] = []
    monkeypatch.setattr(search_indexer, "run", lambda s: seen.append(s.indexer_port))
    assert run("search-indexer", home=tmp_path, AUDIT_INDEXER_PORT="9005").exit_code == 0
    assert seen == [9005]
