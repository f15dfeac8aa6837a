"""Requests as a whole: each wrong one gets a named answer, none gets a 5xx, no process dies."""

from __future__ import annotations

import json
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.services import http_parts, ingest_server
from audit_platform.services.ingest_body import (
    MAX_BODY,
    MAX_COMPRESSED_BODY,
    MAX_EVENTS_PER_BODY,
    decompressed,
)
from audit_platform.services.ingest_problems import PROBLEMS, Problem
from audit_platform_tests.services.ingest_world import World, body_of, event, open_world

GOOD = body_of(event(0), event(1))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("ingest")) as opened:
        yield opened


def compress(body: bytes, *, say_size: bool = True) -> bytes:
    if say_size:
        return zstandard.ZstdCompressor().compress(body)
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(body) + stream.flush()


# ------------------------------------------------------------------------------------- bodies


def test_a_frame_that_does_not_say_its_size_is_taken(world: World) -> None:
    answer = world.post(compress(GOOD, say_size=False), content_encoding="zstd")
    assert answer.json["accepted"] == 2


@pytest.mark.parametrize("say_size", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame[:-1],
        lambda frame: frame[:5],
        lambda frame: frame + b"x",
        lambda frame: frame + frame,
        lambda frame: frame[:20] + bytes([frame[20] ^ 0xFF]) + frame[21:],
        lambda _: b"",
        lambda _: b"not zstd",
        lambda _: GOOD,
        lambda frame: b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + frame,
    ],
)
def test_a_damaged_frame_is_named(world: World, damage: object, *, say_size: bool) -> None:
    assert callable(damage)
    frame = damage(compress(GOOD * 20, say_size=say_size))
    answer = world.post(frame, content_encoding="zstd")
    assert (answer.status, answer.problem()) == (400, "bad_zstd")


@settings(max_examples=200)
@given(st.data())
def test_any_frame_gives_its_content_or_a_named_problem(data: st.DataObject) -> None:
    content = data.draw(st.binary(max_size=400))
    frame = bytearray(compress(content, say_size=data.draw(st.booleans())))
    if data.draw(st.booleans()):
        assert decompressed(bytes(frame)) == content
        return
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        decompressed(bytes(frame))
    except Problem as e:
        assert e.slug in {"bad_zstd", "body_too_large"}  # noqa: PT017 - not raising is good too


@pytest.mark.parametrize("say_size", [True, False])
def test_a_bomb_is_refused_without_being_unpacked(world: World, *, say_size: bool) -> None:
    bomb = compress(b"0" * (256 << 20), say_size=say_size)
    tracemalloc.start()
    with closing(_Stopped()):
        answer = world.post(bomb, content_encoding="zstd")
        peak = tracemalloc.get_traced_memory()[1]
    assert (answer.status, answer.problem()) == (413, "body_too_large")
    assert peak < 4 * MAX_BODY


class _Stopped:
    def close(self) -> None:
        tracemalloc.stop()


