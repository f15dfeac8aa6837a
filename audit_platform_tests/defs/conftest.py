"""A world and a Dagster instance of its own; jobs and ticks run in this very process."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from audit_platform.defs.build import build_definitions
from audit_platform.defs.partitions import TENANT, TenantDay
from audit_platform.defs.sensors import day_closing
from audit_platform_tests.world import DAY, World, open_world

START_TAG = "dagster/asset_partition_range_start"
END_TAG = "dagster/asset_partition_range_end"


@dataclass
class Orchestra:
    """A world with Dagster on top of it: what a person or the daemon would do, done at once."""

    world: World
    instance: dg.DagsterInstance
    cursor: str | None = None

    @property
    def definitions(self) -> dg.Definitions:
        """The program's own, but for the platform."""
        return build_definitions(platform=self.world.platform)

    def run(
        self,
        job: str,
        tenant_id: str = "north",
        day: str = DAY,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """One partition."""
        self.know(tenant_id)
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=TenantDay(day, tenant_id).key,
            tags=dict(tags or {}),
            raise_on_error=False,
        )

    def run_range(self, job: str, first: TenantDay, last: TenantDay) -> dg.ExecuteInProcessResult:
        """A rectangle of partitions in a single run, as a backfill launches it."""
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            tags={START_TAG: first.key, END_TAG: last.key},
            raise_on_error=False,
        )

    def know(self, *tenants: str) -> None:
        """Add tenants to the partitions."""
        self.instance.add_dynamic_partitions(TENANT, list(tenants))

    def tick(self) -> dg.SensorResult:
        """One tick of the sensor, its partitions and cursor kept as the daemon would.

        Every request is resolved for its job, which refuses a partition that does not exist.
        """
        with dg.build_sensor_context(
            self.instance, cursor=self.cursor, resources={"platform": self.world.platform}
        ) as context:
            result = day_closing(context)
        assert isinstance(result, dg.SensorResult)
        requests = result.dynamic_partitions_requests or []
        job = self.definitions.resolve_job_def("seal_day")
        resolved = [
            r.with_resolved_tags_and_config(job, requests, self.instance)
            for r in result.run_requests or []
        ]
        for request in requests:
            self.instance.add_dynamic_partitions(TENANT, list(request.partition_keys))
        self.cursor = result.cursor
        return result._replace(run_requests=resolved)

    def answer(self, result: dg.SensorResult) -> list[dg.ExecuteInProcessResult]:
        """Run what a tick asked for."""
        return [
            self.definitions.resolve_job_def("seal_day").execute_in_process(
                instance=self.instance,
                partition_key=request.partition_key,
                tags={k: v for k, v in request.tags.items() if k.startswith("audit/")},
                raise_on_error=False,
            )
            for request in result.run_requests or []
        ]


def keys_of(result: dg.SensorResult) -> list[str]:
    """Partitions that a tick asked for."""
    return [str(r.partition_key) for r in result.run_requests or []]


def words_of(result: dg.SensorResult) -> str:
    """Why a tick asked for nothing."""
    reason = result.skip_reason
    return reason.skip_message or "" if reason is not None else ""


def evaluations(
    result: dg.ExecuteInProcessResult,
) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """(check, partition) -> its evaluation in a run."""
    found = {}
    for event in result.all_events:
        if event.event_type_value == "ASSET_CHECK_EVALUATION":
            evaluation = event.event_specific_data
            assert isinstance(evaluation, dg.AssetCheckEvaluation)
            found[evaluation.check_name, str(evaluation.partition)] = evaluation
    return found


def materializations(
    result: dg.ExecuteInProcessResult,
) -> dict[tuple[str, str], Mapping[str, dg.MetadataValue[Any]]]:
    """(asset, partition) -> metadata of its materialization in a run."""
    found = {}
    for event in result.get_asset_materialization_events():
        shown = event.step_materialization_data.materialization
        name = shown.asset_key.to_user_string()
        found[name, str(shown.partition)] = shown.metadata
    return found


def seen(cursor: str | None) -> dict[str, int]:
    """Tenant -> manifest number in a cursor."""
    read = json.loads(cursor or "{}")
    return {t: s["number"] for t, s in read.get("sealed", {}).items()}


@pytest.fixture
def orchestra(tmp_path: Path) -> Iterator[Orchestra]:
    with open_world(tmp_path) as world, dg.DagsterInstance.ephemeral() as instance:
        yield Orchestra(world, instance)
