"""How Dagster is, asked of its webserver in one request.

Belongs here: the question and its answer as plain values. Does not: metrics, alerts, importing
Dagster. Source: Dagster's GraphQL schema, 1.13.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import orjson
import urllib3

from audit_platform.errors import Recoverable
from audit_platform.ports import DagsterState

#: The page of a hundred sensors takes a tenth of a second; the probe's own limit is twice this.
_SECONDS: Final = 10.0

#: Runs that are looked at for the oldest in the queue, and for those that failed.
_MOST_RUNS: Final = 1000

#: Failures further back than this are history; the run's own record keeps them.
FAILED_WITHIN_SECONDS: Final = 3600.0

_QUESTION: Final = f"""
query($since: Float!) {{
  instance {{ daemonHealth {{ allDaemonStatuses {{ daemonType required lastHeartbeatTime }} }} }}
  queued: runsOrError(filter: {{statuses: [QUEUED]}}, limit: {_MOST_RUNS}) {{
    __typename ... on Runs {{ count results {{ creationTime }} }} }}
  failed: runsOrError(filter: {{statuses: [FAILURE], updatedAfter: $since}}, limit: {_MOST_RUNS}) {{
    __typename ... on Runs {{ results {{ jobName }} }} }}
  assetNodes {{ assetKey {{ path }} freshnessStatusInfo {{ freshnessStatus }} }}
  repositoriesOrError {{ __typename ... on RepositoryConnection {{ nodes {{
    sensors {{ name sensorState {{ ...lastTick }} }}
    schedules {{ name scheduleState {{ ...lastTick }} }}
  }} }} }}
}}
fragment lastTick on InstigationState {{
  status ticks(limit: 1, statuses: [SUCCESS, SKIPPED, FAILURE]) {{ status }}
}}
"""

_REMEDY: Final = "look whether its webserver and its database run"


class DagsterProbe:
    """Asks for `ports.DagsterState`. Close it. One thread at a time."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/graphql"
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, retries=False, timeout=_SECONDS)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._pool.clear()

    def state(self) -> DagsterState:
        """How it is. Raises `Recoverable` when it does not say so."""
        now = time.time()
        question = {"query": _QUESTION, "variables": {"since": now - FAILED_WITHIN_SECONDS}}
        try:
            answer = self._pool.request(
                "POST",
                self._url,
                body=orjson.dumps(question),
                headers={"Content-Type": "application/json"},
            )
        except urllib3.exceptions.HTTPError as e:
            raise Recoverable(f"Dagster: {type(e).__name__}: {e}", remedy=_REMEDY) from e
        return read_state(answer.data, now)


def read_state(answer: bytes, now: float) -> DagsterState:
    """The state that an answer tells; `now` in seconds since 1970. Raises `Recoverable`."""
    try:
        told = orjson.loads(answer)["data"]
        daemons = told["instance"]["daemonHealth"]["allDaemonStatuses"]
        queued = told["queued"]
        waits = [now - float(run["creationTime"]) for run in queued["results"]]
        nodes = told["repositoriesOrError"]["nodes"]
        return DagsterState(
            heartbeat_ages={
                str(d["daemonType"]): max(0.0, now - float(d["lastHeartbeatTime"] or 0))
                for d in daemons
                if d["required"]
            },
            queued=int(queued["count"]),
            queue_age_seconds=max([0.0, *waits]),
            failed=dict(Counter(str(run["jobName"]) for run in told["failed"]["results"])),
            ticks_failed={name: failed for node in nodes for name, failed in _ticks(node)},
            stale={
                "/".join(node["assetKey"]["path"]): status["freshnessStatus"] == "DEGRADED"
                for node in told["assetNodes"]
                if (status := node["freshnessStatusInfo"]) is not None
            },
        )
    except (ValueError, KeyError, TypeError) as e:
        # GraphQL says in words what it could not find out; they are the first thing to read.
        said = answer[:300].decode(errors="replace")
        raise Recoverable(f"Dagster does not say how it is: {said}", remedy=_REMEDY) from e


def _ticks(node: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """(name, did its last tick fail) of what is switched on and has had one."""
    for kind, state_of in (("sensors", "sensorState"), ("schedules", "scheduleState")):
        for found in node[kind]:
            state = found[state_of]
            if state["status"] == "RUNNING" and state["ticks"]:
                yield str(found["name"]), state["ticks"][0]["status"] == "FAILURE"
