"""What the demo asks of Dagster, over its GraphQL: is it up, what became of the runs of a day.

Belongs here: the queries and their answers as plain values. Does not: importing Dagster, starting
runs (its sensor does).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import urllib3

#: The webserver is on this machine; a slower answer counts as none and is asked for again.
ANSWER_SECONDS: Final = 10.0

#: Events of one seal_day run: about a hundred.
MAX_EVENTS: Final = 1000

_RUNS: Final = """
query($day: String!, $events: Int!) {
  runsOrError(filter: {pipelineName: "seal_day", tags: [{key: "audit/day", value: $day}]}) {
    ... on Runs {
      results {
        runId
        status
        tags { key value }
        eventConnection(limit: $events) {
          events {
            ... on MaterializationEvent {
              assetKey { path }
              metadataEntries { label ... on TextMetadataEntry { text } }
            }
            ... on AssetCheckEvaluationEvent { evaluation { checkName success } }
          }
        }
      }
    }
  }
}
"""


class DagsterSilent(Exception):
    """No answer, or not the one that was asked for: ask again."""


@dataclass(slots=True)
class SealRun:
    """One run of `seal_day`. `checks`: name -> passed. `head`: as fsck takes it, or ""."""

    run_id: str
    tenant_id: str
    status: str
    head: str = ""
    checks: dict[str, bool] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        """Whether it sealed the day, showed its head, and every check passed."""
        checked = bool(self.checks) and all(self.checks.values())
        return self.status == "SUCCESS" and checked and bool(self.head)


class DagsterUi:
    """Dagster's webserver."""

    def __init__(self, url: str) -> None:
        self.url = url
        timeout = urllib3.Timeout(connect=ANSWER_SECONDS, read=ANSWER_SECONDS)
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, timeout=timeout, retries=False)

    def is_up(self) -> bool:
        """Whether the webserver answers."""
        try:
            return self._pool.request("GET", f"{self.url}/server_info").status == 200  # noqa: PLR2004 - HTTP's OK
        except urllib3.exceptions.HTTPError:
            return False

    def seal_runs(self, day: str) -> list[SealRun]:
        """All runs of `seal_day` for a day, newest first. Raises `DagsterSilent`."""
        try:
            answer = self._pool.request(
                "POST",
                f"{self.url}/graphql",
                body=orjson.dumps(
                    {"query": _RUNS, "variables": {"day": day, "events": MAX_EVENTS}}
                ),
                headers={"Content-Type": "application/json"},
            )
            return read_runs(answer.data)
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError) as e:
            raise DagsterSilent(repr(e)) from e


def read_runs(answer: bytes) -> list[SealRun]:
    """Runs of an answer. Raises `ValueError`, `KeyError`, `TypeError` for any other answer."""
    return [_run(run) for run in orjson.loads(answer)["data"]["runsOrError"]["results"]]


def _run(value: dict[str, Any]) -> SealRun:
    tags = {t["key"]: t["value"] for t in value["tags"]}
    run = SealRun(value["runId"], tags.get("audit/tenant", ""), value["status"])
    for event in value["eventConnection"]["events"]:
        if "evaluation" in event:
            evaluation = event["evaluation"]
            run.checks[evaluation["checkName"]] = evaluation["success"]
        elif event.get("assetKey", {}).get("path") == ["cold_manifest"]:
            entries = {e["label"]: e.get("text", "") for e in event["metadataEntries"]}
            run.head = entries.get("trusted_head", run.head)
    return run
