"""What the exporter asks besides the lag: the search cluster, a write, locks, accounts, incidents.

Belongs here: one question each and the metrics that its answer becomes. Does not: when it is asked
(`exporter_probe.py`), how a server is asked (adapters). Each raises an `AuditPlatformError` when it
did not get what it asked for; what was told before stays.
Source: design sections 5 and 6; issue "The same path on the real servers".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from audit_platform.errors import HotUnavailable, LogUnavailable, StoreUnavailable
from audit_platform.metrics.probes import (
    HOT_BLOCKED,
    HOT_DISK_FREE,
    HOT_NODES,
    HOT_STATUS,
    LOG_WRITE_TROUBLE,
    LOST_EVENTS,
    OBJECT_LOCK_BROKEN,
    OPEN_INCIDENTS,
    UNACCOUNTED_EVENTS,
)
from audit_platform.operations.generations import current_generation
from audit_platform.operations.incidents import incidents
from audit_platform.operations.lock_probe import probe_lock
from audit_platform.operations.reconcile import reconcile
from audit_platform.ports import HotState, Objects, Platform
from audit_platform.record.layout import generation_key
from audit_platform.telemetry import Telemetry

_UNREACHABLE: Final = "unreachable"
_STATUSES: Final = ("green", "yellow", "red", _UNREACHABLE)


def tell_hot(ask: Callable[[], HotState], telemetry: Telemetry) -> None:
    """The search cluster's state. Raises `HotUnavailable` and says so."""
    try:
        found = ask()
    except HotUnavailable:
        _tell_status(_UNREACHABLE, telemetry)
        raise
    _tell_status(found.status, telemetry)
    telemetry.set(HOT_NODES, found.nodes)
    telemetry.set(HOT_BLOCKED, found.blocked)
    for node, free in found.free.items():
        telemetry.set(HOT_DISK_FREE, free, node=node)


def _tell_status(status: str, telemetry: Telemetry) -> None:
    for one in _STATUSES:
        telemetry.set(HOT_STATUS, one == status, status=one)


class LogWrite:
    """Whether the log takes a record now, with all copies that it asks for."""

    def __init__(self, ask: Callable[[], str], telemetry: Telemetry) -> None:
        self._ask = ask
        self._telemetry = telemetry
        self._error = ""

    def tell(self) -> None:
        """Raises `LogUnavailable` when it does not."""
        error = self._ask()
        if self._error != error and self._error:
            self._telemetry.set(LOG_WRITE_TROUBLE, 0, error=self._error)
        self._error = error
        if error:
            self._telemetry.set(LOG_WRITE_TROUBLE, 1, error=error)
            raise LogUnavailable(f"a record is refused: {error}", remedy="look at the brokers")


def ask_objects(objects: Objects) -> None:
    """Whether the object store answers a small question. Raises `StoreUnavailable`."""
    objects.oldest(generation_key(1))


def try_lock(platform: Platform, telemetry: Telemetry) -> None:
    """Attack the canary of the day. Raises `StoreUnavailable`, also when its lock does not hold."""
    probe = probe_lock(platform)
    telemetry.set(OBJECT_LOCK_BROKEN, not probe.held)
    if not probe.held:
        raise StoreUnavailable(
            f"the lock of {probe.key} does not hold",
            remedy="audit-platform store certify tells more",
        )


def tell_accounts(platform: Platform, telemetry: Telemetry) -> None:
    """Compare log and archive. Raises as `reconcile`."""
    if current_generation(platform) is None:
        return  # nothing was ever archived, and this is not who begins with it
    found = reconcile(platform)
    telemetry.set(UNACCOUNTED_EVENTS, found.unaccounted)
    telemetry.set(LOST_EVENTS, found.lost)


class Incidents:
    """How many incidents of each tenant are open."""

    def __init__(self, platform: Platform, telemetry: Telemetry) -> None:
        self._platform = platform
        self._telemetry = telemetry
        self._known: set[str] = set()

    def tell(self) -> None:
        """Raises `MetadataUnavailable`, `StoreUnavailable`."""
        for tenant in self._platform.metadata.tenants():
            name = tenant.tenant_id
            count = sum(i.is_open for i in incidents(self._platform, name))
            if count or name in self._known:
                self._known.add(name)
                self._telemetry.set(OPEN_INCIDENTS, count, tenant=name)
