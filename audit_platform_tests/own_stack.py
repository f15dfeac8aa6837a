"""Servers of one test module's own, for faults: what is killed or frozen here hurts nobody else.

Belongs here: bringing them up, faults on them, putting them down. Does not: servers that all tests
share (`servers.py`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit_platform.settings import Settings
from audit_platform.stack import children, registry, supervision
from audit_platform.stack.model import Place, Server
from audit_platform_tests.servers import free_base

#: A search server that was killed recovers what it had taken; on a busy machine that takes minutes.
UP_SECONDS: Final = 400.0


@dataclass(frozen=True)
class OwnStack:
    """A stack of some servers."""

    place: Place
    servers: list[Server]

    def settings(self, **more: str) -> Settings:
        """Settings that name these servers; the profile is as given."""
        found = registry.settings(self.place, self.servers)
        return Settings.from_environment({**found, "AUDIT_PROFILE": "embedded", **more})

    def kill(self, name: str) -> None:
        """SIGKILL; on return it does not run."""
        supervision.kill(self.place.home, name)

    def freeze(self, name: str) -> None:
        """SIGSTOP; on return it stands still."""
        supervision.freeze(self.place.home, name)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        supervision.thaw(self.place.home, name)

    def start(self) -> None:
        """Whatever does not run runs again and answers."""
        supervision.up(
            self.place, self.servers, tell=lambda _: None, owner=_myself(), seconds=UP_SECONDS
        )


def _myself() -> children.Identity:
    me = children.identify(os.getpid())
    assert me is not None
    return me


@contextmanager
def own_stack(
    *names: str, size: str = "small", faults: bool = False, tls: bool = False
) -> Iterator[OwnStack]:
    """The named servers, answering; gone with all their data at the end.

    With `faults` the fault proxy stands before them, with `tls` they speak it with services.
    """
    # Not below pytest's own folder: only its owner may enter that, and PostgreSQL steps down.
    home = Path(tempfile.mkdtemp(prefix="audit-own-"))
    home.chmod(0o755)
    with free_base() as base:
        place = Place(home, registry.default_cache(), base, size, faults=faults, tls=tls)
        stack = OwnStack(place, registry.choose(registry.servers_at(place), names, place.size))
        try:
            stack.start()
            yield stack
        finally:
            supervision.wipe(home, tell=lambda _: None)
            shutil.rmtree(home, ignore_errors=True)
