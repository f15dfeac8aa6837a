"""Back-pressure and failures of the log: 503 with Retry-After, and nothing is acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit_platform.errors import LogUnavailable
from audit_platform.ports import Log, NewRecord, TopicInfo
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, short_digest
from audit_platform.services import ingest_gateway, ingest_keeping
from audit_platform.services.ingest_keeping import Keeper
from audit_platform.services.ingest_problems import Problem
from audit_platform.services.ingest_server import Server
from audit_platform_tests.services.ingest_world import (
    TENANT,
    Answer,
    World,
    body_of,
    event,
    open_world,
)


@dataclass
class Gate:
    """In front of the real log: refuses topics, or holds appends up, and notes their order."""

    real: Log | None = None
    refused: set[str] = field(default_factory=set)
    broken: bool = False
    appended: list[str] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def describe(self, topic: str) -> TopicInfo:
        if "describe" in self.refused:
            raise LogUnavailable("the log is away")
        assert self.real is not None
        return self.real.describe(topic)

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[int]:
        assert self.real is not None
        self.waiting.release()
        assert self.open.wait(30)
        if self.broken:
            raise RuntimeError("a mistake in the log's own code")
        if topic in self.refused:
            raise LogUnavailable("the log is away")
        self.appended.append(topic)
        return self.real.append(topic, records)


@contextmanager
def gated(folder: Path) -> Iterator[tuple[World, Gate]]:
    gate = Gate()
    with open_world(folder, log=gate) as world:  # type: ignore[arg-type] # the gateway calls no other method
        gate.real = world.platform.log
        gate.open.set()
        yield world, gate


def assert_come_back(answer: Answer, slug: str) -> None:
    assert (answer.status, answer.problem()) == (503, slug)
    assert int(answer.headers["retry-after"]) >= 1


BOTH = body_of(event(0), b"bad", event(1))


def test_dead_letters_are_durable_before_events(tmp_path: Path) -> None:
    with gated(tmp_path / "home") as (world, gate):
        assert world.post(BOTH).status == 202
        assert gate.appended == [DLQ_TOPIC, EVENTS_TOPIC]


@pytest.mark.parametrize("topic", [DLQ_TOPIC, EVENTS_TOPIC])
def test_a_log_that_takes_nothing_gives_503_and_the_same_body_passes_later(
    tmp_path: Path, topic: str
) -> None:
    with gated(tmp_path / "home") as (world, gate):
        gate.refused = {topic}
        assert_come_back(world.post(BOTH), "log_unavailable")
        assert world.metric("audit_ingest_accepted_events_total") == 0
        assert world.stored() == []
        gate.refused = set()
        assert world.post(BOTH).status == 202
        assert len(world.stored()) == 2
        assert {e.data for e in world.dead_letters()} == {b"bad"}


def test_a_log_that_is_away_from_the_start_gives_503_until_it_is_there(tmp_path: Path) -> None:
    with gated(tmp_path / "home") as (world, gate):
        gate.refused = {"describe"}
        assert_come_back(world.post(BOTH), "log_unavailable")
        assert world.request("GET", "/readyz").status == 503
        gate.refused = set()
        assert world.post(BOTH).status == 202
        assert world.request("GET", "/readyz").status == 200


def test_a_mistake_of_ours_gives_503_and_the_process_goes_on(tmp_path: Path) -> None:
    with gated(tmp_path / "home") as (world, gate):
        gate.broken = True
        assert_come_back(world.post(BOTH), "internal_error")
        gate.broken = False
        assert world.post(BOTH).status == 202


def test_bodies_beyond_the_number_in_flight_are_told_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_gateway, "MAX_BODIES_IN_FLIGHT", 2)
    with gated(tmp_path / "home") as (world, gate):
        assert_held_back(world, gate, held=2)


def test_bytes_beyond_those_in_flight_are_told_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_gateway, "MAX_BYTES_IN_FLIGHT", len(BOTH) + 10)
    with gated(tmp_path / "home") as (world, gate):
        assert_held_back(world, gate, held=1)


def assert_held_back(world: World, gate: Gate, held: int) -> None:
    """While `held` bodies wait for the log, one more is refused; then all pass."""
    gate.open.clear()
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(world.post(BOTH).status))
        for _ in range(held)
    ]
    for thread in threads:
        thread.start()
    while world.metric("audit_ingest_inflight_bytes") < held * len(BOTH):
        assert threads[0].is_alive()
    assert world.metric("audit_ingest_inflight_bodies") == held
    assert_come_back(world.post(BOTH), "overloaded")
    assert world.request("GET", "/healthz").status == 200
    gate.open.set()
    for thread in threads:
        thread.join()
    assert answers == [202] * held
    assert world.post(BOTH).status == 202
    assert world.metric("audit_ingest_inflight_bodies") == 0
    assert world.metric("audit_ingest_inflight_bytes") == 0


def test_a_stop_waits_for_the_body_in_hand(tmp_path: Path) -> None:
    answers: list[int] = []
    with gated(tmp_path / "home") as (world, gate):
        gate.open.clear()
        poster = threading.Thread(target=lambda: answers.append(world.post(BOTH).status))
        poster.start()
        assert gate.waiting.acquire(timeout=30)
        opener = threading.Thread(target=_open_when_closed, args=(world.server, gate))
        opener.start()
    poster.join()
    opener.join()
    assert answers == [202]


def _open_when_closed(server: Server, gate: Gate) -> None:
    """Let appends pass as soon as the server takes no connections any more."""
    while any(listener.is_serving() for listener in server.servers):
        threading.Event().wait(0.01)
    gate.open.set()


# ----------------------------------------------------------------------- bodies that wait together


def _keep_at_once(keeper: Keeper, *bodies: bytes) -> list[dict[str, Any] | BaseException]:
    """Give bodies to as many threads, all of which wait for the first one's check to begin."""

    def keep(body: bytes) -> dict[str, Any] | BaseException:
        try:
            receipt: dict[str, Any] = orjson.loads(keeper.keep(body, TENANT, compressed=False))
        except (Problem, RuntimeError) as e:
            return e
        return receipt

    with ThreadPoolExecutor(len(bodies)) as threads:
        with keeper._checking:
            kept = []
            for number, body in enumerate(bodies, 1):
                kept.append(threads.submit(keep, body))
                while keeper._waiting < number:
                    threading.Event().wait(0.001)
        return [future.result(30) for future in kept]


