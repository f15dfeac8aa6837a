"""The results of a run of failures: what is written is what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_platform_tests.failures.results import Result, page, read


def write(file: Path, *results: Result) -> None:
    for result in results:
        result.append(file)


def result(row: str, fault: str, lost: int = 0) -> Result:
    return Result(
        row=row,
        fault=fault,
        seen="503",
        alert="KafkaBrokerDown",
        fired=16.12,
        recovered=3.04,
        cleared=None,
        objective=300,
        acknowledged=26_600,
        lost=lost,
        date="2026-03-01",
    )


def test_the_page_has_a_line_for_each_failure_in_the_order_of_the_mission(tmp_path: Path) -> None:
    file = tmp_path / "failures.jsonl"
    write(file, result("", "a topic made anew"), result("36", "a secret"), result("4", "writers"))
    lines = [line for line in page(read(file)).splitlines() if "KafkaBrokerDown" in line]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| 4", "writers"],
        ["| 36", "a secret"],
        ["| -", "a topic made anew"],
    ]
    assert lines[0].endswith("| `KafkaBrokerDown` | 16 s | 3.0 s | 300 s | - | 26600 | 0 |")


def test_a_line_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "failures.jsonl"
    write(file, result("8", "a store"))
    assert read(file) == [result("8", "a store")]


def test_a_run_without_results_makes_no_page() -> None:
    with pytest.raises(ValueError, match="no result"):
        page([])
