"""One event by id: its copies, its exact bytes, its proof, and what quarantine holds of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.errors import QueryCancelled
from audit_platform.operations.query.event import NotAnId, event_by_id
from audit_platform.operations.query.model import EventCopy, Standing
from audit_platform.operations.query.reader import Reader
from audit_platform.record import layout
from audit_platform.record.proofs import EventProof, check_event_proof
from audit_platform.record.spans import Verdict
from audit_platform_tests.operations.query.conftest import Asked
from audit_platform_tests.operations.query.story import (
    DAYS,
    TENANT,
    Said,
    counting,
    index,
    said,
    sealed_times,
    tell,
)
from audit_platform_tests.world import World, open_world


def id_of(s: Said) -> str:
    return str(s.event["eventId"])


def test_every_event_is_found_by_its_id_with_its_exact_bytes(asked: Asked) -> None:
    world = asked.story.world
    sealed = sealed_times(world)
    seen = 0
    for s in counting(world):
        found = event_by_id(asked.reader, TENANT, id_of(s))
        (copy,) = [c for c in found.copies if c.event_hash == s.event_hash.hex()]
        assert copy.stored == s.stored
        assert copy.proven
        assert (copy.standing is Standing.SEALED) == (s.event_hash in sealed)
        assert (copy.proof is not None) == (s.event_hash in sealed)
        seen += 1
    assert seen > 40


def test_an_event_is_found_by_its_hash(asked: Asked) -> None:
    for s in counting(asked.story.world)[:5]:
        found = event_by_id(asked.reader, TENANT, s.event_hash.hex())
        assert s.event_hash.hex() in {c.event_hash for c in found.copies}


def test_a_row_stands_where_it_is_said_to_stand(asked: Asked) -> None:
    from audit_platform.record.parquet import read_columns  # noqa: PLC0415 - of this test alone

    for s in counting(asked.story.world)[:5]:
        for copy in event_by_id(asked.reader, TENANT, id_of(s)).copies:
            objects = asked.story.world.platform.objects
            with objects.open(copy.place.key, copy.place.version_id) as file:
                hashes = read_columns(file, ["event_hash"])["event_hash"]
            assert hashes[copy.place.row].as_py().hex() == copy.event_hash


def test_what_was_sent_again_has_both_its_copies(asked: Asked) -> None:
    again = json.loads(asked.story.lines["again"][0])
    found = event_by_id(asked.reader, TENANT, again["eventId"])
    assert found.verdict is Verdict.RESENT
    assert len({c.event_hash for c in found.copies}) == 2
    by_hash = event_by_id(asked.reader, TENANT, found.copies[0].event_hash)
    assert {c.event_hash for c in by_hash.copies} == {c.event_hash for c in found.copies}


def test_a_refused_event_is_found_in_quarantine_with_its_bytes(asked: Asked) -> None:
    (line,) = asked.story.lines["refused"]
    event = json.loads(line)
    event_hash = hashlib.sha256(line).hexdigest()
    for by in (event["eventId"], event_hash):
        found = event_by_id(asked.reader, TENANT, by)
        assert found.copies == ()
        (entry,) = found.quarantined
        assert (entry.data, entry.whole, entry.slug) == (line, True, "schema_violation")
        assert entry.event_hash == event_hash
        (again,) = event_by_id(asked.reader, TENANT, entry.entry_id).quarantined
        assert again == entry


def test_malformed_bytes_are_found_by_their_entry_id(asked: Asked) -> None:
    from audit_platform.record.deadletter import entry_id_of  # noqa: PLC0415 - of this test alone

    entry_id = entry_id_of(hashlib.sha256(b"0").hexdigest(), 1, b"no json at all \xff")
    (entry,) = event_by_id(asked.reader, TENANT, entry_id).quarantined
    assert entry.data == b"no json at all \xff"


def test_an_unknown_id_is_an_answer_and_no_id_is_refused(asked: Asked) -> None:
    (lost, _) = asked.story.lines["lost"]
    found = event_by_id(asked.reader, TENANT, json.loads(lost)["eventId"])
    assert (found.copies, found.quarantined) == ((), ())
    for wrong in ("", "x", "F" * 64, "0" * 31):
        with pytest.raises(NotAnId):
            event_by_id(asked.reader, TENANT, wrong)


def test_another_tenant_finds_nothing(asked: Asked) -> None:
    event_id = id_of(counting(asked.story.world)[0])
    found = event_by_id(asked.reader, "south", event_id)
    assert (found.copies, found.quarantined) == ((), ())


def test_a_cancelled_look_up_stops(asked: Asked) -> None:
    with pytest.raises(QueryCancelled):
        event_by_id(
            asked.reader, TENANT, id_of(counting(asked.story.world)[0]), is_cancelled=lambda: True
        )


def test_what_only_hot_holds_is_said_to_be_not_archived(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        edge = world.edge(TENANT)
        world.ingest(TENANT, [edge.start(world.clock.now_ms())])
        index(world)
        found = event_by_id(Reader(world.platform), TENANT, id_of(next(said(world))))
        assert found.copies == ()
        assert "HOT holds the event: it is not archived yet" in found.completeness.missing
        assert "1 events not archived yet" in found.completeness.sentence


# ------------------------------------------------------------------------------------------ proof


@pytest.fixture(scope="module")
def sealed_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The story with two sealed days."""
    with open_world(tmp_path_factory.mktemp("proof")) as world:
        tell(world, 2)
        yield world


