"""People reach Dagster only signed in, as operators; what they change is on record first.

The provider is the real one; Dagster's place is taken by a server that keeps what it was asked.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.oidc.sign_in import OidcSignIn
from audit_platform.adapters.oidc.tokens import open_oidc
from audit_platform.errors import LogUnavailable, SettingInvalid
from audit_platform.ports import Log, NewRecord
from audit_platform.services.gate import CALLBACK, Gate, open_gate
from audit_platform.services.gate_question import PERSON_TAG, QuestionRefused, read_question
from audit_platform.services.gate_session import Sealer, cookie_of
from audit_platform.services.ingest_server import make_server, serve
from audit_platform.settings import Settings
from audit_platform.stack import oidc
from audit_platform_tests.own_stack import OwnStack, own_stack
from audit_platform_tests.services.ingest_world import SECONDS, free_socket
from audit_platform_tests.test_operator_actions import actions
from audit_platform_tests.world import World, open_world

#: Of `oidc.PEOPLE`: who may change something.
OPERATOR = "platform-operator"

LAUNCH = (
    """mutation Launch($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename } }"""
)
READ = "query { version }"


class Dagster(ThreadingHTTPServer):
    """Answers everything, and keeps it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Dagster)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Set-Cookie", "audit_gate=stolen")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815 - the name that the base class looks for

    def log_message(self, *_: object) -> None:
        """Nothing."""


@dataclass
class Browser:
    """Keeps cookies by host, and follows where it is sent."""

    gate: str
    jars: dict[str, dict[str, str]] = field(default_factory=dict)
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def go(
        self, method: str, url: str, *, html: bool = False, **more: Any
    ) -> urllib3.BaseHTTPResponse:
        """One request; `url` may be a path of the gate."""
        url = urljoin(self.gate, url)
        jar = self.jars.setdefault(url.split("/")[2], {})
        headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in jar.items())}
        headers |= {"Accept": "text/html"} if html else {}
        headers |= more.pop("headers", {})
        answer = self.pool.request(method, url, redirect=False, headers=headers, **more)
        for cookie in answer.headers.getlist("set-cookie"):
            name, _, value = cookie.split(";")[0].partition("=")
            jar[name] = value
        return answer

    def sign_in(self, person: str, secret: str, page: str = "/runs") -> urllib3.BaseHTTPResponse:
        """As a person does, from a page to the answer of the gate's callback."""
        url = urljoin(self.gate, page)
        for _ in range(9):
            answer = self.go("GET", url, html=True)
            if answer.status == 200 and "/interaction/" in url:
                form = {"person": person, "secret": secret}
                answer = self.go("POST", url, fields=form, encode_multipart=False)
            if answer.status not in {302, 303} or url.startswith(self.gate + CALLBACK):
                return answer
            url = urljoin(url, answer.headers["location"])
        raise AssertionError("sent round in circles")

    def ask(self, query: str, variables: object = None, **headers: str) -> urllib3.BaseHTTPResponse:
        body = json.dumps({"query": query, "variables": variables})
        given = {"Content-Type": "application/json"} | headers
        return self.go("POST", "/graphql", body=body, headers=given)


