"""Two people decide about dead letters: what is proposed, predicted, approved, and refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from audit_platform.errors import DecisionRefused
from audit_platform.operations.dlq.clusters import clusters_of
from audit_platform.operations.dlq.decide import Wanted
from audit_platform.operations.dlq.records import State, cases, decisions_of
from audit_platform.operations.dlq.repair import Repair
from audit_platform.operations.query.event import event_by_id
from audit_platform.record import layout
from audit_platform.record.decision import Action, Outcome, Person, Proposal
from audit_platform.record.event import event_hash
from audit_platform_tests.operations.dlq.desk import ANN, BOB, SCHEMA, TENANT, Dlq
from audit_platform_tests.world import open_world


@pytest.fixture
def dlq(tmp_path: Path) -> Iterator[Dlq]:
    with open_world(tmp_path) as world:
        yield Dlq.open(world)


def test_refused_lines_are_counted_by_cause_and_only_within_the_window(dlq: Dlq) -> None:
    now = dlq.world.clock.now_ms()
    dlq.refused(5)
    dlq.world.refuse(TENANT, [b'{"schemaRef": "alarm/7", "x": 1}', b"no json"])
    dlq.world.archive()
    found = clusters_of(dlq.reader, TENANT, now, now + 1).clusters
    assert [(c.schema_ref, c.path, c.count, len(c.entries)) for c in found] == [
        (SCHEMA, "payload", 5, 5),
        ("", "payload", 1, 1),
        ("alarm/7", "payload", 1, 1),
    ]
    assert clusters_of(dlq.reader, TENANT, now + 1, now + 2).clusters == ()


def test_the_dry_run_says_accepted_refused_and_copy_wherever_the_copy_stands(dlq: Dlq) -> None:
    lines = dlq.refused(4)
    dlq.world.refuse(TENANT, [b"no json", lines[0].replace(b"uptimeSeconds", b"noSuchField")])
    dlq.world.ingest(TENANT, lines[:1])
    dlq.world.archive()  # landed
    dlq.world.ingest(TENANT, lines[1:2])  # in the log
    case = dlq.propose(dlq.wanted())
    assert case.dry_run is not None
    counts = Counter(line.outcome for line in case.dry_run.lines)
    assert counts == {Outcome.ACCEPTED: 2, Outcome.COPY: 2, Outcome.REFUSED: 2}
    copies = {x.event_hash for x in case.dry_run.lines if x.outcome is Outcome.COPY}
    assert copies == {event_hash(line).hex() for line in lines[:2]}
    refused = {x.slug: x.reason for x in case.dry_run.lines if x.outcome is Outcome.REFUSED}
    assert refused.keys() == {"bad_json", "bad_checksum"}
    assert all(refused.values())
    # The same when all of it is sealed.
    dlq.world.archive()
    dlq.world.close()
    dlq.world.seal(TENANT)
    again = dlq.propose(dlq.wanted(reason="the same again, a day later, for the record"))
    assert again.dry_run is not None
    assert again.dry_run.lines == case.dry_run.lines


def test_nobody_approves_their_own_by_whatever_credential_of_one_subject(dlq: Dlq) -> None:
    dlq.refused(1)
    case = dlq.propose(dlq.wanted(), BOB)
    for same in (BOB, Person("c" * 16, "bob")):
        with pytest.raises(DecisionRefused, match="cannot approve") as refused:
            dlq.approve(case, same)
        assert refused.value.slug == "self_approval"
    assert dlq.approve(case, ANN).state is State.APPROVED
    assert dlq.approve(case, ANN).state is State.APPROVED  # again: the same


def test_a_rejected_entry_stays_listed_with_its_decision(dlq: Dlq) -> None:
    dlq.refused(2)
    first, second = dlq.entries()
    rejected = dlq.wanted([first], action=Action.REJECT, schema_ref="")
    proposal = dlq.approved(rejected)
    with pytest.raises(DecisionRefused, match="rejects its entries"):
        dlq.replay(proposal)
    dlq.approved(dlq.wanted([first, second]))
    found = decisions_of(dlq.reader, TENANT)
    assert [(d.action, d.state, d.became) for d in found[second]] == [
        (Action.REPLAY, State.APPROVED, "")
    ]
    assert sorted((d.action, d.state, d.became) for d in found[first]) == [
        (Action.REJECT, State.REJECTED, "rejected"),
        (Action.REPLAY, State.APPROVED, ""),
    ]
    assert sorted(dlq.entries()) == sorted([first, second])


def test_a_repaired_event_names_the_old_one_and_stands_in_a_chain_of_its_own(dlq: Dlq) -> None:
    (line,) = dlq.refused(1)
    (entry,) = dlq.entries()
    repair = Repair(entry, "heartbeat", 1, {"uptimeSeconds": 7})
    wanted = dlq.wanted(action=Action.REPAIR, schema_ref="", repairs=[repair])
    told = dlq.replay(dlq.approved(wanted))
    assert (told.appended, told.stopped) == (2, "")
    start, new = (orjson.loads(e) for e in dlq.in_log() if b"dlq-repair/" in e)
    assert start["eventType"] == "chain_start"
    assert new["payload"]["entryId"] == entry
    assert new["payload"]["eventHash"] == event_hash(line).hex()
    assert new["payload"]["payload"] == {"uptimeSeconds": 7}
    dlq.world.archive()
    dlq.world.close()
    assert dlq.world.seal(TENANT).quarantined_links == 1
    assert dlq.world.verify(TENANT).findings == []
    (copy,) = event_by_id(dlq.reader, TENANT, new["eventId"]).copies
    assert copy.proof is not None


def bad_ones(dlq: Dlq) -> dict[str, Wanted]:
    """Proposals that cannot be made, by a word of the refusal."""
    (entry,) = dlq.entries()
    repair = Repair(entry, "heartbeat", 1, {"uptimeSeconds": "long"})
    to_repair = {"action": Action.REPAIR, "schema_ref": ""}
    return {
        "reason says too little": dlq.wanted(reason="because"),
        "0 entries": replace(dlq.wanted(), entry_ids=[]),
        "no schema": dlq.wanted(schema_ref="heartbeat/999"),
        "a schema and the action reject": dlq.wanted(action=Action.REJECT),
        "a schema and the action replay": dlq.wanted(schema_ref=""),
        "not one for each": dlq.wanted(**to_repair),
        "repairs and the action": dlq.wanted(repairs=[repair]),
        "payload.uptimeSeconds": dlq.wanted(**to_repair, repairs=[repair]),
        "1 of the entries are not in quarantine": dlq.wanted([entry, "0" * 32]),
        "2 of the entries are not": dlq.wanted(
            [entry, "0" * 32], from_ms=0, to_ms=layout.MS_PER_DAY
        ),
    }


def test_a_proposal_that_cannot_be_made_leaves_nothing_behind(dlq: Dlq) -> None:
    dlq.refused(1)
    for words, wanted in bad_ones(dlq).items():
        with pytest.raises(DecisionRefused, match=words) as refused:
            dlq.propose(wanted)
        assert refused.value.slug == "bad_proposal"
        assert refused.value.remedy
    assert list(cases(dlq.reader, TENANT)) == []


def test_a_strangers_proposal_and_a_strangers_approval_count_for_nothing(dlq: Dlq) -> None:
    dlq.refused(1)
    case = dlq.propose(dlq.wanted())
    forged = replace(case.proposal, proposal_id="0" * 16, signature="00" * 64)
    objects = dlq.world.platform.objects
    until = dlq.world.clock.now_ms() + 1000
    place = layout.proposal_key(TENANT, forged.proposal_id)
    objects.put(place, forged.to_bytes(), retain_until_ms=until, if_absent=True)
    elsewhere = layout.proposal_key(TENANT, "1" * 16)  # a good record under another name
    objects.put(elsewhere, case.proposal.to_bytes(), retain_until_ms=until, if_absent=True)
    broken = layout.approval_key(TENANT, case.proposal.proposal_id)
    objects.put(broken, b"{}", retain_until_ms=until, if_absent=True)
    (found,) = cases(dlq.reader, TENANT)
    assert (found.proposal, found.state) == (case.proposal, State.PROPOSED)
    assert Proposal.from_bytes(place, forged.to_bytes()) == forged
