"""Failure 32, a runaway query: it is cancelled, the tenant's next is refused, others do not notice.

The runaway is a search in HOT that reads on and on, at the port, in the query-api's own threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from audit_platform.errors import QueryCancelled
from audit_platform.ports import EventQuery, Hot, Role
from audit_platform.record.event import format_time_ms
from audit_platform.services.query_limits import MAX_QUERIES_PER_TENANT
from audit_platform.services.query_models import SearchAnswer
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.query_world import (
    OTHER,
    TENANT,
    QueryWorld,
    asking,
    parsed,
    problem,
)
from audit_platform_tests.world import World, open_world

WINDOW = {"from_": format_time_ms(START_MS - 1), "to": format_time_ms(START_MS + 86_400_000)}
SECONDS = 60.0
COOL_DOWN = 30.0

#: What the runaway works on: outside the GIL, as the index engine does.
BLOCK = bytes(1 << 20)

#: Real seconds after which the runaway fails its test instead of running on behind it.
LONGEST = 300.0


@dataclass
class RunawayHot:
    """The real HOT; a tenant's searches never come to an end by themselves."""

    real: Hot
    tenant_id: str
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    stopped: int = 0
    rounds: int = 0

    def search(self, query: EventQuery, *, is_cancelled: Callable[[], bool]) -> pa.Table:
        if query.tenant_id != self.tenant_id or query.text != "everything":
            return self.real.search(query, is_cancelled=is_cancelled)
        self.begun.release()
        gives_up = time.monotonic() + LONGEST
        while not is_cancelled():
            hashlib.sha256(BLOCK).digest()  # it works: it does not sleep
            self.rounds += 1
            assert time.monotonic() < gives_up, "nobody has cancelled it"
        self.stopped += 1
        raise QueryCancelled("stopped")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def fill(world: World) -> dict[str, set[str]]:
    """Two tenants with a record; the hashes that each sender has receipts of."""
    sent = {}
    for tenant in (TENANT, OTHER):
        edge = world.edge(tenant)
        lines = [edge.start(world.clock.now_ms()), *edge.heartbeats(2, 4, world.clock.now_ms())]
        world.ingest(tenant, lines)
        sent[tenant] = {edge.epoch_hash, *(h for d, h in edge.heads.items() if d != "edge-0")}
        assert len(lines) == 9
    world.archive()
    return sent


def test_row_32_a_runaway_query_is_cancelled_and_only_its_own_tenant_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_world(tmp_path / "home") as world:
        receipts = fill(world)
        hot = RunawayHot(world.platform.hot, TENANT)
        with asking(
            world,
            hot=hot,
            AUDIT_QUERY_SECONDS=str(SECONDS),
            AUDIT_QUERY_COOL_DOWN_SECONDS=str(COOL_DOWN),
        ) as queries:
            queries.runner.run(scenario(queries, hot, receipts))
            # Signal: the counters that an alert reads, and a line for each in the log.
            cancelled = queries.metric('audit_query_cancelled_total{reason="budget"}')
            assert cancelled == hot.stopped == MAX_QUERIES_PER_TENANT
            assert queries.metric('audit_query_refused_total{reason="cooling_down"}') == 1
            assert queries.metric('audit_query_refused_total{reason="too_many_queries"}') == 1
            lines = [r for r in caplog.records if r.getMessage() == "a query was cancelled"]
            assert [r.__dict__["tenant"] for r in lines] == [TENANT] * MAX_QUERIES_PER_TENANT
            # Each of them is on record as what it was, and so is the refusal.
            outcomes = [r["outcome"] for r in queries.on_record() if r["tenant"] == TENANT]
            assert outcomes.count("cancelled") == MAX_QUERIES_PER_TENANT
            slugs = [r["slug"] for r in queries.on_record("access_refused")]
            assert sorted(slugs) == ["cooling_down", "too_many_queries"]


async def scenario(queries: QueryWorld, hot: RunawayHot, receipts: dict[str, set[str]]) -> None:
    own = queries.key(TENANT, Role.INVESTIGATOR)
    others = queries.key(OTHER, Role.INVESTIGATOR)
    path, other_path = f"/v1/tenants/{TENANT}/events", f"/v1/tenants/{OTHER}/events"

    async def others_find_all() -> None:
        found = parsed(SearchAnswer, await queries.asking(other_path, others, **WINDOW))
        assert receipts[OTHER] <= {row.event_hash for row in found.rows}
        assert len(found.rows) == 9

    await others_find_all()
    # The fault: every slot of the tenant runs wild.
    wild = [
        asyncio.create_task(queries.asking(path, own, tier="hot", text="everything", **WINDOW))
        for _ in range(MAX_QUERIES_PER_TENANT)
    ]
    for _ in wild:
        await asyncio.to_thread(hot.begun.acquire)
    assert hot.stopped == 0
    # Its own next has no slot; others are answered, in full and soon.
    refused = await queries.asking(path, own, **WINDOW)
    assert (refused.status_code, problem(refused)) == (429, "too_many_queries")
    assert refused.headers["retry-after"] == "1"
    for _ in range(3):
        await others_find_all()
    assert not any(task.done() for task in wild)
    # The breaker.
    queries.now += SECONDS
    for answer in await asyncio.gather(*wild):
        assert (answer.status_code, problem(answer)) == (499, "query_cancelled")
        assert "window" in answer.json()["remedy"]
    # The next is refused for the stated time; others go on.
    refused = await queries.asking(path, own, **WINDOW)
    assert (refused.status_code, problem(refused)) == (429, "cooling_down")
    assert int(refused.headers["retry-after"]) == COOL_DOWN + 1
    await others_find_all()
    # Recovery.
    queries.now += COOL_DOWN
    found = parsed(SearchAnswer, await queries.asking(path, own, **WINDOW))
    assert receipts[TENANT] <= {row.event_hash for row in found.rows}
    assert len(found.rows) == 9
