"""How the cluster is, asked of whichever node answers first.

Belongs here: colour, nodes, blocks, disks. Does not: whose indexes they are, alerts.
Source: OpenSearch's REST reference, `_cluster/health`, `_cluster/state/blocks`, `_cat/allocation`.

Each node is asked by a client of its own: one that is frozen must not make the others unreachable.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from audit_platform.adapters.opensearch.server import Server, told
from audit_platform.errors import HotUnavailable
from audit_platform.ports import HotState

#: A node that answers says this in milliseconds; three frozen ones must not take a minute.
_ASK_SECONDS: Final = 2.0

#: A node without a manager would otherwise look for one for half a minute.
_MANAGER_SECONDS: Final = "1s"


class ClusterProbe:
    """Asks for `ports.HotState`. Close it. One thread at a time."""

    def __init__(self, urls: str, ca_file: Path | None) -> None:
        self._nodes = [Server(url, ca_file) for url in urls.split(",")]

    def close(self) -> None:
        """Close all connections. Idempotent."""
        for node in self._nodes:
            node.close()

    def state(self) -> HotState:
        """How it is. Raises `HotUnavailable` when no node can tell."""
        why: HotUnavailable | None = None
        for _ in range(len(self._nodes)):
            node = self._nodes[0]
            try:
                with told(node):
                    return _state(_asker(node))
            except HotUnavailable as e:
                why = e
                # The one that answers is asked first next time.
                self._nodes.append(self._nodes.pop(0))
        assert why is not None, "there is a node"
        raise why


def _asker(node: Server) -> Callable[..., Any]:
    def ask(path: str, **params: str) -> Any:
        return node.ask(
            "GET",
            path,
            params={"cluster_manager_timeout": _MANAGER_SECONDS, **params},
            seconds=_ASK_SECONDS,
        )

    return ask


def _state(ask: Callable[..., Any]) -> HotState:
    health = ask("/_cluster/health", timeout=_MANAGER_SECONDS)
    blocks = ask("/_cluster/state/blocks")["blocks"]
    disks = ask("/_cat/allocation", format="json", bytes="b", h="node,disk.avail,disk.total")
    return HotState(
        status=str(health["status"]),
        nodes=int(health["number_of_data_nodes"]),
        blocked=sum(_stops_writing(found) for found in blocks.get("indices", {}).values()),
        free={
            str(disk["node"]): int(disk["disk.avail"]) / int(disk["disk.total"])
            for disk in disks
            if disk["disk.total"]  # shards that no node holds have a row too
        },
    )


def _stops_writing(blocks: dict[str, Any]) -> bool:
    return any("write" in block["levels"] for block in blocks.values())
