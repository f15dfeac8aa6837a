"""The devices: right numbers, exact receipts, and the same bytes again through every death."""

from __future__ import annotations

import functools
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

from audit_platform.demo import device_state, devices
from audit_platform.demo.device_state import DeviceFolder, DeviceState
from audit_platform.demo.devices import Devices, EdgeConnection, EdgeRefused, Pace, Plan
from audit_platform.demo.mapping import DeviceEvent, device_events
from audit_platform.errors import SettingInvalid
from audit_platform.record import layout
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.demo.edge import Edge, running

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
    monkeypatch.setattr(devices, "device_events", lambda t, e: iter(_day_of(t, e)))


@pytest.fixture(name="edge")
def _edge() -> Iterator[Edge]:
    with running(Edge()) as served:
        yield served


def _connection(edge: Edge, waits: list[float] | None = None) -> EdgeConnection:
    pauses = [] if waits is None else waits
    return EdgeConnection(edge.url, wait=pauses.append, jitter=lambda: 1.0)


def _run(edge: Edge, home: Path, clock_ms: int = LATE, **plan: Any) -> None:
    clock = ManualClock(clock_ms)
    pace = Pace(clock, wait=lambda seconds: clock.advance(max(1, round(seconds * 1000))))
    Devices(Plan(TENANT, DAY, **plan), DeviceFolder(home), _connection(edge), pace).run()


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _ids(path: Path) -> list[str]:
    return [line["eventId"] for line in _lines(path) if "eventId" in line]


def _check_lists(edge: Edge, home: Path) -> None:
    """Sent, receipts and what the edge took are the same sets; no line stands twice."""
    sent, receipts = _ids(home / "sent.ndjson"), _ids(home / "receipts.ndjson")
    assert len(set(sent)) == len(sent)
    assert sent == receipts
    assert set(sent) == {devices.event_id_of(TENANT, event) for event in edge.events}
    assert len(sent) == len(edge.events)


def _check_numbers(events: list[dict[str, Any]]) -> None:
    """Per device: numbers without a hole, in the order in which they came."""
    following: dict[str, int] = {}
    for event in events:
        device = event["deviceId"]
        assert event["sequenceNumber"] == following.get(device, 0)
        following[device] = event["sequenceNumber"] + 1


# ----------------------------------------------------------------------------------- one start


def test_a_whole_day_is_said_once_and_receipts_say_that_the_edge_has_it(
    edge: Edge, tmp_path: Path
) -> None:
    _run(edge, tmp_path)
    _check_lists(edge, tmp_path)
    _check_numbers(edge.events)
    receipts = _lines(tmp_path / "receipts.ndjson")
    said = [line for line in receipts if "eventId" in line]
    assert len(said) == EVENTS
    assert {line["outcome"] for line in said} == {"accepted"}
    assert {line["tenantId"] for line in said} == {TENANT}
    assert [line["batch"] for line in receipts if "complete" in line] == [1, 2, 3]
    assert len(edge.bodies) == 3


def test_a_body_is_zstd_ndjson_of_what_devices_give(edge: Edge, tmp_path: Path) -> None:
    _run(edge, tmp_path, to_ms=1)
    (headers,) = edge.headers
    assert headers["Content-Type"] == "application/x-ndjson"
    assert headers["Content-Encoding"] == "zstd"
    assert {frozenset(event) for event in edge.events} == {
        frozenset(
            ("deviceId", "eventType", "eventVersion", "eventTime", "sequenceNumber", "payload")
        )
    }


def test_events_wait_for_their_time_on_the_wall_clock(edge: Edge, tmp_path: Path) -> None:
    clock = ManualClock(START_MS - 60_000)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(max(1, round(seconds * 1000 * 720)))

    took: list[tuple[int, int]] = []
    original = edge.take

    def take(body: bytes) -> bytes:
        answer = original(body)
        took.append((clock.now_ms(), len(edge.events)))
        return answer

    edge.take = take  # type: ignore[method-assign] # to see the clock at each body
    pace = Pace(clock, rate=720.0, wait=wait)
    plan = Plan(TENANT, DAY, to_ms=6 * 3_600_000)
    Devices(plan, DeviceFolder(tmp_path), _connection(edge), pace).run()
    offsets = [e.offset_ms for e in device_events(TENANT) if e.offset_ms < plan.to_ms]
    assert len(took) > 5
    assert len({number for _, number in took}) == len(took)  # no body was empty
    for now, number in took:
        # All that was due, and nothing before.
        assert number == sum(START_MS + offset <= now for offset in offsets)
    assert max(waits) <= devices.MAX_WAIT_SECONDS


def test_progress_says_how_far_the_day_is(edge: Edge, tmp_path: Path) -> None:
    _run(edge, tmp_path)
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert progress["state"] == "done"
    assert progress["planned"] == progress["taken"] == EVENTS
    assert progress["sent"] == EVENTS == progress["accepted"]
    assert progress["refused"] == 0


# ------------------------------------------------------------------------------ more than one


def test_a_second_start_goes_on_where_the_first_stopped(edge: Edge, tmp_path: Path) -> None:
    _run(edge, tmp_path, to_ms=12 * 3_600_000)
    _run(edge, tmp_path)
    _check_lists(edge, tmp_path)
    _check_numbers(edge.events)
    assert len(edge.events) == EVENTS


