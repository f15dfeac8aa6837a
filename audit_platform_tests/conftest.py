"""What all tests share: Hypothesis without wall-clock limits, since machines are throttled.

The servers that tests ask for live and end with the run: `servers.py`, and the clusters of the full
stack below.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from audit_platform_tests import servers

if TYPE_CHECKING:
    from audit_platform_tests.failures.lab import Servers

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=20_000)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    servers.begin_run(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in servers.summary():
        terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    servers.end_run(config)


@pytest.fixture(scope="session", name="servers")
def _servers() -> Iterator[Servers]:
    """All servers of the full stack, answering, once for all tests of a run that need them."""
    from audit_platform_tests.failures.lab import (  # noqa: PLC0415 - only a run that needs it loads it
        full_stack,
    )

    with full_stack() as opened:
        yield opened