def sealed_copy(world: World, n: int = 0) -> tuple[EventCopy, EventProof, bytes, bytes]:
    """(a sealed copy, its proof, the manifest's file, the public key)."""
    reader = Reader(world.platform)
    sealed = sealed_times(world)
    s = [s for s in counting(world) if s.event_hash in sealed][n]
    copies = event_by_id(reader, TENANT, id_of(s)).copies
    (copy,) = [c for c in copies if c.event_hash == s.event_hash.hex()]
    assert copy.proof is not None
    proof = EventProof.from_json(json.loads(json.dumps(copy.proof.to_json())))
    assert proof == copy.proof
    manifest = world.platform.objects.get(proof.manifest_key, proof.manifest_version_id)
    (key,) = [k.public_key for k in world.platform.keys.public_keys() if k.key_id == proof.key_id]
    return copy, proof, manifest, key


def test_a_proof_is_checked_with_the_manifest_and_the_public_key_alone(sealed_world: World) -> None:
    for n in (0, 7, 20):
        copy, proof, manifest, key = sealed_copy(sealed_world, n)
        assert check_event_proof(copy.stored, proof, manifest, key) == []


def test_a_proof_is_checked_with_plain_hashlib(sealed_world: World) -> None:
    copy, proof, manifest, _ = sealed_copy(sealed_world, 5)
    given = proof.to_json()
    event = json.loads(copy.stored)
    del event["ingestionTime"]
    canonical = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    event_hash = hashlib.sha256(canonical.encode()).digest()

    def up(node: bytes, place: int, size: int, path: list[str]) -> bytes:
        siblings = iter(path)
        last = size - 1
        while last:
            if place % 2:
                node = hashlib.sha256(b"\1" + bytes.fromhex(next(siblings)) + node).digest()
            elif place < last:
                node = hashlib.sha256(b"\1" + node + bytes.fromhex(next(siblings))).digest()
            place, last = place // 2, last // 2
        return node

    leaf = b"\0" + event_hash + given["ingestionMs"].to_bytes(8, "big")
    node = hashlib.sha256(leaf).digest()
    node = up(node, given["row"], given["rows"], given["groupPath"])  # one row group here
    node = up(
        hashlib.sha256(b"\0" + node).digest(), given["part"], given["parts"], given["dayPath"]
    )
    assert node.hex() == json.loads(manifest)["root"]
    assert hashlib.sha256(manifest).hexdigest() == given["manifest"]["sha256"]


