"""The edge over HTTP: answers, refused bytes that are kept, the status page, metrics, readiness."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import urllib3
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.errors import KeysUnavailable, SpoolFull, SpoolUnavailable
from audit_platform.ports import EdgePorts, NewEntry, SetAside
from audit_platform.services import edge_gateway, edge_status
from audit_platform.services.edge_gateway import EdgeGateway
from audit_platform.services.edge_quarantine import Quarantine
from audit_platform.services.edge_status import EdgeParts
from audit_platform.services.edge_uplink import UplinkStatus
from audit_platform.services.ingest_body import MAX_EVENTS_PER_BODY
from audit_platform.services.ingest_server import make_server, serve
from audit_platform.telemetry import Telemetry
from audit_platform_tests.services.edge_world import EDGE, ROOMY, EdgeWorld, line, sequences
from audit_platform_tests.services.ingest_world import free_socket

SECONDS = 30.0

CALM = UplinkStatus(
    connected=True,
    backlog_entries=0,
    backlog_events=0,
    replay_progress=1.0,
    unarchived_records=0,
    set_aside=0,
    clock_offset_ms=0,
    trouble="",
)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


@dataclass
class Gateway:
    """A running edge-gateway, its parts, and a client."""

    edge: EdgeWorld
    app: EdgeGateway
    port: int
    quarantine: Quarantine
    uplink: UplinkStatus = CALM
    pool: urllib3.HTTPConnectionPool = field(init=False)

    def __post_init__(self) -> None:
        self.pool = urllib3.HTTPConnectionPool("127.0.0.1", self.port, timeout=SECONDS, maxsize=4)

    def get(self, path: str, method: str = "GET") -> Answer:
        return self._answer(self.pool.request(method, path, retries=False))

    def post(self, body: bytes, content_type: str = "application/x-ndjson", **more: str) -> Answer:
        headers = {
            "content-type": content_type,
            **{k.replace("_", "-"): v for k, v in more.items()},
        }
        return self._answer(
            self.pool.request("POST", "/v1/events", body=body, headers=headers, retries=False)
        )

    @staticmethod
    def _answer(found: urllib3.BaseHTTPResponse) -> Answer:
        return Answer(found.status, {k.lower(): v for k, v in found.headers.items()}, found.data)

    def metric(self, series: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        [value] = [text.rpartition(" ")[2] for text in lines if text.startswith(f"{series} ")]
        return float(value)


@contextmanager
def running(folder: Path) -> Iterator[Gateway]:
    edge = EdgeWorld(folder)
    edge.telemetry = Telemetry(edge_gateway.METRICS)
    edge.intake._telemetry = edge.telemetry
    edge.intake.open_epoch()
    found: list[Gateway] = []
    parts = EdgeParts(
        EdgePorts(edge.clock, edge.keys, edge.spool),
        EDGE,
        edge.intake,
        Quarantine(folder / "quarantine"),
        lambda: found[0].uplink,
        ROOMY.max_bytes,
        ROOMY.max_hours,
    )
    app = EdgeGateway(parts, edge.telemetry)
    sock = free_socket()
    server = make_server(app)
    thread = threading.Thread(target=serve, args=(server, sock))
    thread.start()
    found.append(Gateway(edge, app, sock.getsockname()[1], parts.quarantine))
    try:
        yield found[0]
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        app.close()
        edge.stop()
        assert not thread.is_alive()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for requests that leave nothing behind that another test would see."""
    with running(tmp_path_factory.mktemp("edge")) as opened:
        yield opened


def body_of(*lines: bytes) -> bytes:
    return b"".join(one + b"\n" for one in lines)


# ---------------------------------------------------------------------------------------- bodies


def test_a_batch_is_taken_and_202_counts_it(gateway: Gateway) -> None:
    answer = gateway.post(body_of(line(0), line(1), line(0, "pump-2")))
    assert answer.status == 202
    assert answer.json == {
        "accepted": 3,
        "alreadyTaken": 0,
        "conflicts": 0,
        "refused": 0,
        "lines": [],
        "quarantine": None,
    }
    assert sequences(gateway.edge.events("pump-1")) == [0, 1]


def test_a_single_event_is_taken_however_it_is_laid_out(gateway: Gateway) -> None:
    pretty = json.dumps(json.loads(line(0)), indent=2).encode()
    assert gateway.post(pretty, "application/json; charset=utf-8").json["accepted"] == 1
    assert gateway.post(line(1), "application/x-ndjson").json["accepted"] == 1
    assert sequences(gateway.edge.events("pump-1")) == [0, 1]


