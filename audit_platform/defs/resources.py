"""The one resource: a shell that opens the platform for a run, a tick or a check, and closes it.

Assets ask for `ResourceParam[Platform]`, so a test hands them a plain `Platform`. Belongs here:
opening and closing. Does not: what is opened (`wiring.py`), settings (`settings.py`).
"""

import os
from collections.abc import Generator
from contextlib import closing, contextmanager

import dagster as dg

from audit_platform.ports import Platform
from audit_platform.settings import Settings


class PlatformResource(dg.ConfigurableResource[Platform]):
    """All ports of a profile, wired from the environment of the process that runs."""

    profile: str

    def create_resource(self, context: dg.InitResourceContext) -> Platform:  # noqa: ARG002 - Dagster's signature
        """Open the platform. Raises `SettingInvalid` and the ports' `…Unavailable` errors."""
        from audit_platform.wiring import open_platform  # noqa: PLC0415 - definitions load without any adapter

        environment = {**os.environ, "AUDIT_PROFILE": self.profile}
        return open_platform(Settings.from_environment(environment))

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Platform]:
        """The platform, closed at the end."""
        with closing(self.create_resource(context)) as platform:
            yield platform