def test_a_third_start_has_nothing_to_say_and_the_next_day_goes_on(
    edge: Edge, tmp_path: Path
) -> None:
    _run(edge, tmp_path)
    before = len(edge.bodies)
    _run(edge, tmp_path)
    assert len(edge.bodies) == before
    clock = ManualClock(LATE)
    plan = Plan(TENANT, layout.next_day(DAY))
    Devices(plan, DeviceFolder(tmp_path), _connection(edge), Pace(clock)).run()
    _check_numbers(edge.events)
    _check_lists(edge, tmp_path)
    assert len(_ids(tmp_path / "receipts.ndjson")) == 2 * EVENTS


def test_push_back_and_lost_connections_bring_the_same_bytes_again(tmp_path: Path) -> None:
    answers: dict[int, Any] = {
        0: (503, {}, b"{}"),
        1: (429, {}, b""),
        2: "close",
        4: "lose",  # taken, but the answer is lost
    }
    waits: list[float] = []
    with running(Edge(script=answers.get)) as served:
        clock = ManualClock(LATE)
        connection = _connection(served, waits)
        Devices(Plan(TENANT, DAY), DeviceFolder(tmp_path), connection, Pace(clock)).run()
    assert served.bodies[0] == served.bodies[1] == served.bodies[2] == served.bodies[3]
    assert served.bodies[4] == served.bodies[5]
    assert len(set(served.bodies)) == 3
    assert waits == [0.2, 0.4, 0.8, 0.2]
    _check_lists(served, tmp_path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((413, {}, b"<html>"), "HTTP 413"),
        ((202, {}, b"not json"), "not an answer of an edge"),
        (
            (202, {}, b'{"accepted":1,"alreadyTaken":0,"conflicts":0,"refused":0,"lines":[]}'),
            "1 answered",
        ),
    ],
)
def test_an_answer_that_needs_a_person_stops_the_devices_and_keeps_the_batch(
    tmp_path: Path, answer: tuple[int, dict[str, str], bytes], words: str
) -> None:
    with (
        running(Edge(script=lambda _: answer)) as served,
        pytest.raises(EdgeRefused, match=words),
    ):
        _run(served, tmp_path)
    pending = DeviceFolder(tmp_path).load().pending
    assert pending is not None
    assert pending.body == served.bodies[0]
    assert not (tmp_path / "receipts.ndjson").exists()
    with running(Edge()) as served_again:
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
@pytest.mark.parametrize("death", range(1, 13))
def test_a_death_at_any_write_loses_and_doubles_nothing(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: int, after: str
) -> None:
    plan = {"left": death}
    append, replace = device_state._append, device_state._replace
    torn: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
        "nothing": (lambda *_: None, lambda *_: None),
        "half": (_torn_append, _torn_replace),
        "all": (append, replace),
    }
    with monkeypatch.context() as patched:
        patched.setattr(device_state, "_append", _dying(append, plan, torn[after][0]))
        patched.setattr(device_state, "_replace", _dying(replace, plan, torn[after][1]))
        with pytest.raises(_PowerCut):
            _run(edge, tmp_path)
    _run(edge, tmp_path)
    _check_lists(edge, tmp_path)
    _check_numbers(edge.events)
    assert len(_ids(tmp_path / "receipts.ndjson")) == EVENTS
    # Only what died before its receipt was whole is sent again.
    receipt_was_torn = death % 4 == 3 and after != "all"
    assert len(edge.bodies) - len(set(edge.bodies)) == receipt_was_torn


def test_a_killed_process_resumes_with_the_same_bytes(tmp_path: Path) -> None:
    arrived = threading.Event()
    go_on = threading.Event()

    def script(number: int) -> str | None:
        if number != 1:
            return None
        arrived.set()
        go_on.wait(60)
        return "lose"

    with running(Edge(script=script)) as served:
        command = [sys.executable, "-m", "audit_platform.demo.devices"]
        command += ["--tenant", TENANT, "--url", served.url]
        command += ["--home", str(tmp_path / "devices"), "--day", DAY]
        started = subprocess.Popen(command)
        assert arrived.wait(60)
        started.kill()
        assert started.wait(60) == -signal.SIGKILL
        go_on.set()
        subprocess.run(command, check=True, timeout=120)
        assert served.bodies[1] == served.bodies[2]
        _check_numbers(served.events)
    _check_lists(served, tmp_path / "devices")


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b'{"version":2}', b"[]"])
def test_a_state_that_is_not_ours_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "state.json").write_bytes(damage)
    with pytest.raises(SettingInvalid, match="start afresh"):
        DeviceFolder(tmp_path).load()


def test_a_state_of_another_version_is_named(tmp_path: Path) -> None:
    newer = DeviceState().to_bytes().replace(b'"version":1', b'"version":2')
    (tmp_path / "state.json").write_bytes(newer)
    with pytest.raises(SettingInvalid, match="version 2"):
        DeviceFolder(tmp_path).load()


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--url", "http://127.0.0.1:9", "--home", str(tmp_path / "devices"), "--day"]
    assert devices.main(["--tenant", "nobody", *asked, DAY]) == 1
    assert "the excerpt has no tenant 'nobody'" in capsys.readouterr().err
    assert devices.main(["--tenant", TENANT, *asked, "someday"]) == 1
    assert "someday" in capsys.readouterr().err
