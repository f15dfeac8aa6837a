"""query-api as a process and behind its real server: start, stop, a client that leaves, a cut."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import urllib3

from audit_platform.errors import QueryCancelled, StoreUnavailable
from audit_platform.operations.query.model import IsCancelled
from audit_platform.ports import EventQuery, Hot, Role
from audit_platform.record.layout import PLATFORM_TENANT
from audit_platform.services import query_routes_events
from audit_platform.services.ingest_server import make_server, serve
from audit_platform_tests.failures.installation import TENANT as INSTALLED
from audit_platform_tests.failures.installation import installation
from audit_platform_tests.ports import free_port
from audit_platform_tests.services.ingest_world import free_socket
from audit_platform_tests.services.query_world import TENANT, QueryWorld, asking, query_world

SECONDS = 30.0


def get(port: int, path: str, secret: str = "") -> urllib3.BaseHTTPResponse:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    url = f"http://127.0.0.1:{port}{path}"
    return urllib3.request("GET", url, headers=headers, timeout=SECONDS, retries=False)


def test_the_program_answers_records_and_ends_in_order(tmp_path: Path) -> None:
    with installation(tmp_path) as made:
        with made.platform() as opened:
            _, secret = opened.metadata.add_api_key(INSTALLED, Role.AUDITOR, 1)
        made.start("query-api")
        port = made.ports["query-api"]
        assert get(port, "/readyz").json()["ready"]
        answer = get(port, f"/v1/tenants/{INSTALLED}/events", secret)
        assert answer.status == HTTPStatus.OK
        assert answer.json()["rows"] == []
        # The Date header is by the wall-clock port.
        assert " Mar 2026 23:59:" in answer.headers["date"]
        assert get(port, f"/v1/tenants/{INSTALLED}/events").status == HTTPStatus.UNAUTHORIZED
        assert get(port, "/v1/nothing").status == HTTPStatus.NOT_FOUND
        metrics = get(port, "/metrics").data.decode()
        assert 'audit_reads_recorded_total{event_type="record_read"} 1.0' in metrics
        assert 'audit_reads_recorded_total{event_type="access_refused"} 1.0' in metrics
        made.stop("query-api")
        with made.platform() as opened:
            assert PLATFORM_TENANT in [t.tenant_id for t in opened.metadata.tenants()]
        for line in (tmp_path / "query-api.log").read_text().splitlines():
            assert json.loads(line)["service"] == "query-api"


def test_a_port_that_is_taken_is_said_by_its_settings_name(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("AUDIT_")}
        own = {"AUDIT_HOME": str(tmp_path / "home"), "AUDIT_QUERY_PORT": str(port)}
        ended = subprocess.run(
            [sys.executable, "-m", "audit_platform.cli", "query-api"],
            env=kept | own,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert ended.returncode == 2
    assert "AUDIT_QUERY_PORT" in ended.stderr


# ------------------------------------------------------------------------ behind the real server


@contextmanager
def serving(queries: QueryWorld) -> Iterator[int]:
    """The app behind the real server, which runs in a thread; its port."""
    sock = free_socket()
    server = make_server(queries.app)
    thread = threading.Thread(target=serve, args=(server, sock))
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()


@dataclass
class EndlessHot:
    """The real HOT; a search ends when it is cancelled."""

    real: Hot
    begun: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)

    def search(self, _query: EventQuery, *, is_cancelled: Callable[[], bool]) -> pa.Table:
        self.begun.set()
        while not is_cancelled():
            threading.Event().wait(0.001)
        self.stopped.set()
        raise QueryCancelled("stopped")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def test_a_client_that_hangs_up_stops_its_query(tmp_path: Path) -> None:
    with query_world(tmp_path / "home") as bare:
        hot = EndlessHot(bare.world.platform.hot)
        with asking(bare.world, hot=hot) as queries, serving(queries) as port:
            secret = queries.key(TENANT, Role.AUDITOR)
            request = (
                f"GET /v1/tenants/{TENANT}/events?tier=hot HTTP/1.1\r\nhost: query\r\n"
                f"authorization: Bearer {secret}\r\n\r\n"
            )
            with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
                connection.sendall(request.encode())
                assert hot.begun.wait(SECONDS)
                assert not hot.stopped.is_set()
            assert hot.stopped.wait(SECONDS)
            text = get(port, "/metrics").data.decode()
            assert 'audit_query_cancelled_total{reason="client_gone"} 1.0' in text
            # Nobody cools down for it, and what was not shown is on record as that.
            answer = get(port, f"/v1/tenants/{TENANT}/events?tier=cold", secret)
            assert answer.status == HTTPStatus.OK
            assert [r["outcome"] for r in queries.on_record()] == ["cancelled", "answered"]


def test_an_export_that_breaks_off_does_not_look_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_asked: Any, is_cancelled: IsCancelled, **_more: Any) -> Iterator[bytes]:
        assert not is_cancelled()
        yield b"one\n"
        yield b"two\n"
        raise StoreUnavailable("the disk is gone")

    monkeypatch.setattr(query_routes_events, "export", broken)
    with query_world(tmp_path / "home") as queries, serving(queries) as port:
        secret = queries.key(TENANT, Role.AUDITOR)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            get(port, f"/v1/tenants/{TENANT}/export", secret)
        # Its slot is free again, and the record says that it was begun.
        assert not queries.app.desk.queries._running
        assert [r["outcome"] for r in queries.on_record()] == ["answered"]


def test_many_requests_at_once_are_all_answered(tmp_path: Path) -> None:
    with query_world(tmp_path / "home") as queries, serving(queries) as port:
        secrets = [queries.key(f"t-{n}", Role.AUDITOR) for n in range(12)]

        async def crowd() -> list[int]:
            asked = (
                asyncio.to_thread(get, port, f"/v1/tenants/t-{n}/events", secret)
                for n, secret in enumerate(secrets)
            )
            return [answer.status for answer in await asyncio.gather(*asked)]

        assert asyncio.run(crowd()) == [HTTPStatus.OK] * len(secrets)
        assert len(queries.on_record()) == len(secrets)
