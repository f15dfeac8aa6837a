"""Every route, asked with every key there is: the table of access holds, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from audit_platform.errors import MetadataUnavailable
from audit_platform.ports import ApiKey, Metadata, Role
from audit_platform.record.layout import PLATFORM_TENANT
from audit_platform.services.callers import (
    FRESH_SECONDS,
    RETRY_SECONDS,
    STALE_SECONDS,
    UNKNOWN_SECONDS,
)
from audit_platform.services.query_access import DECIDING, RULES
from audit_platform.services.query_api import demand_rules, routes_of
from audit_platform_tests.services.query_world import (
    OTHER,
    TENANT,
    QueryWorld,
    asking,
    problem,
    query_world,
)

#: Who may ask what, written down once more: a change of the table must be meant.
READERS = {Role.INVESTIGATOR, Role.OPERATOR, Role.AUDITOR}
WANTED: dict[str, set[Role] | None] = {
    "/v1/tenants/{tenant}/events": READERS,
    "/v1/tenants/{tenant}/events/{event}": READERS,
    "/v1/tenants/{tenant}/devices/{device}/timeline": READERS,
    "/v1/tenants/{tenant}/export": {Role.INVESTIGATOR, Role.AUDITOR},
    "/v1/tenants/{tenant}/quarantine": READERS,
    "/v1/tenants/{tenant}/quarantine/{entry}": READERS,
    "/v1/tenants/{tenant}/dlq": READERS,
    "/v1/tenants/{tenant}/dlq/proposals": {Role.OPERATOR},
    "/v1/tenants/{tenant}/dlq/proposals/{proposal}": READERS,
    "/v1/tenants/{tenant}/dlq/proposals/{proposal}/approve": {Role.OPERATOR},
    "/v1/tenants/{tenant}/manifests": {Role.INVESTIGATOR, Role.AUDITOR},
    "/v1/tenants/{tenant}/manifests/{number}": {Role.INVESTIGATOR, Role.AUDITOR},
    "/v1/tenants/{tenant}/reads": {Role.OPERATOR, Role.AUDITOR},
    "/v1/keys": set(Role),
    "/v1/whoami": set(Role),
    "/healthz": None,
    "/readyz": None,
    "/metrics": None,
    "/openapi.json": None,
}

#: A value for every part of a path but the tenant.
PARTS = {"device": "edge-0", "entry": "0" * 32, "number": "1", "proposal": "0" * 16}

#: A body that says nothing: who may decide is told so (400), and nobody else hears of it.
NOTHING: dict[str, str] = {}


@dataclass
class People:
    """A query-api over two tenants with a record, the platform's own, and keys of all kinds."""

    queries: QueryWorld
    event: str
    keys: dict[tuple[str, Role], str]
    revoked: str

    def path(self, template: str, tenant: str) -> str:
        return template.format(tenant=tenant, event=self.event, **PARTS)

    def ask(self, template: str, tenant: str, secret: str) -> httpx.Response:
        """The route about a tenant, by its method."""
        path = self.path(template, tenant)
        if template in DECIDING:
            return self.queries.post(path, secret, NOTHING)
        return self.queries.ask(path, secret)


def allowed(template: str, *absent: str) -> int:
    """The status of a question that may be asked; what ends so is not there to be found."""
    return 400 if template in DECIDING else 404 if template.endswith(absent) else 200


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    with query_world(tmp_path_factory.mktemp("access") / "home") as queries:
        world = queries.world
        hashes = []
        for tenant in (TENANT, OTHER):
            edge = world.edge(tenant)
            start = edge.start(world.clock.now_ms())
            world.ingest(tenant, [start, *edge.heartbeats(2, 3, world.clock.now_ms())])
            hashes.append(edge.epoch_hash)
        keys = {
            (tenant, role): queries.key(tenant, role)
            for tenant in (TENANT, OTHER, PLATFORM_TENANT, "suspended")
            for role in Role
        }
        # The platform has a record too: that of this first read.
        queries.ask(f"/v1/tenants/{TENANT}/events", keys[TENANT, Role.AUDITOR])
        world.archive()
        world.close()
        for tenant in (TENANT, OTHER, PLATFORM_TENANT):
            world.seal(tenant)
        # Good for hours only, and a day has passed.
        for tenant in (TENANT, OTHER, PLATFORM_TENANT, "suspended"):
            keys[tenant, Role.BREAK_GLASS] = queries.key(tenant, Role.BREAK_GLASS)
        metadata = world.platform.metadata
        metadata.set_suspended("suspended", suspended=True)
        revoked, secret = metadata.add_api_key(TENANT, Role.AUDITOR, world.clock.now_ms())
        metadata.revoke_api_key(revoked.key_id, world.clock.now_ms())
        yield People(queries, hashes[0], keys, secret)