def test_bodies_at_the_limit_are_taken_and_over_it_are_refused(world: World) -> None:
    line = b"x" * 1023
    largest = body_of(*[line] * (MAX_BODY // 1024 // 2), b"y" * (MAX_BODY // 2 - 1))
    assert len(largest) == MAX_BODY
    assert world.post(largest).status == 202
    assert world.post_zstd(largest).status == 202
    over = world.post(largest + b"z")
    assert (over.status, over.problem()) == (413, "body_too_large")
    over = world.post_zstd(largest + b"z")
    assert (over.status, over.problem()) == (413, "body_too_large")
    assert str(MAX_BODY) in over.json["detail"]


def test_a_compressed_body_over_its_own_limit_is_refused_before_it_is_read(world: World) -> None:
    answer = world.post(bytes(MAX_COMPRESSED_BODY + 1), content_encoding="zstd")
    assert (answer.status, answer.problem()) == (413, "body_too_large")
    assert str(MAX_COMPRESSED_BODY) in answer.json["detail"]


def test_a_million_tiny_events_are_refused_and_the_limit_is_named(world: World) -> None:
    answer = world.post_zstd(b"{}\n" * 1_000_000)
    assert (answer.status, answer.problem()) == (413, "too_many_events")
    assert str(MAX_EVENTS_PER_BODY) in answer.json["detail"]


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n \t\n\n"])
def test_a_body_without_an_event_is_named(world: World, body: bytes) -> None:
    assert world.post(body).problem() == "empty_body"
    assert world.post_zstd(body).problem() == "empty_body"


def test_a_chunked_body_is_taken(world: World) -> None:
    pieces = [GOOD[:7], GOOD[7:100], GOOD[100:]]
    assert world.post(iter(pieces)).json["accepted"] == 2


def test_a_chunked_body_over_the_limit_is_refused(world: World) -> None:
    piece = b"x" * (1 << 20)
    answer = world.post(iter([piece] * 20))
    assert (answer.status, answer.problem()) == (413, "body_too_large")


# ------------------------------------------------------------------------------------ headers


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({"content_type": ""}, 415, "unsupported_media_type"),
        ({"content_type": "application/json"}, 415, "unsupported_media_type"),
        ({"content_encoding": "gzip"}, 415, "unsupported_encoding"),
        ({"content_encoding": "zstd, zstd"}, 415, "unsupported_encoding"),
        ({"authorization": ""}, 401, "unauthenticated"),
        ({"authorization": "Basic eDp5"}, 401, "unauthenticated"),
        ({"authorization": "Bearer "}, 401, "unauthenticated"),
        ({"authorization": "Bearer no-such-key"}, 401, "unauthenticated"),
        ({"authorization": "Bearer " + "x" * 300}, 401, "unauthenticated"),
        ({"authorization": "Bearer a b"}, 401, "unauthenticated"),
    ],
)
def test_a_wrong_header_is_named(
    world: World, headers: dict[str, str], status: int, slug: str
) -> None:
    answer = world.post(GOOD, **headers)
    assert (answer.status, answer.problem()) == (status, slug)
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


def test_parameters_and_case_of_the_content_type_do_not_matter(world: World) -> None:
    answer = world.post(GOOD, content_type="Application/X-NDJSON; charset=utf-8")
    assert answer.status == 202
    assert world.post(compress(GOOD), content_encoding="ZSTD").status == 202


def test_a_known_scheme_in_any_case_is_taken(world: World) -> None:
    assert world.post(GOOD, authorization=f"bearer {world.secret}").status == 202


# ------------------------------------------------------------------------------- other routes


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/event", 404, "not_found"),
        ("GET", "/v1/events", 405, "method_not_allowed"),
        ("PUT", "/v1/events", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("DELETE", "/metrics", 405, "method_not_allowed"),
        ("GET", "/%00%ff", 404, "not_found"),
    ],
)
def test_a_wrong_route_is_named(
    world: World, method: str, path: str, status: int, slug: str
) -> None:
    answer = world.request(method, path)
    assert (answer.status, answer.problem()) == (status, slug)
    if status == 405:
        assert answer.headers["allow"] in {"GET", "POST"}


def test_health_and_readiness_say_what_they_know(world: World) -> None:
    assert world.request("GET", "/healthz").json == {"status": "alive"}
    ready = world.request("GET", "/readyz")
    assert (ready.status, ready.json) == (200, {"ready": True, "trouble": "", "lock": "advisory"})


def test_every_problem_has_a_title_and_a_status_of_its_kind() -> None:
    for slug, (status, title) in PROBLEMS.items():
        problem = Problem(slug, "d", remedy="r")
        assert json.loads(problem.to_bytes())["type"].endswith(slug)
        assert 400 <= status < 500 or status == 503
        assert title


# -------------------------------------------------------------------------------- connections