def test_whatever_is_changed_a_proof_does_not_hold(sealed_world: World) -> None:
    copy, proof, manifest, key = sealed_copy(sealed_world, 5)
    stored, given = copy.stored, proof.to_json()
    assert check_event_proof(stored.replace(b'"low"', b'"high"'), proof, manifest, key) or (
        b'"low"' not in stored
    )
    for changed in (
        stored.replace(b'"sequenceNumber":', b'"sequenceNumber":1'),
        stored.replace(b":01", b":02"),
        stored[:-1],
        b"",
        b"[]",
    ):
        assert changed != stored
        assert check_event_proof(changed, proof, manifest, key)
    assert check_event_proof(stored, proof, manifest.replace(b'"rows":', b'"rows":1', 1), key)
    assert check_event_proof(stored, proof, b"", key)
    assert check_event_proof(stored, proof, manifest, bytes(32))
    flipped = "0" if given["groupPath"][0][0] != "0" else "1"
    for name, value in {
        "row": given["row"] ^ 1,
        "rows": given["rows"] + 1,
        "part": 1,
        "ingestionMs": given["ingestionMs"] + 1,
        "eventHash": "0" * 64,
        "dayRoot": "0" * 64,
        "partRoot": "0" * 64,
        "partKey": "cold/v1/other",
        "tenantId": "south",
        "day": DAYS[2],
        "groupPath": [flipped + given["groupPath"][0][1:], *given["groupPath"][1:]],
        "manifest": given["manifest"] | {"sha256": "0" * 64},
    }.items():
        wrong = EventProof.from_json(given | {name: value})
        assert check_event_proof(stored, wrong, manifest, key), name


def test_a_changed_row_group_gives_no_proof(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 1)
        copy, proof, _, _ = sealed_copy(world, 3)
        other, _, _, _ = sealed_copy(world, 4)
        path = world.objects_folder / proof.part_key
        data = path.read_bytes()
        mine, theirs = bytes.fromhex(copy.event_hash), bytes.fromhex(other.event_hash)
        assert data.count(theirs) == 1
        path.chmod(0o644)
        path.write_bytes(data.replace(theirs, mine[::-1]))
        event_id = json.loads(copy.stored)["eventId"]
        (found,) = event_by_id(Reader(world.platform), TENANT, event_id).copies
        assert (found.proof, found.standing) == (None, Standing.UNVERIFIED_DAY)


def test_a_missing_part_is_told_and_crashes_nothing(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 1)
        copy, proof, _, _ = sealed_copy(world)
        (world.objects_folder / proof.part_key).unlink()
        event_id = json.loads(copy.stored)["eventId"]
        found = event_by_id(Reader(world.platform), TENANT, event_id)
        assert found.copies == ()
        assert found.completeness.unavailable == (proof.part_key,)
        assert "1 objects could not be read" in found.completeness.sentence


def test_a_day_signed_by_a_revoked_key_is_unverified(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 1)
        copy, proof, manifest, _ = sealed_copy(world)
        sealed_ms = json.loads(manifest)["sealedMs"]
        world.platform.keys.revoke(proof.key_id, sealed_ms)
        event_id = json.loads(copy.stored)["eventId"]
        found = event_by_id(Reader(world.platform), TENANT, event_id)
        assert [(c.proof, c.standing) for c in found.copies] == [(None, Standing.UNVERIFIED_DAY)]
        assert f"the manifest of {DAYS[0]} does not verify" in found.completeness.missing


def test_a_folder_without_objects_holds_nothing_and_says_so(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        tell(world, 1)
        copy, _, _, _ = sealed_copy(world)
        for name in (layout.COLD, layout.LANDING, layout.QUARANTINE):
            shutil.rmtree(world.objects_folder / name.split("/")[0], ignore_errors=True)
            shutil.rmtree(world.objects_folder / ".meta" / name.split("/")[0], ignore_errors=True)
        found = event_by_id(Reader(world.platform), TENANT, json.loads(copy.stored)["eventId"])
        assert found.copies == ()
        assert found.completeness.missing != ()
