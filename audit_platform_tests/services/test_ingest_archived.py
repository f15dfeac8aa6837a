"""What ingest-gateway says of the archive, and what it refuses when that is too far behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import StoreUnavailable
from audit_platform.operations.claims import claim
from audit_platform.operations.generations import ensure_generation
from audit_platform.ports import NewRecord, Role
from audit_platform.record.layout import (
    DLQ_TOPIC,
    EVENTS_TOPIC,
    LANDING,
    RangeAddress,
    generation_key,
    short_digest,
)
from audit_platform.record.ranges import Generation, RangeRecord, RecordDigest, TopicStart
from audit_platform.services import ingest_archived
from audit_platform.services.archive_writer import METRICS, ArchiveWriter
from audit_platform.services.ingest_archived import LATE_MS, LOOK_SECONDS
from audit_platform.services.ingest_problems import Problem
from audit_platform.services.ingest_question import Asked, parse_question
from audit_platform.telemetry import Telemetry
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.ingest_world import (
    TENANT,
    Answer,
    World,
    body_of,
    event,
    open_world,
)

LOST = "0" * 16
HOUR_MS = 3_600_000


@dataclass
class Seconds:
    """Real time, moved by hand."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Place:
    """A gateway, and what tests here do to the log and the archive behind it."""

    world: World
    seconds: Seconds
    said: list[dict[str, Any]] = field(default_factory=list)

    def send(self, *lines: bytes) -> list[dict[str, Any]]:
        """Send a body; the log records that its receipt names."""
        answer = self.world.post(body_of(*lines))
        assert answer.status == 202
        records: list[dict[str, Any]] = answer.json["records"]
        return records

    def archive(self) -> None:
        """Let the archive reach the end of the log, and the gateway look at it."""
        writer = ArchiveWriter(
            self.world.platform,
            Telemetry(METRICS),
            member="writer-1",
            range_seconds=0.0,
            range_bytes=1 << 26,
        )
        while writer.step():
            pass
        writer.leave()
        self.look_again()

    def look_again(self) -> None:
        """Let the last look be an old one."""
        self.seconds.now += LOOK_SECONDS

    def ask(self, *records: dict[str, Any], **headers: str) -> Answer:
        """Ask as an edge does."""
        body = json.dumps({"records": records}).encode()
        given = self.world.headers(**{"content_type": "application/json", **headers})
        return self.world.request("POST", "/v1/archived", body, given)

    def states(self, *records: dict[str, Any]) -> list[str]:
        """The states of these records."""
        answer = self.ask(*records)
        assert answer.status == 200
        states: list[str] = answer.json["states"]
        assert len(states) == len(records)
        return states

    def claim_range(self, generation: int, first: int, end: int, digests: dict[int, str]) -> None:
        """A range record as a writer over another log would have made it."""
        address = RangeAddress(LANDING, generation, 0, first)
        records = tuple(RecordDigest(o, d, 1) for o, d in digests.items())
        record = RangeRecord(EVENTS_TOPIC, generation, 0, first, end, records, (), len(digests), 0,
                             START_MS, START_MS, START_MS)  # fmt: skip
        claim(self.world.platform.objects, address.record_key, record.to_bytes(), START_MS)

    def open_generation(self, number: int, start: int) -> None:
        """The next generation of this very log, from an offset of the one partition on."""
        first = ensure_generation(self.world.platform)
        topics = tuple(TopicStart(t.topic, t.topic_id, (start,)) for t in first.topics)
        record = Generation(number, topics, "test", START_MS)
        objects = self.world.platform.objects
        claim(objects, generation_key(number), record.to_bytes(), START_MS)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    seconds = Seconds()
    with open_world(tmp_path / "home", partitions=1, monotonic=seconds) as world:
        yield Place(world, seconds)


# --------------------------------------------------------------------------------------- states


