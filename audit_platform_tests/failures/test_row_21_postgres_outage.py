"""Failure 21 on a real PostgreSQL: ingest goes on by what it knew, questions by keys it knew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.adapters.postgres.metadata import open_postgres
from audit_platform.ports import Role, UnknownDevices
from audit_platform.record import signing
from audit_platform.services.callers import RETRY_SECONDS, STALE_SECONDS
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.own_stack import OwnStack, own_stack
from audit_platform_tests.services import ingest_world, query_world
from audit_platform_tests.services.ingest_world import TENANT, body_of, event


@pytest.fixture(scope="module")
def own() -> Iterator[OwnStack]:
    """A server that may be killed."""
    with own_stack("postgres") as stack:
        yield stack


def test_row_21_ingest_goes_on_for_five_minutes_without_postgres_and_recovers_by_itself(
    own: OwnStack, tmp_path: Path
) -> None:
    now = [1000.0]
    store = open_postgres(own.settings().database)
    with ingest_world.open_world(
        tmp_path / "home", metadata=store, monotonic=lambda: now[0]
    ) as world:
        store.add_tenant(TENANT, START_MS)
        _, world.secret = store.add_api_key(TENANT, Role.EDGE, START_MS)
        # What an edge may send is known too: devices that are enrolled, and no others.
        store.enrol_devices(TENANT, ["pump-1"], START_MS)
        store.set_unknown_devices(TENANT, UnknownDevices.DEAD_LETTER)
        _, unseen = store.add_api_key(TENANT, Role.EDGE, START_MS)
        assert world.post(body_of(event(0))).status == 202
        own.kill("postgres")
        now[0] += STALE_SECONDS
        answer = world.post(body_of(event(1), event(0, "stranger")))
        assert (answer.status, answer.json["accepted"]) == (202, 1)
        assert [letter.slug for letter in world.dead_letters()] == ["unknown_device"]
        assert world.request("GET", "/readyz").status == 200
        # Who was never seen cannot be judged, and is told to come back.
        answer = world.post(body_of(event(2)), authorization=f"Bearer {unseen}")
        assert (answer.status, answer.problem()) == (503, "metadata_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        # After five minutes nobody is let in any more: a revocation could not be heard of.
        now[0] += 1
        assert world.post(body_of(event(2))).problem() == "metadata_unavailable"
        own.start()
        now[0] += RETRY_SECONDS
        assert world.post(body_of(event(2))).status == 202
        assert world.post(body_of(event(3)), authorization=f"Bearer {unseen}").status == 202
        assert len(world.stored()) == 4
    store.close()


def test_row_21_questions_are_answered_without_postgres_and_recover_by_themselves(
    own: OwnStack, tmp_path: Path
) -> None:
    with query_world.query_world(tmp_path / "home") as bare:
        store = open_postgres(own.settings().database)
        edge = bare.world.edge(query_world.TENANT)
        start = edge.start(bare.world.clock.now_ms())
        events = edge.heartbeats(1, 3, bare.world.clock.now_ms())
        bare.world.ingest(query_world.TENANT, [start, *events])
        bare.world.archive()
        store.add_tenant(query_world.TENANT, START_MS)
        store.add_edge_key(query_world.TENANT, signing.public_bytes(edge.key), START_MS)
        _, secret = store.add_api_key(query_world.TENANT, Role.AUDITOR, START_MS)
        with query_world.asking(bare.world, metadata=store) as queries:
            path = f"/v1/tenants/{query_world.TENANT}/devices/pump-000/timeline"
            before = queries.ask(path, secret)
            assert before.status_code == 200
            own.kill("postgres")
            queries.now += STALE_SECONDS
            answer = queries.ask(path, secret)
            assert answer.status_code == 200
            assert answer.json()["rows"] == before.json()["rows"]
            assert "metadata does not answer" in answer.text
            assert len(queries.on_record("record_read")) == 2  # and each read is on record
            queries.now += 1
            answer = queries.ask(path, secret)
            assert query_world.problem(answer) == "metadata_unavailable"
            own.start()
            queries.now += RETRY_SECONDS
            answer = queries.ask(path, secret)
            assert answer.status_code == 200
            assert "metadata does not answer" not in answer.text
        store.close()
