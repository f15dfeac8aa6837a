"""The demo's proofs hold on a whole record, and each fails on the fault that it is there for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit_platform.adapters.directory import DirectorySource
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.demo import proofs
from audit_platform.demo.bitflip import choose_flip, flip_bit
from audit_platform.demo.dagster_ui import SealRun, read_runs
from audit_platform.demo.device_state import Batch, DeviceFolder, SaidEvent
from audit_platform.demo.home import DemoHome, DemoStopped
from audit_platform.demo.record_view import Progress, RecordView, ledger_of, progress_of
from audit_platform.errors import RecordMalformed
from audit_platform.record import layout
from audit_platform.record.sealed import SEALED_SCHEMA
from audit_platform_tests.world import DAY, World, open_world

TENANT = "north"
ACCEPTED = 31
REFUSED = 2


def _note(devices: Path, event_ids: Sequence[str]) -> None:
    """What the devices write down of one batch that the edge took."""
    batch = Batch(1, b"", tuple(SaidEvent(event_id) for event_id in event_ids))
    folder = DeviceFolder(devices)
    folder.note_sent(TENANT, batch)
    folder.note_receipt(TENANT, batch, ["accepted"] * len(event_ids))


def _play(world: World, home: DemoHome) -> None:
    edge = world.edge(TENANT)
    now = world.clock.now_ms()
    accepted = [edge.start(now), *edge.heartbeats(3, 10, now)]
    refused = edge.heartbeats(2, 1, now)
    world.ingest(TENANT, accepted)
    world.refuse(TENANT, refused)
    world.archive()
    world.close()
    world.seal(TENANT)
    said = [*accepted[1:], *refused]  # the chain_start is the edge's own
    _note(home.devices / TENANT, [orjson.loads(line)["eventId"] for line in said])


@pytest.fixture(scope="module", name="played")
def _played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose day is sealed."""
    root = tmp_path_factory.mktemp("played")
    with open_world(root) as world:
        _play(world, DemoHome(root))
    return root


@pytest.fixture(name="home")
def _home(played: Path, tmp_path: Path) -> Iterator[DemoHome]:
    """A copy of it, to spoil."""
    home = DemoHome(shutil.copytree(played, tmp_path / "demo"))
    yield home
    assert home.objects.exists()


@pytest.fixture(name="run")
def _run(home: DemoHome) -> Callable[[str, Sequence[str]], tuple[int, bytes]]:
    environment = {**os.environ, "AUDIT_HOME": str(home.root)}

    def run(_name: str, command: Sequence[str]) -> tuple[int, bytes]:
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        return done.returncode, done.stdout

    return run


def _view(home: DemoHome) -> RecordView:
    view = RecordView(DirectorySource(home.objects))
    view.refresh()
    return view


def _heads(home: DemoHome) -> dict[str, str]:
    newest = max(_view(home).manifests_of(TENANT), key=lambda m: m.number)
    return {TENANT: f"{TENANT}:{newest.number}:{newest.sha256}"}


@pytest.fixture(name="with_key")
def _with_key(home: DemoHome) -> DemoHome:
    """The auditor has the public key."""
    proofs.write_keys(home, FileKeys(home.root / "keys").public_keys())
    return home


# ------------------------------------------------------------------------------------ counting


def test_the_table_counts_what_was_sent_archived_sealed_and_refused(home: DemoHome) -> None:
    (figures,) = proofs.figures(home, _view(home), [TENANT])
    all_of_them = ACCEPTED + REFUSED
    assert (figures.sent, figures.acknowledged) == (all_of_them - 1, all_of_them - 1)
    assert (figures.archived, figures.own) == (all_of_them, 1)
    assert (figures.sealed, figures.refused) == (ACCEPTED, REFUSED)
    assert (figures.duplicates, figures.unaccounted) == (0, 0)


def test_every_event_of_a_whole_record_is_accounted_for(home: DemoHome, run: proofs.Run) -> None:
    proof = proofs.prove_counts(run, proofs.figures(home, _view(home), [TENANT]), late=0)
    assert proof.held, proof
    assert f"0 of {ACCEPTED + REFUSED} events in the log" in proof.said


def test_a_receipt_for_an_event_that_is_nowhere_is_seen_by_both_counts_and_sets(
    home: DemoHome, run: proofs.Run
) -> None:
    _note(home.devices / TENANT, ["0" * 36])
    table = proofs.figures(home, _view(home), [TENANT])
    assert table[0].unaccounted == 1
    assert not proofs.prove_counts(run, table, late=0).held
    proof = proofs.prove_receipts(run, home, [TENANT])
    assert not proof.held
    assert "lost 1" in proof.said


def test_events_that_arrived_after_the_day_are_said_to_come_with_the_next(
    home: DemoHome, run: proofs.Run
) -> None:
    view = _view(home)
    assert view.after(DAY) == 0
    assert view.after(layout.next_day(DAY, -1)) == ACCEPTED + REFUSED
    proof = proofs.prove_counts(run, proofs.figures(home, view, [TENANT]), late=3)
    assert "3 events arrived after midnight" in proof.lines[0]


def test_the_sets_of_a_whole_record_are_equal(home: DemoHome, run: proofs.Run) -> None:
    proof = proofs.prove_receipts(run, home, [TENANT])
    assert proof.held, proof
    assert (
        f"{ACCEPTED + REFUSED - 1} receipts, {ACCEPTED} sealed rows, {REFUSED} refused"
        in proof.said
    )


# ---------------------------------------------------------------------------------------- fsck


def test_fsck_finds_a_whole_record_clean_with_the_public_key_alone(
    with_key: DemoHome, run: proofs.Run
) -> None:
    shutil.rmtree(with_key.root / "keys")
    proof = proofs.prove_clean(run, with_key, _heads(with_key))
    assert proof.held, proof
    assert proof.said.startswith("clean; ")