def test_a_record_is_pending_until_a_range_lists_its_digest(place: Place) -> None:
    said = place.send(event(0), event(1), b"not an event")
    assert {r["topic"] for r in said} == {EVENTS_TOPIC, DLQ_TOPIC}
    assert place.states(*said) == ["pending", "pending"]
    place.archive()
    assert place.states(*said) == ["archived", "archived"]
    later = place.send(event(2))
    assert place.states(*said, *later) == ["archived", "archived", "pending"]


def test_states_come_in_the_order_of_the_question_over_many_ranges(place: Place) -> None:
    said = []
    for n in range(6):
        said += place.send(event(n))
        place.archive()
    waiting = place.send(event(9))
    mixed = [said[5], waiting[0], said[0], said[3], said[0]]
    assert place.states(*mixed) == ["archived", "pending", "archived", "archived", "archived"]


def test_an_empty_question_is_answered(place: Place) -> None:
    assert place.states() == []


def test_a_record_that_the_log_lost_differs(place: Place) -> None:
    [said] = place.send(event(0))
    place.archive()
    assert place.states(said | {"digest": LOST}) == ["differs"]


def test_a_hole_in_a_range_means_that_the_log_lost_the_record(place: Place) -> None:
    ensure_generation(place.world.platform)
    place.send(event(0))
    place.claim_range(1, 0, 1, {})
    place.look_again()
    [said] = [{"topic": EVENTS_TOPIC, "partition": 0, "offset": 0, "digest": LOST}]
    assert place.states(said) == ["differs"]


def test_a_record_behind_the_end_of_the_log_is_lost_and_not_pending_for_ever(place: Place) -> None:
    [said] = place.send(event(0))
    place.archive()
    assert place.states(said | {"offset": 7}) == ["differs"]
    assert place.states(said | {"partition": 9}) == ["differs"]


def test_a_record_that_the_log_holds_where_ranges_list_another_waits_for_the_next_generation(
    place: Place,
) -> None:
    ensure_generation(place.world.platform)
    [said] = place.send(event(0))
    place.claim_range(1, 0, 1, {0: LOST})
    place.look_again()
    assert place.states(said) == ["pending"]
    place.open_generation(2, 0)
    place.look_again()
    assert place.states(said) == ["pending"]
    place.claim_range(2, 0, 1, {0: said["digest"]})
    place.look_again()
    assert place.states(said) == ["archived"]


def test_a_record_archived_in_an_older_generation_only_is_archived(place: Place) -> None:
    ensure_generation(place.world.platform)
    [said] = place.send(event(0))
    place.claim_range(1, 0, 1, {0: LOST})
    place.open_generation(2, 0)
    place.claim_range(2, 0, 1, {0: said["digest"]})
    place.look_again()
    assert place.states(said | {"digest": LOST}, said) == ["archived", "archived"]


def test_the_oldest_version_of_a_range_record_counts(place: Place) -> None:
    [said] = place.send(event(0))
    place.archive()
    objects = place.world.platform.objects
    key = RangeAddress(LANDING, 1, 0, 0).record_key
    objects.put(key, b'{"not":"a range"}', retain_until_ms=START_MS + 1000, if_absent=False)
    objects.delete(key)
    place.look_again()
    assert place.states(said) == ["archived"]


def test_a_malformed_range_record_of_one_partition_leaves_the_others_answered(
    tmp_path: Path,
) -> None:
    seconds = Seconds()
    with open_world(tmp_path / "home", partitions=2, monotonic=seconds) as world:
        place = Place(world, seconds)
        said = place.send(*(event(0, f"d{n}") for n in range(20)))
        by_partition = {r["partition"]: r for r in said}
        place.archive()
        key = RangeAddress(LANDING, 1, 0, 1).record_key
        claim(world.platform.objects, key, b"no record", START_MS)
        more = place.send(*(event(1, f"d{n}") for n in range(20)))
        place.look_again()
        assert place.states(by_partition[1]) == ["archived"]
        assert set(place.states(*more)) == {"pending"}