def test_every_route_of_the_app_stands_in_both_tables(people: People) -> None:
    found = {route.path_format for route in routes_of(people.queries.app.fastapi)}
    assert found == RULES.keys() == WANTED.keys()
    assert len(found) > 10


def test_an_app_with_a_route_without_a_rule_does_not_start() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/v1/tenants/{tenant}/secrets")(lambda tenant: tenant)
    with pytest.raises(KeyError, match="secrets"):
        demand_rules(app)
    changing = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    changing.post("/v1/keys")(lambda: None)
    with pytest.raises(KeyError, match="POST"):
        demand_rules(changing)
    with pytest.raises(TypeError):
        demand_rules(FastAPI())


@pytest.mark.parametrize("template", WANTED)
@pytest.mark.parametrize("role", Role)
def test_a_key_of_the_own_tenant_may_what_its_role_may(
    people: People, template: str, role: Role
) -> None:
    answer = people.ask(template, TENANT, people.keys[TENANT, role])
    wanted = WANTED[template]
    if wanted is None or role in wanted:
        # Nothing is refused into quarantine here, so that one entry is not found: allowed to ask.
        assert answer.status_code == allowed(template, "{entry}", "{proposal}"), answer.text
    else:
        assert problem(answer) == "forbidden"
        assert answer.status_code == 403


@pytest.mark.parametrize("template", [path for path in WANTED if "{tenant}" in path])
@pytest.mark.parametrize("role", Role)
def test_no_key_reads_another_tenant_nor_learns_that_it_is_there(
    people: People, template: str, role: Role
) -> None:
    bodies = []
    # One that exists, one that does not, one that is no name, the platform's own.
    for tenant in (OTHER, "nobody", "No%20Name", PLATFORM_TENANT):
        answer = people.ask(template, tenant, people.keys[TENANT, role])
        assert problem(answer) == "not_found"
        bodies.append(answer.content)
    assert len(set(bodies)) == 1
    # Nor does an operator of the platform read a tenant's record.
    answer = people.ask(template, TENANT, people.keys[PLATFORM_TENANT, role])
    assert problem(answer) == "not_found"


@pytest.mark.parametrize("template", [path for path in WANTED if "{tenant}" in path])
@pytest.mark.parametrize("role", Role)
def test_the_platforms_own_record_is_for_its_operators_and_auditors(
    people: People, template: str, role: Role
) -> None:
    wanted = WANTED[template]
    assert wanted is not None
    answer = people.ask(template, PLATFORM_TENANT, people.keys[PLATFORM_TENANT, role])
    as_operator = role is Role.BREAK_GLASS and Role.OPERATOR in wanted
    if role in wanted & {Role.OPERATOR, Role.AUDITOR} or as_operator:
        # The event and the device are of another tenant, and not found here.
        wanted_status = allowed(template, "{entry}", "{event}", "{proposal}")
        assert answer.status_code == wanted_status, answer.text
    else:
        assert problem(answer) == "forbidden"


@pytest.mark.parametrize("template", WANTED)
@pytest.mark.parametrize("shown", ["", "wrong", "revoked"])
def test_without_a_good_key_only_open_routes_answer(
    people: People, template: str, shown: str
) -> None:
    given = people.revoked if shown == "revoked" else shown
    answer = people.ask(template, TENANT, given)
    if WANTED[template] is None:
        assert answer.status_code == 200
    else:
        assert problem(answer) == "unauthenticated"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer a b", "Bearer " + "x" * 300])
