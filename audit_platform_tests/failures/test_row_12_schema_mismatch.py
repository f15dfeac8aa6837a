"""Row 12: a payload does not fit its schema: refused aloud, kept with its bytes, its chain goes on.

Recovery (reject, or replay under another schema) is a decision of two operators.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import orjson

from audit_platform.defs.build import build_definitions
from audit_platform.operations.manifests import read_history
from audit_platform.ports import Role
from audit_platform.record import signing
from audit_platform.record.event import event_hash, format_time_ms
from audit_platform.services.query_models import QuarantineAnswer, SearchAnswer
from audit_platform.services.query_models_dlq import ClustersAnswer, ProposalAnswer
from audit_platform_tests.failures.receipts import Receipts
from audit_platform_tests.services import ingest_world
from audit_platform_tests.services.ingest_world import TENANT
from audit_platform_tests.services.query_world import QueryWorld, asking, parsed, problem
from audit_platform_tests.world import DAY, Edge, World


def beats(edge: Edge, ms: int) -> list[bytes]:
    """Three good events of each of two devices."""
    return [
        edge.event(device, "heartbeat", {"uptimeSeconds": n}, ms + n)
        for n in range(3)
        for device in ("pump-000", "pump-001")
    ]


def test_row_12_refused_events_are_counted_kept_and_the_chain_goes_through_them(
    tmp_path: Path,
) -> None:
    with ingest_world.open_world(tmp_path / "home", partitions=2) as gateway:
        platform, clock = gateway.platform, gateway.clock
        settings: Any = None  # the embedded folder is all that is asked for here
        world = World(tmp_path / "home", platform, clock, settings)
        platform.keys.new("manifest", clock.now_ms())
        edge = Edge(TENANT)
        platform.metadata.add_edge_key(TENANT, signing.public_bytes(edge.key), clock.now_ms())
        now = clock.now_ms()
        good = [edge.start(now), *beats(edge, now)]
        bad = [
            edge.event("pump-000", "heartbeat", {"uptimeSeconds": "long"}, now),
            edge.event("pump-001", "heartbeat", {"noSuchField": 1}, now),
        ]
        after = beats(edge, now)

        answer = gateway.post(ingest_world.body_of(*good, *bad, *after))
        assert answer.status == 202
        refused = answer.json["refused"]
        assert {r["slug"] for r in refused} == {"schema_violation"}
        assert all(r["field"] and r["reason"] and r["remedy"] for r in refused)
        receipts = Receipts()
        receipts.took([*good, *after])
        receipts.took(bad, "refused")

        # Signal.
        labels = '{slug="schema_violation"}'
        assert gateway.metric("ingestion_validation_failures_total", labels) == 2
        # The bytes are kept, as they came.
        assert [entry.data for entry in gateway.dead_letters()] == bad

        world.archive()
        world.close()
        result = world.seal(TENANT)
        assert (result.rows, result.quarantined_links) == (len(good) + len(after), 2)
        links = {q.link.event_hash for q in read_history(platform, TENANT).counting[DAY].links}
        assert links == {event_hash(line).hex() for line in bad}
        # The chain of each device goes through what was refused: no break, no gap.
        report = world.verify(TENANT)
        assert report.findings == []
        declared = {(e.device_id, e.sequence) for e in report.entries if e.verdict}
        assert declared == {
            (event["deviceId"], event["sequenceNumber"]) for event in map(orjson.loads, bad)
        }
        found = receipts.check(world.objects_folder, tmp_path)
        assert found["clean"]
        assert (found["acknowledged"], found["refused"]) == (len(good + after + bad), 2)


def test_row_12_a_type_that_nobody_knows_stops_no_other_type(tmp_path: Path) -> None:
    with ingest_world.open_world(tmp_path / "home") as gateway:
        unknown = ingest_world.event(0, event_type="no_such_type", payload={"a": 1})
        known = ingest_world.event(0, device="pump-2")
        answer = gateway.post(ingest_world.body_of(unknown, known))
        assert answer.status == 202
        assert [r["slug"] for r in answer.json["refused"]] == ["unknown_event_type"]
        assert len(gateway.stored()) == 1
        assert [entry.data for entry in gateway.dead_letters()] == [unknown]


# ------------------------------------------------------------------------------------- recovery

#: What a pump says since its last update: allowed from version 2 on, stamped version 1.
UPDATED = {"uptimeSeconds": 7, "firmware": "4.2"}
DLQ = f"/v1/tenants/{TENANT}/dlq"


def decide(queries: QueryWorld, now_ms: int, secrets: list[str]) -> str:
    """Two operators: one proposes what the investigator may only look at, the other approves."""
    first, second, investigator = secrets
    window = {"from": format_time_ms(now_ms - 1000), "to": format_time_ms(now_ms + 1000)}
    seen = parsed(ClustersAnswer, queries.ask(DLQ, investigator, **window))
    (cause,) = seen.clusters
    assert (cause.slug, cause.schema_ref, cause.count) == ("schema_violation", "heartbeat/1", 2)
    wanted = {
        "action": "replay_with_schema",
        "entries": cause.entries,
        **window,
        "reason": "the pumps were updated, and still stamp version 1",
        "schemaRef": "heartbeat/2",
    }
    assert problem(queries.post(f"{DLQ}/proposals", investigator, wanted)) == "forbidden"
    proposal = parsed(ProposalAnswer, queries.post(f"{DLQ}/proposals", first, wanted)).proposal
    assert proposal.dry_run is not None
    assert [line.outcome for line in proposal.dry_run.lines] == ["accepted", "accepted"]
    hashes = {"setSha256": proposal.set_sha256, "dryRunSha256": proposal.dry_run.sha256}
    approving = f"{DLQ}/proposals/{proposal.proposal_id}/approve"
    refused = queries.post(approving, first, hashes)
    assert (problem(refused), refused.status_code) == ("self_approval", 403)
    changed = queries.post(approving, second, hashes | {"dryRunSha256": "0" * 64})
    assert (problem(changed), changed.status_code) == ("proposal_changed", 409)
    approved = parsed(ProposalAnswer, queries.post(approving, second, hashes)).proposal
    assert (approved.state, approved.approver) == ("approved", second.split("_")[1])
    done = queries.on_record("operator_action")
    assert [(a["action"], a["actor"], a["subject"]) for a in done] == [
        ("dlq propose", f"key-{first.split('_')[1]}", proposal.proposal_id),
        ("dlq approve", f"key-{second.split('_')[1]}", proposal.proposal_id),
    ]
    assert queries.on_record("access_refused")[-2]["slug"] == "self_approval"
    return proposal.proposal_id


def test_row_12_what_two_operators_decided_is_replayed_found_in_hot_and_sealed(
    tmp_path: Path,
) -> None:
    with ingest_world.open_world(tmp_path / "home", partitions=2) as gateway:
        platform, clock = gateway.platform, gateway.clock
        settings: Any = None  # the embedded folder is all that is asked for here
        world = World(tmp_path / "home", platform, clock, settings)
        platform.keys.new("manifest", clock.now_ms())
        edge = Edge(TENANT)
        platform.metadata.add_edge_key(TENANT, signing.public_bytes(edge.key), clock.now_ms())
        now = clock.now_ms()
        good = [edge.start(now), *beats(edge, now)]
        bad = [edge.event(device, "heartbeat", UPDATED, now) for device in ("pump-000", "pump-001")]
        assert len(gateway.post(ingest_world.body_of(*good, *bad)).json["refused"]) == len(bad)
        after = beats(edge, now)
        gateway.post(ingest_world.body_of(*after))
        world.archive()

        with asking(world) as queries, dg.DagsterInstance.ephemeral() as instance:
            roles = (Role.OPERATOR, Role.OPERATOR, Role.INVESTIGATOR)
            secrets = [queries.key(TENANT, role) for role in roles]
            proposal = decide(queries, now, secrets)
            run = (
                build_definitions(platform=platform)
                .resolve_job_def("replay_dlq")
                .execute_in_process(
                    instance=instance,
                    run_config={
                        "ops": {
                            "replay_letters": {"config": {"tenant": TENANT, "proposal": proposal}}
                        }
                    },
                )
            )
            assert run.success
            stored = instance.get_run_by_id(run.run_id)
            assert stored is not None
            assert stored.tags["audit/proposal"] == proposal
            # Found in HOT with all others, and listed with its decision for ever.
            world.archive()
            world.index()
            events = f"/v1/tenants/{TENANT}/events"
            times = {"from": format_time_ms(now - 1000), "to": format_time_ms(now + 1000)}
            asked = {"type": "heartbeat", "tier": "hot", **times}
            found = parsed(SearchAnswer, queries.ask(events, secrets[0], **asked))
            sent = {event_hash(line).hex() for line in (*good[1:], *bad, *after)}
            assert {r.event_hash for r in found.rows} == sent
            listed = queries.ask(f"/v1/tenants/{TENANT}/quarantine", secrets[2], **times)
            for row in parsed(QuarantineAnswer, listed).rows:
                (decision,) = row.decisions
                assert (decision.state, decision.became) == ("replayed", "accepted")

        receipts = Receipts()
        receipts.took([*good, *bad, *after])
        world.archive()  # the reads of just now
        world.close()
        result = world.seal(TENANT)
        assert (result.rows, result.quarantined_links) == (len(receipts.lines), 0)
        assert world.verify(TENANT).findings == []
        assert receipts.check(world.objects_folder, tmp_path)["clean"]
