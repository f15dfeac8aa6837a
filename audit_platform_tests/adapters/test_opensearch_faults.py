"""OpenSearch killed, frozen, full of garbage, or another server: nothing promised is lost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from audit_platform.adapters.opensearch import hot as hot_module
from audit_platform.adapters.opensearch.hot import OpenSearchHot
from audit_platform.errors import HotUnavailable, QueryCancelled, SettingInvalid
from audit_platform.ports import EventQuery
from audit_platform.record.layout import MS_PER_DAY
from audit_platform_tests.bad_servers import answering
from audit_platform_tests.hot_rows import DAY, DAY_MS, Event, batch
from audit_platform_tests.own_stack import OwnStack, own_stack

NODE = "opensearch-1"
ALL = EventQuery("north", DAY_MS, DAY_MS + MS_PER_DAY, limit=1000)

#: How soon a search that nobody waits for any more must end.
CANCEL_SECONDS = 0.1

#: What the machine may add to a wait when other programs hold its processors.
SLACK_SECONDS = 1.0

JSON = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: "
NOT_FOUND = b"HTTP/1.1 404 None\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def events(count: int, first: int = 0) -> list[Event]:
    return [Event(sequence_number=n) for n in range(first, first + count)]


@pytest.fixture(scope="module")
def stack() -> Iterator[OwnStack]:
    """A node of this module's own."""
    with own_stack(NODE) as stack:
        yield stack


@pytest.fixture
def hot(stack: OwnStack, request: pytest.FixtureRequest) -> Iterator[OpenSearchHot]:
    """An index prefix of the test's own on it."""
    prefix = f"t{abs(hash(request.node.name))}"
    opened = OpenSearchHot(stack.settings().opensearch, prefix)
    yield opened
    opened.close()


# ------------------------------------------------------------------------------------ a real node


def test_what_create_returned_for_outlives_a_killed_node(
    stack: OwnStack, hot: OpenSearchHot
) -> None:
    written: list[Event] = []
    killer = threading.Thread(target=stack.kill, args=(NODE,))
    with pytest.raises(HotUnavailable):
        write_on(hot, written, killer)
    killer.join()
    stack.start()
    kept = {bytes(row) for row in hot.hashes("north", DAY, 1)}
    assert written
    assert {e.event_hash for e in written} <= kept
    # What was under way may have arrived; the indexer sends it again.
    again = events(20, first=len(written))
    assert hot.create("north", DAY, batch(again)) in {0, 20}
    assert hot.create("north", DAY, batch(written)) == 0


def write_on(hot: OpenSearchHot, written: list[Event], killer: threading.Thread) -> None:
    """Write until it fails; the node is killed while this goes on."""
    while True:
        some = events(20, first=len(written))
        assert hot.create("north", DAY, batch(some)) == len(some)
        written += some
        if len(written) == 200:
            killer.start()


def test_a_frozen_node_is_unavailable_within_the_time_limit_and_heals(
    stack: OwnStack, hot: OpenSearchHot, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.create("north", DAY, batch(events(3)))
    monkeypatch.setattr(hot_module, "WRITE_SECONDS", 0.5)
    stack.freeze(NODE)
    started = time.monotonic()
    with pytest.raises(HotUnavailable, match="no answer within"):
        hot.create("north", DAY, batch(events(2, first=5)))
    assert time.monotonic() - started < 0.5 + SLACK_SECONDS
    stack.thaw(NODE)
    monkeypatch.undo()
    hot.create("north", DAY, batch(events(2, first=5)))
    assert len(hot.hashes("north", DAY, 1)) == 5


def test_a_search_in_a_frozen_node_is_given_up_at_once(stack: OwnStack, hot: OpenSearchHot) -> None:
    hot.create("north", DAY, batch(events(3)))
    stack.freeze(NODE)
    try:
        assert_given_up_at_once(hot)
    finally:
        stack.thaw(NODE)
    assert hot.search(ALL, is_cancelled=lambda: False).num_rows == 3


def assert_given_up_at_once(hot: OpenSearchHot) -> None:
    """The caller leaves when the search has begun; how long it is held after that is small."""
    looks: list[float] = []

    def is_cancelled() -> bool:
        looks.append(time.monotonic())
        return len(looks) > 3

    with pytest.raises(QueryCancelled):
        hot.search(ALL, is_cancelled=is_cancelled)
    ended = time.monotonic()
    assert ended - looks[-1] < CANCEL_SECONDS
    # It was looked often enough: the second look came soon after the first.
    assert min(b - a for a, b in pairwise(looks)) < CANCEL_SECONDS


# --------------------------------------------------------------------------------- other servers


def json_answer(text: bytes) -> bytes:
    return JSON + str(len(text)).encode() + b"\r\n\r\n" + text


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b'{"version":{"distribution":"opensearch","number":"2.19.0"}}', "opensearch 2.19.0"),
        (b'{"version":{"number":"8.1.0","build_flavor":"default"}}', "something else 8.1.0"),
        (b"{}", "something else"),
        (b"[1]", "something else"),
    ],
)
def test_another_server_is_refused_at_start(said: bytes, found: str) -> None:
    with answering(lambda _: json_answer(said)) as at:
        hot = OpenSearchHot(f"http://{at}", "t")
        with pytest.raises(SettingInvalid) as raised:
            hot.check()
        hot.close()
    assert raised.value.setting == "AUDIT_OPENSEARCH"
    assert found in raised.value.found
    assert raised.value.wanted == "OpenSearch 3.x"


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x00garbage",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<p/>",
        json_answer(b'{"version":'),
        JSON + b'500\r\n\r\n{"version":{"distrib',
        b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
        b"",
    ],
    ids=["no HTTP", "a page", "half JSON", "half an answer", "503", "nothing"],
)
def test_a_server_that_says_garbage_is_unavailable(said: bytes) -> None:
    with answering(lambda _: said) as at:
        hot = OpenSearchHot(f"http://{at}", "t")
        with pytest.raises(HotUnavailable, match=at):
            hot.check()
        with pytest.raises(HotUnavailable):
            hot.search(ALL, is_cancelled=lambda: False)
        with pytest.raises(HotUnavailable):
            hot.create("north", DAY, batch(events(1)))
        hot.close()


@pytest.mark.parametrize(
    "items",
    [b"{}", b'{"items":[]}', b'{"items":[{"create":{"status":500}}]}', b'{"items":[{}]}', b"7"],
)
def test_a_bulk_answer_of_another_form_promises_nothing(items: bytes) -> None:
    def answer(asked: bytes) -> bytes:
        if asked.startswith(b"GET / "):
            return json_answer(b'{"version":{"distribution":"opensearch","number":"3.8.0"}}')
        if asked.startswith(b"GET /_index_template"):
            return NOT_FOUND
        return json_answer(items if b"/_bulk" in asked else b"{}")

    with answering(answer) as at:
        hot = OpenSearchHot(f"http://{at}", "t")
        with pytest.raises(HotUnavailable):
            hot.create("north", DAY, batch(events(1)))
        hot.close()


def test_nobody_listens_and_the_first_call_that_reaches_a_server_asks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    hot = OpenSearchHot(url, "t")
    with pytest.raises(HotUnavailable):
        hot.check()
    with pytest.raises(HotUnavailable):
        hot.indexes()
    hot.close()
