"""What is refused when a store is opened: in one line that names setting, found and wanted."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from audit_platform.adapters.s3.client import Endpoint, make_client
from audit_platform.adapters.s3.objects import S3Objects
from audit_platform.errors import SettingInvalid, StoreUnavailable
from audit_platform_tests.bad_servers import answering
from audit_platform_tests.ports import free_port
from audit_platform_tests.stores import small_bucket

NOWHERE = Endpoint("http://127.0.0.1:1", "audit", "key", "secret")


class Page(BaseHTTPRequestHandler):
    """A web server that answers everything with its page."""

    def do_GET(self) -> None:
        body = b"<html><body>It works!</body></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


@contextmanager
def web_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Page)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def without_lock(owner: Endpoint) -> Endpoint:
    other = replace(owner, bucket=f"t-{uuid.uuid4().hex}")
    client = make_client(other)
    client.create_bucket(Bucket=other.bucket)
    client.close()
    return other


@pytest.mark.parametrize(
    ("change", "setting", "wanted"),
    [
        (without_lock, "AUDIT_S3_BUCKET", "store init"),
        (lambda e: replace(e, bucket="no-such-bucket"), "AUDIT_S3_BUCKET", "store init"),
        (lambda e: replace(e, access_key="nobody"), "AUDIT_S3_ACCESS_KEY", "a key that"),
        (lambda e: replace(e, secret_key="wrong"), "AUDIT_S3_SECRET_KEY", "the secret of"),  # noqa: S106 - it must be
    ],
    ids=["no lock", "no bucket", "no key", "another secret"],
)
def test_what_is_wrong_with_a_store_is_told_at_the_start(
    change: Callable[[Endpoint], Endpoint], setting: str, wanted: str
) -> None:
    endpoint = change(small_bucket())
    with pytest.raises(SettingInvalid) as caught:
        S3Objects(endpoint)
    assert caught.value.setting == setting
    assert wanted in caught.value.wanted
    assert "\n" not in str(caught.value)
    assert endpoint.secret_key not in str(caught.value)


def test_a_web_server_is_not_a_store() -> None:
    with web_server() as url, pytest.raises(SettingInvalid) as caught:
        S3Objects(replace(NOWHERE, url=url))
    assert caught.value.setting == "AUDIT_S3"
    assert "S3 store" in caught.value.wanted


def test_a_server_of_garbage_is_not_a_store() -> None:
    with (
        answering(lambda _: b"\x00\xff\x13\x37 no such thing\r\n\r\n") as at,
        pytest.raises(SettingInvalid) as caught,
    ):
        S3Objects(replace(NOWHERE, url=f"http://{at}"))
    assert caught.value.setting == "AUDIT_S3"


def test_half_an_answer_is_a_store_that_is_away() -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: 500\r\n\r\n<Obj"
    with answering(lambda _: half) as at:
        store = S3Objects(replace(NOWHERE, url=f"http://{at}"))
        with pytest.raises(StoreUnavailable, match=at):
            store.get("a", "1")
        store.close()


def test_a_store_that_is_away_is_looked_at_once_it_answers() -> None:
    store = S3Objects(NOWHERE)
    calls: list[Callable[[], object]] = [
        lambda: store.put("a", b"", retain_until_ms=0, if_absent=True),
        lambda: store.get("a", "1"),
        lambda: store.open("a", "1"),
        lambda: store.head("a", "1"),
        lambda: store.oldest("a"),
        lambda: next(store.versions("")),
        lambda: store.extend("a", "1", 1),
        lambda: store.set_legal_hold("a", "1", hold=True),
        lambda: store.delete("a", "1"),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert "try again" in caught.value.remedy
    store.close()


def test_a_wrong_bucket_that_shows_while_running_degrades() -> None:
    good = small_bucket()
    store = S3Objects(replace(good, url=NOWHERE.url))
    store._client.close()
    wrong = without_lock(good)
    store._client, store._endpoint = make_client(wrong), wrong
    with pytest.raises(StoreUnavailable, match="AUDIT_S3_BUCKET"):
        store.oldest("a")
    store.close()