def _talk(world: World, *pieces: bytes, close: bool = False) -> bytes:
    """Send raw bytes over a fresh connection; everything that comes back until it is closed."""
    with socket.create_connection(("127.0.0.1", world.port), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if close:
            return b""
        received = b""
        while data := connection.recv(1 << 16):
            received += data
        return received


def _head(world: World, length: int, more: str = "") -> bytes:
    return (
        f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {world.secret}\r\n"
        f"content-type: application/x-ndjson\r\ncontent-length: {length}\r\n{more}\r\n"
    ).encode()


def test_pipelined_bodies_are_answered_in_their_order(world: World) -> None:
    bodies = [body_of(event(n, "piped")) for n in range(4)]
    sent = b"".join(_head(world, len(b)) + b for b in bodies[:3])
    last = _head(world, len(bodies[3]), "connection: close\r\n") + bodies[3]
    received = _talk(world, sent + last)
    assert received.count(b"HTTP/1.1 202 ") == 4
    numbers = [
        json.loads(line)["sequenceNumber"]
        for line in world.stored()
        if b'"deviceId":"piped"' in line
    ]
    assert numbers == [0, 1, 2, 3]


def test_garbage_behind_a_body_does_not_take_the_bodys_answer(world: World) -> None:
    received = _talk(world, _head(world, len(GOOD)) + GOOD + b"\x00garbage\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 202 ")
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_a_named_answer(world: World, raw: bytes) -> None:
    received = _talk(world, raw)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["type"] == "urn:audit-platform:problem:bad_http"


def test_endless_headers_are_cut_off(world: World) -> None:
    endless = b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 40_000
    received = _talk(world, endless[:100], endless[100:])
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b"overhead_too_large" in received


def test_a_chunked_body_of_nothing_but_framing_is_cut_off(world: World) -> None:
    head = _head(world, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
    trailers = b"0\r\n" + b"x: y\r\n" * 40_000
    received = _talk(world, head, trailers[:50], trailers[50:])
    assert received.startswith(b"HTTP/1.1 431 ")


def test_a_client_that_leaves_inside_its_body_leaves_nothing_behind(tmp_path: Path) -> None:
    # A gateway of its own: other clients of this module may leave late.
    with open_world(tmp_path) as world:
        _talk(world, _head(world, 1000)[:40], close=True)
        _talk(world, _head(world, len(GOOD) + 10) + GOOD, close=True)
        gone = '{slug="client_gone",status="none"}'
        _wait_for(lambda: world.metric("audit_ingest_responses_total", gone) == 1)
        assert world.metric("audit_ingest_inflight_bodies") == 0
        assert world.metric("audit_ingest_inflight_bytes") == 0
        assert world.stored() == []


def test_a_client_that_does_not_wait_for_its_answer_is_no_trouble(world: World) -> None:
    body = body_of(event(0, "impatient"))
    _talk(world, _head(world, len(body)) + body, close=True)
    _wait_for(lambda: any(b'"impatient"' in line for line in world.stored()))
    assert world.post(GOOD).status == 202


def test_a_body_that_does_not_come_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_parts, "BODY_SECONDS", 0.05)
    received = _talk(world, _head(world, 100) + b"{")
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in received


def test_a_silent_connection_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_server, "IDLE_SECONDS", 0.05)
    assert _talk(world, b"") == b""
    assert _talk(world, b"GET /healthz HTTP/1.1\r\nhost") == b""
    assert _talk(world, _head(world, 100) + b"{") == b""


def test_expect_100_continue_is_answered_before_the_body(world: World) -> None:
    head = _head(world, len(GOOD), "expect: 100-continue\r\nconnection: close\r\n")
    with socket.create_connection(("127.0.0.1", world.port), timeout=30) as connection:
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(GOOD)
        assert b"HTTP/1.1 202 " in connection.recv(1000)


def _wait_for(condition: object) -> None:
    assert callable(condition)
    tick = threading.Event()
    for _ in range(600):
        if condition():
            return
        tick.wait(0.05)
    raise AssertionError("waited 30 s in vain")


def test_the_server_answers_health_while_a_large_body_is_checked(world: World) -> None:
    lines = [b" " + event(n, "busy") for n in range(5000)]  # the slow way, about a second
    body = body_of(*lines)
    answers: list[int] = []
    poster = threading.Thread(target=lambda: answers.append(world.post(body).status))
    poster.start()
    healthy = 0
    while poster.is_alive():
        healthy += world.request("GET", "/healthz").status == 200
    poster.join()
    assert answers == [202]
    assert healthy >= 3


def test_a_home_without_a_log_is_reported_by_readiness(tmp_path: Path) -> None:
    with open_world(tmp_path / "home") as opened:
        for file in (tmp_path / "home" / "log").rglob("topic.json"):
            file.unlink()
        ready = opened.request("GET", "/readyz")
        assert ready.status == 503
        assert not ready.json["ready"]
        assert ready.json["trouble"]
