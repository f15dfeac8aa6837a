"""Back-pressure and failures of the log: 503 with Retry-After, and nothing is acknowledged."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from audit_platform.errors import LogUnavailable
from audit_platform.ports import Log, NewRecord, TopicInfo
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform.services import ingest_gateway
from audit_platform_tests.services.ingest_world import (
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
    for _ in threads:
        assert gate.waiting.acquire(timeout=30)
    assert world.metric("audit_ingest_inflight_bodies") == held
    assert world.metric("audit_ingest_inflight_bytes") == held * len(BOTH)
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
        opener = threading.Thread(target=_open_when_closed, args=(world.port, gate))
        opener.start()
    poster.join()
    opener.join()
    assert answers == [202]


def _open_when_closed(port: int, gate: Gate) -> None:
    """Let appends pass as soon as the server takes no connections any more."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
        except ConnectionRefusedError:
            gate.open.set()
            return
