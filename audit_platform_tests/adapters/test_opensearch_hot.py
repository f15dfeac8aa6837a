"""OpenSearch as HOT: what the contract does not ask, on the run's real server."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from audit_platform.adapters.opensearch.hot import OpenSearchHot
from audit_platform.adapters.opensearch.template import MAPPING
from audit_platform.errors import HotRefused, HotUnavailable, SettingInvalid
from audit_platform.ports import EventClock, EventQuery
from audit_platform.record.layout import MS_PER_DAY
from audit_platform.services.search_indexer import METRICS, SearchIndexer
from audit_platform.telemetry import Telemetry
from audit_platform_tests.adapters.opensearch_servers import ask, fresh_prefix, urls, wiped
from audit_platform_tests.adapters.test_hot_model import TENANT, queries
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.hot_rows import DAY, DAY_MS, Event, batch, found_by
from audit_platform_tests.services.test_search_indexer import append, figure, line
from audit_platform_tests.world import DAY as WORLD_DAY
from audit_platform_tests.world import open_world

ALL = EventQuery("north", DAY_MS, DAY_MS + 7 * MS_PER_DAY, limit=1000)
INDEX_BLOCKS = ("index.blocks.write", "index.blocks.read_only_allow_delete")


@pytest.fixture
def prefix() -> Iterator[str]:
    """Nobody else's."""
    with wiped(fresh_prefix()) as prefix:
        yield prefix


@pytest.fixture
def hot(prefix: str) -> Iterator[OpenSearchHot]:
    """No index yet."""
    opened = OpenSearchHot(urls(), prefix)
    yield opened
    opened.close()


def events(count: int, first: int = 0) -> list[Event]:
    return [Event(sequence_number=n) for n in range(first, first + count)]


def found(hot: OpenSearchHot, query: EventQuery = ALL) -> list[bytes]:
    hashes: list[bytes] = hot.search(query, is_cancelled=lambda: False)["event_hash"].to_pylist()
    return hashes


def hashes_of(some: list[Event]) -> list[bytes]:
    return [e.event_hash for e in sorted(some, key=lambda e: e.position(ALL.clock))]


# ---------------------------------------------------------------------------------------- searching


def history() -> list[Event]:
    """Events of few different values over six days, most in several copies. Always the same."""
    draw = random.Random(20260301)
    notes = ["alarm", "Alarm high", "ALARM-high", "alarming", "Über druck", "u\u0308ber", "2026"]
    notes += ["dead beef", "1e5", "\u212aelvin kelvin", "straße", "", "日本 語", "x\u2019y"]
    notes += ["İstanbul", "a" * 300, "é" * 300]
    made: list[Event] = []
    for _ in range(120):
        event = Event(
            device_id=draw.choice(["pump-1", "pump-10", "PUMP-1", "m:1/a"]),
            sequence_number=draw.choice([0, 1, 9, 10, 2**53 - 1]),
            event_time=draw.choice([DAY_MS, DAY_MS + 3, DAY_MS + MS_PER_DAY - 1, -(2**41), -1]),
            hospital_id=draw.choice(["h-1", "h-2"]),
            event_type=draw.choice(["alarm", "heartbeat", "alarm.high"]),
            criticality=draw.choice(["normal", "high"]),
            payload=f'{{"note":"{draw.choice(notes)}"}}',
        )
        for _ in range(draw.choice([1, 1, 2, 3])):
            arrived = DAY_MS + draw.randrange(7) * MS_PER_DAY + draw.choice([0, 1, 2, 500])
            made.append(replace(event, ingestion_time=arrived))
    return made


def fill(hot: OpenSearchHot, some: list[Event]) -> list[Event]:
    """Create all, in two calls for each day; those that count: the first of each day."""
    kept: dict[tuple[str, bytes], Event] = {}
    for part in (some[::2], some[1::2]):
        by_day: dict[str, list[Event]] = defaultdict(list)
        for event in part:
            by_day[event.day].append(event)
            kept.setdefault((event.day, event.event_hash), event)
        for day, rows in by_day.items():
            hot.create(TENANT, day, batch(rows))
    return list(kept.values())


