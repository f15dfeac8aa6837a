"""What one tenant may use: slots, the budget of a query, the cool-down after it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from audit_platform.errors import QueryCancelled
from audit_platform.operations.query.model import IsCancelled
from audit_platform.services import query_limits
from audit_platform.services.query_desk import METRICS
from audit_platform.services.query_limits import (
    MAX_QUERIES,
    MAX_QUERIES_PER_TENANT,
    ClientGone,
    Queries,
)
from audit_platform.services.query_problems import QueryProblem
from audit_platform.telemetry import Telemetry

SECONDS = 10.0
COOL_DOWN = 30.0


@dataclass
class Bench:
    """Queries at a time that the test sets; each waits until it is let go or cancelled."""

    now: float = 1000.0
    go: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(METRICS)
        self.queries = Queries(self.telemetry, SECONDS, COOL_DOWN, lambda: self.now)

    def work(self, is_cancelled: IsCancelled) -> str:
        self.begun.release()
        while not self.go.wait(0.001):
            if is_cancelled():
                raise QueryCancelled("stopped")
        return "found"

    def stubborn(self, _is_cancelled: IsCancelled) -> str:
        self.begun.release()
        assert self.go.wait(30)
        return "found"

    async def start(
        self,
        tenant: str = "north",
        work: Callable[[IsCancelled], str] | None = None,
        gone: Callable[[], Awaitable[None]] | None = None,
    ) -> asyncio.Task[str]:
        """A query that has begun for certain."""
        task = asyncio.create_task(self.queries.run(tenant, work or self.work, gone or stays))
        await asyncio.to_thread(self.begun.acquire)
        return task

    def metric(self, name: str) -> float:
        lines = [x for x in self.telemetry.text().decode().splitlines() if x.startswith(name)]
        assert len(lines) == 1, lines
        return float(lines[0].split()[-1])


async def stays() -> None:
    """A client that waits."""
    await asyncio.Event().wait()


async def all_ended(bench: Bench) -> None:
    """Let the loop turn until no thread runs a query."""
    async with asyncio.timeout(30):
        while bench.queries._running:  # noqa: ASYNC110 - threads end outside of any event
            await asyncio.sleep(0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.go.set()
    made.queries.close()


async def slug_of(awaited: Awaitable[str]) -> tuple[str, dict[str, str]]:
    with pytest.raises(QueryProblem) as refused:
        await awaited
    return refused.value.slug, refused.value.headers


def test_a_query_gives_its_result_and_its_slot_back(bench: Bench) -> None:
    async def scenario() -> None:
        for _ in range(MAX_QUERIES_PER_TENANT * 3):
            task = await bench.start()
            bench.go.set()
            assert await task == "found"
            bench.go.clear()

    asyncio.run(scenario())
    assert bench.metric("audit_query_running ") == 0


def test_a_tenant_has_so_many_slots_and_no_more_and_others_have_theirs(bench: Bench) -> None:
    async def scenario() -> None:
        north = [await bench.start() for _ in range(MAX_QUERIES_PER_TENANT)]
        slug, headers = await slug_of(bench.queries.run("north", bench.work, stays))
        assert (slug, headers) == ("too_many_queries", {"Retry-After": "1"})
        south = await bench.start("south")
        bench.go.set()
        assert await asyncio.gather(*north, south) == ["found"] * (MAX_QUERIES_PER_TENANT + 1)

    asyncio.run(scenario())
    assert bench.metric('audit_query_refused_total{reason="too_many_queries"}') == 1


def test_the_process_has_so_many_slots(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_limits, "MAX_QUERIES", 3)
    assert MAX_QUERIES > 3

    async def scenario() -> None:
        tasks = [await bench.start(f"t{n}") for n in range(3)]
        assert (await slug_of(bench.queries.run("t9", bench.work, stays)))[0] == "overloaded"
        bench.go.set()
        await asyncio.gather(*tasks)
        assert await bench.queries.run("t9", bench.work, stays) == "found"

    asyncio.run(scenario())


def test_a_query_over_its_budget_is_cancelled_and_the_tenant_cools_down(bench: Bench) -> None:
    async def scenario() -> None:
        task = await bench.start()
        bench.now += SECONDS
        assert (await slug_of(task))[0] == "query_cancelled"
        bench.go.set()
        slug, headers = await slug_of(bench.queries.run("north", bench.work, stays))
        assert slug == "cooling_down"
        assert int(headers["Retry-After"]) == COOL_DOWN + 1
        assert await bench.queries.run("south", bench.work, stays) == "found"
        bench.now += COOL_DOWN
        assert await bench.queries.run("north", bench.work, stays) == "found"

    asyncio.run(scenario())
    assert bench.metric('audit_query_cancelled_total{reason="budget"}') == 1
    assert bench.metric('audit_query_refused_total{reason="cooling_down"}') == 1


def test_a_client_that_leaves_stops_its_query_and_nobody_cools_down(bench: Bench) -> None:
    async def scenario() -> None:
        left = asyncio.Event()
        task = await bench.start(gone=left.wait)  # type: ignore[arg-type] # its True says nothing
        left.set()
        with pytest.raises(ClientGone):
            await task
        # Its thread sees it and ends; then the slot is free.
        await all_ended(bench)
        bench.go.set()
        assert await bench.queries.run("north", bench.work, stays) == "found"

    asyncio.run(scenario())
    assert bench.metric('audit_query_cancelled_total{reason="client_gone"}') == 1


def test_a_query_that_does_not_stop_is_left_alone_and_keeps_its_slot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_limits, "PATIENCE_SECONDS", 0.0)

    async def scenario() -> None:
        bench.queries.seconds = 0.0
        task = await bench.start(work=bench.stubborn)
        assert (await slug_of(task))[0] == "query_cancelled"
        assert bench.metric("audit_query_running ") == 1
        bench.go.set()
        await all_ended(bench)

    asyncio.run(scenario())
    assert bench.metric("audit_query_running ") == 0


def test_a_failing_query_fails_and_gives_its_slot_back(bench: Bench) -> None:
    def fail(_is_cancelled: IsCancelled) -> str:
        raise LookupError("no such thing")

    async def scenario() -> None:
        for _ in range(MAX_QUERIES_PER_TENANT + 1):
            with pytest.raises(LookupError):
                await bench.queries.run("north", fail, stays)

    asyncio.run(scenario())


def test_a_stream_keeps_one_slot_from_its_first_piece_to_its_last(bench: Bench) -> None:
    async def scenario() -> None:
        pieces = bench.queries.stream("north", lambda _: iter([b"a", b"b"]), stays)
        assert await anext(pieces) == b"a"
        assert bench.queries._running["north"] == 1
        assert [piece async for piece in pieces] == [b"b"]
        assert not bench.queries._running

    asyncio.run(scenario())


def test_a_stream_that_nobody_reads_on_gives_its_slot_back(bench: Bench) -> None:
    seen: list[IsCancelled] = []

    def make(is_cancelled: IsCancelled) -> Iterator[bytes]:
        seen.append(is_cancelled)
        while True:
            yield b"x"

    async def scenario() -> None:
        pieces = bench.queries.stream("north", make, stays)
        await anext(pieces)
        await pieces.aclose()
        assert not bench.queries._running
        assert seen[0]()

    asyncio.run(scenario())


def test_each_piece_of_a_stream_has_a_querys_budget_and_all_have_an_end(bench: Bench) -> None:
    def slow(is_cancelled: IsCancelled) -> Iterator[bytes]:
        while True:
            bench.now += SECONDS * 0.9
            if is_cancelled():
                raise QueryCancelled("stopped")
            yield b"x"

    async def scenario() -> None:
        pieces = bench.queries.stream("north", slow, stays)
        # The one that ends at the very end is too late.
        for _ in range(int(query_limits.EXPORT_SECONDS / (SECONDS * 0.9)) - 1):
            assert await anext(pieces) == b"x"
        with pytest.raises(QueryProblem) as ended:
            await anext(pieces)
        assert ended.value.slug == "query_cancelled"

    asyncio.run(scenario())
