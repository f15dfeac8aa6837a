"""The uplink against a real ingest-gateway, and against servers that misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from audit_platform.errors import RecordMalformed, SpoolUnavailable
from audit_platform.operations.claims import claim
from audit_platform.operations.generations import ensure_generation
from audit_platform.ports import Entry
from audit_platform.record.layout import EVENTS_TOPIC, LANDING, RangeAddress
from audit_platform.record.ranges import RangeRecord, RecordDigest
from audit_platform.services import edge_uplink, edge_uplink_lanes, edge_uplink_load
from audit_platform.services.edge_uplink import ASK_SECONDS, LONGEST_PAUSE_SECONDS
from audit_platform.services.edge_uplink_files import ReceiptsFile, SetAside
from audit_platform.services.edge_uplink_http import UplinkSender
from audit_platform.services.edge_uplink_runs import Runs
from audit_platform.services.ingest_archived import LOOK_SECONDS
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services import ingest_world
from audit_platform_tests.services.ingest_world import event
from audit_platform_tests.services.uplink_world import (
    Edge,
    Request,
    Scripted,
    Seconds,
    archive,
    assert_first_copies_in_order,
    http,
    problem,
    receipt_value,
    scripted_edge,
)


@contextmanager
def real(folder: Path, partitions: int = 2) -> Iterator[tuple[Edge, ingest_world.World]]:
    """An edge whose ingest is a real gateway over real sockets. Both share real time."""
    seconds = Seconds()
    with ingest_world.open_world(
        folder / "home", partitions=partitions, monotonic=seconds
    ) as world:
        sender = UplinkSender(f"http://127.0.0.1:{world.port}", lambda: world.secret, world.clock)
        edge = Edge(folder / "edge", sender, seconds)
        try:
            yield edge, world
        finally:
            edge.close()
            sender.close()


def test_what_is_spooled_arrives_and_is_released_when_it_is_archived(tmp_path: Path) -> None:
    with real(tmp_path) as (edge, world):
        lines = edge.append("pump-1", 3) + edge.append("pump-2", 2) + edge.append("pump-1", 1)
        edge.run()
        assert sorted(edge.sent()) == sorted(lines)
        assert_first_copies_in_order(edge.sent())
        assert edge.uplink.status().unarchived_records > 0
        assert edge.unreleased() == 3
        archive(world.platform)
        edge.seconds.now += LOOK_SECONDS + ASK_SECONDS
        edge.run()
        assert edge.unreleased() == 0
        assert edge.uplink.status().unarchived_records == 0


def test_nothing_is_released_before_a_range_lists_it(tmp_path: Path) -> None:
    with real(tmp_path) as (edge, world):
        for _ in range(5):
            edge.append("pump-1", 2)
            edge.run()
            edge.seconds.now += LOOK_SECONDS + ASK_SECONDS
            edge.run()
        assert edge.unreleased() == 5
        assert len(world.stored()) == 10


def test_refused_events_are_acknowledged_too_and_wait_for_their_archive(tmp_path: Path) -> None:
    with real(tmp_path) as (edge, world):
        edge.append_lines([event(0), b'{"not":"an event"}', event(1)])
        edge.run()
        [(_, receipt)] = edge.receipts
        assert list(receipt.refused) == [1]
        assert len(world.dead_letters()) == 1
        archive(world.platform)
        edge.seconds.now += LOOK_SECONDS + ASK_SECONDS
        edge.run()
        assert edge.unreleased() == 0


def test_after_a_restart_all_that_is_not_released_is_sent_again_in_order(tmp_path: Path) -> None:
    with real(tmp_path) as (edge, world):
        for n in range(6):
            edge.append(f"pump-{n % 2}")
        edge.run()
        archive(world.platform)
        edge.seconds.now += LOOK_SECONDS + ASK_SECONDS
        edge.run()
        later = [edge.append(f"pump-{n % 2}")[0] for n in range(4)]
        edge.run()
        edge.receipts.clear()
        edge.restart()
        edge.run()
        assert edge.sent() == later
        assert edge.uplink.status().replay_progress == 1.0


def test_what_the_log_lost_is_sent_again_and_waits_again(tmp_path: Path) -> None:
    with real(tmp_path, partitions=1) as (edge, world):
        ensure_generation(world.platform)
        first = edge.append("pump-1", 2)
        edge.run()
        # The log is another one now: it never held that record, and its archive says so.
        [(_, receipt)] = edge.receipts
        place = receipt.records[0]
        edge.uplink._unarchived.forget_oldest()
        lost = place._replace(digest="0" * 16)
        edge.uplink._unarchived.add(Runs([(0, 1)]), [lost])
        address = RangeAddress(LANDING, 1, 0, 0)
        record = RangeRecord(EVENTS_TOPIC, 1, 0, 0, 1, (RecordDigest(0, place.digest, 2),), (), 2,
                             0, START_MS, START_MS, START_MS)  # fmt: skip
        claim(world.platform.objects, address.record_key, record.to_bytes(), START_MS)
        edge.seconds.now += LOOK_SECONDS + ASK_SECONDS
        edge.run()
        assert edge.sent() == first + first
        assert len(world.stored()) == 4
        assert edge.unreleased() == 1
        archive(world.platform)
        edge.seconds.now += LOOK_SECONDS + ASK_SECONDS
        edge.run()
        assert edge.unreleased() == 0


def test_a_gateway_that_is_gone_is_waited_for_with_growing_pauses(tmp_path: Path) -> None:
    with real(tmp_path) as (edge, world):
        sender = UplinkSender("http://127.0.0.1:1", lambda: "x", world.clock)
        good, edge.uplink._sender = edge.uplink._sender, sender
        edge.append()
        waited = []
        for _ in range(12):
            edge.run()
            waited.append(edge.uplink._resume_at - edge.seconds.now)
            edge.seconds.now = edge.uplink._resume_at
        assert waited[:3] == pytest.approx([0.2, 0.4, 0.8])
        assert waited == sorted(waited)
        assert waited[-1] == pytest.approx(LONGEST_PAUSE_SECONDS)
        status = edge.uplink.status()
        assert not status.connected
        assert "no answer" in status.trouble
        edge.uplink._sender = good
        edge.run()
        assert len(edge.sent()) == 1
        status = edge.uplink.status()
        assert (status.connected, status.trouble) == (True, "")
        sender.close()


def test_pauses_are_drawn_from_half_to_the_whole(tmp_path: Path) -> None:
    with scripted_edge(tmp_path, lambda _: http(503)) as (edge, _):
        edge.uplink._jitter = lambda: 0.0
        edge.append()
        edge.run()
        assert edge.uplink._resume_at - edge.seconds.now == pytest.approx(0.1)


def test_a_credential_that_is_refused_is_said_and_tried_slowly_until_it_is_good(
    tmp_path: Path,
) -> None:
    with real(tmp_path) as (edge, world):
        secrets = ["nonsense"]
        edge.uplink._sender._secret = lambda: secrets[0]
        edge.append()
        edge.run()
        status = edge.uplink.status()
        assert "401" in status.trouble
        assert not status.connected
        assert edge.uplink._resume_at - edge.seconds.now >= 10
        secrets[0] = world.secret
        edge.pass_pauses(2)
        assert len(edge.sent()) == 1


def test_an_uplink_with_nothing_to_send_knows_that_it_is_connected(tmp_path: Path) -> None:
    with real(tmp_path) as (edge, world):
        assert not edge.uplink.status().connected
        edge.run()
        status = edge.uplink.status()
        assert status.connected
        assert status.clock_offset_ms == 500
        world.server.should_exit = True
        while any(s.is_serving() for s in world.server.servers):
            threading.Event().wait(0.01)
        edge.uplink._sender._pool.clear()
        edge.pass_pauses(2)
        assert not edge.uplink.status().connected


def test_a_good_answer_that_is_old_says_nothing_about_now(tmp_path: Path) -> None:
    with real(tmp_path) as (edge, _):
        edge.run()
        assert edge.uplink.status().connected
        edge.seconds.now += 61
        assert not edge.uplink.status().connected


def test_a_thread_of_its_own_sends_what_is_offered_and_ends_when_told(tmp_path: Path) -> None:
    with real(tmp_path) as (edge, _):
        arrived = threading.Event()
        edge.uplink._on_receipt = lambda _lines, _receipt: arrived.set()
        edge.uplink.start()
        edge.append()
        assert arrived.wait(30)
        edge.uplink.close()


def test_a_round_that_fails_in_an_unforeseen_way_does_not_end_the_thread(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        calls = []

        def broken(_: Entry) -> list[bytes]:
            calls.append(1)
            if len(calls) == 1:
                raise KeyError("a mistake of ours")
            return [event(0)]

        edge.append(offer=False)
        edge.uplink._lanes._filler._lines_of = broken
        assert not edge.uplink._try_step()
        assert "KeyError" in edge.uplink.status().trouble
        edge.pass_pauses(2)
        assert server.taken == [event(0)]


# -------------------------------------------------------------------------------- bodies and limits


def test_bodies_hold_at_most_500_events_and_a_mebibyte(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        edge.append("small", 1200)
        big = [event(n, "big", {"note": "x" * 300_000}, event_type="unknown") for n in range(5)]
        edge.append_lines(big, "big")
        edge.run()
        sizes = [(len(r.lines), sum(len(x) + 1 for x in r.lines)) for r in server.requests]
        assert sum(n for n, _ in sizes) == 1205
        assert all(n <= 500 and size <= 1 << 20 for n, size in sizes)
        assert server.taken == edge.lines_given
        assert edge.uplink.status().backlog_events == 0


def test_the_largest_event_goes_alone(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        huge = event(0, "d", {"note": "x" * 1_048_000}, event_type="unknown")
        edge.append_lines([huge, event(1, "d")], "d")
        edge.run()
        assert [len(r.lines) for r in server.requests] == [1, 1]


def test_entries_go_together_and_the_connection_is_kept(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        edge.append_each([f"d{n % 50}" for n in range(1000)])
        edge.run()
        assert len(server.requests) == 2
        assert server.connections == 1
        request = server.requests[0]
        assert request.headers["authorization"] == "Bearer secret"
        assert request.headers["content-encoding"] == "zstd"


@pytest.mark.parametrize("retry_after", ["7", "Sun, 01 Mar 2026 00:00:07 GMT"])
def test_retry_after_is_obeyed_in_both_forms(tmp_path: Path, retry_after: str) -> None:
    date = "Sun, 01 Mar 2026 00:00:00 GMT"
    answer = problem(429, "overloaded", retry_after=retry_after, date=date)
    with scripted_edge(tmp_path, lambda _: answer) as (edge, server):
        edge.append()
        edge.run()
        edge.seconds.now += 6.9
        edge.run()
        assert len(server.requests) == 1
        edge.seconds.now += 0.2
        edge.run()
        assert len(server.requests) == 2


def test_a_body_that_is_too_large_is_halved_until_it_passes(tmp_path: Path) -> None:
    def script(request: Request) -> bytes:
        if len(request.lines) > 3:
            return http(413, b"<html>a proxy</html>")
        return server.accept(request)

    with scripted_edge(tmp_path) as (edge, server):
        server.script = script
        lines = edge.append("pump-1", 10) + edge.append("pump-2", 7)
        edge.pass_pauses()
        assert sorted(server.taken) == sorted(lines)
        assert_first_copies_in_order(server.taken)
        assert edge.uplink.status().set_aside == 0


def unreadable(bad: bytes, server: Scripted) -> None:
    """Let ingest call every body with this line unreadable."""

    def script(request: Request) -> bytes:
        return problem(400, "bad_zstd") if bad in request.lines else server.accept(request)

    server.script = script


def test_an_event_that_ingest_cannot_read_is_kept_aside_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        before, after = edge.append("pump-1", 9), edge.append("pump-2", 4)
        bad = before[5]
        unreadable(bad, server)
        edge.pass_pauses()
        assert sorted(server.taken) == sorted(set(before + after) - {bad})
        assert edge.uplink.status().set_aside == 1
        assert edge.uplink.status().backlog_events == 0
        kept = {p.suffix: p.read_bytes() for p in (edge.folder / "set-aside").iterdir()}
        assert kept[""] == bad
        assert "bad_zstd" in json.loads(kept[".json"])["reason"]
        alone = [r for r in server.requests if r.lines == [bad]]
        assert len(alone) == edge_uplink_load.UNREADABLE_TRIES
        assert SetAside(edge.folder / "set-aside").count == 1


def test_an_entry_of_nothing_but_unreadable_events_is_released_when_it_is_kept(
    tmp_path: Path,
) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        [bad] = edge.append()
        unreadable(bad, server)
        edge.pass_pauses()
        assert edge.unreleased() == 0
        edge.restart()
        edge.pass_pauses(3)
        assert edge.uplink.status().set_aside == 1
        assert server.taken == []


@pytest.mark.parametrize(
    "answer",
    [
        http(400, b"<html>a captive portal</html>", content_type="text/html"),
        http(404),
        http(415),
        http(302, location="http://127.0.0.1:1/"),
        http(200, b"{}"),
        problem(400, "bad_http"),
    ],
)
def test_a_server_that_is_no_ingest_gateway_makes_nothing_be_kept_aside(
    tmp_path: Path, answer: bytes
) -> None:
    with scripted_edge(tmp_path, lambda _: answer) as (edge, server):
        edge.append("pump-1", 3)
        edge.pass_pauses(30)
        assert len(server.requests) > 10
        status = edge.uplink.status()
        assert (status.set_aside, status.backlog_events, status.connected) == (0, 3, False)
        server.script = server.accept
        edge.pass_pauses(2)
        assert len(server.taken) == 3


def test_a_disk_that_keeps_nothing_aside_lets_nothing_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    with scripted_edge(tmp_path) as (edge, server):
        [bad] = edge.append()
        unreadable(bad, server)
        monkeypatch.setattr(edge.set_aside, "keep", full)
        edge.pass_pauses()
        assert edge.unreleased() == 1
        assert edge.uplink.status().backlog_events == 1
        assert "no space left" in edge.uplink.status().trouble


def test_an_entry_that_cannot_be_decoded_is_tried_and_then_kept_aside_whole(
    tmp_path: Path,
) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        tries = []

        def lines_of(entry: Entry) -> list[bytes]:
            if entry.position == 1:
                tries.append(1)
                raise RecordMalformed("spool entry", "", "of a newer version")
            return entry.data.split(b"\n")

        edge.uplink._lanes._filler._lines_of = lines_of
        a = edge.append("d0", offer=False)
        b = edge.append("d1", 2, offer=False)
        c = edge.append("d2", offer=False)
        edge.run()
        assert "newer version" in edge.uplink.status().trouble
        edge.pass_pauses()
        assert server.taken == a + c
        assert len(tries) == edge_uplink_load.UNREADABLE_TRIES
        [kept] = [p for p in (edge.folder / "set-aside").iterdir() if not p.suffix]
        assert kept.read_bytes() == b"\n".join(b)


def test_lines_that_no_body_can_hold_are_kept_aside_at_once(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        edge.uplink._lanes._filler._lines_of = lambda _: [event(0), b" ", b"a\nb"]
        edge.append(offer=False)
        edge.run()
        assert server.taken == [event(0)]
        assert edge.uplink.status().set_aside == 2


# ----------------------------------------------------------------------------------- odd answers


def garbled(request: Request, **changes: object) -> bytes:
    """A receipt with something wrong in it."""
    return http(202, orjson.dumps(receipt_value(request.lines) | changes))


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: http(202),
        lambda _: http(202, b"not json"),
        lambda _: http(202, b"[]"),
        lambda r: garbled(r, batchId="0" * 64),
        lambda r: garbled(r, accepted=2),
        lambda r: garbled(r, accepted=True),
        lambda r: garbled(r, records=[]),
        lambda r: garbled(r, refused=[{"line": 1, "slug": "x"}]),
        lambda r: http(202, orjson.dumps(receipt_value(r.lines)))[:-3],  # cut off, then closed
        lambda r: http(202, orjson.dumps(receipt_value(r.lines)) + b" " * (3 << 20)),
        lambda _: b"SSH-2.0-nonsense\r\n",
        lambda _: http(500, b"x"),
        lambda _: http(503, retry_after="nonsense"),
        lambda _: None,
    ],
)
def test_an_odd_answer_acknowledges_nothing_and_the_same_is_sent_again(
    tmp_path: Path, answer: object
) -> None:
    assert callable(answer)
    closing = []

    def script(request: Request) -> bytes | None:
        found: bytes | None = answer(request)
        if found is not None and b"content-length: " in found:
            head, _, body = found.partition(b"\r\n\r\n")
            found = head + b"\r\nconnection: close\r\n\r\n" + body
        closing.append(found)
        return found

    with scripted_edge(tmp_path, script) as (edge, server):
        lines = edge.append("pump-1", 1)
        edge.pass_pauses(3)
        assert edge.receipts == []
        assert len(closing) >= 2
        status = edge.uplink.status()
        assert (status.backlog_events, status.unarchived_records) == (1, 0)
        assert status.trouble
        server.script = server.accept
        edge.pass_pauses(2)
        assert server.taken == lines


def test_a_server_that_does_not_answer_in_time_is_given_up_and_asked_again(
    tmp_path: Path,
) -> None:
    hold = threading.Event()

    def script(request: Request) -> bytes | None:
        hold.wait(30)
        return None

    with scripted_edge(tmp_path, script) as (edge, server):
        edge.uplink._sender._pool.connection_pool_kw["timeout"] = 0.05
        edge.append()
        edge.run()
        assert "no answer" in edge.uplink.status().trouble
        server.script = server.accept
        hold.set()
        edge.pass_pauses(2)
        assert len(server.taken) == 1


def test_a_receipt_that_the_edge_cannot_note_counts_for_nothing(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        calls = []

        def full(_lines: object, _receipt: object) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise OSError(28, "no space left")

        edge.uplink._on_receipt = full
        edge.append()
        edge.run()
        assert edge.uplink.status().backlog_events == 1
        edge.pass_pauses(2)
        assert len(server.taken) == 2
        assert edge.uplink.status().backlog_events == 0


def test_a_spool_that_cannot_mark_what_is_released_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with real(tmp_path) as (edge, world):
        edge.append()
        edge.run()
        archive(world.platform)

        def unavailable(*_: object) -> None:
            raise SpoolUnavailable("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(edge.spool, "release", unavailable)
            edge.seconds.now += LOOK_SECONDS + ASK_SECONDS
            edge.run()
            edge.append()
            edge.run()
            assert len(edge.sent()) == 2
        assert edge.unreleased() == 2
        edge.seconds.now += 10
        edge.run()
        assert edge.unreleased() == 1


# ------------------------------------------------------------------------------------------ lanes


def test_live_events_of_devices_with_nothing_spooled_are_not_held_behind_the_backlog(
    tmp_path: Path,
) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        edge.append_each([f"d{n % 10}" for n in range(6000)])
        edge.restart()
        fresh = edge.append("fresh")
        behind = edge.append("d3")
        at: list[int] = []
        while not at:
            assert edge.uplink.step()
            at = [n for n, r in enumerate(server.requests) if fresh[0] in r.lines]
        assert at[0] <= 3
        assert edge.uplink.status().backlog_entries > 4000
        edge.run()
        assert server.taken[-1] == behind[0]
        assert_first_copies_in_order(server.taken)


def test_a_device_whose_backlog_is_on_its_way_unacknowledged_is_not_live(tmp_path: Path) -> None:
    with scripted_edge(tmp_path, lambda _: http(503)) as (edge, server):
        edge.append_each(["d0"] * 3)
        edge.restart()
        edge.run()
        edge.append("d0")
        fresh = edge.append("fresh")
        edge.seconds.now += 40
        server.requests.clear()
        server.script = server.accept
        edge.run()
        assert server.requests[0].lines == fresh
        assert_first_copies_in_order(server.taken)
        assert len(server.taken) == 5


def test_while_lost_events_are_sent_again_none_of_their_devices_is_live(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        first = edge.append("d0")
        edge.run()
        server.script = lambda _: http(503)
        edge.uplink._lanes.send_again(Runs([(0, 1)]))
        edge.run()
        second = edge.append("d0")
        edge.pass_pauses(6)
        server.requests.clear()
        server.script = server.accept
        edge.pass_pauses(2)
        assert [r.lines for r in server.requests] == [first, second]


def test_with_both_lanes_busy_replay_gets_three_loads_for_each_live_one(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        edge.append_each([f"d{n % 10}" for n in range(12_000)])
        edge.restart()
        while edge.uplink._lanes._scanned < 12_000:
            edge.uplink.step()
        server.requests.clear()
        for n in range(20):
            edge.append(f"live-{n}", 2)
            edge.uplink.step()
        live = [any(b"live-" in line for line in r.lines) for r in server.requests]
        assert live.count(True) in {4, 5, 6}
        assert all(live[n : n + 4].count(True) == 1 for n in range(0, 12, 4))
        replayed = sum(
            len(r.lines) for r, is_live in zip(server.requests, live, strict=True) if not is_live
        )
        assert replayed >= 3 * 2 * 20


def test_what_has_no_room_in_the_live_lane_goes_the_way_of_the_backlog_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_uplink_lanes, "LIVE_BYTES", 20_000)
    with scripted_edge(tmp_path, lambda _: http(503)) as (edge, server):
        for n in range(200):
            edge.append(f"d{n % 7}")
            edge.run()
        assert edge.uplink.status().backlog_events == 200
        assert edge.uplink._lanes._live_bytes <= 20_000
        assert edge.uplink._lanes._offered_bytes <= 20_000
        server.script = server.accept
        edge.pass_pauses(2)
        assert_first_copies_in_order(server.taken)
        assert len(set(server.taken)) == 200
        status = edge.uplink.status()
        assert (status.backlog_entries, status.backlog_events, status.replay_progress) == (0, 0, 1)


def test_more_devices_than_are_remembered_cost_liveliness_and_not_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_uplink_lanes, "MAX_DEVICES", 5)
    with scripted_edge(tmp_path) as (edge, server):
        edge.append_each([f"d{n % 20}" for n in range(1500)])
        edge.restart()
        for n in range(100):
            edge.append(f"d{n % 30}")
            edge.uplink.step()
            assert len(edge.uplink._lanes._behind) <= 5
        edge.run()
        assert_first_copies_in_order(server.taken)
        edge.append("new")
        assert edge.uplink.step()
        assert b"new" in server.taken[-1]


def test_late_or_missing_offers_only_cost_a_read(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, server):
        lines = []
        for n in range(30):
            lines += edge.append(f"d{n % 3}", offer=bool(n % 2))
            if n % 5 == 0:
                edge.run()
        edge.run()
        assert sorted(server.taken) == sorted(lines)
        assert_first_copies_in_order(server.taken)
        assert edge.uplink._lanes._offered == {}
        assert edge.uplink._lanes._offered_bytes == 0


def test_progress_grows_from_0_to_1_while_a_backlog_is_replayed(tmp_path: Path) -> None:
    with scripted_edge(tmp_path) as (edge, _):
        edge.append_each([f"d{n % 10}" for n in range(3000)])
        edge.restart()
        assert edge.uplink.status().replay_progress == 0.0
        seen = []
        while edge.uplink.step():
            seen.append(edge.uplink.status().replay_progress)
        assert seen == sorted(seen)
        assert any(0.3 < p < 0.7 for p in seen)
        assert seen[-1] == 1.0


def test_with_the_archive_far_behind_memory_is_bounded_and_the_forgotten_are_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_uplink, "MAX_UNARCHIVED", 6)
    with real(tmp_path, partitions=1) as (edge, world):
        for _ in range(12):
            edge.append()
            edge.run()
            edge.seconds.now += ASK_SECONDS
            edge.run()
            assert edge.uplink.status().unarchived_records <= 6
        assert edge.unreleased() == 12
        for _ in range(4):
            archive(world.platform)
            edge.seconds.now += LOOK_SECONDS + ASK_SECONDS
            edge.run()
            edge.seconds.now += ASK_SECONDS
            edge.run()
        assert edge.unreleased() == 0
        assert len(set(edge.sent())) == 12


# ---------------------------------------------------------------------------------- receipts file


def test_the_receipts_file_names_each_event_with_its_hash_and_outcome(tmp_path: Path) -> None:
    with real(tmp_path) as (edge, world):
        path = tmp_path / "receipts" / "receipts.ndjson"
        edge.uplink._on_receipt = ReceiptsFile(path).note
        edge.append_lines([event(0), event(1, payload={"uptimeSeconds": "no number"}), b"{}"])
        edge.run()
        path.write_bytes(path.read_bytes() + b'{"torn":')
        edge.uplink._on_receipt = ReceiptsFile(path).note
        edge.append_lines([event(2)])
        edge.run()
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        events = [line for line in lines if "eventId" in line]
        assert [line["outcome"] for line in events] == ["accepted", "refused", "accepted"]
        assert events[1]["slug"] == "schema_violation"
        assert sum("records" in line for line in lines) == 2
        stored = b"".join(world.stored())
        assert all(e["eventId"].encode() in stored for e in events if e["outcome"] == "accepted")
