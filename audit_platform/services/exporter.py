"""exporter: says what no server and no consumer says of itself, also when they are dead.

Each probe has a thread, a pace and a time limit of its own, and fails alone: its last finds stay
shown, its failure is counted. Belongs here: which probes there are, the program. Does not: a probe
at work (`exporter_probe.py`), what is asked (`exporter_lag.py`, `exporter_checks.py`).
Source: issue "The same path on the real servers"; design section 8 (names).
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from audit_platform.metrics.clients import LOG_ERRORS
from audit_platform.metrics.dagster import (
    DAGSTER_FAILED_RUNS,
    DAGSTER_HEARTBEAT_AGE,
    DAGSTER_QUEUE_AGE,
    DAGSTER_QUEUED,
    DAGSTER_STALE,
    DAGSTER_TICK_FAILED,
)
from audit_platform.metrics.form import Metric
from audit_platform.metrics.probes import (
    HOT_BLOCKED,
    HOT_DISK_FREE,
    HOT_NODES,
    HOT_STATUS,
    LOG_WRITE_TROUBLE,
    LOST_EVENTS,
    OBJECT_LOCK_BROKEN,
    OPEN_INCIDENTS,
    PROBE_ERRORS,
    PROBE_OK,
    PROBE_PATIENCE,
    PROBE_SECONDS,
    PROBE_SUCCESS,
    UNACCOUNTED_EVENTS,
)
from audit_platform.ports import Platform, Probes
from audit_platform.processes import freeze_startup_objects, tune_process
from audit_platform.services.archive_http import serve
from audit_platform.services.exporter_checks import (
    Incidents,
    LogWrite,
    ask_objects,
    tell_accounts,
    tell_hot,
    try_lock,
)
from audit_platform.services.exporter_dagster import DagsterHealth
from audit_platform.services.exporter_lag import GroupLag
from audit_platform.services.exporter_probe import Asking, Probe
from audit_platform.services.lag_gauges import LAG_METRICS
from audit_platform.settings import Settings
from audit_platform.telemetry import Telemetry, log_as_json
from audit_platform.wiring import open_platform, open_probes

#: Told in any profile.
METRICS: Final = (
    *LAG_METRICS,
    LOST_EVENTS,
    OBJECT_LOCK_BROKEN,
    OPEN_INCIDENTS,
    PROBE_ERRORS,
    PROBE_OK,
    PROBE_PATIENCE,
    PROBE_SECONDS,
    PROBE_SUCCESS,
    UNACCOUNTED_EVENTS,
)

#: Told where there is such a server: a cluster of no nodes would be a lie.
HOT_METRICS: Final = (HOT_BLOCKED, HOT_DISK_FREE, HOT_NODES, HOT_STATUS)
WRITE_METRICS: Final = (LOG_WRITE_TROUBLE,)
DAGSTER_METRICS: Final = (
    DAGSTER_FAILED_RUNS,
    DAGSTER_HEARTBEAT_AGE,
    DAGSTER_QUEUE_AGE,
    DAGSTER_QUEUED,
    DAGSTER_STALE,
    DAGSTER_TICK_FAILED,
)

#: How often a turn is looked at from outside.
LOOK_SECONDS: Final = 0.5

#: How long the end waits for turns that are running; who still waits for a server is left behind.
END_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


def metrics_of(probes: Probes) -> list[Metric]:
    """The metrics that an exporter with these probes tells."""
    return [
        *METRICS,
        *(HOT_METRICS if probes.hot else ()),
        *(WRITE_METRICS if probes.log_write else ()),
        *(DAGSTER_METRICS if probes.dagster else ()),
    ]


def probes_of(platform: Platform, probes: Probes, telemetry: Telemetry) -> list[Probe]:
    """All probes: name, pace and limit in seconds, and what is asked."""
    found = [
        # Faster than any alert on it; costs nothing where a group is at the end.
        Probe("lag", 2, 30, GroupLag(platform, telemetry).tell),
        Probe("objects", 5, 12, partial(ask_objects, platform.objects)),
        Probe("metadata", 5, 8, lambda: _ask_metadata(platform)),
        Probe("incidents", 60, 120, Incidents(platform, telemetry).tell),
        # Reads the whole log that is held, and columns of every object.
        Probe("reconcile", 300, 3600, partial(tell_accounts, platform, telemetry)),
        Probe("object_lock", 3600, 60, partial(try_lock, platform, telemetry)),
    ]
    if probes.hot is not None:
        # A cluster that lost a node may be green again after five seconds.
        found.append(Probe("hot", 1, 8, partial(tell_hot, probes.hot, telemetry)))
    if probes.log_write is not None:
        found.append(Probe("log_write", 5, 8, LogWrite(probes.log_write, telemetry).tell))
    if probes.dagster is not None:
        found.append(Probe("dagster", 15, 20, DagsterHealth(probes.dagster, telemetry).tell))
    found += [Probe(name, 5, 8, ask) for name, ask in probes.others.items()]
    return found


def _ask_metadata(platform: Platform) -> None:
    platform.metadata.tenants()


class Exporter:
    """All probes at work. `start` gives each a thread; `look` finds those that take too long."""

    def __init__(self, found: Sequence[Probe], telemetry: Telemetry) -> None:
        self._asking = [Asking(probe, telemetry) for probe in found]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._looked = time.monotonic()

    def start(self) -> None:
        """Begin."""
        for asking in self._asking:
            thread = threading.Thread(
                target=asking.run, args=(self._stop,), name=asking.probe.name, daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def look(self) -> None:
        """Show turns that take too long as failed."""
        for asking in self._asking:
            asking.look()
        self._looked = time.monotonic()

    def end(self) -> None:
        """Ask no more."""
        self._stop.set()
        deadline = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def health(self) -> tuple[bool, Mapping[str, object]]:
        """Whether it looks, and which probes fail: that is news of servers, not of this process."""
        failing = {a.probe.name: a.trouble for a in self._asking if a.trouble}
        return time.monotonic() - self._looked < 20 * LOOK_SECONDS, {"failing": failing}


def run(settings: Settings) -> None:
    """Run the exporter until SIGTERM or SIGINT.

    Starts the program again once to set the allocator's variables (`tune_process`). Raises
    `SettingInvalid` when the port cannot be had.
    """
    tune_process()
    log_as_json("exporter")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    platform = open_platform(settings)
    probes = open_probes(settings)
    try:
        telemetry = Telemetry(metrics_of(probes))
        telemetry.follow(LOG_ERRORS, platform.log_errors)
        exporter = Exporter(probes_of(platform, probes, telemetry), telemetry)
        host, port = settings.ingest_host, settings.exporter_port
        with serve(host, port, telemetry, exporter.health, setting="AUDIT_EXPORTER_PORT"):
            exporter.start()
            freeze_startup_objects()
            _log.info("started")
            while not stop.wait(LOOK_SECONDS):
                exporter.look()
            exporter.end()
            _log.info("stopped")
    finally:
        probes.close()
        platform.close()
