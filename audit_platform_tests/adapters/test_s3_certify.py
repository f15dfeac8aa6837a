"""The checks of a store find what is known of the real one, and refuse a stand-in."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner

import audit_platform
from audit_platform.adapters.s3.certify.trial import StoreRefused, Trial, certify, checks, tried
from audit_platform.adapters.s3.client import Endpoint, make_client
from audit_platform.adapters.s3.objects import S3Objects
from audit_platform.cli import main
from audit_platform.stack.s3_access import OWNER, READER, WRITER
from audit_platform_tests.ports import free_port
from audit_platform_tests.stores import as_other, small_bucket, small_store

ROOT = Path(audit_platform.__file__).parents[1]

#: What is known not to hold on versitygw 1.8.0, and whether the platform relies on it
#: (adapters/s3/README.md). A check that begins to hold is news, too.
KNOWN = {
    "a bucket's default retention is stamped on the version": False,
    "the head of a version under another one tells its lock": False,
    "a held version stays when its date has passed": True,
    "pages give no row twice, of one row neither": False,
    "a listing behind a key begins with the next one": False,
}


class AnyKey(BaseHTTPRequestHandler):
    """Like moto: whoever asks is let in."""

    def do_GET(self) -> None:
        body = b'<?xml version="1.0"?><ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>'
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


@contextmanager
def stand_in() -> Iterator[Endpoint]:
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), AnyKey)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield Endpoint(url, "audit", "key", "secret")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_small_stacks_store_fails_what_is_known_and_nothing_else(tmp_path: Path) -> None:
    place, _ = small_store()
    owner = small_bucket()
    others = {kind: as_other(owner, place, kind) for kind in (WRITER, READER)}
    files = {name: tmp_path / name for name in (OWNER, *others)}
    for name, who in {OWNER: owner, **others}.items():
        files[name].write_text(who.secret_key + "\n")
    argv = ["store", "certify", owner.url, "--bucket", owner.bucket, "--access-key", OWNER]
    argv += ["--secret-file", str(files[OWNER]), "--json"]
    for kind, name in (("writer", WRITER), ("reader", READER)):
        argv += [f"--{kind}", name, f"--{kind}-secret-file", str(files[name])]
    answer = CliRunner().invoke(main, argv)
    results = json.loads(answer.stdout)
    failed = {r["sentence"]: r["relied_on"] for r in results if r["found"]}
    assert failed == KNOWN
    assert all(r["tried"] for r in results)
    assert len(results) == len(checks()) >= 49
    assert answer.exit_code == 1
    assert "1 of" in answer.stderr


def test_without_the_writers_own_keys_its_checks_do_not_hold() -> None:
    owner = small_bucket()
    trial = Trial(make_client(owner), owner.bucket, owner)
    about = {"identity: writer", "identity: reader"}
    results = [tried(one, trial) for one in checks() if one.about in about]
    assert {r.about for r in results} == about
    assert not any(r.tried or r.holds for r in results)
    trial.admin.close()


def test_a_stand_in_that_takes_any_key_is_refused_with_the_reason() -> None:
    with stand_in() as endpoint, pytest.raises(StoreRefused, match="moto") as caught:
        certify(endpoint, {})
    assert "proves nothing" in caught.value.remedy


def test_nothing_at_the_url_is_refused() -> None:
    with pytest.raises(StoreRefused, match="does not answer"):
        certify(Endpoint("http://127.0.0.1:1", "audit", "key", "secret"), {})


def test_a_bucket_is_made_once_and_names_who_may_write(tmp_path: Path) -> None:
    owner = small_bucket()
    secret = tmp_path / "secret"
    secret.write_text(owner.secret_key)
    argv = ["store", "init", owner.url, "--bucket", f"{owner.bucket}-2", "--access-key", OWNER]
    argv += ["--secret-file", str(secret), "--writer", WRITER, "--json"]
    made = [json.loads(CliRunner().invoke(main, argv).stdout)["new"] for _ in range(2)]
    assert made == [True, False]


def test_a_sync_walks_both_ways_as_the_writer_and_names_a_store_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, _ = small_store()
    writer = as_other(small_bucket(), place, WRITER)
    store = S3Objects(writer)
    until = (time.time_ns() // 1_000_000) + 3_600_000
    store.put("landing/v1/x", b"evidence", retain_until_ms=until, if_absent=True)
    store.close()
    monkeypatch.setenv("AUDIT_S3", writer.url)
    monkeypatch.setenv("AUDIT_S3_BUCKET", writer.bucket)
    monkeypatch.setenv("AUDIT_S3_ACCESS_KEY", writer.access_key)
    monkeypatch.setenv("AUDIT_S3_SECRET_KEY", writer.secret_key)
    missing = CliRunner().invoke(main, ["store", "sync"])
    assert missing.exit_code == 2
    assert "AUDIT_S3_SECOND" in missing.stderr
    monkeypatch.setenv("AUDIT_S3_SECOND", writer.url)  # its own second: nothing to copy
    answer = CliRunner().invoke(main, ["store", "sync", "--json"])
    assert answer.exit_code == 0
    walks = json.loads(answer.stdout)
    assert [walk["walk"] for walk in walks] == ["to second", "to first"]
    assert all((walk["keys"], walk["bodies"], walk["copied"]) == (1, 1, 0) for walk in walks)


def test_the_page_of_stores_has_every_check_of_each_store_with_a_date() -> None:
    page = (ROOT / "docs" / "stores.md").read_text()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    tables = [s for s in sections if "| about | check | result |" in s]
    assert len(tables) >= 2
    assert len(checks()) >= 49
    for section in tables:
        assert re.search(r"Tried on 20\d\d-\d\d-\d\d: \d+ of \d+ checks hold\.", section)
        for check in checks():
            assert f"| {check.about} | {check.sentence} | " in section
