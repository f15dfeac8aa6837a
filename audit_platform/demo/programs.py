"""Which programs the demo runs, with which settings, on which ports.

Belongs here: command lines and environments. Does not: starting and ending them (`children.py`),
when (`story.py`).
Source: issue "Walking skeleton": separate processes, as an installation has them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit_platform.demo import setup
from audit_platform.demo.children import free_port
from audit_platform.demo.home import DemoHome, State
from audit_platform.demo.proofs import CLI
from audit_platform.settings import Settings
from audit_platform.settings_forms import PREFIX

#: Wall-clock seconds after midnight before the day is closed.
GRACE_SECONDS: Final = 5

#: Services that share their work with a second instance where the servers let them, and the
#: setting of their port. query-api needs none: it keeps nothing.
SHARED: Final = {
    "ingest-gateway": "AUDIT_INGEST_PORT",
    "archive-writer": "AUDIT_ARCHIVE_PORT",
    "search-indexer": "AUDIT_INDEXER_PORT",
}

#: The archive-writer's ranges: short, so that the table moves while one looks.
RANGE_SECONDS: Final = 5

#: How often Dagster's sensor looks: as often as it can.
CLOSING_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens. `moved` says in words which are not where they were wanted."""

    ingest: int
    archive: int
    indexer: int
    query: int
    ui: int
    code: int
    relay: int
    edges: tuple[int, ...]
    #: Of second instances, by service.
    seconds: Mapping[str, int]
    moved: tuple[str, ...]

    @property
    def ingests(self) -> tuple[int, ...]:
        """Of every ingest-gateway."""
        second = self.seconds.get("ingest-gateway")
        return (self.ingest,) if second is None else (self.ingest, second)


def choose_ports(wanted: Settings, edges: int, instances: int = 1) -> Ports:
    """The wanted ports, or the next free ones. Raises `DemoStopped` when there are none."""
    named = {
        "ingest-gateway": wanted.ingest_port,
        "archive-writer": wanted.archive_port,
        "search-indexer": wanted.indexer_port,
        "query-api": wanted.query_port,
        "Dagster's UI": wanted.ui_port,
    }
    after = max(*named.values(), wanted.edge_port) + 1
    names = named | {"Dagster's code server": after, "the uplink's relay": after + 1}
    names |= {f"edge {n + 1}": after + 2 + n for n in range(edges)}
    shared = SHARED if instances > 1 else {}
    names |= {f"{name} 2": after + 2 + edges + n for n, name in enumerate(shared)}
    taken: list[int] = []
    moved = []
    for name, port in names.items():
        taken.append(free_port(port, taken))
        if taken[-1] != port:
            moved.append(f"port {port} is busy: {name} is on {taken[-1]}")
    ingest, archive, indexer, query, ui, code, relay, *rest = taken
    seconds = dict(zip(shared, rest[edges:], strict=True))
    of_edges = tuple(rest[:edges])
    return Ports(ingest, archive, indexer, query, ui, code, relay, of_edges, seconds, tuple(moved))


def settings_of(
    home: DemoHome,
    state: State,
    clock: str,
    ports: Ports,
    environment: Mapping[str, str],
    servers: Mapping[str, str],
) -> Settings:
    """The settings of every process; a person's own stand where the demo needs no other.

    `servers` are those of the ground that it stands on.
    """
    own = {
        "AUDIT_PROFILE": "embedded",
        **servers,
        "AUDIT_HOME": str(home.root),
        "AUDIT_CLOCK": clock,
        "AUDIT_GRACE_SECONDS": str(GRACE_SECONDS),
        "AUDIT_RANGE_SECONDS": str(RANGE_SECONDS),
        "AUDIT_CLOSING_SECONDS": str(CLOSING_SECONDS),
        "AUDIT_FIRST_DAY": state.first_day,
        "AUDIT_INGEST_PORT": str(ports.ingest),
        "AUDIT_ARCHIVE_PORT": str(ports.archive),
        "AUDIT_INDEXER_PORT": str(ports.indexer),
        "AUDIT_QUERY_PORT": str(ports.query),
        "AUDIT_UI_PORT": str(ports.ui),
    }
    return Settings.from_environment({**environment, **own})


def environment_of(settings: Settings, more: Mapping[str, str]) -> dict[str, str]:
    """The environment of every child: ours, without settings that were meant for others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith((PREFIX, "DAGSTER_"))}
    return kept | {
        **settings.to_environment(),
        "DAGSTER_HOME": str(settings.dagster_folder),
        "DAGSTER_FOLDER": str(settings.dagster_folder),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def service_commands() -> dict[str, list[str]]:
    """What carries events and answers questions, by name."""
    names = ("ingest-gateway", "archive-writer", "search-indexer", "query-api")
    return {name: [*CLI, name] for name in names}


def second_instances(ports: Ports) -> dict[str, dict[str, str]]:
    """Services that run twice, with what the second one is told beside everybody's settings."""
    return {name: {SHARED[name]: str(port)} for name, port in ports.seconds.items()}


def storage_command() -> list[str]:
    """Makes Dagster's storage: its programs, started together, would all make it at once."""
    return [sys.executable, "-m", "dagster", "instance", "info"]


def dagster_commands(settings: Settings, code_port: int, workspace: Path) -> dict[str, list[str]]:
    """What `dagster dev` starts, by name, but with one code server for all."""
    python = sys.executable
    where = ("-w", str(workspace))
    return {
        "dagster-code": [
            *(python, "-m", "dagster", "api", "grpc", "-m", "audit_platform.definitions"),
            *("-h", "127.0.0.1", "-p", str(code_port)),
            *("--location-name", setup.CODE_LOCATION),
        ],
        "dagster-webserver": [
            *(python, "-m", "dagster_webserver", *where),
            *("-h", "127.0.0.1", "-p", str(settings.ui_port)),
        ],
        "dagster-daemon": [python, "-m", "dagster._daemon", "run", *where],
    }


def devices_command(home: DemoHome, tenant_id: str, url: str, day: str) -> list[str]:
    """A tenant's devices."""
    return [
        *(sys.executable, "-m", "audit_platform.demo.devices"),
        *("--tenant", tenant_id, "--url", url, "--day", day),
        *("--home", str(home.devices / tenant_id)),
    ]
