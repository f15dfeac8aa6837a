"""OpenSearch as servers of the stack: one node (`small`) or three (`full`).

Belongs here: how a node is configured, asked and named to services. Does not: its program
(`opensearch_programs.py`), indexes and mappings (`adapters/opensearch/`), the care of processes.
Source: OpenSearch's documentation of settings.

There is no security plugin for this version in any package registry: no users, and TLS by a line
before it (`tls_line.py`).
"""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audit_platform.stack.model import HOST, Place, Program, Tell
from audit_platform.stack.opensearch_programs import (
    QUICK_START,
    Programs,
    lower_user,
    make_folder,
    own,
)

ASK_SECONDS: Final = 2.0


def servers(size: str) -> tuple[OpenSearchNode, ...]:
    """The nodes of a stack of that size."""
    nodes = 3 if size == "full" else 1
    return tuple(OpenSearchNode(n, nodes) for n in range(1, nodes + 1))


@dataclass(frozen=True, slots=True)
class OpenSearchNode:
    """One node of `nodes`: `model.Server`."""

    number: int
    nodes: int

    @property
    def name(self) -> str:
        """opensearch-1, opensearch-2, ..."""
        return f"opensearch-{self.number}"

    @property
    def needs(self) -> tuple[str, ...]:
        """None: the nodes find each other while they start."""
        return ()

    @property
    def packages(self) -> tuple[str, ...]:
        """Maven fetches the distribution."""
        return ("maven",)

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server.fetch`: the distribution, a Java, and an archive of loaded classes."""
        Programs(cache).have(tell)

    def prepare(self, place: Place) -> None:
        """See `model.Server.prepare`."""
        folder = place.folder(self.name)
        make_folder(folder, self._configuration(place, folder))
        own(snapshots(place))

    def _configuration(self, place: Place, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = {
            "cluster.name": "audit-hot",
            "node.name": self.name,
            "path.data": str(folder / "data"),
            "path.logs": str(folder / "logs"),
            "path.repo": [str(snapshots(place))],
            "http.port": place.port(self.name),
            "transport.port": self._transport_port(place, self.number),
        }
        if self.nodes == 1:
            return found | {"discovery.type": "single-node"}
        numbers = range(1, self.nodes + 1)
        return found | {
            "discovery.seed_hosts": [f"{HOST}:{self._transport_port(place, n)}" for n in numbers],
            "cluster.initial_cluster_manager_nodes": [f"opensearch-{n}" for n in numbers],
        }

    def _transport_port(self, place: Place, number: int) -> int:
        return place.port(f"opensearch-transport-{number}")

    def program(self, place: Place) -> Program:
        """See `model.Server.program`."""
        programs = Programs(place.cache)
        java = programs.java()
        archive = programs.archive(java)
        options = [QUICK_START]
        if archive.is_file():
            options.append(f"-XX:SharedArchiveFile={archive}")
        return Program(programs.argv(java, place.folder(self.name), options), user=lower_user())

    def missing(self, place: Place) -> str:
        """See `model.Server.missing`: all nodes are there and every index has all its copies."""
        url = f"http://{place.address(self.name)}/_cluster/health"
        try:
            with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
                found = json.load(answer)
            nodes, status = found["number_of_nodes"], found["status"]
        except (OSError, ValueError, KeyError) as e:
            return f"no answer yet: {e}"
        if nodes != self.nodes:
            return f"{nodes} of {self.nodes} nodes"
        return "" if status == "green" else f"the cluster is {status}"

    def settle(self, place: Place) -> None:
        """Nothing: the adapter makes its own templates."""

    def settings(self, place: Place) -> dict[str, str]:
        """See `model.Server.settings`: all nodes' addresses, told by the first."""
        if self.number != 1:
            return {}
        numbers = range(1, self.nodes + 1)
        urls = (place.url(place.front(f"opensearch-{n}")) for n in numbers)
        return {
            "AUDIT_OPENSEARCH": ",".join(urls),
            "AUDIT_OPENSEARCH_SNAPSHOTS": str(snapshots(place)),
        }


def snapshots(place: Place) -> Path:
    """The folder that all nodes share for snapshots (`fs` repositories lie below it)."""
    return place.home / "opensearch-snapshots"