@pytest.fixture(scope="module")
def filled() -> Iterator[tuple[OpenSearchHot, list[Event]]]:
    """An index for each of seven days, and what is in them."""
    with wiped(fresh_prefix()) as prefix:
        hot = OpenSearchHot(urls(), prefix)
        yield hot, fill(hot, history())
        hot.close()


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_search_finds_what_the_naive_model_finds(
    filled: tuple[OpenSearchHot, list[Event]], data: st.DataObject
) -> None:
    hot, kept = filled
    query = data.draw(queries(kept))
    note(f"{query}")
    assert found(hot, query) == found_by(kept, query)


TEXTS = (
    *("alarm", "high alarm", "alarming", "ÜBER", "kelvin", "\u212aELVIN", "pump 1", "42", "e"),
    *("dead", "beef", "2026", "!?", "語", "日本", "x y", "STRASSE", "straße", "i\u0307stanbul"),
    *("İSTANBUL", "istanbul", "a" * 300, "a" * 255, "É" * 300, "note", "h 2 pump", "1e5"),
)


@pytest.mark.parametrize("clock", list(EventClock))
def test_every_word_finds_what_the_naive_model_finds(
    filled: tuple[OpenSearchHot, list[Event]], clock: EventClock
) -> None:
    hot, kept = filled
    wide = EventQuery(TENANT, -(2**45), 2**45, clock=clock, limit=1000)
    ids = (kept[7].event_id, *kept[7].event_id.split("-"))
    answers = []
    for text in (None, *TEXTS, *ids):
        query = replace(wide, text=text)
        answers.append(found(hot, query))
        assert answers[-1] == found_by(kept, query), text
    assert len(set(map(tuple, answers))) > len(TEXTS) / 2


def test_pages_go_on_behind_copies_that_are_left_out(hot: OpenSearchHot) -> None:
    first = events(60)
    later = [replace(e, ingestion_time=e.ingestion_time + MS_PER_DAY) for e in first]
    fresh = [replace(e, ingestion_time=later[0].ingestion_time + 1) for e in events(2, first=100)]
    hot.create("north", DAY, batch(first))
    hot.create("north", later[0].day, batch([*later, *fresh]))
    query = replace(ALL, from_ms=later[0].ingestion_time, limit=2)
    assert found(hot, query) == hashes_of(fresh)


def test_the_payload_comes_back_byte_for_byte(hot: OpenSearchHot) -> None:
    payload = '{"a":1e+21,"b":"\\u0001 \\"q\\" \\\\ \u2028 é 🫀","c":-0,"d":[1.10,{}],"\\n":null}'
    hot.create("north", DAY, batch([Event(payload=payload)]))
    assert hot.search(ALL, is_cancelled=lambda: False)["payload"].to_pylist() == [payload]


def test_a_search_sees_what_another_process_wrote_a_second_before(
    hot: OpenSearchHot, prefix: str
) -> None:
    other = OpenSearchHot(urls(), prefix)
    assert found(other) == []
    hot.create("north", DAY, batch(events(3)))
    assert found(other) == hashes_of(events(3))  # another index than those it had refreshed
    other.close()


# ---------------------------------------------------------------------------------------- writing


def test_a_document_that_is_refused_does_not_take_the_others_with_it(hot: OpenSearchHot) -> None:
    made = events(5)
    made[2] = replace(made[2], device_id="x" * 40_000)  # longer than a term can be
    with pytest.raises(HotRefused, match="refuses 1 rows") as raised:
        hot.create("north", DAY, batch(made))
    assert (raised.value.rows, raised.value.created) == ((2,), 4)
    good = [e for n, e in enumerate(made) if n != 2]
    assert found(hot) == hashes_of(good)
    assert hot.create("north", DAY, batch(good)) == 0


def test_the_indexer_passes_over_what_is_refused_for_good_and_counts_it(
    hot: OpenSearchHot, prefix: str, tmp_path: Path
) -> None:
    hot.create("north", WORLD_DAY, batch([Event(ingestion_time=START_MS)]))
    convert = {"field": "device_id", "type": "integer", "if": "ctx.sequence_number == 1"}
    ask("PUT", f"/_ingest/pipeline/{prefix}", {"processors": [{"convert": convert}]})
    index = f"{prefix}.north.{WORLD_DAY.replace('-', '')}.g1"
    ask("PUT", f"/{index}/_settings", {"index.default_pipeline": prefix})
    telemetry = Telemetry(METRICS)
    with open_world(tmp_path, partitions=1) as world:
        append(world, b"".join(line(n) for n in range(4)))
        platform = replace(world.platform, hot=hot)
        indexer = SearchIndexer(platform, telemetry, member="indexer-1")
        assert indexer.step()
        assert not indexer.step()
        assert indexer.waiting == {}
    assert hot.indexes("north")[0].documents == 1 + 3
    assert figure(telemetry, 'consumer_envelope_defense_failures_total{reason="refused"}') == 1
    assert figure(telemetry, 'audit_indexer_events_total{outcome="new"}') == 3
    ask("PUT", f"/{index}/_settings", {"index.default_pipeline": None})
    ask("DELETE", f"/_ingest/pipeline/{prefix}")


