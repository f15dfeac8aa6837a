"""What a run of the demo has set up, and what it knows of its devices while they speak.

Belongs here: the processes that must run until the end, figures. Does not: the order of the story
(`story.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from audit_platform.demo.children import Child, Children
from audit_platform.demo.dagster_ui import DagsterUi, SealRun
from audit_platform.demo.display import Row
from audit_platform.demo.edges import Edges
from audit_platform.demo.ground import Ground
from audit_platform.demo.home import DemoHome, DemoStopped, State
from audit_platform.demo.record_view import RecordView, progress_of
from audit_platform.settings import Settings


@dataclass(slots=True)
class Stage:
    """What a run has set up."""

    home: DemoHome
    ground: Ground
    state: State
    settings: Settings
    children: Children
    view: RecordView
    ui: DagsterUi
    dagster: dict[str, list[str]]
    edges: Edges
    storage: Child | None = None
    services: list[Child] = field(default_factory=list)

    def serve(
        self,
        commands: Mapping[str, Sequence[str]],
        seconds: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Start what must run until the end; `seconds` a second time, with more settings."""
        for name, command in commands.items():
            self.services.append(self.children.start(name, command))
        for name, more in (seconds or {}).items():
            second = self.children.start(f"{name}-2", commands[name], more=more)
            self.services.append(second)

    def watch(self) -> None:
        """Raise `DemoStopped` for a service that ended; start Dagster once it has its storage."""
        for service in [*self.services, *self.edges.processes]:
            if service.ended() is not None:
                raise service.failure(f"ended with code {service.ended()}")
        if self.storage and (code := self.storage.ended()) is not None:
            if code:
                raise self.storage.failure(f"ended with code {code}")
            self.storage = None
            self.serve(self.dagster)

    @property
    def query_url(self) -> str:
        """Where query-api answers."""
        return f"http://127.0.0.1:{self.settings.query_port}"

    @property
    def tenants(self) -> list[str]:
        """Whose day is played."""
        return self.state.tenants


def taken_of(stage: Stage) -> float:
    """The share of the day's events that edges have taken from devices.

    What is done to edges goes by it, not by the clock: on a slow machine devices are late.
    """
    told = [progress_of(stage.home.devices / tenant, stage.state.day) for tenant in stage.tenants]
    planned = sum(one.planned for one in told)
    return sum(one.taken for one in told) / planned if planned else 0.0


def rows_of(stage: Stage) -> dict[str, Row]:
    """Figures of the day that is played."""
    day, view, rows = stage.state.day, stage.view, {}
    for tenant_id in stage.tenants:
        told = progress_of(stage.home.devices / tenant_id, day)
        sealed = view.manifests.get((tenant_id, day))
        rows[tenant_id] = Row(
            share=told.taken / told.planned if told.planned else 0.0,
            sent=told.sent,
            acknowledged=told.accepted,
            refused=len(sealed.links) if sealed else 0,
            archived=view.archived[tenant_id, day],
            sealed=sealed.rows if sealed else 0,
        )
    return rows


def not_sealed(stage: Stage, missing: set[str], runs: Mapping[str, SealRun]) -> DemoStopped:
    """The error that says whose day is not sealed, and what became of its runs."""
    became = ", ".join(
        f"{t} ({runs[t].status if t in runs else 'no run yet'})" for t in sorted(missing)
    )
    logs = stage.home.logs
    return DemoStopped(
        f"Dagster has not sealed and verified {stage.state.day} of {became} in time",
        remedy=f"read {logs}/dagster-daemon.log and {logs}/dagster-code.log, or {stage.ui.url}/runs"
        " with make dagster",
    )