def test_an_answer_reads_no_more_than_its_bound_and_the_next_one_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for n in range(6):
        said += place.send(event(n))
        place.archive()
    monkeypatch.setattr(ingest_archived, "MAX_READS", 2)
    place.world.app._archived._coverage._ranges = ingest_archived._Ranges()
    assert place.states(*said) == ["archived"] * 2 + ["pending"] * 4
    while "pending" in (states := place.states(*said)):
        assert states.count("archived") > 2
    assert states == ["archived"] * 6


def test_the_remembered_digests_are_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_archived, "MAX_REMEMBERED", 3)
    said = []
    for n in range(6):
        said += place.send(event(n))
        place.archive()
    for _ in range(2):
        assert place.states(*said) == ["archived"] * 6
        assert place.world.app._archived._coverage._ranges.records <= 3


# ------------------------------------------------------------------------------------ the route


def test_only_an_edges_credential_may_ask(place: Place) -> None:
    assert place.ask(authorization="Bearer nonsense").status == 401
    _, other = place.world.platform.metadata.add_api_key(TENANT, Role.AUDITOR, START_MS)
    assert place.ask(authorization=f"Bearer {other}").status == 403
    assert place.world.request("GET", "/v1/archived").status == 405


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"records":1}',
        b'{"records":[1]}',
        b'{"records":[{"topic":"audit.events.v1","partition":0,"offset":0}]}',
        b'{"records":[{"topic":"other","partition":0,"offset":0,"digest":"0000000000000000"}]}',
        b'{"records":[{"topic":[],"partition":0,"offset":0,"digest":"0000000000000000"}]}',
        b'{"records":[{"topic":"audit.dlq.v1","partition":true,"offset":0,"digest":"00000000"}]}',
    ],
)
def test_a_question_that_is_none_is_refused(place: Place, body: bytes) -> None:
    given = place.world.headers(content_type="application/json")
    answer = place.world.request("POST", "/v1/archived", body, given)
    assert (answer.status, answer.problem()) == (400, "bad_question")


def test_a_question_over_its_bounds_is_refused(place: Place) -> None:
    record = {"topic": EVENTS_TOPIC, "partition": 0, "offset": 0, "digest": LOST}
    assert place.ask(*[record] * 1000).status == 200
    assert place.ask(*[record] * 1001).status == 400
    given = place.world.headers(content_type="application/json")
    answer = place.world.request("POST", "/v1/archived", b" " * (128 * 1024 + 1), given)
    assert (answer.status, answer.problem()) == (413, "body_too_large")
    answer = place.ask(content_type="text/plain")
    assert (answer.status, answer.problem()) == (415, "unsupported_media_type")


record_values = st.fixed_dictionaries(
    {
        "topic": st.sampled_from([EVENTS_TOPIC, DLQ_TOPIC]) | st.none(),
        "partition": st.integers(-1, 1 << 70) | st.booleans(),
        "offset": st.integers(-1, 1 << 70) | st.floats(),
        "digest": st.text("0123456789abcdefg", min_size=15, max_size=17),
    }
)


@given(st.lists(record_values, max_size=3) | st.recursive(st.none(), st.lists))
def test_any_question_is_understood_or_refused(records: Any) -> None:
    try:
        asked = parse_question(json.dumps({"records": records}).encode())
    except Problem as e:
        slug = e.slug
    else:
        slug = ""
        assert [(a.topic, a.partition, a.offset, f"{a.digest:016x}") for a in asked] == [
            tuple(r[name] for name in Asked._fields) for r in records
        ]
    assert slug in {"", "bad_question"}