@pytest.mark.parametrize("block", INDEX_BLOCKS)
def test_a_block_is_back_pressure_and_heals(hot: OpenSearchHot, prefix: str, block: str) -> None:
    hot.create("north", DAY, batch(events(3)))
    index = f"{prefix}.north.20260301.g1"
    ask("PUT", f"/{index}/_settings", {block: True})
    with pytest.raises(HotUnavailable, match="2 of 2 wait"):
        hot.create("north", DAY, batch(events(2, first=5)))
    assert found(hot) == hashes_of(events(3))
    elsewhere = [replace(e, ingestion_time=e.ingestion_time + MS_PER_DAY) for e in events(1, 50)]
    assert hot.create("north", elsewhere[0].day, batch(elsewhere)) == 1
    ask("PUT", f"/{index}/_settings", {block: None})
    assert hot.create("north", DAY, batch(events(2, first=5))) == 2


def test_nothing_is_ever_overwritten(hot: OpenSearchHot) -> None:
    (event,) = events(1)
    hot.create("north", DAY, batch([event]))
    assert hot.create("north", DAY, batch([replace(event, ingestion_time=DAY_MS + 9)])) == 0
    (row,) = hot.search(ALL, is_cancelled=lambda: False).to_pylist()
    assert row["ingestion_time"].timestamp() * 1000 == DAY_MS


def test_a_whole_index_is_listed_beyond_one_page(
    hot: OpenSearchHot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_platform.adapters.opensearch.hot.PAGE_HASHES", 7)
    made = events(40)
    hot.create("north", DAY, batch(made))
    listed = [bytes(row) for row in hot.hashes("north", DAY, 1)]
    assert listed == sorted(e.event_hash for e in made)


# ---------------------------------------------------------------------------------------- refusing


def test_an_index_with_a_foreign_mapping_is_refused_at_start(prefix: str) -> None:
    ask("PUT", f"/{prefix}.north.20260301.g1", {"mappings": {"properties": {"a": {"type": "ip"}}}})
    hot = OpenSearchHot(urls(), prefix)
    with pytest.raises(SettingInvalid, match=r"AUDIT_OPENSEARCH_PREFIX.*foreign mapping.*wanted"):
        hot.check()
    with pytest.raises(HotUnavailable, match="foreign mapping"):
        hot.create("north", DAY, batch(events(1)))
    hot.close()


def test_a_foreign_template_is_refused_at_start(prefix: str) -> None:
    body = {
        "index_patterns": [f"{prefix}.*.g*"],
        "template": {"mappings": {"properties": {"a": {"type": "ip"}}}},
    }
    ask("PUT", f"/_index_template/{prefix}.events-v1", body)
    hot = OpenSearchHot(urls(), prefix)
    with pytest.raises(SettingInvalid, match=r"AUDIT_OPENSEARCH_PREFIX.*template.*another"):
        hot.check()
    hot.close()


def test_its_own_indexes_and_template_are_taken_at_start(hot: OpenSearchHot, prefix: str) -> None:
    hot.create("north", DAY, batch(events(1)))
    again = OpenSearchHot(urls(), prefix)
    again.check()
    assert found(again) == hashes_of(events(1))
    again.close()


# ---------------------------------------------------------------------------------------- snapshots


def test_the_mapping_that_the_server_keeps_is_the_one_that_was_measured(
    hot: OpenSearchHot, prefix: str
) -> None:
    hot.create("north", DAY, batch(events(1)))
    (said,) = ask("GET", f"/{prefix}.north.20260301.g1/_mapping").values()
    assert orjson.loads(orjson.dumps(said["mappings"])) == MAPPING
