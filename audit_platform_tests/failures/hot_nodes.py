"""OpenSearch's three nodes in failure tests: what the cluster says, and HOT against the record.

Belongs here: what several rows share. Does not: any test.
"""

from __future__ import annotations

from typing import Any, Final

import urllib3

from audit_platform.operations.hot_check import check_hot
from audit_platform_tests.failures.installation import DAY, TENANT, wait_for
from audit_platform_tests.failures.lab import LOOK_SECONDS, Lab, Servers

NODES: Final = ("opensearch-1", "opensearch-2", "opensearch-3")

#: A cluster that was killed whole and has to read its indexes again, on two busy cores.
GREEN_SECONDS: Final = 180.0


def ask(servers: Servers, node: str, path: str) -> Any:
    """What a node answers to a GET, as JSON; None while it does not answer with 200."""
    url = f"http://{servers.place.address(node)}{path}"
    try:
        answer = urllib3.request("GET", url, timeout=5.0, retries=False)
    except urllib3.exceptions.HTTPError:
        return None
    return answer.json() if answer.status == 200 else None


def health(servers: Servers, node: str = NODES[0]) -> tuple[int, str]:
    """(nodes, colour) as one node sees them; (0, "") while it does not answer."""
    found = ask(servers, node, "/_cluster/health")
    return (found["number_of_nodes"], found["status"]) if found else (0, "")


def assert_three_nodes(servers: Servers) -> None:
    """The shape: three nodes that answer, every shard with its copy."""
    running = servers.running()
    assert [running[name] for name in NODES] == ["up"] * 3
    assert health(servers) == (3, "green")


def wait_for_green(servers: Servers) -> None:
    """Wait until all nodes and all copies are there."""
    wait_for(
        "three nodes, green",
        lambda: health(servers) == (3, "green"),
        GREEN_SECONDS,
        every=LOOK_SECONDS,
    )


def assert_hot_is_the_day(lab: Lab) -> None:
    """After `finish`: HOT holds exactly the sealed day, event by event."""
    with lab.made.platform(after_day=True) as opened:
        check = check_hot(opened, TENANT, DAY)
    assert (check.lacking, check.foreign) == (0, 0)
    assert check.documents >= lab.load.acknowledged > 0
