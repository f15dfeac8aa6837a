"""Reads on record: together, before the answer, and never more of one intruder than needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit_platform.errors import LogUnavailable
from audit_platform.ports import Caller, Log, NewRecord, Role
from audit_platform.services import query_audit
from audit_platform.services.query_audit import (
    MAX_REFUSALS,
    MAX_WAITING,
    REFUSAL_SECONDS,
    Asked,
    Auditor,
    Outcome,
    Refused,
)
from audit_platform.services.query_desk import METRICS
from audit_platform.services.query_problems import QueryProblem
from audit_platform.telemetry import Telemetry
from audit_platform_tests.operations.test_own_events import stored
from audit_platform_tests.world import World, open_world

KEY = Caller("00112233445566aa", "north", Role.INVESTIGATOR)


@dataclass
class HeldLog:
    """The real log; appends wait at a gate, or fail."""

    real: Log
    gate: threading.Event = field(default_factory=threading.Event)
    away: bool = False
    appends: int = 0

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[int]:
        assert self.gate.wait(30)
        self.appends += 1
        if self.away:
            raise LogUnavailable("the log is away")
        return self.real.append(topic, records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@dataclass
class Office:
    """An auditor over such a log, at a time that the test sets."""

    world: World
    log: HeldLog
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(METRICS)
        seen: Log = self.log
        self.auditor = Auditor(
            replace(self.world.platform, log=seen), self.telemetry, monotonic=lambda: self.now
        )

    def payloads(self, event_type: str) -> list[dict[str, Any]]:
        events = [orjson.loads(line) for line in stored(self.world.platform.log)]
        return [e["payload"] for e in events if e["eventType"] == event_type]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with open_world(tmp_path / "home") as world:
        log = HeldLog(world.platform.log)
        log.gate.set()
        made = Office(world, log)
        yield made
        log.gate.set()
        made.auditor.close()


def asked(number: int = 0, **query: Any) -> Asked:
    return Asked(f"{number:032x}", KEY, "north", "GET /v1/tenants/{tenant}/events", query)


def refused(key: Caller | None = KEY, tenant: str = "south") -> Refused:
    return Refused("0" * 32, key, tenant, "GET /v1/tenants/{tenant}/events", 404, "not_found")


def test_a_read_is_durable_when_it_returns_and_says_who_what_and_how_much(office: Office) -> None:
    question = asked(7, text="alarm", limit=5)
    asyncio.run(office.auditor.read(question, Outcome.ANSWERED, tier="hot", rows=3))
    assert office.payloads("record_read") == [
        {
            "requestId": f"{7:032x}",
            "keyId": KEY.key_id,
            "keyTenant": "north",
            "role": "investigator",
            "tenant": "north",
            "route": "GET /v1/tenants/{tenant}/events",
            "query": {"text": "alarm", "limit": 5},
            "queryDigest": question.digest,
            "outcome": "answered",
            "tier": "hot",
            "rows": 3,
        }
    ]


def test_a_read_by_a_token_names_its_subject(office: Office) -> None:
    by_token = replace(KEY, subject="doctor@hospital-a")
    read = replace(asked(), caller=by_token)
    asyncio.run(office.auditor.read(read, Outcome.ANSWERED))
    asyncio.run(office.auditor.refusal(refused(by_token)))
    assert office.payloads("record_read")[0]["subject"] == "doctor@hospital-a"
    assert office.payloads("access_refused")[0]["subject"] == "doctor@hospital-a"


def test_pages_of_one_search_have_one_digest_and_other_searches_others() -> None:
    assert asked(1, text="a", limit=5).digest == asked(2, text="a", cursor="x").digest
    assert asked(1, text="a").digest != asked(1, text="b").digest
    assert asked(1).digest != replace(asked(1), tenant_id="south").digest
    assert asked(1).digest != replace(asked(1), route="GET /other").digest


def test_reads_that_wait_together_share_one_append(office: Office) -> None:
    office.log.gate.clear()

    async def scenario() -> None:
        reads = [
            asyncio.create_task(office.auditor.read(asked(n), Outcome.ANSWERED)) for n in range(50)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not any(read.done() for read in reads)
        office.log.gate.set()
        await asyncio.gather(*reads)

    asyncio.run(scenario())
    assert len(office.payloads("record_read")) == 50
    assert office.log.appends <= 2


def test_without_a_log_there_is_no_answer_and_with_it_again_there_is(office: Office) -> None:
    async def scenario() -> None:
        office.log.away = True
        with pytest.raises(QueryProblem) as problem:
            await office.auditor.read(asked(1), Outcome.ANSWERED)
        assert (problem.value.slug, problem.value.status) == ("audit_unavailable", 503)
        assert problem.value.headers == {"Retry-After": "1"}
        office.log.away = False
        await office.auditor.read(asked(2), Outcome.ANSWERED)

    asyncio.run(scenario())
    text = office.telemetry.text().decode()
    assert 'audit_reads_not_recorded_total{event_type="record_read"} 1.0' in text
    assert 'audit_reads_recorded_total{event_type="record_read"} 1.0' in text


def test_a_log_that_hangs_is_given_up_in_time(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_audit, "WAIT_SECONDS", 0.01)
    office.log.gate.clear()

    async def scenario() -> None:
        with pytest.raises(QueryProblem, match="longer than"):
            await office.auditor.read(asked(1), Outcome.ANSWERED)
        office.log.gate.set()

    asyncio.run(scenario())


def test_more_than_so_many_reads_do_not_wait(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_audit, "MAX_WAITING", 3)
    assert MAX_WAITING < 500
    office.log.gate.clear()

    async def scenario() -> None:
        reads = [
            asyncio.create_task(office.auditor.read(asked(n), Outcome.ANSWERED)) for n in range(4)
        ]
        done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        assert [isinstance(read.exception(), QueryProblem) for read in done] == [True]
        office.log.gate.set()
        await asyncio.wait(reads)

    asyncio.run(scenario())
    assert len(office.payloads("record_read")) == 3


def test_refusals_of_one_caller_are_recorded_up_to_a_bound_and_then_counted(
    office: Office,
) -> None:
    async def some(count: int, make: Callable[[], Refused]) -> None:
        for _ in range(count):
            await office.auditor.refusal(make())

    asyncio.run(some(MAX_REFUSALS + 5, refused))
    assert len(office.payloads("access_refused")) == MAX_REFUSALS
    # Another caller is not hidden by the first one.
    asyncio.run(some(1, lambda: refused(key=None)))
    assert "keyId" not in office.payloads("access_refused")[-1]
    office.now += REFUSAL_SECONDS
    asyncio.run(some(1, refused))
    found = office.payloads("access_refused")
    assert len(found) == MAX_REFUSALS + 2
    assert found[-1]["suppressed"] == 5
    assert "audit_refusals_suppressed_total 5.0" in office.telemetry.text().decode()


def test_a_refusal_that_cannot_be_recorded_is_still_a_refusal(office: Office) -> None:
    office.log.away = True
    asyncio.run(office.auditor.refusal(refused()))
    assert office.log.appends == 1
    text = office.telemetry.text().decode()
    assert 'audit_reads_not_recorded_total{event_type="access_refused"} 1.0' in text


def test_a_tenants_name_that_is_none_is_left_out_of_the_record(office: Office) -> None:
    asyncio.run(office.auditor.refusal(refused(tenant="No Tenant" * 40)))
    asyncio.run(office.auditor.refusal(refused(tenant="south")))
    assert ["tenant" in p for p in office.payloads("access_refused")] == [False, True]


def test_many_callers_do_not_fill_the_memory(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_audit, "MAX_CALLERS", 4)
    for n in range(20):
        assert office.auditor._admit(f"key-{n}") == 0
    assert len(office.auditor._refusals) == 4