@dataclass
class AwayLog:
    """The world's own log, which can be away."""

    real: Log
    is_away: bool = False

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[int]:
        """As the port has it."""
        if self.is_away:
            raise LogUnavailable("away")
        return self.real.append(topic, records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@dataclass
class Scene:
    """`secrets`: of each person. `now`: the gate's clock."""

    world: World
    dagster: Dagster
    browser: Browser
    secrets: dict[str, str]
    now: list[float]
    log: AwayLog

    def signed_in(self) -> Browser:
        answer = self.browser.sign_in(OPERATOR, self.secrets[OPERATOR])
        assert answer.status == 303
        self.dagster.asked.clear()
        return self.browser


@pytest.fixture(scope="module")
def provider() -> Iterator[OwnStack]:
    with own_stack("oidc") as stack:
        yield stack


@contextmanager
def serving(gate: Gate, sock: Any) -> Iterator[None]:
    server = make_server(gate)
    thread = threading.Thread(target=serve, args=(server, sock))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        gate.close()
        assert not thread.is_alive()


@contextmanager
def scene_of(provider: OwnStack, folder: Path) -> Iterator[Scene]:
    """A gate before a Dagster, a browser that has not signed in."""
    settings = provider.settings()
    sock, now = free_socket(), [1_800_000_000.0]
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    gate_secret, people = oidc.people(provider.place)
    tokens = open_oidc(settings.oidc_issuer, settings.oidc_audience)
    with open_world(folder, partitions=1) as world, closing(tokens), Dagster() as dagster:
        log = AwayLog(world.platform.log)
        platform = replace(world.platform, tokens=tokens, log=cast("Log", log))
        sign_in = OidcSignIn(settings.oidc_issuer, oidc.GATE, gate_secret, url + CALLBACK)
        gate = Gate(
            platform, sign_in, url=url, dagster=dagster.url, sealer=Sealer(now=lambda: now[0])
        )
        thread = threading.Thread(target=dagster.serve_forever)
        thread.start()
        with serving(gate, sock):
            yield Scene(world, dagster, Browser(url), people, now, log)
        dagster.shutdown()
        thread.join(SECONDS)


@pytest.fixture
def scene(provider: OwnStack, tmp_path: Path) -> Iterator[Scene]:
    with scene_of(provider, tmp_path) as made:
        yield made


def test_nothing_reaches_dagster_before_a_person_has_signed_in(scene: Scene) -> None:
    browser = scene.browser
    assert browser.go("GET", "/runs").status == 401
    assert browser.ask(READ).status == 401
    assert browser.ask(LAUNCH, {"p": {}}).status == 401
    assert browser.go("GET", "/runs", html=True).status == 302
    browser.jars[browser.gate.split("/")[2]]["audit_gate"] = "e30.0123"
    assert browser.ask(READ).status == 401
    assert scene.dagster.asked == []
    assert actions(scene.world) == []


def test_an_operator_of_the_platform_gets_in_and_back_to_the_page(scene: Scene) -> None:
    answer = scene.browser.sign_in(OPERATOR, scene.secrets[OPERATOR], "/runs?x=1")
    assert (answer.status, answer.headers["location"]) == (303, scene.browser.gate + "/runs?x=1")
    page = scene.browser.go("GET", "/runs?x=1")
    assert (page.status, page.data) == (200, b"{}")
    ((method, path, headers, _),) = scene.dagster.asked
    assert (method, path) == ("GET", "/runs?x=1")
    assert "cookie" not in {name.lower() for name in headers}
    assert "set-cookie" not in page.headers, "Dagster may not speak for the gate"
    (said,) = actions(scene.world)
    assert (said["action"], said["subject"]) == ("dagster sign-in", OPERATOR)


@pytest.mark.parametrize("person", ["hospital-operator", "platform-auditor"])
def test_others_who_can_sign_in_do_not_get_in(scene: Scene, person: str) -> None:
    """An operator of a hospital; an auditor of the platform."""
    answer = scene.browser.sign_in(person, scene.secrets[person])
    assert answer.status == 403
    assert b"operators of the tenant platform" in answer.data
    assert scene.browser.ask(READ).status == 401
    assert scene.dagster.asked == []


def test_a_run_carries_who_started_it_and_is_on_record_before_dagster_hears(scene: Scene) -> None:
    browser = scene.signed_in()
    forged = {"key": PERSON_TAG, "value": "somebody else"}
    params = {"executionMetadata": {"tags": [{"key": "a", "value": "b"}, forged]}}
    assert browser.ask(LAUNCH, {"p": params}).status == 200
    ((_, path, _, body),) = scene.dagster.asked
    signed_in, change = actions(scene.world)
    tags = json.loads(body)["variables"]["p"]["executionMetadata"]["tags"]
    who = change["actor"].removeprefix("key-")
    assert path == "/graphql"
    assert tags == [{"key": "a", "value": "b"}, {"key": PERSON_TAG, "value": who}]
    assert (change["action"], change["subject"]) == ("dagster change", "launchRun")
    assert signed_in["actor"] == change["actor"]
    assert len(change["digest"]) == 64


def test_what_only_reads_is_passed_on_as_it_is_and_leaves_no_record(scene: Scene) -> None:
    browser = scene.signed_in()
    assert browser.ask(READ).status == 200
    assert json.loads(scene.dagster.asked[0][3]) == {"query": READ, "variables": None}
    assert len(actions(scene.world)) == 1  # the sign-in


def test_without_a_record_nothing_is_changed(scene: Scene) -> None:
    browser = scene.signed_in()
    scene.log.is_away = True
    answer = browser.ask(LAUNCH, {"p": {}})
    assert answer.status == 503
    assert answer.headers["retry-after"]
    assert scene.dagster.asked == []
    scene.log.is_away = False
    assert browser.ask(LAUNCH, {"p": {}}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/graphql?query=mutation{x}", 405),
        ("POST", "/report_asset_materialization/cold_day", 403),
        ("GET", "/report_asset_materialization/cold_day", 403),
        ("GET", "/%72eport_asset_check/cold_day", 403),
        ("GET", "/runs/%2e%2e/report_asset_check/x", 400),
        ("GET", "//report_asset_check/x", 400),
        ("POST", "/other", 405),
        ("DELETE", "/runs", 405),
    ],
)
def test_ways_round_the_questions_are_shut(
    scene: Scene, method: str, path: str, status: int
) -> None:
    browser = scene.signed_in()
    host, _, port = browser.gate.removeprefix("http://").partition(":")
    cookies = browser.jars[f"{host}:{port}"]
    # By hand: the client would tidy the path up.
    connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
    connection.putrequest(method, path, skip_accept_encoding=True)
    connection.putheader("Cookie", "; ".join(f"{k}={v}" for k, v in cookies.items()))
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()
    assert scene.dagster.asked == []


