"""The feeder: right chains, exact receipts, and the same bytes again through every death."""

from __future__ import annotations

import functools
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from audit_platform.demo import edge_state, feeder
from audit_platform.demo.edge_state import EdgeFolder, edge_public_key
from audit_platform.demo.feeder import Feeder, Pace, Plan
from audit_platform.demo.mapping import DeviceEvent, device_events
from audit_platform.demo.numbers import numbers_of
from audit_platform.demo.sender import Sender, SendRefused
from audit_platform.record import layout, signing
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.demo.gateway import API_KEY, Gateway, running

TENANT = "eicu-79"
DAY = layout.day_of(START_MS)
EVENTS = 1139
#: Long past the day: everything is due at once.
LATE = START_MS + 2 * layout.MS_PER_DAY


@functools.cache
def _day_of(tenant_id: str, excerpt: Path) -> tuple[DeviceEvent, ...]:
    return tuple(device_events(tenant_id, excerpt))


@pytest.fixture(autouse=True)
def _read_the_excerpt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same events, without reading the Parquet files for each of some hundred starts."""
    monkeypatch.setattr(feeder, "device_events", lambda t, e: iter(_day_of(t, e)))


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with running(Gateway(TENANT)) as served:
        yield served


def _sender(gateway: Gateway, waits: list[float] | None = None) -> Sender:
    pauses = [] if waits is None else waits
    return Sender(gateway.url, API_KEY, wait=pauses.append, jitter=lambda: 1.0)


def _run(gateway: Gateway, home: Path, clock_ms: int = LATE, **plan: Any) -> Feeder:
    clock = ManualClock(clock_ms)
    pace = Pace(clock, wait=lambda seconds: clock.advance(max(1, round(seconds * 1000))))
    made = Feeder(Plan(TENANT, DAY, **plan), EdgeFolder(home), _sender(gateway), pace)
    made.run()
    return made


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _receipts(home: Path) -> list[dict[str, Any]]:
    return [line for line in _lines(home / "receipts.ndjson") if "eventId" in line]


def _ids(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["eventId"], line["eventHash"]) for line in lines]


def _check_lists(gateway: Gateway, home: Path) -> None:
    """Sent, receipts and what the gateway took are the same sets; no line stands twice."""
    sent, receipts = _ids(_lines(home / "sent.ndjson")), _ids(_receipts(home))
    assert len(set(sent)) == len(sent)
    assert sent == receipts
    taken = {hashlib.sha256(line).hexdigest() for line in gateway.accepted_lines}
    assert {h for _, h in sent} == taken | set(gateway.refused)


def _check_chains(events: list[dict[str, Any]]) -> None:
    """Per device: sequences without a hole, each prevHash the hash before; epochs announced."""
    starts = {e["chainId"]: e for e in events if e["eventType"] == "chain_start"}
    heads: dict[str, str] = {}
    following: dict[str, int] = {}
    for event in events:
        device, line = event["deviceId"], orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
        start = starts[event["chainId"]]
        start_hash = hashlib.sha256(orjson.dumps(start, option=orjson.OPT_SORT_KEYS)).hexdigest()
        if event is start:
            assert event["prevHash"] == layout.ZERO_HASH
        else:
            assert event["prevHash"] == heads.get(device, start_hash)
        assert event["sequenceNumber"] == following.get(device, 0)
        following[device] = event["sequenceNumber"] + 1
        heads[device] = hashlib.sha256(line).hexdigest()


def _sent_events(gateway: Gateway) -> list[dict[str, Any]]:
    """Every event of the bodies that reached the gateway, repeated bodies once."""
    events = []
    for body in dict.fromkeys(gateway.bodies):
        lines = zstandard.ZstdDecompressor().decompress(body).splitlines()
        events += [orjson.loads(line) for line in lines]
    return events


# ----------------------------------------------------------------------------------- one start


def test_a_whole_day_is_sent_once_and_receipts_say_what_became_of_it(
    gateway: Gateway, tmp_path: Path
) -> None:
    _run(gateway, tmp_path)
    _check_lists(gateway, tmp_path)
    _check_chains(_sent_events(gateway))
    receipts = _receipts(tmp_path)
    expected = numbers_of(device_events(TENANT))
    refused = [r for r in receipts if r["outcome"] == "refused"]
    assert len(receipts) == EVENTS + 1 == expected.sent + 1  # and the chain_start
    assert len(refused) == sum(expected.refused.values())
    assert {r["slug"] for r in refused} == {"schema_violation"}
    assert {r["tenantId"] for r in receipts} == {TENANT}
    assert len(gateway.bodies) == 3


def test_a_receipt_ends_with_the_log_records_of_its_batch(gateway: Gateway, tmp_path: Path) -> None:
    _run(gateway, tmp_path)
    ends = [line for line in _lines(tmp_path / "receipts.ndjson") if "records" in line]
    assert [end["batch"] for end in ends] == [1, 2, 3]
    for end, body in zip(ends, gateway.bodies, strict=True):
        assert end["batchId"] == hashlib.sha256(body).hexdigest()
        assert end["records"][0].keys() == {"topic", "partition", "offset", "digest", "count"}


def test_the_epoch_begins_with_a_chain_start_that_the_edges_key_signed(
    gateway: Gateway, tmp_path: Path
) -> None:
    public = edge_public_key(tmp_path)
    _run(gateway, tmp_path)
    start = gateway.accepted[0]
    known = {signing.key_id_of(public): public.hex()}
    assert start["eventType"] == "chain_start"
    assert signing.problem_of_signed_event(start, known) == ""
    assert start["payload"]["reason"] == "first start"
    assert edge_public_key(tmp_path) == public


def test_the_body_goes_with_the_credential_and_as_zstd_ndjson(
    gateway: Gateway, tmp_path: Path
) -> None:
    _run(gateway, tmp_path, to_ms=1)
    (headers,) = gateway.headers
    assert headers["Authorization"] == f"Bearer {API_KEY}"
    assert headers["Content-Type"] == "application/x-ndjson"
    assert headers["Content-Encoding"] == "zstd"


def test_events_wait_for_their_time_on_the_wall_clock(gateway: Gateway, tmp_path: Path) -> None:
    clock = ManualClock(START_MS - 60_000)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(max(1, round(seconds * 1000 * 720)))

    took: list[tuple[int, int]] = []
    original = gateway.take

    def take(body: bytes) -> bytes:
        answer = original(body)
        took.append((clock.now_ms(), len(gateway.accepted) + len(gateway.refused)))
        return answer

    gateway.take = take  # type: ignore[method-assign] # to see the clock at each body
    pace = Pace(clock, rate=720.0, wait=wait)
    plan = Plan(TENANT, DAY, to_ms=6 * 3_600_000)
    Feeder(plan, EdgeFolder(tmp_path), _sender(gateway), pace).run()
    offsets = [e.offset_ms for e in device_events(TENANT) if e.offset_ms < plan.to_ms]
    assert len(took) > 5
    assert len({number for _, number in took}) == len(took)  # no body was empty
    for now, number in took:
        due = sum(START_MS + offset <= now for offset in offsets)
        assert number == due + 1  # all that was due and the chain_start, and nothing before
    assert max(waits) <= feeder.MAX_WAIT_SECONDS


def test_progress_says_how_far_the_day_is(gateway: Gateway, tmp_path: Path) -> None:
    _run(gateway, tmp_path)
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert progress["state"] == "done"
    assert progress["planned"] == progress["taken"] == EVENTS
    assert progress["sent"] == EVENTS + 1 == progress["accepted"] + progress["refused"]


# ------------------------------------------------------------------------------ more than one


def test_a_second_start_goes_on_in_a_new_epoch(gateway: Gateway, tmp_path: Path) -> None:
    _run(gateway, tmp_path, to_ms=12 * 3_600_000)
    _run(gateway, tmp_path)
    _check_lists(gateway, tmp_path)
    events = _sent_events(gateway)
    _check_chains(events)
    starts = [e for e in events if e["eventType"] == "chain_start"]
    assert [s["payload"]["reason"] for s in starts] == ["first start", "restart"]
    assert len(events) == EVENTS + 2


def test_a_third_start_has_nothing_to_say_and_the_next_day_goes_on(
    gateway: Gateway, tmp_path: Path
) -> None:
    _run(gateway, tmp_path)
    before = len(gateway.bodies)
    _run(gateway, tmp_path)
    assert len(gateway.bodies) == before
    clock = ManualClock(LATE)
    plan = Plan(TENANT, layout.next_day(DAY))
    Feeder(plan, EdgeFolder(tmp_path), _sender(gateway), Pace(clock)).run()
    _check_chains(_sent_events(gateway))
    _check_lists(gateway, tmp_path)
    assert len(_receipts(tmp_path)) == 2 * (EVENTS + 1)


def test_push_back_and_lost_connections_bring_the_same_bytes_again(tmp_path: Path) -> None:
    answers: dict[int, Any] = {
        0: (503, {"Retry-After": "7"}, b"{}"),
        1: (429, {}, b""),
        2: "close",
        4: "lose",  # taken, but the answer is lost
    }
    waits: list[float] = []
    with running(Gateway(TENANT, script=answers.get)) as served:
        clock = ManualClock(LATE)
        made = Feeder(Plan(TENANT, DAY), EdgeFolder(tmp_path), _sender(served, waits), Pace(clock))
        made.run()
    assert served.bodies[0] == served.bodies[1] == served.bodies[2] == served.bodies[3]
    assert served.bodies[4] == served.bodies[5]
    assert len(set(served.bodies)) == 3
    assert waits == [7.0, 0.4, 0.8, 0.2]
    _check_lists(served, tmp_path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {}, b'{"detail":"no such key","remedy":"register it"}'), "HTTP 401: no such key"),
        ((413, {}, b"<html>"), "HTTP 413"),
        ((202, {}, b"not json"), "not a receipt"),
        ((202, {}, b'{"batchId":"x","accepted":1,"refused":[],"records":[]}'), "1 accepted"),
    ],
)
def test_an_answer_that_needs_a_person_stops_the_feeder_and_keeps_the_batch(
    tmp_path: Path, answer: tuple[int, dict[str, str], bytes], words: str
) -> None:
    with (
        running(Gateway(TENANT, script=lambda _: answer)) as served,
        pytest.raises(SendRefused, match=words),
    ):
        _run(served, tmp_path)
    pending = EdgeFolder(tmp_path).load().pending
    assert pending is not None
    assert pending.body == served.bodies[0]
    assert not (tmp_path / "receipts.ndjson").exists()
    with running(Gateway(TENANT)) as served_again:
        _run(served_again, tmp_path)
        assert served_again.bodies[0] == pending.body
        _check_lists(served_again, tmp_path)


# ---------------------------------------------------------------------------------- any death


class _PowerCut(BaseException):
    """The process ends here."""


def _dying(
    real: Callable[..., None], plan: dict[str, int], torn: Callable[..., None]
) -> Callable[..., None]:
    """The n-th write ends the process: before it, or half-way through it."""

    def call(*arguments: Any) -> None:
        plan["left"] -= 1
        if plan["left"] == 0:
            torn(*arguments)
            raise _PowerCut
        real(*arguments)

    return call


def _torn_append(path: Path, lines: Any) -> None:
    whole = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    with path.open("ab") as opened:
        opened.write(whole[: len(whole) * 2 // 3])


def _torn_replace(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("after", ["nothing", "half", "all"])
@pytest.mark.parametrize("death", range(2, 14))
def test_a_death_at_any_write_loses_and_doubles_nothing(
    gateway: Gateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    death: int,
    after: str,
) -> None:
    plan = {"left": death}
    append, replace = edge_state._append, edge_state._replace
    torn: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
        "nothing": (lambda *_: None, lambda *_: None),
        "half": (_torn_append, _torn_replace),
        "all": (append, replace),
    }
    with monkeypatch.context() as patched:
        patched.setattr(edge_state, "_append", _dying(append, plan, torn[after][0]))
        patched.setattr(edge_state, "_replace", _dying(replace, plan, torn[after][1]))
        with pytest.raises(_PowerCut):
            _run(gateway, tmp_path)
    _run(gateway, tmp_path)
    _check_lists(gateway, tmp_path)
    _check_chains(_sent_events(gateway))
    starts = sum(e["eventType"] == "chain_start" for e in _sent_events(gateway))
    assert len(_receipts(tmp_path)) == EVENTS + starts
    assert starts in (1, 2)
    # Only what died before its receipt was whole is sent again.
    receipt_was_torn = death % 4 == 0 and after != "all"
    assert len(gateway.bodies) - len(set(gateway.bodies)) == receipt_was_torn


def test_a_killed_process_resumes_with_the_same_bytes(tmp_path: Path) -> None:
    arrived = threading.Event()
    go_on = threading.Event()

    def script(number: int) -> str | None:
        if number != 1:
            return None
        arrived.set()
        go_on.wait(60)
        return "lose"

    key_file = tmp_path / "key"
    key_file.write_text(API_KEY + "\n")
    with running(Gateway(TENANT, script=script)) as served:
        command = [sys.executable, "-m", "audit_platform.demo.feeder"]
        command += ["--tenant", TENANT, "--url", served.url, "--api-key-file", str(key_file)]
        command += ["--home", str(tmp_path / "edge"), "--day", DAY]
        started = subprocess.Popen(command)
        assert arrived.wait(60)
        started.kill()
        assert started.wait(60) == -signal.SIGKILL
        go_on.set()
        subprocess.run(command, check=True, timeout=120)
        assert served.bodies[1] == served.bodies[2]
        _check_chains(_sent_events(served))
    _check_lists(served, tmp_path / "edge")


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(API_KEY)
    asked = ["--url", "http://127.0.0.1:9", "--api-key-file", str(key_file), "--day", DAY]
    asked += ["--home", str(tmp_path / "edge")]
    assert feeder.main(["--tenant", "nobody", *asked]) == 1
    assert "the excerpt has no tenant 'nobody'" in capsys.readouterr().err
    assert feeder.main(["--tenant", TENANT, *asked[:-4], "--day", "someday", *asked[-2:]]) == 1
    assert "someday" in capsys.readouterr().err
