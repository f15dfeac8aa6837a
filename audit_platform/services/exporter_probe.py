"""One probe of the exporter: asked again and again in a thread of its own, with a time limit.

Belongs here: when it is asked, what is shown of how that went. Does not: what is asked
(`exporter_lag.py`, `exporter_checks.py`). Source: issue "The same path on the real servers".

A library's own time limits are not relied on: a probe that takes longer than its limit is shown as
failed while it still waits, and no other probe waits with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from audit_platform.errors import AuditPlatformError
from audit_platform.metrics.probes import (
    PROBE_ERRORS,
    PROBE_OK,
    PROBE_PATIENCE,
    PROBE_SECONDS,
    PROBE_SUCCESS,
)
from audit_platform.telemetry import Telemetry

#: A rare probe that failed is tried again so soon: an hour would be long to know no better.
AGAIN_SECONDS: Final = 30.0

#: Finds of a probe are out of date after so many of its turns in a row without success.
PATIENCE_TURNS: Final = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Probe:
    """`ask` tells what it finds by itself and raises when it did not get it.

    It is asked every `seconds`, and called failed after `limit_seconds`.
    """

    name: str
    seconds: float
    limit_seconds: float
    ask: Callable[[], None]


class Asking:
    """A probe at work. `turn` is called by its own thread, `look` by another one."""

    def __init__(
        self,
        probe: Probe,
        telemetry: Telemetry,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.probe = probe
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._wall = wall
        self._guard = threading.Lock()
        self._since: float | None = None  # of the turn that is running and not overdue
        self._trouble = ""
        telemetry.count(PROBE_ERRORS, 0, probe=probe.name)
        telemetry.set(PROBE_SUCCESS, wall(), probe=probe.name)
        patience = PATIENCE_TURNS * (probe.seconds + probe.limit_seconds)
        telemetry.set(PROBE_PATIENCE, patience, probe=probe.name)

    @property
    def trouble(self) -> str:
        """Why it failed last; "" while it does not."""
        return self._trouble

    def turn(self) -> float:
        """Ask once; after how many seconds to ask again."""
        begun = self._monotonic()
        with self._guard:
            self._since = begun
        why = _asked(self.probe)
        with self._guard:
            is_overdue, self._since = self._since is None, None
            self._telemetry.set(PROBE_SECONDS, self._monotonic() - begun, probe=self.probe.name)
            if not why:
                self._telemetry.set(PROBE_SUCCESS, self._wall(), probe=self.probe.name)
            # An overdue turn that failed after all is the same failure.
            self._tell(why, is_new=not is_overdue)
        return min(self.probe.seconds, AGAIN_SECONDS) if why else self.probe.seconds

    def look(self) -> None:
        """Show a turn that takes too long as failed, once."""
        with self._guard:
            if self._since is None:
                return
            if self._monotonic() - self._since > self.probe.limit_seconds:
                self._since = None
                self._tell(f"no end within {self.probe.limit_seconds:g} s", is_new=True)

    def run(self, stop: threading.Event) -> None:
        """Ask until `stop` is set."""
        while not stop.is_set():
            stop.wait(self.turn())

    def _tell(self, why: str, *, is_new: bool) -> None:
        self._telemetry.set(PROBE_OK, not why, probe=self.probe.name)
        if why and is_new:
            self._telemetry.count(PROBE_ERRORS, probe=self.probe.name)
        if bool(why) != bool(self._trouble):
            _log.warning("probe %s: %s", self.probe.name, why or "well again")
        self._trouble = why


def _asked(probe: Probe) -> str:
    """Ask; "" or what went wrong."""
    try:
        probe.ask()
    except AuditPlatformError as e:
        return str(e)
    except Exception as e:  # noqa: BLE001 - one probe's own fault must not silence it for ever
        _log.exception("probe %s", probe.name)
        return repr(e)
    return ""