def test_a_compressed_batch_is_taken(gateway: Gateway) -> None:
    body = zstandard.ZstdCompressor().compress(body_of(line(0), line(1)))
    assert gateway.post(body, content_encoding="zstd").json["accepted"] == 2


def test_the_answer_names_each_line_that_is_not_plainly_accepted(gateway: Gateway) -> None:
    gateway.post(body_of(line(0)))
    answer = gateway.post(
        b"\n"
        + body_of(
            line(0),
            line(0, payload={"uptimeSeconds": 5}),
            b"  ",
            b"?",
            line(1, payload={"uptimeSeconds": "x"}),
            line(2),
        )
    )
    assert answer.status == 202
    counts = {k: v for k, v in answer.json.items() if isinstance(v, int)}
    assert counts == {"accepted": 2, "alreadyTaken": 1, "conflicts": 1, "refused": 1}
    said = {row["line"]: row for row in answer.json["lines"]}
    assert {n: row["outcome"] for n, row in said.items()} == {
        2: "already_taken",
        3: "conflict",
        5: "refused",
        6: "accepted",
    }
    assert said[3]["slug"] == "sequence_conflict"
    assert said[5]["slug"] == "bad_json"
    assert (said[6]["flag"], said[6]["field"]) == ("schema_violation", "payload.uptimeSeconds")
    for n in (3, 5, 6):
        assert said[n]["reason"]
        assert said[n]["remedy"]


def test_refused_bytes_are_kept_and_the_answer_names_the_file(gateway: Gateway) -> None:
    answer = gateway.post(b'{"deviceId":"pump-1"}', "application/json")
    assert answer.status == 422
    [said] = answer.json["lines"]
    assert (said["field"], said["outcome"]) == ("eventType", "refused")
    [row] = (
        (gateway.edge.folder / "quarantine" / answer.json["quarantine"]).read_text().splitlines()
    )
    assert base64.b64decode(json.loads(row)["bytes"]) == b'{"deviceId":"pump-1"}'
    assert gateway.get("/v1/status").json["quarantine"]["newest"] == [answer.json["quarantine"]]
    assert answer.json["quarantine"] in gateway.get("/").body.decode()


def test_refused_bytes_that_cannot_be_kept_are_refused_all_the_same(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_now_ms: int, _refused: Sequence[object]) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gateway.quarantine, "keep", full)
    answer = gateway.post(b"?")
    assert (answer.status, answer.json["quarantine"]) == (422, None)


def test_a_body_that_is_not_zstd_is_refused_and_kept(gateway: Gateway) -> None:
    answer = gateway.post(b"not zstd", content_encoding="zstd")
    assert answer.status == 400
    assert answer.json["type"].endswith(":bad_zstd")
    assert gateway.quarantine.status().files == 1


@pytest.mark.parametrize(
    ("body", "headers", "status", "slug"),
    [
        (b"", {}, 400, "empty_body"),
        (b"\n \t\r\n", {}, 400, "empty_body"),
        (b"{}\n" * (MAX_EVENTS_PER_BODY + 1), {}, 413, "too_many_events"),
        (b"{}", {"content_type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"content_encoding": "gzip"}, 415, "unsupported_encoding"),
    ],
)
def test_a_wrong_request_is_named_and_nothing_is_kept(
    shared: Gateway, body: bytes, headers: dict[str, str], status: int, slug: str
) -> None:
    before = shared.quarantine.status()
    answer = shared.post(body, **headers)
    assert (answer.status, answer.json["type"].rpartition(":")[2]) == (status, slug)
    assert answer.json["remedy"]
    assert shared.quarantine.status() == before


@settings(max_examples=60, deadline=None)
@given(body=st.binary(min_size=1, max_size=80), is_single=st.booleans())
def test_any_bytes_get_a_named_answer_and_are_kept(
    shared: Gateway, body: bytes, *, is_single: bool
) -> None:
    answer = shared.post(body, "application/json" if is_single else "application/x-ndjson")
    if answer.status == 400:
        assert answer.json["type"].endswith(":empty_body")
        return
    assert answer.status == 422
    kept = (shared.edge.folder / "quarantine" / answer.json["quarantine"]).read_bytes()
    rows = [orjson.loads(row) for row in kept.splitlines()]
    found = [base64.b64decode(row["bytes"]) for row in rows]
    assert found == [
        one for one in ([body] if is_single else body.split(b"\n")) if one.strip(b" \t\r")
    ]


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        (SpoolFull("full"), "spool_full"),
        (SpoolUnavailable("EIO"), "spool_unavailable"),
        (KeysUnavailable("EIO"), "spool_unavailable"),
    ],
)
def test_when_the_spool_takes_nothing_the_device_is_told_to_come_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: Exception, slug: str
) -> None:
    def append(_entries: Sequence[NewEntry]) -> None:
        raise error

    monkeypatch.setattr(gateway.edge.intake._spool, "append", append)
    answer = gateway.post(line(0))
    assert (answer.status, answer.json["type"].rpartition(":")[2]) == (503, slug)
    assert int(answer.headers["retry-after"]) >= 1
    monkeypatch.undo()
    assert gateway.post(line(0)).json["accepted"] == 1


