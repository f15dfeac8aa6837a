"""What all tests share: Hypothesis without wall-clock limits, since machines are throttled.

The servers that tests ask for live and end with the run: `servers.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from audit_platform_tests import servers

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
