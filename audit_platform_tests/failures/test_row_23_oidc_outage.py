"""Failure 23 on a real provider: good tokens go on until they expire, new sign-ins fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from audit_platform.adapters.oidc.provider_keys import ASK_SECONDS, ProviderKeys
from audit_platform.adapters.oidc.tokens import LEEWAY_SECONDS, OidcTokens, open_oidc
from audit_platform.cli import main
from audit_platform.errors import StackError
from audit_platform.ports import Role
from audit_platform.record.layout import PLATFORM_TENANT
from audit_platform.settings import Settings
from audit_platform.stack import oidc
from audit_platform.wiring import open_metadata
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.operations.test_own_events import stored
from audit_platform_tests.own_stack import OwnStack, own_stack
from audit_platform_tests.services import ingest_world
from audit_platform_tests.services.ingest_world import body_of, event
from audit_platform_tests.services.query_world import QueryWorld, asking, problem, query_world

TENANT = "hospital-a"
EVENTS = f"/v1/tenants/{TENANT}/events"


@pytest.fixture(scope="module")
def own() -> Iterator[OwnStack]:
    """A provider that may be killed."""
    with own_stack("oidc") as stack:
        yield stack


def issuer_of(own: OwnStack) -> str:
    return own.settings().oidc_issuer


@pytest.fixture
def queries(own: OwnStack, tmp_path: Path) -> Iterator[QueryWorld]:
    """A query-api that takes the provider's tokens, over a tenant of its own."""
    tokens = open_oidc(issuer_of(own), own.settings().oidc_audience)
    with query_world(tmp_path / "home") as bare:
        bare.world.platform.metadata.add_tenant(TENANT, START_MS)
        with asking(bare.world, tokens=tokens) as made:
            yield made
    tokens.close()


def test_a_token_reads_what_its_role_may_and_the_record_names_its_subject(
    own: OwnStack, queries: QueryWorld
) -> None:
    token = oidc.token(own.place, "investigator")
    assert queries.ask(EVENTS, token).status_code == 200
    who = queries.ask("/v1/whoami", token).json()
    assert (who["tenantId"], who["role"], who["subject"]) == (
        TENANT,
        "investigator",
        "investigator",
    )
    [read] = queries.on_record("record_read")
    assert (read["subject"], read["keyId"]) == ("investigator", who["keyId"])
    assert (read["keyTenant"], read["role"]) == (TENANT, "investigator")
    # Another hospital's people are told what any stranger is.
    other = oidc.token(own.place, "other-investigator")
    assert problem(queries.ask(EVENTS, other)) == "not_found"
    assert queries.on_record("access_refused")[-1]["subject"] == "other-investigator"
    for client in ("no-tenant", "two-roles"):
        answer = queries.ask(EVENTS, oidc.token(own.place, client))
        assert problem(answer) == "unauthenticated"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_row_23_good_tokens_go_on_until_they_expire_and_nobody_else_signs_in(
    own: OwnStack, tmp_path: Path
) -> None:
    ahead = [0.0]
    issuer = issuer_of(own)
    keys = ProviderKeys(issuer, monotonic=lambda: 1000.0 + ahead[0])
    tokens = OidcTokens(keys, issuer, oidc.AUDIENCE, now=lambda: time.time() + ahead[0])
    with query_world(tmp_path / "home") as bare:
        bare.world.platform.metadata.add_tenant(TENANT, START_MS)
        with asking(bare.world, tokens=tokens) as queries:
            token = oidc.token(own.place, "investigator")
            assert queries.ask(EVENTS, token).status_code == 200
            own.kill("oidc")
            with pytest.raises(StackError):
                oidc.token(own.place, "investigator")
            ahead[0] = oidc.TOKEN_SECONDS + LEEWAY_SECONDS - 60
            assert queries.ask(EVENTS, token).status_code == 200
            ahead[0] += 61
            answer = queries.ask(EVENTS, token)
            assert problem(answer) == "unauthenticated"
            assert "expired" in answer.json()["detail"]
            # An API key works meanwhile, and so does everybody again once the provider is back.
            auditor = queries.key(TENANT, Role.AUDITOR)
            assert queries.ask(EVENTS, auditor).status_code == 200
            own.start()
            ahead[0] = 0.0
            assert queries.ask(EVENTS, oidc.token(own.place, "investigator")).status_code == 200
    tokens.close()