# ------------------------------------------------------------------------------------ other routes


def test_health_readiness_and_unknown_paths(gateway: Gateway) -> None:
    assert gateway.get("/healthz").status == 200
    assert gateway.get("/readyz").json == {"ready": True, "trouble": ""}
    assert gateway.get("/nothing").status == 404
    assert gateway.get("/v1/events").status == 405
    gateway.edge.intake._memory.chain_id = ""
    unready = gateway.get("/readyz")
    assert (unready.status, unready.json["ready"]) == (503, False)


def test_metrics_tell_of_uplink_spool_devices_and_outcomes(gateway: Gateway) -> None:
    gateway.post(body_of(line(0), line(0), line(0, "pump-2"), b"?"))
    gateway.uplink = replace(
        CALM, connected=False, backlog_events=7, replay_progress=0.25, clock_offset_ms=-1500
    )
    site = EDGE.site
    assert gateway.metric(f'edge_connected{{site="{site}"}}') == 0
    assert gateway.metric('device_last_seen{device="pump-2"}') == gateway.edge.clock.ms / 1000
    assert gateway.metric("audit_edge_backlog_events") == 7
    assert gateway.metric("audit_edge_replay_progress_ratio") == 0.25
    assert gateway.metric("edge_clock_offset_seconds") == -1.5
    assert gateway.metric("audit_edge_quarantine_files") == 1
    assert gateway.metric("audit_edge_spool_bytes") == gateway.edge.spool.status().bytes > 0
    assert gateway.metric("audit_edge_spool_committed_entries") == 3
    assert gateway.metric('audit_edge_events_total{outcome="accepted"}') == 2
    assert gateway.metric('audit_edge_events_total{outcome="already_taken"}') == 1
    assert gateway.metric('audit_edge_events_total{outcome="refused"}') == 1
    assert gateway.metric('audit_edge_responses_total{slug="",status="202"}') == 1
    gateway.uplink = CALM
    assert gateway.metric(f'edge_connected{{site="{site}"}}') == 1


def test_of_many_devices_the_metrics_show_those_that_are_silent_for_longest(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_status, "MAX_METRIC_DEVICES", 2)
    for n in range(4):
        gateway.post(line(0, f"pump-{n}"))
        gateway.edge.clock.advance(1000)
    gateway.post(line(1, "pump-0"))
    shown = [
        text.partition("{")[2].partition("}")[0]
        for text in gateway.get("/metrics").body.decode().splitlines()
        if text.startswith("device_last_seen{")
    ]
    assert sorted(shown) == ['device="pump-1"', 'device="pump-2"']


def test_the_status_says_everything_an_operator_asks(gateway: Gateway) -> None:
    gateway.post(body_of(line(0)))
    gateway.uplink = replace(CALM, connected=False, trouble="no answer: refused", set_aside=2)
    found = gateway.get("/v1/status").json
    assert found["epoch"] == gateway.edge.intake.epoch
    assert (found["site"], found["tenantId"], found["deviceId"]) == ("ward 3", "north", "edge-1")
    assert found["uplink"]["connected"] is False
    assert found["uplink"]["setAsideEvents"] == 2
    assert found["clock"] == {"off": False, "offsetMs": 0}
    assert found["spool"]["encrypted"] is True
    assert 0 < found["spool"]["fill"] < 1
    assert found["devices"]["known"] == 1
    assert found["devices"]["silentLongest"][0]["deviceId"] == "pump-1"


def test_the_status_page_is_one_text_that_shows_trouble_and_escapes_what_others_wrote(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gateway.edge.spool.status()
    hostile = SetAside("<script>.seg", 0, 9, "<b>bad</b>")
    monkeypatch.setattr(
        gateway.edge.spool, "status", lambda: replace(real, set_aside=(hostile,)), raising=False
    )
    gateway.uplink = replace(CALM, connected=False, trouble="<i>no answer</i>")
    gateway.post(line(0))
    answer = gateway.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    text = answer.body.decode()
    assert "<script>" not in text
    assert "<b>bad" not in text
    assert "&lt;i&gt;no answer" in text
    assert "pump-1" in text
    assert 'http-equiv="refresh"' in text
    assert "http://" not in text
    assert "https://" not in text
