"""Questions and answers of query-api: rows, pages, bytes with proof, and the record of each."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pyarrow as pa
import pytest

from audit_platform.errors import HotUnavailable, LogUnavailable
from audit_platform.operations.query.model import Tier
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.search import search
from audit_platform.ports import EventQuery, Hot, Log, NewRecord, Role
from audit_platform.record import layout
from audit_platform.record.columns import EVENT_SCHEMA
from audit_platform.record.event import canonical_of_stored, format_time_ms
from audit_platform.record.layout import PLATFORM_TENANT
from audit_platform.record.proofs import EventProof, check_event_proof
from audit_platform.services import query_desk, query_routes_events
from audit_platform.services.query_access import RULES
from audit_platform.services.query_models import (
    EntryAnswer,
    EventAnswer,
    KeysAnswer,
    ManifestsAnswer,
    QuarantineAnswer,
    ReadsAnswer,
    Ready,
    SearchAnswer,
    TimelineAnswer,
    WhoamiAnswer,
)
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.query_world import (
    OTHER,
    TENANT,
    QueryWorld,
    asking,
    parsed,
    problem,
    query_world,
)
from audit_platform_tests.world import DAY, World

EVENTS = f"/v1/tenants/{TENANT}/events"
ALL = {"from_": format_time_ms(START_MS - 1), "to": format_time_ms(START_MS + 3 * 86_400_000)}
ALARM = {"parameter": "spo2", "severity": "high"}


@dataclass
class Records:
    """A tenant with a sealed day, a day that is not sealed yet, and a refused line."""

    queries: QueryWorld
    auditor: str
    operator: str
    sealed: int
    open: int
    refused: bytes
    known: dict[str, bytes]

    def ask(self, path: str, **params: Any) -> Any:
        return self.queries.ask(path, self.auditor, **params)

    def pages(self, **params: Any) -> list[SearchAnswer]:
        """All pages of a search, by the links between them."""
        found = [parsed(SearchAnswer, self.ask(EVENTS, **params))]
        while found[-1].next is not None:
            found.append(parsed(SearchAnswer, self.ask(found[-1].next)))
        return found


def fill(world: World) -> Records:
    edge = world.edge(TENANT)
    now = world.clock.now_ms()
    lines = [edge.start(now), *edge.heartbeats(3, 5, now)]
    refused = edge.event("pump-000", "heartbeat", {"batteryPercent": "none"}, now + 50)
    lines.append(edge.event("pump-000", "heartbeat", {"batteryPercent": 7}, now + 60))
    world.ingest(TENANT, lines)
    world.refuse(TENANT, [refused])
    # Another tenant's events with the very same device names.
    other = world.edge(OTHER)
    world.ingest(OTHER, [other.start(now), *other.heartbeats(3, 5, now)])
    world.archive()
    world.close()
    world.seal(TENANT)
    world.seal(OTHER)
    late = [
        edge.event("pump-001", "heartbeat", {"batteryPercent": 3}, world.clock.now_ms() - 400_000),
        edge.event("pump-002", "heartbeat", {"batteryPercent": 4}, world.clock.now_ms()),
    ]
    world.ingest(TENANT, late)
    world.archive()
    known = {hashlib.sha256(line).hexdigest(): line for line in [*lines, *late]}
    return Records(None, "", "", len(lines), len(late), refused, known)  # type: ignore[arg-type] # set by who opens the app


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    with query_world(tmp_path_factory.mktemp("api") / "home") as queries:
        made = fill(queries.world)
        made.queries = queries
        made.auditor = queries.key(TENANT, Role.AUDITOR)
        made.operator = queries.key(TENANT, Role.OPERATOR)
        yield made


# ---------------------------------------------------------------------------------------- search


def test_a_search_finds_every_event_of_the_window_once_and_says_how_complete_it_is(
    records: Records,
) -> None:
    found = parsed(SearchAnswer, records.ask(EVENTS, **ALL))
    assert {row.event_hash for row in found.rows} == records.known.keys()
    assert len(found.rows) == records.sealed + records.open
    assert {row.tenant_id for row in found.rows} == {TENANT}
    standings = [row.standing for row in found.rows]
    assert standings.count("sealed") == records.sealed
    assert standings.count("not yet sealed") == records.open
    assert found.tier == "cold"
    assert found.completeness.sentence.startswith("Searched COLD: 2 days")
    assert (found.next_cursor, found.next) == (None, None)


def test_a_row_has_the_events_own_fields(records: Records) -> None:
    for row in parsed(SearchAnswer, records.ask(EVENTS, **ALL)).rows:
        said = orjson.loads(records.known[row.event_hash])
        shown = row.model_dump(by_alias=True)
        del said["checksum"]
        assert {name: shown[name] for name in said} == said


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({"device": "pump-001"}, 6),
        ({"device": "pump-00"}, 0),
        ({"hospital": "h-1"}, 19),
        ({"hospital": "h-2"}, 0),
        ({"type": "chain_start"}, 1),
        ({"criticality": "normal"}, 19),
        ({"criticality": "high"}, 0),
        ({"text": "PUMP 000 batterypercent"}, 6),
        ({"text": "batteryPercent 7"}, 1),
        ({"text": "nothing like it"}, 0),
        ({"device": "pump-000", "type": "heartbeat", "text": "4"}, 1),
    ],
)
def test_filters_all_apply(records: Records, params: dict[str, str], count: int) -> None:
    found = parsed(SearchAnswer, records.ask(EVENTS, **ALL, **params))
    assert len(found.rows) == count
    assert found.query == found.query | params


@pytest.mark.parametrize("clock", ["ingestion", "event"])
@pytest.mark.parametrize("limit", [1, 4, 18])
def test_pages_give_every_row_once_and_in_order(records: Records, clock: str, limit: int) -> None:
    whole = parsed(SearchAnswer, records.ask(EVENTS, **ALL, clock=clock)).rows
    pages = records.pages(**ALL, clock=clock, limit=limit)
    assert [row for page in pages for row in page.rows] == whole
    assert len(pages) == -(-len(whole) // limit)


def test_pages_of_large_payloads_end_earlier_and_lose_nothing(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = parsed(SearchAnswer, records.ask(EVENTS, **ALL)).rows
    monkeypatch.setattr(query_routes_events, "MAX_ANSWER_BYTES", 50)
    pages = records.pages(**ALL, limit=18)
    assert len(pages) > 5
    assert [row for page in pages for row in page.rows] == whole


def test_a_cursor_of_another_question_is_refused_with_the_reason(records: Records) -> None:
    cursor = parsed(SearchAnswer, records.ask(EVENTS, **ALL, limit=2)).next_cursor
    assert cursor is not None
    assert parsed(SearchAnswer, records.ask(EVENTS, **ALL, cursor=cursor, limit=5)).rows
    for params in (
        {**ALL, "device": "pump-001"},
        {**ALL, "clock": "event"},
        {"from_": ALL["from_"]},
    ):
        answer = records.ask(EVENTS, cursor=cursor, **params)
        assert problem(answer) == "bad_cursor"
        assert answer.json()["errors"][0]["field"] == "cursor"
    timeline = f"/v1/tenants/{TENANT}/devices/pump-001/timeline"
    assert problem(records.ask(timeline, **ALL, cursor=cursor)) == "bad_cursor"


def test_without_a_window_the_last_day_is_searched(records: Records) -> None:
    found = parsed(SearchAnswer, records.ask(EVENTS))
    now = records.queries.world.clock.now_ms()
    assert found.query["to"] == format_time_ms(now + 1)
    assert found.query["from"] == format_time_ms(now + 1 - 86_400_000)
    assert len(found.rows) == records.open


def test_times_with_another_zone_mean_the_same_instant(records: Records) -> None:
    there = records.ask(EVENTS, from_="2026-03-01T02:00:00+02:00", to="2026-03-01T02:30:00+02:00")
    here = records.ask(EVENTS, from_="2026-03-01T00:00:00Z", to="2026-03-01T00:30:00.000Z")
    assert len(parsed(SearchAnswer, here).rows) == records.sealed
    assert parsed(SearchAnswer, there).rows == parsed(SearchAnswer, here).rows
    assert there.json()["query"] == here.json()["query"]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"devise": "pump-1"}, "devise"),
        ({"device": "pump 1"}, "device"),
        ({"device": "x" * 129}, "device"),
        ({"device": ["a", "b"]}, "device"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"from_": "yesterday"}, "from"),
        ({"from_": "2026-03-01T00:00:00"}, "from"),
        ({"from_": "2026-03-02T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "from"),
        ({"from_": "2026-01-01T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "from"),
        ({"to": "0001-01-01T00:00:00+01:00"}, "to"),
        ({"text": "   "}, "text"),
        ({"text": "--- ..."}, "text"),
        ({"text": "x" * 201}, "text"),
        ({"clock": "wall"}, "clock"),
        ({"tier": "warm"}, "tier"),
        ({"criticality": "severe"}, "criticality"),
        ({"cursor": "not base64!"}, "cursor"),
        ({"cursor": "AAAA"}, "cursor"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_to_send_instead(
    records: Records, params: dict[str, Any], field: str
) -> None:
    before = len(records.queries.on_record())
    answer = records.ask(EVENTS, **params)
    assert answer.status_code == 400
    assert problem(answer) in {"invalid_parameter", "bad_cursor"}
    errors = answer.json()["errors"]
    assert errors[0]["field"] == field
    assert errors[0]["reason"]
    assert errors[0]["fix"].startswith(("send ", "leave it out", "ask in windows"))
    # Nothing was read, so nothing is on record.
    assert len(records.queries.on_record()) == before


@pytest.mark.parametrize(
    ("path", "slug"),
    [
        ("/v1/nothing", "not_found"),
        ("/v1/keys/", "not_found"),
        (f"{EVENTS}/not-an-id", "invalid_parameter"),
        (f"/v1/tenants/{TENANT}/manifests/0", "invalid_parameter"),
        (f"/v1/tenants/{TENANT}/quarantine/xyz", "invalid_parameter"),
        (f"{EVENTS}?text={'x' * 5000}", "url_too_long"),
    ],
)
def test_a_wrong_path_is_a_problem_too(records: Records, path: str, slug: str) -> None:
    assert problem(records.ask(path)) == slug


def test_nothing_can_be_changed_here(records: Records) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = records.queries.runner.run(
            records.queries.client.request(
                method, EVENTS, headers={"authorization": f"Bearer {records.auditor}"}
            )
        )
        assert problem(answer) == "method_not_allowed"
        assert answer.headers["allow"] == "GET"


# -------------------------------------------------------------------------------------- timeline


def test_a_timeline_shows_the_gap_that_the_refused_line_explains(records: Records) -> None:
    path = f"/v1/tenants/{TENANT}/devices/pump-000/timeline"
    found = parsed(TimelineAnswer, records.ask(path, **ALL))
    assert [row.sequence_number for row in found.rows] == [0, 1, 2, 3, 4, 6]
    marks = [mark for row in found.rows for mark in row.marks if mark.verdict == "declared_gap"]
    assert [(mark.first, mark.last) for mark in marks] == [(5, 5)]
    assert marks[0].cause is not None
    assert found.events == 6


def test_a_timelines_pages_give_every_row_once(records: Records) -> None:
    path = f"/v1/tenants/{TENANT}/devices/pump-001/timeline"
    whole = parsed(TimelineAnswer, records.ask(path, **ALL)).rows
    rows = []
    following: str | None = path
    params: dict[str, Any] = {**ALL, "limit": 2}
    while following is not None:
        page = parsed(TimelineAnswer, records.ask(following, **params))
        rows += page.rows
        following, params = page.next, {}
    assert [row.event_hash for row in rows] == [row.event_hash for row in whole]
    assert len(rows) == 6


def test_an_event_whose_clocks_disagree_is_flagged(records: Records) -> None:
    found = parsed(SearchAnswer, records.ask(EVENTS, **ALL, clock="event"))
    skewed = [row for row in found.rows if row.skewed]
    assert [row.skew_seconds for row in skewed] == [-400.0]
    path = f"/v1/tenants/{TENANT}/devices/pump-001/timeline"
    timeline = parsed(TimelineAnswer, records.ask(path, **ALL))
    assert [row.event_hash for row in timeline.rows if row.skewed] == [skewed[0].event_hash]


def test_a_device_whose_name_has_slashes_is_asked_for_as_it_is(records: Records) -> None:
    auditor = records.queries.key(PLATFORM_TENANT, Role.AUDITOR)
    device = records.queries.app.desk.auditor.source.device_id
    assert device.count("/") == 2
    path = f"/v1/tenants/{PLATFORM_TENANT}/devices/{device}/timeline"
    found = parsed(TimelineAnswer, records.queries.ask(path, auditor))
    assert found.query["to"]
    assert records.queries.on_record()[-1]["query"]["device"] == device


# ------------------------------------------------------------------------------------- one event


def test_a_sealed_event_is_proved_to_an_outsider_by_three_answers(records: Records) -> None:
    some = parsed(SearchAnswer, records.ask(EVENTS, **ALL, device="pump-001")).rows[0]
    by_hash = records.ask(f"{EVENTS}/{some.event_hash}")
    by_id = records.ask(f"{EVENTS}/{some.event_id}")
    copy = parsed(EventAnswer, by_hash).copies[0]
    assert parsed(EventAnswer, by_id).copies == [copy]
    stored = base64.b64decode(copy.stored_base64)
    assert stored == copy.stored_text.encode()
    assert hashlib.sha256(canonical_of_stored(stored)).hexdigest() == some.event_hash
    assert copy.proof is not None
    proof = EventProof.from_json(copy.proof)
    path = f"/v1/tenants/{TENANT}/manifests/{proof.manifest_number}"
    manifest = records.ask(path)
    keys = parsed(KeysAnswer, records.ask("/v1/keys")).keys
    public = next(bytes.fromhex(k.public_key) for k in keys if k.key_id == proof.key_id)
    assert check_event_proof(stored, proof, manifest.content, public) == []
    changed = stored.replace(b'"batteryPercent":', b'"batteryPercenT":')
    assert check_event_proof(changed, proof, manifest.content, public) != []


def test_an_event_that_is_not_sealed_yet_has_its_bytes_and_no_proof(records: Records) -> None:
    row = parsed(SearchAnswer, records.ask(EVENTS, **ALL)).rows[-1]
    assert row.standing == "not yet sealed"
    copy = parsed(EventAnswer, records.ask(f"{EVENTS}/{row.event_hash}")).copies[0]
    assert copy.proof is None
    assert canonical_of_stored(copy.stored_text.encode()) == records.known[row.event_hash]


def test_an_event_that_is_not_there_is_asked_for_on_record_and_says_where_was_looked(
    records: Records,
) -> None:
    answer = records.ask(f"{EVENTS}/{'0' * 64}")
    assert problem(answer) == "not_found"
    assert "Searched COLD" in answer.json()["detail"]
    record = records.queries.on_record()[-1]
    assert record["requestId"] == answer.headers["x-request-id"]
    assert (record["outcome"], record["rows"]) == ("answered", 0)


def test_another_tenants_event_is_not_there(records: Records) -> None:
    stranger = records.queries.key(OTHER, Role.AUDITOR)
    own = parsed(
        SearchAnswer, records.queries.ask(f"/v1/tenants/{OTHER}/events", stranger, **ALL)
    ).rows[0]
    assert problem(records.ask(f"{EVENTS}/{own.event_hash}")) == "not_found"
    assert problem(records.ask(f"{EVENTS}/{own.event_id}")) == "not_found"


# ------------------------------------------------------------------------ quarantine, manifests


def test_a_refused_line_is_found_with_its_exact_bytes(records: Records) -> None:
    path = f"/v1/tenants/{TENANT}/quarantine"
    found = parsed(QuarantineAnswer, records.ask(path, **ALL))
    assert [row.slug for row in found.rows] == ["schema_violation"]
    row = found.rows[0]
    assert row.device_id == "pump-000"
    assert row.event_hash == hashlib.sha256(records.refused).hexdigest()
    entry = parsed(EntryAnswer, records.ask(f"{path}/{row.entry_id}")).entry
    assert base64.b64decode(entry.bytes_base64) == records.refused
    assert entry.text == records.refused.decode()
    assert entry.whole
    assert entry.place == row.place
    by_hash = parsed(EventAnswer, records.ask(f"{EVENTS}/{row.event_hash}"))
    assert [q.entry_id for q in by_hash.quarantined] == [row.entry_id]
    nothing = parsed(QuarantineAnswer, records.ask(path))
    assert nothing.rows == []


def test_a_long_quarantine_has_pages(tmp_path: Path) -> None:
    with query_world(tmp_path / "home") as queries:
        world = queries.world
        edge = world.edge(TENANT)
        for _ in range(3):
            world.refuse(TENANT, [b'{"n":%d}' % n for n in range(4)])
            world.archive()
            world.clock.advance(40_000_000)
        edge.start(world.clock.now_ms())
        secret = queries.key(TENANT, Role.OPERATOR)
        seen: list[str] = []
        following: str | None = f"/v1/tenants/{TENANT}/quarantine"
        params: dict[str, Any] = {**ALL, "limit": 5}
        while following is not None:
            page = parsed(QuarantineAnswer, queries.ask(following, secret, **params))
            assert len(page.rows) <= 5
            seen += [row.entry_id for row in page.rows]
            following, params = page.next, {}
        assert len(seen) == len(set(seen)) == 12


def test_manifests_are_listed_and_each_is_the_file_itself(records: Records) -> None:
    path = f"/v1/tenants/{TENANT}/manifests"
    listed = parsed(ManifestsAnswer, records.ask(path)).rows
    assert [(m.number, m.day, m.signed) for m in listed] == [(1, DAY, True)]
    one = records.ask(f"{path}/1")
    assert hashlib.sha256(one.content).hexdigest() == listed[0].sha256
    assert one.headers["etag"] == f'"{listed[0].sha256}"'
    place = records.queries.world.objects_folder / one.headers["audit-object-key"]
    assert place.read_bytes() == one.content
    assert problem(records.ask(f"{path}/2")) == "not_found"


# ---------------------------------------------------------------------------------------- export


def test_an_export_has_every_row_of_the_search_and_a_total(records: Records) -> None:
    path = f"/v1/tenants/{TENANT}/export"
    as_lines = records.ask(path, **ALL)
    assert as_lines.headers["content-type"] == "application/x-ndjson"
    lines = [orjson.loads(line) for line in as_lines.content.splitlines()]
    hashes = {line["eventHash"] for line in lines if "eventHash" in line}
    assert hashes == records.known.keys()
    assert str(len(records.known)) in as_lines.text.splitlines()[-1]
    as_table = records.ask(path, **ALL, format="csv")
    assert as_table.headers["content-type"].startswith("text/csv")
    cells = {cell for row in csv.reader(io.StringIO(as_table.text)) for cell in row}
    assert records.known.keys() <= cells
    record = records.queries.on_record()[-1]
    assert record["query"]["format"] == "csv"
    assert record["outcome"] == "answered"
    assert "rows" not in record


# ----------------------------------------------------------------------------------------- reads


def test_who_looked_at_what_is_told_to_the_tenants_own_operators(tmp_path: Path) -> None:
    with query_world(tmp_path / "home") as queries:
        fill(queries.world)
        investigator = queries.key(TENANT, Role.INVESTIGATOR)
        stranger = queries.key(OTHER, Role.AUDITOR)
        read = queries.ask(EVENTS, investigator, text="battery", **ALL)
        # Of others, though the tenant's words stand in both: not its business.
        elsewhere = queries.ask(f"/v1/tenants/{OTHER}/events", stranger, text=TENANT)
        assert elsewhere.status_code == 200
        queries.ask(f"/v1/tenants/{OTHER}/events", investigator)
        tried = queries.ask(EVENTS, stranger)
        assert (read.status_code, tried.status_code) == (200, 404)
        queries.world.archive()
        path = f"/v1/tenants/{TENANT}/reads"
        answer = queries.ask(path, queries.key(TENANT, Role.OPERATOR))
        found = parsed(ReadsAnswer, answer).rows
        assert [row.read_request_id for row in found] == [
            read.headers["x-request-id"],
            tried.headers["x-request-id"],
        ]
        own, strange = found
        assert own.key_id == investigator.split("_")[1]
        assert own.query is not None
        assert own.query["text"] == "battery"
        assert (own.role, own.outcome) == ("investigator", "answered")
        # That somebody tried is the tenant's business; who, is the platform's.
        assert (strange.key_id, strange.role, strange.outcome) == (None, None, "not_found")
        assert OTHER not in answer.text
        # The auditor of the platform sees all of it.
        everything = queries.ask(
            f"/v1/tenants/{PLATFORM_TENANT}/events", queries.key(PLATFORM_TENANT, Role.AUDITOR)
        )
        kinds = [row.event_type for row in parsed(SearchAnswer, everything).rows]
        assert kinds.count("record_read") == 2
        assert kinds.count("access_refused") == 2


def test_a_long_list_of_reads_has_pages(tmp_path: Path) -> None:
    with query_world(tmp_path / "home") as queries:
        auditor = queries.key(TENANT, Role.AUDITOR)
        wanted = [queries.ask(EVENTS, auditor).headers["x-request-id"] for _ in range(7)]
        queries.world.archive()
        seen = []
        following: str | None = f"/v1/tenants/{TENANT}/reads"
        params: dict[str, Any] = {**ALL, "limit": 3}
        while following is not None:
            page = parsed(ReadsAnswer, queries.ask(following, auditor, **params))
            seen += [row.read_request_id for row in page.rows]
            following, params = page.next, {}
        assert seen == wanted


#: Reads that need no more than what was recorded; decisions about dead letters have tests of their
#: own (`operations/dlq`, row 12).
PLAIN_READS = [path for path in RULES if "{tenant}" in path and "/proposals" not in path]


@pytest.mark.parametrize("template", PLAIN_READS)
def test_every_read_of_a_tenant_is_on_record(records: Records, template: str) -> None:
    known = parsed(SearchAnswer, records.ask(EVENTS, **ALL)).rows[0].event_hash
    entry = parsed(QuarantineAnswer, records.ask(f"/v1/tenants/{TENANT}/quarantine", **ALL)).rows[0]
    path = template.format(
        tenant=TENANT, event=known, device="pump-001", entry=entry.entry_id, number=1
    )
    before = len(records.queries.on_record())
    answer = records.ask(path)
    assert answer.status_code == 200
    record = records.queries.on_record()[before:]
    assert [r["requestId"] for r in record] == [answer.headers["x-request-id"]]
    assert record[0]["route"] == f"GET {template}"
    assert record[0]["tenant"] == TENANT
    assert record[0]["keyId"] == records.auditor.split("_")[1]
    assert records.auditor.split("_")[2] not in str(record)


# --------------------------------------------------------------------------- no audit, no answer


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


@pytest.mark.parametrize("path", [EVENTS, f"/v1/tenants/{TENANT}/export"])
def test_no_byte_of_an_answer_leaves_before_its_record_is_durable(
    records: Records, path: str
) -> None:
    log = HeldLog(records.queries.world.platform.log)
    with asking(records.queries.world, log=log) as queries:

        async def scenario() -> None:
            asked = asyncio.create_task(queries.asking(path, records.auditor, **ALL))
            while not queries.app.desk.auditor._flushing:  # noqa: ASYNC110 - a private state
                await asyncio.sleep(0)
            await asyncio.wait([asked], timeout=0.05)
            assert not asked.done()
            before = len(queries.on_record())
            log.gate.set()
            answer = await asked
            assert answer.status_code == 200
            assert len(queries.on_record()) == before + 1

        queries.runner.run(scenario())
    assert log.appends == 1


@pytest.mark.parametrize("path", [EVENTS, f"/v1/tenants/{TENANT}/export"])
def test_a_read_that_cannot_be_recorded_is_not_answered(records: Records, path: str) -> None:
    log = HeldLog(records.queries.world.platform.log)
    log.gate.set()
    with asking(records.queries.world, log=log) as queries:
        log.away = True
        answer = queries.ask(path, records.auditor, **ALL)
        assert problem(answer) == "audit_unavailable"
        assert answer.headers["retry-after"] == "1"
        assert "pump" not in answer.text
        assert queries.metric('audit_reads_not_recorded_total{event_type="record_read"}') == 1
        log.away = False
        assert queries.ask(path, records.auditor, **ALL).status_code == 200
        # No slot was lost to the one that failed.
        assert not queries.app.desk.queries._running


def test_reads_at_once_share_appends(records: Records) -> None:
    log = HeldLog(records.queries.world.platform.log)
    with asking(records.queries.world, log=log) as queries:
        secrets = [queries.key(f"t-{n}", Role.AUDITOR) for n in range(12)]

        async def scenario() -> None:
            tasks = [
                asyncio.create_task(queries.asking(f"/v1/tenants/t-{n}/events", secret))
                for n, secret in enumerate(secrets)
            ]
            auditor = queries.app.desk.auditor
            while len(auditor._waiting) < 8:  # noqa: ASYNC110 - a private state
                await asyncio.sleep(0)
            log.gate.set()
            answers = await asyncio.gather(*tasks)
            assert {a.status_code for a in answers} == {200}

        queries.runner.run(scenario())
    assert log.appends <= 5


# ------------------------------------------------------------------------------------------ tiers


def into_hot(world: World) -> None:
    """Index the tenant's archived events, day by day."""
    found = search(
        Reader(world.platform),
        EventQuery(TENANT, START_MS - 1, START_MS + 3 * 86_400_000, limit=1000),
        tier=Tier.COLD,
    )
    days = [layout.day_of(ms) for ms in found.rows["ingestion_time"].cast(pa.int64()).to_pylist()]
    for day in sorted(set(days)):
        mask = pa.array([d == day for d in days])
        rows = found.rows.filter(mask).select(EVENT_SCHEMA.names).combine_chunks()
        world.platform.hot.create(TENANT, day, rows.to_batches()[0])