def test_any_other_authorization_is_none(people: People, header: str) -> None:
    answer = people.queries.runner.run(
        people.queries.client.get("/v1/whoami", headers={"authorization": header})
    )
    assert problem(answer) == "unauthenticated"


@pytest.mark.parametrize("template", WANTED)
@pytest.mark.parametrize("role", Role)
def test_a_suspended_tenants_people_may_still_read(
    people: People, template: str, role: Role
) -> None:
    wanted = WANTED[template]
    answer = people.ask(template, "suspended", people.keys["suspended", role])
    may = wanted is None or role in wanted
    # It has no record: what is asked for by name is not there.
    status = allowed(template, "{event}", "{entry}", "{number}", "{proposal}")
    assert answer.status_code == (status if may else 403), answer.text


def test_a_refused_attempt_is_on_record_with_who_and_what(people: People) -> None:
    stranger = people.queries.key("stranger", Role.AUDITOR)
    answer = people.queries.ask(f"/v1/tenants/{OTHER}/events", stranger)
    found = people.queries.on_record("access_refused")[-1]
    assert found == {
        "requestId": answer.headers["x-request-id"],
        "keyId": stranger.split("_")[1],
        "keyTenant": "stranger",
        "role": "auditor",
        "tenant": OTHER,
        "route": "GET /v1/tenants/{tenant}/events",
        "status": 404,
        "slug": "not_found",
        "suppressed": 0,
    }
    assert stranger.split("_")[2] not in str(people.queries.on_record("access_refused"))


# ------------------------------------------------------------------- while metadata is away (21)


@dataclass
class Store:
    """A real metadata store that can be away, and counts how often it is asked for a key."""

    real: Metadata
    away: bool = False
    asked: int = 0

    def api_key_of(self, secret: str) -> ApiKey | None:
        self.asked += 1
        if self.away:
            raise MetadataUnavailable("the store is away")
        return self.real.api_key_of(secret)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def test_a_known_key_is_good_for_five_minutes_while_the_store_is_away(tmp_path: Path) -> None:
    with query_world(tmp_path / "home") as bare:
        store = Store(bare.world.platform.metadata)
        with asking(bare.world, metadata=store) as queries:
            secret = queries.key(TENANT, Role.AUDITOR)
            path = f"/v1/tenants/{TENANT}/events"
            assert queries.ask(path, secret).status_code == 200
            store.away = True
            queries.now += STALE_SECONDS
            assert queries.ask(path, secret).status_code == 200
            assert queries.metric("audit_query_stale_credentials_total") == 1
            # A key that nobody has seen cannot be judged.
            unseen = queries.key(TENANT, Role.AUDITOR)
            answer = queries.ask(path, unseen)
            assert problem(answer) == "metadata_unavailable"
            assert answer.headers["retry-after"] == "1"
            queries.now += 1
            assert problem(queries.ask(path, secret)) == "metadata_unavailable"
            store.away = False
            queries.now += RETRY_SECONDS
            assert queries.ask(path, secret).status_code == 200


def test_a_revoked_key_is_refused_within_a_minute(tmp_path: Path) -> None:
    with query_world(tmp_path / "home") as queries:
        secret = queries.key(TENANT, Role.AUDITOR)
        assert queries.ask("/v1/whoami", secret).status_code == 200
        queries.world.platform.metadata.revoke_api_key(secret.split("_")[1], 1)
        queries.now += FRESH_SECONDS
        assert problem(queries.ask("/v1/whoami", secret)) == "unauthenticated"


def test_an_unknown_key_costs_no_look_up_at_every_request(tmp_path: Path) -> None:
    with query_world(tmp_path / "home") as bare:
        store = Store(bare.world.platform.metadata)
        with asking(bare.world, metadata=store) as queries:
            for _ in range(5):
                assert problem(queries.ask("/v1/whoami", "wrong")) == "unauthenticated"
            assert store.asked == 1
            queries.now += UNKNOWN_SECONDS
            assert problem(queries.ask("/v1/whoami", "wrong")) == "unauthenticated"
            assert store.asked == 2
            assert b"wrong" not in b"".join(queries.app.desk.keyring._keys._known)
