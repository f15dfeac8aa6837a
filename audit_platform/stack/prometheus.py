"""Prometheus of the full stack: Debian's program, with the rules of this repository.

Belongs here: what is asked for metrics, how often, and which rules are read. Does not: the rules
(`deploy/stack/rules`), the metrics (`telemetry.py`). Source: Prometheus 2.42.

Services are asked where the file `services.json` says (`watch_services`): Prometheus follows it
without a restart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import urllib3

import audit_platform
from audit_platform.errors import StackError
from audit_platform.settings import Settings
from audit_platform.settings_forms import PREFIX
from audit_platform.stack.model import HOST, Place, Program, Server, Tell
from audit_platform.stack.webhook import not_answering

#: So that a fault is seen within seconds; production asks every 15 s.
INTERVAL: Final = "1s"

#: Where this repository's rules are; not part of an installed package.
RULES: Final = Path(audit_platform.__file__).parent.parent / "deploy" / "stack" / "rules"

#: Kafka's agents answer in 8 ms, a service that is busy in half a second.
_SCRAPE_SECONDS: Final = "1s"

_RELOAD_SECONDS: Final = 10.0

_KAFKA: Final = (
    *(f"kafka-metrics-{n}" for n in (1, 2, 3)),
    *(f"kafka-controller-metrics-{n}" for n in (1, 2, 3)),
)
_MINIO: Final = tuple(f"minio-{n}" for n in range(1, 7))


@dataclass(frozen=True, slots=True)
class Prometheus:
    """See `model.Server`."""

    name: str = "prometheus"
    needs: tuple[str, ...] = ("alertmanager",)
    packages: tuple[str, ...] = ("prometheus",)

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`. Debian has it."""

    def prepare(self, place: Place) -> None:
        """See `model.Server`."""
        folder = place.folder(self.name)
        own_rules(place).mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yml").write_text(json.dumps(_configuration(place), indent=1) + "\n")
        if not services_file(place).exists():
            ports = {k: v for k, v in os.environ.items() if k.startswith(PREFIX) and "_PORT" in k}
            given = Settings.from_environment(ports)
            watch_services(
                place,
                {
                    "ingest-gateway": [f"{HOST}:{given.ingest_port}"],
                    "archive-writer": [f"{HOST}:{given.archive_port}"],
                    "search-indexer": [f"{HOST}:{given.indexer_port}"],
                    "query-api": [f"{HOST}:{given.query_port}"],
                    "exporter": [f"{HOST}:{given.exporter_port}"],
                    "edge-gateway": [f"{HOST}:{given.edge_port}"],
                },
            )

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        folder = place.folder(self.name)
        return Program(
            argv=(
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--storage.tsdb.retention.size=512MB",
                f"--web.listen-address={place.address(self.name)}",
                "--web.enable-lifecycle",
                "--log.level=warn",
            )
        )

    def missing(self, place: Place) -> str:
        """See `model.Server`."""
        return not_answering(f"http://{place.address(self.name)}/-/ready")

    def settle(self, place: Place) -> None:
        """See `model.Server`. Nothing is left to do."""

    def settings(self, place: Place) -> dict[str, str]:  # noqa: ARG002 - the form's argument
        """See `model.Server`. Services do not know of it."""
        return {}


def services_file(place: Place) -> Path:
    """Where Prometheus reads which services to ask."""
    return place.folder("prometheus") / "services.json"


def own_rules(place: Place) -> Path:
    """Where one stack may have rules of its own, as a test whose `for` must be shorter."""
    return place.folder("prometheus") / "rules"


def watch_services(place: Place, services: Mapping[str, Sequence[str]]) -> None:
    """Ask these services from now on: for each name (label `job`) the host:port of its instances.

    Prometheus sees it within seconds. The file is replaced whole.
    """
    groups = [
        {"targets": list(targets), "labels": {"job": name}} for name, targets in services.items()
    ]
    fresh = services_file(place).with_suffix(".new")
    fresh.write_text(json.dumps(groups, indent=1) + "\n")
    fresh.replace(services_file(place))


def reload_rules(place: Place) -> None:
    """Read configuration and rules again. Raises `StackError` with what Prometheus says of them."""
    url = f"http://{place.address('prometheus')}/-/reload"
    try:
        answer = urllib3.request("POST", url, retries=False, timeout=_RELOAD_SECONDS)
    except urllib3.exceptions.HTTPError as e:
        raise StackError(f"prometheus does not answer: {type(e).__name__}") from e
    if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
        raise StackError(f"prometheus refuses the rules: {answer.data.decode(errors='replace')}")


def _configuration(place: Place) -> dict[str, object]:
    def fixed(job: str, names: Sequence[str], path: str) -> dict[str, object]:
        groups = [
            # By the name of the server, not by that of the port which tells of it.
            {"targets": [place.address(name)], "labels": {"server": name.replace("-metrics", "")}}
            for name in names
        ]
        return {"job_name": job, "metrics_path": path, "static_configs": groups}

    return {
        "global": {
            "scrape_interval": INTERVAL,
            "scrape_timeout": _SCRAPE_SECONDS,
            "evaluation_interval": INTERVAL,
        },
        "rule_files": [str(RULES / "*.yml"), str(own_rules(place) / "*.yml")],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [place.address("alertmanager")]}]}]
        },
        "scrape_configs": [
            {
                "job_name": "services",
                "file_sd_configs": [
                    {"files": [str(services_file(place))], "refresh_interval": INTERVAL}
                ],
            },
            fixed("kafka", _KAFKA, "/metrics"),
            # Of the whole store, and of each node's own drives: the first says nothing of one
            # drive of six that is full.
            fixed("minio", _MINIO, "/minio/v2/metrics/cluster"),
            fixed("minio-node", _MINIO, "/minio/v2/metrics/node"),
            # How full the bounded volumes are, as a kubelet tells it.
            fixed("volumes", ("webhook",), "/metrics"),
            fixed("prometheus", ("prometheus",), "/metrics"),
            fixed("alertmanager", ("alertmanager",), "/metrics"),
        ],
    }


def servers(size: str) -> Sequence[Server]:
    """The one Prometheus of a full stack."""
    return (Prometheus(),) if size == "full" else ()