def test_another_site_cannot_ask_in_a_persons_name(scene: Scene) -> None:
    browser = scene.signed_in()
    assert browser.ask(LAUNCH, {"p": {}}, Origin="http://elsewhere.example").status == 403
    assert browser.ask(LAUNCH, {"p": {}}, **{"Content-Type": "text/plain"}).status == 415
    assert scene.dagster.asked == []


def test_a_session_ends_and_so_does_a_sign_in_that_was_begun_elsewhere(scene: Scene) -> None:
    browser = scene.signed_in()
    scene.now[0] += 3600
    assert browser.ask(READ).status == 401
    stranger = Browser(browser.gate)
    assert stranger.go("GET", CALLBACK + "?code=a&state=b").status == 400
    assert scene.dagster.asked == []


# ----------------------------------------------------------------------------------- questions


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'[{"query": "query { version }"}]',
        b'{"query": 1}',
        b'{"query": "mutation {"}',
        b'{"query": "subscription { x }"}',
        b'{"query": "mutation { ...f } fragment f on Mutation { launchRun }"}',
        b'{"query": "mutation { launchRun(executionParams: {mode: \\"a\\"}) { x } }"}',
        b'{"query": "mutation($p: P = {a: 1}) { launchRun(executionParams: $p) { x } }"}',
    ],
)
def test_what_cannot_be_understood_wholly_is_refused(body: bytes) -> None:
    with pytest.raises(QuestionRefused):
        read_question(body, "person")


def test_a_change_cannot_hide_behind_a_question_or_an_alias() -> None:
    query = "query a { version } mutation b { harmless: terminateRun(runId: 1) { x } }"
    body = json.dumps({"query": query, "operationName": "a"}).encode()
    assert read_question(body, "person").changes == ("terminateRun",)


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_refused(data: bytes) -> None:
    with suppress(QuestionRefused):
        assert read_question(data, "person").changes == ()


@given(st.text(max_size=80))
def test_a_cookie_that_we_did_not_seal_is_nobody(text: str) -> None:
    sealer, other = Sealer(), Sealer()
    sealed = sealer.seal("session", {"id": "a"}, 60)
    assert sealer.open("session", text) is None
    assert other.open("session", sealed) is None
    assert sealer.open("sign-in", sealed) is None
    assert sealer.open("session", sealed) == {"id": "a"}
    assert cookie_of(f"x=1; audit_gate={sealed}", "audit_gate") == sealed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUDIT_DAGSTER", ""),
        ("AUDIT_DAGSTER", "http://dagster.example:3000"),
        ("AUDIT_OIDC_ISSUER", ""),
        ("AUDIT_OIDC_CLIENT", ""),
    ],
)
def test_a_gate_that_would_lead_nowhere_or_could_be_gone_round_does_not_open(
    tmp_path: Path, name: str, value: str
) -> None:
    good = {
        "AUDIT_DAGSTER": "http://127.0.0.1:8503",
        "AUDIT_OIDC_ISSUER": "http://127.0.0.1:1",
        "AUDIT_OIDC_CLIENT": "gate",
    }
    with open_world(tmp_path) as world:
        open_gate(world.platform, Settings.from_environment(good)).close()
        with pytest.raises(SettingInvalid, match=name):
            open_gate(world.platform, Settings.from_environment({**good, name: value}))