def test_bodies_that_wait_for_their_check_are_appended_together(tmp_path: Path) -> None:
    with gated(tmp_path / "home") as (world, gate):
        bodies = [body_of(event(n, f"d{n}"), b"bad %d" % n) for n in range(4)]
        receipts = _keep_at_once(world.app._keeper, *bodies)
        assert gate.appended == [DLQ_TOPIC, EVENTS_TOPIC]
        held = {(r.topic, r.partition, r.offset): r.value for t in (EVENTS_TOPIC, DLQ_TOPIC)
                for r in world.records(t)}  # fmt: skip
        for n, receipt in enumerate(receipts):
            assert isinstance(receipt, dict)
            assert (receipt["accepted"], len(receipt["refused"])) == (1, 1)
            for said in receipt["records"]:
                value = held[said["topic"], said["partition"], said["offset"]]
                assert short_digest(value) == said["digest"]
            own = [r for r in receipt["records"] if r["topic"] == EVENTS_TOPIC]
            assert f'"d{n}"'.encode() in held[EVENTS_TOPIC, own[0]["partition"], own[0]["offset"]]


def test_a_bad_body_among_those_that_wait_takes_no_other_with_it(tmp_path: Path) -> None:
    with gated(tmp_path / "home") as (world, gate):
        good, empty = body_of(event(0)), b"\n"
        for bodies in ([good, empty], [empty, good], [good, empty, good]):
            gate.appended.clear()
            outcomes = _keep_at_once(world.app._keeper, *bodies)
            for body, outcome in zip(bodies, outcomes, strict=True):
                if body == empty:
                    assert isinstance(outcome, Problem)
                    assert outcome.slug == "empty_body"
                else:
                    assert isinstance(outcome, dict)
                    assert outcome["accepted"] == 1
            assert gate.appended == [EVENTS_TOPIC]


def test_an_append_that_fails_fails_every_body_that_was_in_it(tmp_path: Path) -> None:
    with gated(tmp_path / "home") as (world, gate):
        gate.refused = {EVENTS_TOPIC}
        outcomes = _keep_at_once(world.app._keeper, BOTH, BOTH, BOTH)
        assert [getattr(o, "slug", "") for o in outcomes] == ["log_unavailable"] * 3
        gate.refused = set()
        gate.broken = True
        outcomes = _keep_at_once(world.app._keeper, BOTH, BOTH)
        assert [type(o) for o in outcomes] == [RuntimeError, RuntimeError]


def test_no_more_bytes_wait_together_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_keeping, "MAX_LEFT_BYTES", len(BOTH) * 2)
    with gated(tmp_path / "home") as (world, gate):
        outcomes = _keep_at_once(world.app._keeper, *[BOTH] * 5)
        assert all(isinstance(o, dict) for o in outcomes)
        assert gate.appended.count(EVENTS_TOPIC) >= 2
