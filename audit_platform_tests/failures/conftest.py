"""One installation under load on the full stack, for all failures of a run; what the run saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform_tests.failures.hot_nodes import assert_hot_is_the_day
from audit_platform_tests.failures.lab import Lab, Servers, under_load
from audit_platform_tests.failures.results import FILE_NAME

_FILE = pytest.StashKey[Path]()


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of this run that each failure adds its line to."""
    file = tmp_path_factory.getbasetemp() / FILE_NAME
    pytestconfig.stash[_FILE] = file
    return file


@pytest.fixture(scope="session")
def one_lab(
    servers: Servers, results: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """An installation under load for all failures of a run; at last it is judged what they cost.

    The results are written then: they say what was acknowledged and lost in all of them.
    """
    with under_load(servers, tmp_path_factory.mktemp("installation"), "minio-1") as lab:
        yield lab
        judgement = lab.finish()
        assert_hot_is_the_day(lab)
        for trial in lab.passed:
            trial.judged(judgement)


@pytest.fixture
def lab(one_lab: Lab) -> Iterator[Lab]:
    """The same for one failure: whole before it and after it."""
    yield one_lab
    one_lab.repair()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    file = config.stash.get(_FILE, None)
    if file is not None:
        terminalreporter.write_line(f"what the failures of this run were like: {file}")