class AwayHot:
    """HOT that does not answer."""

    def __getattr__(self, name: str) -> Any:
        raise HotUnavailable("HOT is away", remedy="restart it")


def test_hot_and_cold_give_the_same_rows_and_say_which(tmp_path: Path) -> None:
    with query_world(tmp_path / "home") as queries:
        fill(queries.world)
        into_hot(queries.world)
        secret = queries.key(TENANT, Role.INVESTIGATOR)
        answers = {
            tier: parsed(SearchAnswer, queries.ask(EVENTS, secret, tier=tier, **ALL))
            for tier in ("auto", "hot", "cold")
        }
        assert {tier: a.tier for tier, a in answers.items()} == {
            "auto": "hot",
            "hot": "hot",
            "cold": "cold",
        }
        assert answers["hot"].rows == answers["cold"].rows == answers["auto"].rows
        assert len(answers["hot"].rows) == 19
        assert [r["tier"] for r in queries.on_record()] == ["hot", "hot", "cold"]
        away: Hot = AwayHot()
        with asking(queries.world, hot=away) as degraded:
            found = parsed(SearchAnswer, degraded.ask(EVENTS, secret, **ALL))
            assert found.tier == "cold"
            assert "HOT degraded, using COLD (slower)" in found.completeness.sentence
            answer = degraded.ask(EVENTS, secret, tier="hot", **ALL)
            assert problem(answer) == "store_unavailable"
            assert answer.headers["retry-after"] == "1"
            assert [r["outcome"] for r in degraded.on_record()][-1] == "failed"


