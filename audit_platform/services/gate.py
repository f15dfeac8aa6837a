"""dagster-gate: the only way for people to Dagster's pages, which have no sign-in of their own.

Who comes signs in at the identity provider and must be an operator of the tenant `platform`. What
changes something is on record before it is passed on; runs carry who started them. Belongs here:
the way of a request, the program. Does not: what a question changes (`gate_question.py`), cookies
(`gate_session.py`), the provider (`adapters/oidc/`).
Source: issue "The UI has no login of its own"; RFC 9110; decision on the gate in docs/decisions.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import urllib3

from audit_platform.errors import AccessDenied, AuditPlatformError, Recoverable, SettingInvalid
from audit_platform.operations.own_events import OwnEvent, OwnSource
from audit_platform.ports import Caller, Platform, Role, SignIn
from audit_platform.processes import freeze_startup_objects, tune_process
from audit_platform.record.layout import PLATFORM_TENANT
from audit_platform.services.gate_question import Question, QuestionRefused, read_question
from audit_platform.services.gate_session import (
    SESSION_SECONDS,
    SIGN_IN_SECONDS,
    Sealer,
    cookie_of,
    set_cookie,
)
from audit_platform.services.ingest_server import listen, make_server, serve
from audit_platform.settings import Settings
from audit_platform.telemetry import log_as_json
from audit_platform.wiring import open_platform, open_sign_in

_logger: Final = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SESSION: Final = "audit_gate"
UNDER_WAY: Final = "audit_gate_sign_in"
CALLBACK: Final = "/gate/callback"
SIGN_OUT: Final = "/gate/sign-out"
HEALTH: Final = "/gate/healthz"
QUESTIONS: Final = "/graphql"

#: A backfill over all partitions of a hundred tenants names 73,000 keys of 30 bytes.
MAX_BODY_BYTES: Final = 8 << 20

#: Dagster's slowest page (all partitions of a hundred tenants) takes seconds; then it hangs.
UPSTREAM_SECONDS: Final = 60.0
_CHUNK: Final = 1 << 16

#: What Dagster is told of the browser. Not its cookies: they are ours.
_PASSED: Final = (b"accept", b"accept-language", b"if-none-match", b"range", b"content-type")
#: What the browser is not told: these belong to one connection, or would speak for us.
_KEPT_BACK: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "set-cookie"})


class Turned(Exception):
    """A request that goes no further: its answer."""

    def __init__(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


class Gate:
    """The ASGI application. `url` is where browsers find it; `dagster` where the webserver is."""

    def __init__(
        self, platform: Platform, sign_in: SignIn, *, url: str, dagster: str, sealer: Sealer
    ) -> None:
        self._platform = platform
        self._sign_in = sign_in
        self._url = url.rstrip("/")
        self._dagster = dagster.rstrip("/")
        self._secure = url.startswith("https:")
        self._sealer = sealer
        self._source = OwnSource(platform, "dagster-gate")
        self._recording = asyncio.Lock()
        self._pool = urllib3.PoolManager(retries=False, timeout=UPSTREAM_SECONDS, maxsize=16)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._pool.clear()
        self._sign_in.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Whatever is wrong with it is an answer, never an exception."""
        if scope["type"] != "http":
            return  # no websockets: Dagster's page asks again and again instead
        try:
            await self._answer(scope, receive, send)
        except Turned as e:
            await _say(send, e)
        except Recoverable as e:
            again = ("retry-after", str(int(e.retry_after_seconds) or 1))
            await _say(send, Turned(503, f"{e.reason}\n{e.remedy or ''}\n", again))
        except AuditPlatformError as e:
            await _say(send, Turned(403, f"{e.reason}\n{e.remedy or ''}\n"))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        if path == HEALTH:
            raise Turned(200, "alive\n")
        if path == CALLBACK:
            await self._back(scope, headers)
        if path == SIGN_OUT:
            raise Turned(200, "signed out\n", self._cookie(SESSION, "", "/", 0))
        _demand_plain(scope)
        person = self._sealer.open("session", _cookie(headers, SESSION))
        if person is None:
            await self._send_to_provider(scope, headers)
            return
        if method == "POST":
            body = await _body(receive)
            passed = await self._asked(path, headers, body, person)
            await self._pass_on("POST", scope, headers, passed, send)
        elif method in {"GET", "HEAD"} and path != QUESTIONS:
            await self._pass_on(method, scope, headers, None, send)
        else:
            raise Turned(405, "ask Dagster by POST /graphql\n")

    # ------------------------------------------------------------------------------- signing in

    async def _send_to_provider(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if scope["method"] != "GET" or b"text/html" not in headers.get(b"accept", b""):
            raise Turned(401, "sign in first: open this page in a browser\n")
        begun = await asyncio.to_thread(self._sign_in.begin)
        kept = {"state": begun.state, "verifier": begun.verifier, "path": _path(scope)}
        sealed = self._sealer.seal("sign-in", kept, SIGN_IN_SECONDS)
        cookie = self._cookie(UNDER_WAY, sealed, CALLBACK, SIGN_IN_SECONDS)
        raise Turned(302, "", ("location", begun.url), cookie)

    async def _back(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """The browser is back from the provider. Raises `Turned` in any case, or an error."""
        asked = {k: v[0] for k, v in parse_qs(scope["query_string"].decode("latin-1")).items()}
        kept = self._sealer.open("sign-in", _cookie(headers, UNDER_WAY))
        if kept is None or asked.get("state") != kept["state"]:
            raise Turned(400, "this sign-in was not begun here, or too long ago: open the page\n")
        if "code" not in asked:
            raise Turned(403, f"the provider refuses: {asked.get('error', '')[:100]!a}\n")
        token = await asyncio.to_thread(self._sign_in.token, asked["code"], kept["verifier"])
        if self._platform.tokens is None:
            raise AccessDenied("no provider is set", remedy="set AUDIT_OIDC_ISSUER")
        caller = await asyncio.to_thread(self._platform.tokens.check, token)
        _demand_operator(caller)
        await self._record("dagster sign-in", caller.key_id, caller.subject[:128], "")
        value = {"id": caller.key_id, "subject": caller.subject}
        sealed = self._sealer.seal("session", value, SESSION_SECONDS)
        raise Turned(
            303,
            "",
            ("location", self._url + kept["path"]),
            self._cookie(SESSION, sealed, "/", SESSION_SECONDS),
            self._cookie(UNDER_WAY, "", CALLBACK, 0),
        )

    def _cookie(self, name: str, value: str, path: str, seconds: float) -> tuple[str, str]:
        made = set_cookie(name, value, path=path, seconds=seconds, secure=self._secure)
        return ("set-cookie", made)

    # ----------------------------------------------------------------------------------- asking

    async def _asked(
        self, path: str, headers: dict[bytes, bytes], body: bytes, person: dict[str, str]
    ) -> bytes:
        """What may be passed on of a POST; changes are on record then."""
        if path != QUESTIONS:
            raise Turned(405, "ask Dagster by POST /graphql\n")
        # Another site's form can send neither; its script may not ask at all.
        if not headers.get(b"content-type", b"").startswith(b"application/json"):
            raise Turned(415, "a question is application/json\n")
        if headers.get(b"origin", self._url.encode()) != self._url.encode():
            raise Turned(403, "asked from another site\n")
        try:
            question = read_question(body, person["id"])
        except QuestionRefused as e:
            raise Turned(400, f"{e}\n") from e
        if question.changes:
            await self._record_change(question, person, body)
        return question.body

    async def _record_change(self, question: Question, person: dict[str, str], body: bytes) -> None:
        names = ", ".join(question.changes)
        digest = hashlib.sha256(body).hexdigest()
        _logger.info("a change", extra={"person": person["id"], "changes": names, "digest": digest})
        await self._record("dagster change", person["id"], names[:128], digest)

    async def _record(self, action: str, key_id: str, subject: str, digest: str) -> None:
        """Durable on return. Raises the ports' `…Unavailable`: nothing may be passed on then."""
        payload = {
            "action": action,
            "actor": f"key-{key_id}",
            "tenant": PLATFORM_TENANT,
            "subject": subject,
        }
        event = OwnEvent("operator_action", payload | ({"digest": digest} if digest else {}))
        async with self._recording:  # one chain: its events follow each other
            await asyncio.to_thread(self._source.append, [event])

    async def _pass_on(
        self,
        method: str,
        scope: Scope,
        headers: dict[bytes, bytes],
        body: bytes | None,
        send: Send,
    ) -> None:
        target = self._dagster + _path(scope)
        passed = {n.decode(): headers[n].decode("latin-1") for n in _PASSED if n in headers}
        try:
            answer = await asyncio.to_thread(
                self._pool.request,
                method,
                target,
                body=body,
                headers=passed,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except urllib3.exceptions.HTTPError as e:
            _logger.warning("Dagster does not answer: %s", e)
            raise Turned(502, "Dagster's webserver does not answer\n") from e
        try:
            told = [
                (k.lower().encode("latin-1"), v.encode("latin-1"))
                for k, v in answer.headers.items()
                if k.lower() not in _KEPT_BACK
            ]
            await send({"type": "http.response.start", "status": answer.status, "headers": told})
            while chunk := await asyncio.to_thread(answer.read, _CHUNK):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            answer.close()


def _path(scope: Scope) -> str:
    """Path and query as they were sent."""
    query = scope["query_string"].decode("latin-1")
    return str(scope["raw_path"].decode("latin-1")) + (f"?{query}" if query else "")


def _demand_plain(scope: Scope) -> None:
    """Raise `Turned` for a path that Dagster might read as another, or that changes by GET."""
    raw, path = scope["raw_path"].decode("latin-1"), scope["path"]
    if "//" in path or "/." in path or "\\" in path or "%2f" in raw.lower():
        raise Turned(400, "no such page\n")
    if path.startswith("/report_asset"):
        raise Turned(403, "assets are reported by their jobs\n")


def _demand_operator(caller: Caller) -> None:
    if caller.role is not Role.OPERATOR or caller.tenant_id != PLATFORM_TENANT:
        raise AccessDenied(
            f"{caller.subject} is {caller.role} of {caller.tenant_id}",
            remedy=f"Dagster is for operators of the tenant {PLATFORM_TENANT}",
        )


def _cookie(headers: dict[bytes, bytes], name: str) -> str:
    return cookie_of(headers.get(b"cookie", b"").decode("latin-1"), name)


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Turned(400, "the question broke off\n")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise Turned(413, f"a question has at most {MAX_BODY_BYTES} bytes\n")
        if not message.get("more_body"):
            return b"".join(parts)


async def _say(send: Send, turned: Turned) -> None:
    body = turned.text.encode()
    headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
        *turned.headers,
    ]
    told = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers]
    await send({"type": "http.response.start", "status": turned.status, "headers": told})
    await send({"type": "http.response.body", "body": body})


def open_gate(platform: Platform, settings: Settings) -> Gate:
    """The application. Raises `SettingInvalid` for a gate that would lead nowhere."""
    url = settings.gate_url or f"http://{settings.ingest_host}:{settings.gate_port}"
    for name, value, why in (
        ("AUDIT_DAGSTER", settings.dagster, "the URL of Dagster's webserver, on loopback"),
        ("AUDIT_OIDC_ISSUER", settings.oidc_issuer, "the provider at which people sign in"),
        ("AUDIT_OIDC_CLIENT", settings.oidc_client, "the gate's client id at the provider"),
    ):
        if not value:
            raise SettingInvalid(name, "", why)
    if urlsplit(settings.dagster).hostname not in {"127.0.0.1", "::1", "localhost"}:
        # Elsewhere anybody could go round the gate.
        raise SettingInvalid("AUDIT_DAGSTER", settings.dagster, "an address on loopback")
    sign_in = open_sign_in(settings, url.rstrip("/") + CALLBACK)
    return Gate(platform, sign_in, url=url, dagster=settings.dagster, sealer=Sealer())


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises `SettingInvalid` when the port cannot be had."""
    tune_process()
    log_as_json("dagster-gate")
    platform = open_platform(settings)
    try:
        gate = open_gate(platform, settings)
        try:
            sock = listen(settings.ingest_host, settings.gate_port, setting="AUDIT_GATE_PORT")
            freeze_startup_objects()
            serve(make_server(gate), sock)
        finally:
            gate.close()
    finally:
        platform.close()
