"""Who may send: keys, their revocation, and what holds while the metadata store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.metadata import open_sqlite
from audit_platform.adapters.sql.store import SqlMetadata
from audit_platform.errors import MetadataUnavailable
from audit_platform.ports import ApiKey, Metadata, Role
from audit_platform.services import callers
from audit_platform.services.callers import (
    FRESH_SECONDS,
    RETRY_SECONDS,
    STALE_SECONDS,
    UNKNOWN_SECONDS,
)
from audit_platform.services.ingest_credentials import Credentials, Sender
from audit_platform.services.ingest_gateway import METRICS
from audit_platform.services.ingest_problems import Problem
from audit_platform.telemetry import Telemetry
from audit_platform_tests.clocks import START_MS, ManualClock
from audit_platform_tests.services.ingest_world import body_of, event, open_world


@dataclass
class Store:
    """A real metadata store that can be away, and counts how often it is asked for a key."""

    real: SqlMetadata
    away: bool = False
    asked: int = 0

    def api_key_of(self, secret: str) -> ApiKey | None:
        self.asked += 1
        if self.away:
            raise MetadataUnavailable("the store is away")
        return self.real.api_key_of(secret)

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


@dataclass
class Door:
    """Credentials over such a store, at a time that the test sets."""

    store: Store
    now: float = 1000.0
    clock: ManualClock = field(default_factory=ManualClock)
    telemetry: Telemetry = field(default_factory=lambda: Telemetry(METRICS))

    def __post_init__(self) -> None:
        metadata: Metadata = self.store  # type: ignore[assignment] # the rest is the real store's
        self.credentials = Credentials(
            metadata, self.clock, self.telemetry, monotonic=lambda: self.now
        )

    def knock(self, authorization: str) -> str:
        """The tenant that is let in, or the slug of the problem."""
        try:
            sender = asyncio.run(self.credentials.admit(authorization.encode()))
        except Problem as e:
            return e.slug
        return sender.tenant_id


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    metadata = open_sqlite(tmp_path / "metadata.db")
    metadata.add_tenant("north", START_MS)
    made = Door(Store(metadata))
    yield made
    made.credentials.close()
    metadata.close()


def edge_key(door: Door) -> tuple[ApiKey, str]:
    key, secret = door.store.real.add_api_key("north", Role.EDGE, START_MS)
    return key, f"Bearer {secret}"


def test_a_good_key_is_asked_for_once_a_minute(door: Door) -> None:
    _, header = edge_key(door)
    for _ in range(5):
        assert door.knock(header) == "north"
    assert door.store.asked == 1
    door.now += FRESH_SECONDS
    assert door.knock(header) == "north"
    assert door.store.asked == 2


def test_a_revoked_key_is_refused_within_a_minute(door: Door) -> None:
    key, header = edge_key(door)
    assert door.knock(header) == "north"
    door.store.real.revoke_api_key(key.key_id, START_MS)
    door.now += FRESH_SECONDS - 1
    assert door.knock(header) == "north"
    door.now += 1
    assert door.knock(header) == "unauthenticated"


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.EDGE])
def test_only_an_edge_may_send(door: Door, role: Role) -> None:
    _, secret = door.store.real.add_api_key("north", role, START_MS)
    assert door.knock(f"Bearer {secret}") == "forbidden"


def test_an_unknown_key_is_not_asked_for_at_every_request_but_soon_again(door: Door) -> None:
    assert door.knock("Bearer wrong") == "unauthenticated"
    assert door.knock("Bearer wrong") == "unauthenticated"
    assert door.store.asked == 1
    door.now += UNKNOWN_SECONDS
    assert door.knock("Bearer wrong") == "unauthenticated"
    assert door.store.asked == 2


def test_a_known_key_is_good_for_five_minutes_while_the_store_is_away(door: Door) -> None:
    _, header = edge_key(door)
    assert door.knock(header) == "north"
    door.store.away = True
    door.now += STALE_SECONDS
    assert door.knock(header) == "north"
    assert b"audit_ingest_stale_credentials_total 1.0" in door.telemetry.text()
    door.now += 1
    assert door.knock(header) == "metadata_unavailable"
    door.store.away = False
    assert door.knock(header) == "north"


def test_a_store_that_is_away_is_not_asked_at_every_request(door: Door) -> None:
    _, header = edge_key(door)
    assert door.knock(header) == "north"
    door.store.away = True
    door.now += FRESH_SECONDS
    for _ in range(5):
        assert door.knock(header) == "north"
    assert door.store.asked == 2
    door.now += RETRY_SECONDS
    assert door.knock(header) == "north"
    assert door.store.asked == 3


def test_a_revocation_counts_as_soon_as_the_store_is_back(door: Door) -> None:
    key, header = edge_key(door)
    assert door.knock(header) == "north"
    door.store.away = True
    door.now += FRESH_SECONDS
    assert door.knock(header) == "north"
    door.store.real.revoke_api_key(key.key_id, START_MS)
    door.store.away = False
    door.now += RETRY_SECONDS
    assert door.knock(header) == "unauthenticated"


def test_an_unknown_key_is_not_judged_while_the_store_is_away(door: Door) -> None:
    _, header = edge_key(door)
    door.store.away = True
    assert door.knock(header) == "metadata_unavailable"
    door.store.away = False
    assert door.knock("Bearer wrong") == "unauthenticated"
    door.store.away = True
    door.now += UNKNOWN_SECONDS
    assert door.knock("Bearer wrong") == "metadata_unavailable"


def test_many_wrong_keys_do_not_fill_the_memory_nor_push_good_ones_out(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "MAX_REMEMBERED", 8)
    _, header = edge_key(door)
    assert door.knock(header) == "north"
    for n in range(30):
        assert door.knock(f"Bearer wrong{n}") == "unauthenticated"
        assert len(door.credentials._keys._known) <= 8
    asked = door.store.asked
    assert door.knock(header) == "north"
    assert door.store.asked == asked


def test_many_good_keys_push_the_oldest_out(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "MAX_REMEMBERED", 3)
    headers = [edge_key(door)[1] for _ in range(5)]
    for header in headers:
        door.now += 1
        assert door.knock(header) == "north"
    assert len(door.credentials._keys._known) == 3
    asked = door.store.asked
    assert [door.knock(header) for header in headers[2:]] == ["north"] * 3
    assert door.store.asked == asked


def test_no_secret_is_kept_in_memory(door: Door) -> None:
    _, header = edge_key(door)
    assert door.knock(header) == "north"
    assert header.removeprefix("Bearer ").encode() not in door.credentials._keys._known


def test_requests_of_one_key_at_once_ask_once(door: Door) -> None:
    _, header = edge_key(door)

    async def crowd() -> list[Sender]:
        return await asyncio.gather(*(door.credentials.admit(header.encode()) for _ in range(20)))

    assert {sender.tenant_id for sender in asyncio.run(crowd())} == {"north"}
    assert door.store.asked == 1


def test_over_http_a_revoked_key_and_a_store_that_is_away_are_told_apart(tmp_path: Path) -> None:
    now = [1000.0]
    with open_world(tmp_path / "home", monotonic=lambda: now[0]) as world:
        assert world.post(body_of(event(0))).status == 202
        [key] = world.platform.metadata.api_keys()
        world.platform.metadata.revoke_api_key(key.key_id, START_MS)
        now[0] += FRESH_SECONDS
        answer = world.post(body_of(event(1)))
        assert (answer.status, answer.problem()) == (401, "unauthenticated")
        assert len(world.stored()) == 1
    real = open_sqlite(tmp_path / "home" / "metadata.db")
    store = Store(real, away=True)
    with open_world(tmp_path / "home", metadata=store) as world:  # type: ignore[arg-type] # the rest is the real store's
        answer = world.post(body_of(event(1)))
        assert (answer.status, answer.problem()) == (503, "metadata_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert world.request("GET", "/readyz").status == 200
    real.close()