# ------------------------------------------------------------------------------ the service itself


def test_health_readiness_and_who_am_i(records: Records) -> None:
    assert records.queries.ask("/healthz").json() == {"status": "alive"}
    ready = parsed(Ready, records.queries.ask("/readyz"))
    assert (ready.ready, ready.trouble, ready.lock) == (True, "", "advisory")
    me = parsed(WhoamiAnswer, records.queries.ask("/v1/whoami", records.operator))
    assert (me.tenant_id, me.role) == (TENANT, "operator")
    assert "/v1/tenants/{tenant}/reads" in me.routes
    assert "/v1/tenants/{tenant}/export" not in me.routes


def test_a_service_without_its_log_is_not_ready(records: Records) -> None:
    class NoLog:
        def describe(self, topic: str) -> Any:
            raise LogUnavailable(f"{topic} is away")

    away: Log = NoLog()  # type: ignore[assignment] # readiness asks for nothing else
    with asking(records.queries.world, log=away) as queries:
        answer = queries.ask("/readyz")
        assert answer.status_code == 503
        assert "away" in answer.json()["trouble"]


def test_the_description_is_openapi_3_1_and_loads_nothing_from_elsewhere(
    records: Records,
) -> None:
    document = records.queries.ask("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "http" not in str(document["paths"])
    described = set(document["paths"])
    hidden = {"/healthz", "/metrics", "/openapi.json"}
    assert described == RULES.keys() - hidden
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        jsonschema_rs.meta.validate(schema)
    named = set(re.findall(r"'#/components/schemas/(\w+)'", str(document)))
    assert named
    assert named <= schemas.keys()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert {"200", "400", "401", "429", "503"} <= operation["responses"].keys(), path
            assert "422" not in operation["responses"], path
    names = {
        p["name"] for p in document["paths"]["/v1/tenants/{tenant}/events"]["get"]["parameters"]
    }
    assert {"from", "to", "clock", "device", "text", "cursor", "limit"} <= names


def test_answers_are_counted_and_timed_by_route(records: Records) -> None:
    name = 'audit_query_responses_total{route="/v1/tenants/{tenant}/events",slug="",status="200"}'
    series = 'audit_query_seconds_count{route="GET /v1/tenants/{tenant}/events",tier="cold"}'
    before = records.queries.metric(name), records.queries.metric(series)
    records.ask(EVENTS, **ALL)
    assert records.queries.metric(name) == before[0] + 1
    assert records.queries.metric(series) == before[1] + 1


@pytest.mark.parametrize("path", [EVENTS, "/v1/keys", "/v1/nothing", f"{EVENTS}?limit=0"])
def test_no_cache_may_answer_for_us(records: Records, path: str) -> None:
    assert records.ask(path).headers["cache-control"] == "no-store"


def test_a_slow_query_is_a_line_in_the_log(
    records: Records, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records.ask(EVENTS, **ALL)
    assert "a slow query" not in caplog.text
    monkeypatch.setattr(query_desk, "SLOW_SECONDS", 0.0)
    answer = records.ask(EVENTS, **ALL, text="alarm")
    lines = [r.__dict__ for r in caplog.records if r.getMessage() == "a slow query"]
    assert len(lines) == 1
    assert lines[0]["tenant"] == TENANT
    assert lines[0]["request_id"] == answer.headers["x-request-id"]
    assert lines[0]["query_digest"] == records.queries.on_record()[-1]["queryDigest"]
    assert "alarm" not in str(lines[0])


def test_a_fault_of_ours_is_a_problem_with_the_request_id_and_shows_nothing(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    with asking(records.queries.world) as queries:
        queries.app.desk.reader = None  # type: ignore[assignment] # the fault
        answer = queries.ask(EVENTS, records.auditor)
        assert problem(answer) == "internal_error"
        assert answer.headers["x-request-id"] in answer.json()["remedy"]
        assert queries.on_record()[-1]["outcome"] == "failed"
    assert "a request failed" in caplog.text
