"""The servers of the full stack, once for all tests of a run that need them; what the run saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform_tests.failures.lab import Servers, full_stack
from audit_platform_tests.failures.results import FILE_NAME

_FILE = pytest.StashKey[Path]()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """All of them, answering. A test that breaks one has it whole again when it ends."""
    with full_stack() as opened:
        yield opened


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of this run that each failure adds its line to."""
    file = tmp_path_factory.getbasetemp() / FILE_NAME
    pytestconfig.stash[_FILE] = file
    return file


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    file = config.stash.get(_FILE, None)
    if file is not None:
        terminalreporter.write_line(f"what the failures of this run were like: {file}")