def test_without_a_head_of_every_tenant_the_record_is_not_proved_complete(
    with_key: DemoHome, run: proofs.Run
) -> None:
    proof = proofs.prove_clean(run, with_key, {})
    assert not proof.held
    assert "freshness not proved" in proof.said


def test_a_changed_record_is_not_proved_and_the_place_is_named(
    with_key: DemoHome, run: proofs.Run
) -> None:
    part = proofs.largest_part(_view(with_key), DAY)
    flip = flip_bit(with_key.objects / part)
    proof = proofs.prove_clean(run, with_key, _heads(with_key))
    assert not proof.held
    assert any(f"device {flip.device_id}" in line for line in proof.lines)


def test_the_flipped_bit_is_found_and_its_row_named_and_the_record_itself_untouched(
    with_key: DemoHome, run: proofs.Run
) -> None:
    part = proofs.largest_part(_view(with_key), DAY)
    before = (with_key.objects / part).read_bytes()
    for _ in range(2):  # a second run makes the copy anew
        proof = proofs.prove_damage(run, with_key, part)
        assert proof.held, proof
    assert (with_key.objects / part).read_bytes() == before
    flip = choose_flip(before)
    line = proof.lines[0]
    assert f"object {part}, row {flip.row}" in line
    assert f"device {flip.device_id}, sequence {flip.sequence}" in line


def test_a_program_that_gives_no_answer_is_an_error_and_no_proof(home: DemoHome) -> None:
    with pytest.raises(DemoStopped, match="gave no answer"):
        proofs.prove_receipts(lambda *_: (2, b""), home, [TENANT])
    with pytest.raises(DemoStopped, match="gave no answer"):
        proofs.prove_receipts(lambda *_: (0, b"[]"), home, [TENANT])


def test_a_day_without_a_part_gives_nothing_to_damage(home: DemoHome) -> None:
    with pytest.raises(DemoStopped, match="no sealed part"):
        proofs.largest_part(_view(home), "2020-01-01")


# ------------------------------------------------------------------------------------- the bit


def test_the_flipped_bit_changes_one_hash_of_one_row_and_nothing_else_that_decodes(
    home: DemoHome,
) -> None:
    path = home.objects / proofs.largest_part(_view(home), DAY)
    before = pq.read_table(path)
    flip = flip_bit(path)
    after = pq.read_table(path)
    assert after.drop_columns("event_hash").equals(before.drop_columns("event_hash"))
    pairs = zip(before["event_hash"].to_pylist(), after["event_hash"].to_pylist(), strict=True)
    changed = [(row, a, b) for row, (a, b) in enumerate(pairs) if a != b]
    assert [row for row, _, _ in changed] == [flip.row]
    _, old, new = changed[0]
    assert (int.from_bytes(old) ^ int.from_bytes(new)).bit_count() == 1
    assert before["device_id"][flip.row].as_py() == flip.device_id
    assert before["sequence_number"][flip.row].as_py() == flip.sequence


@pytest.mark.parametrize("rows", [None, 0])
def test_a_file_without_rows_has_no_bit_to_choose(tmp_path: Path, rows: int | None) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes(b"no parquet")
    if rows == 0:
        pq.write_table(pa.Table.from_pylist([], schema=SEALED_SCHEMA), path)
    with pytest.raises(RecordMalformed):
        choose_flip(path.read_bytes())


# --------------------------------------------------------------------------------- small parts


def test_the_devices_progress_counts_only_for_the_day_that_is_played(tmp_path: Path) -> None:
    assert progress_of(tmp_path, DAY) == Progress()
    told = {"state": "done", "planned": 9, "taken": 9, "sent": 8, "accepted": 7, "refused": 1}
    DeviceFolder(tmp_path).show({"day": DAY, "retries": 0, **told})
    assert progress_of(tmp_path, DAY) == Progress("done", 9, 9, 8, 7, 1)
    assert progress_of(tmp_path, "2020-01-01") == Progress()


def test_a_sender_that_wrote_nothing_has_an_empty_ledger(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    assert (ledger.sent, ledger.acknowledged) == (0, 0)


def test_a_seal_is_good_only_when_it_ended_well_and_every_check_passed() -> None:
    good = SealRun("r", TENANT, "SUCCESS", "h", {"a": True, "b": True})
    assert good.succeeded
    for run in (
        SealRun("r", TENANT, "FAILURE", "h", {"a": True}),
        SealRun("r", TENANT, "STARTED", "h", {"a": True}),
        SealRun("r", TENANT, "SUCCESS", "h", {"a": True, "b": False}),
        SealRun("r", TENANT, "SUCCESS", "h", {}),
        SealRun("r", TENANT, "SUCCESS", "", {"a": True}),
    ):
        assert not run.succeeded, run


def test_the_head_and_the_checks_are_read_from_dagsters_answer() -> None:
    head = {"label": "trusted_head", "text": "north:1:aa"}
    events = [
        {},
        {"assetKey": {"path": ["cold_day"]}, "metadataEntries": []},
        {"assetKey": {"path": ["cold_manifest"]}, "metadataEntries": [{"label": "n"}, head]},
        {"evaluation": {"checkName": "chain_unbroken", "success": True}},
    ]
    answer = {
        "data": {
            "runsOrError": {
                "results": [
                    {
                        "runId": "r-1",
                        "status": "SUCCESS",
                        "tags": [{"key": "audit/tenant", "value": "north"}],
                        "eventConnection": {"events": events},
                    }
                ]
            }
        }
    }
    assert read_runs(orjson.dumps(answer)) == [
        SealRun("r-1", "north", "SUCCESS", "north:1:aa", {"chain_unbroken": True})
    ]