def test_objects_that_do_not_answer_give_503_and_bodies_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("the store is away")

    said = place.send(event(0))
    with monkeypatch.context() as patched:
        patched.setattr(type(place.world.platform.objects), "oldest", away)
        place.look_again()
        answer = place.ask(*said)
        assert (answer.status, answer.problem()) == (503, "archive_unknown")
        assert int(answer.headers["retry-after"]) >= 1
        assert place.world.post(body_of(event(1))).status == 202
    assert place.states(*said) == ["pending"]


def test_a_slow_look_holds_no_body_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    looking, go_on = threading.Event(), threading.Event()
    look = ingest_archived._Coverage.look

    def slow(self: Any) -> Any:
        looking.set()
        assert go_on.wait(30)
        return look(self)

    monkeypatch.setattr(ingest_archived._Coverage, "look", slow)
    place.look_again()
    assert place.world.post(body_of(event(0))).status == 202
    assert looking.wait(30)
    assert place.world.post(body_of(event(1))).status == 202
    go_on.set()


# ---------------------------------------------------------------------------- 6 days of 7


def looked(place: Place) -> None:
    """Let a body start a look, and wait until it is over."""
    place.look_again()
    place.world.app._archived.late()
    place.world.app._archived._thread.submit(lambda: None).result(30)


def test_a_partition_whose_archive_is_six_days_behind_takes_nothing_until_it_is_archived(
    place: Place,
) -> None:
    ensure_generation(place.world.platform)
    place.send(event(0))
    place.world.clock.advance(LATE_MS)
    looked(place)
    assert place.world.post(body_of(event(1))).status == 202
    place.world.clock.advance(1)
    looked(place)
    answer = place.world.post(body_of(event(2)))
    assert (answer.status, answer.problem()) == (503, "archive_late")
    assert int(answer.headers["retry-after"]) >= 30
    assert len(place.world.stored()) == 2
    place.archive()
    looked(place)
    assert place.world.post(body_of(event(2))).status == 202


def test_only_bodies_for_the_late_partition_are_refused(tmp_path: Path) -> None:
    seconds = Seconds()
    with open_world(tmp_path / "home", partitions=2, monotonic=seconds) as world:
        place = Place(world, seconds)
        ensure_generation(world.platform)
        [first] = place.send(event(0, "d0"))
        other = next(
            name
            for name in (f"d{n}" for n in range(1, 50))
            if place.send(event(0, name))[0]["partition"] != first["partition"]
        )
        place.archive()
        place.send(event(1, "d0"))
        world.clock.advance(LATE_MS + HOUR_MS)
        looked(place)
        assert world.post(body_of(event(2, "d0"))).status == 503
        assert world.post(body_of(event(1, other))).status == 202
        assert world.post(body_of(event(2, other), event(2, "d0"))).status == 503
        assert world.post(body_of(event(2, other), b"bad")).status == 202


def test_dead_letters_too_must_be_archived_in_time(place: Place) -> None:
    ensure_generation(place.world.platform)
    place.send(b"bad")
    place.world.clock.advance(LATE_MS + HOUR_MS)
    looked(place)
    assert place.world.post(body_of(b"worse")).status == 503
    assert place.world.post(body_of(event(0))).status == 202


def test_a_log_without_anything_unarchived_is_never_late(place: Place) -> None:
    place.send(event(0))
    place.archive()
    place.world.clock.advance(10 * LATE_MS)
    looked(place)
    assert place.world.post(body_of(event(1))).status == 202


def test_the_date_of_an_answer_is_the_wall_clock_ports(place: Place) -> None:
    answer = place.ask()
    assert answer.headers["date"] == "Sun, 01 Mar 2026 00:00:00 GMT"


def test_a_digest_of_the_log_is_that_of_the_receipt(place: Place) -> None:
    [said] = place.send(event(0))
    [held] = place.world.records(EVENTS_TOPIC)
    assert short_digest(held.value) == said["digest"]
    offsets = place.world.platform.log.append(EVENTS_TOPIC, [NewRecord(0, b"x", {"count": "1"})])
    assert offsets == [said["offset"] + 1]