def test_row_23_while_the_provider_is_away_a_token_with_an_unknown_key_is_told_to_come_back(
    own: OwnStack, tmp_path: Path
) -> None:
    token = oidc.token(own.place, "edge")
    now = [1000.0]
    keys = ProviderKeys(issuer_of(own), monotonic=lambda: now[0])
    tokens = OidcTokens(keys, issuer_of(own), oidc.AUDIENCE)
    with ingest_world.open_world(tmp_path / "home", tokens=tokens) as world:
        world.platform.metadata.add_tenant(TENANT, START_MS)
        own.kill("oidc")
        body = body_of(event(0, tenant=TENANT))
        answer = world.post(body, authorization=f"Bearer {token}")
        assert (answer.status, answer.problem()) == (503, "tokens_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        own.start()
        now[0] += ASK_SECONDS
        assert world.post(body, authorization=f"Bearer {token}").status == 202
        investigator = oidc.token(own.place, "investigator")
        answer = world.post(body, authorization=f"Bearer {investigator}")
        assert (answer.status, answer.problem()) == (403, "forbidden")
        world.platform.metadata.set_suspended(TENANT, suspended=True)
        assert len(world.stored()) == 1
    tokens.close()


def test_a_key_that_the_provider_rotated_is_found_at_its_first_token(own: OwnStack) -> None:
    now = [1000.0]
    keys = ProviderKeys(issuer_of(own), monotonic=lambda: now[0])
    tokens = OidcTokens(keys, issuer_of(own), oidc.AUDIENCE)
    before = oidc.token(own.place, "auditor")
    assert tokens.check(before).role is Role.AUDITOR
    own.kill("oidc")
    oidc.rotate(own.place)
    own.start()
    now[0] += ASK_SECONDS
    assert tokens.check(oidc.token(own.place, "operator")).role is Role.OPERATOR
    assert tokens.check(before).role is Role.AUDITOR
    tokens.close()


# ------------------------------------------------------------------------------------ break-glass


def test_a_break_glass_key_is_recorded_loud_and_good_for_hours_on_the_platforms_record_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("AUDIT_HOME", str(home))
    monkeypatch.setenv("AUDIT_CLOCK", f"scaled:{START_MS}:0:0.000001")
    with query_world(home) as queries:
        made = CliRunner().invoke(
            main, ["break-glass", "--reason", "provider down, 4711", "--json"]
        )
        assert made.exit_code == 0, made.output
        secret = made.stdout.split('"secret": "')[1].split('"')[0]
        key_id = secret.split("_")[1]
        [opened] = _said(queries, "break_glass_opened")
        assert opened["keyId"] == key_id
        assert opened["reason"] == "provider down, 4711"
        assert any(r.levelno == logging.ERROR and key_id in r.message for r in caplog.records)
        caplog.clear()
        answer = queries.ask(f"/v1/tenants/{PLATFORM_TENANT}/events", secret)
        assert answer.status_code == 200, answer.text
        assert any(
            r.levelno == logging.ERROR and "break-glass" in r.message for r in caplog.records
        )
        assert queries.metric("audit_break_glass_requests_total") == 1
        [read] = queries.on_record("record_read")
        assert (read["keyId"], read["role"]) == (key_id, "break_glass")
        # No patient's record, and no export even of its own.
        queries.key(TENANT, Role.AUDITOR)
        assert problem(queries.ask(EVENTS, secret)) == "not_found"
        export = f"/v1/tenants/{PLATFORM_TENANT}/export"
        assert problem(queries.ask(export, secret)) == "forbidden"
        end = datetime.fromisoformat(str(opened["until"]))
        queries.world.clock.ms = round(end.timestamp() * 1000) - 1
        assert queries.ask("/v1/whoami", secret).status_code == 200
        queries.world.clock.ms += 1
        answer = queries.ask(f"/v1/tenants/{PLATFORM_TENANT}/events", secret)
        assert problem(answer) == "unauthenticated"


def test_no_break_glass_key_is_good_without_a_reason_or_a_record_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("AUDIT_HOME", str(home))
    for words in ([], ["--reason", " "], ["--reason", "x" * 257]):
        assert CliRunner().invoke(main, ["break-glass", *words]).exit_code == 2
    assert (
        CliRunner().invoke(main, ["apikey", "add", "platform", "--role", "break_glass"]).exit_code
    )
    home.mkdir()
    (home / "keys").write_text("in the way of the keys that sign what is recorded")
    refused = CliRunner().invoke(main, ["break-glass", "--reason", "provider down"])
    assert refused.exit_code == 1
    assert "could not be put on record" in refused.stderr
    assert "secret" not in refused.output
    store = open_metadata(Settings.from_environment({"AUDIT_HOME": str(home)}))
    [key] = store.api_keys()
    assert key.revoked_ms
    store.close()


def _said(queries: QueryWorld, event_type: str) -> list[dict[str, object]]:
    events = [orjson.loads(line) for line in stored(queries.world.platform.log)]
    return [e["payload"] for e in events if e["eventType"] == event_type]
