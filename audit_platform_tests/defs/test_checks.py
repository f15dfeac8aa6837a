"""The checks: red for a planted fault, green and plain for an empty day, never green unread."""

from collections.abc import Mapping
from dataclasses import replace

import dagster as dg

from audit_platform.defs.checks import SPECS
from audit_platform.defs.partitions import TenantDay
from audit_platform.operations.closing import closing_of
from audit_platform.operations.manifests import read_history
from audit_platform.record import layout
from audit_platform.record.chain import ChainSpan
from audit_platform_tests.attackers import flip
from audit_platform_tests.defs.conftest import Orchestra, evaluations
from audit_platform_tests.world import DAY, World, sealed_day

KEY = f"{DAY}|north"
CHAIN = ("chain_unbroken", KEY)
SIGNED = ("manifest_signed_by_known_key", KEY)
MISSING = ("nothing_missing", KEY)


def part_key(world: World) -> str:
    """The day's one part."""
    return read_history(world.platform, "north").counting[DAY].parts[0].object.key


def flip_last_hash(world: World) -> ChainSpan:
    """Change one bit of the last eventHash of the day's last chain; which chain that is."""
    last = read_history(world.platform, "north").counting[DAY].chains[-1]
    path = world.objects_folder / part_key(world)
    flip(path, path.read_bytes().index(bytes.fromhex(last.head)))  # hashes lie plain in the file
    return last


def passed(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], bool]:
    """What each check said."""
    return {name: e.passed for name, e in evaluations(result).items()}


def findings(evaluation: dg.AssetCheckEvaluation) -> list[Mapping[str, object]]:
    """The table of first findings."""
    table = evaluation.metadata["first_findings"]
    assert isinstance(table, dg.TableMetadataValue)
    return [record.data for record in table.records]


def test_verifying_a_sound_day_is_green_and_says_what_it_read(orchestra: Orchestra) -> None:
    sealed_day(orchestra.world)
    result = orchestra.run("verify_day")
    assert result.success
    assert passed(result) == {CHAIN: True, SIGNED: True, MISSING: True}
    for evaluation in evaluations(result).values():
        assert evaluation.metadata["rows_read"].value == 31
        assert evaluation.metadata["objects_read"].value == 1
    observed = result.get_asset_observation_events()
    assert len(observed) == 1
    shown = observed[0].asset_observation_data.asset_observation
    assert shown.partition == KEY
    assert shown.metadata["dagster/row_count"].value == 31
    assert result.get_asset_materialization_events() == []


def test_one_flipped_bit_in_a_row_turns_the_run_red_and_names_object_and_row(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    sealed_day(world)
    last = flip_last_hash(world)
    result = orchestra.run("verify_day")
    assert not result.success
    assert passed(result) == {CHAIN: False, SIGNED: False, MISSING: False}
    found = findings(evaluations(result)[CHAIN])
    rows = [f for f in found if f["row"]]
    assert rows
    assert {f["object"] for f in rows} == {part_key(world)}
    assert rows[0]["device"] == last.device_id
    assert rows[0]["sequence"] == str(last.last_sequence)


def test_a_missing_object_fails_the_chain_too_since_its_rows_were_not_read(
    orchestra: Orchestra,
) -> None:
    world = orchestra.world
    sealed_day(world)
    (world.objects_folder / part_key(world)).unlink()
    result = orchestra.run("verify_day")
    assert passed(result) == {CHAIN: False, SIGNED: False, MISSING: False}
    assert findings(evaluations(result)[CHAIN])[0]["finding"] == (
        "0 rows were read, the manifest holds 31"
    )


def test_an_event_that_landed_and_was_not_sealed_is_named(orchestra: Orchestra) -> None:
    world = orchestra.world
    edge = sealed_day(world)
    # A late event of the day lands in a range that the closing does not reach. With a closing that
    # does reach it, the day looks as if its seal had read less than it should have.
    late = edge.heartbeats(1, 1, world.clock.now_ms())
    world.ingest("north", late, at_ms=layout.day_end_ms(DAY) - 1)
    world.archive()
    closing = closing_of(world.platform, DAY)
    assert closing is not None
    ends = tuple(
        replace(p, end_offset=world.platform.log.bounds(p.topic, p.partition)[1])
        for p in closing.partitions
    )
    path = world.objects_folder / layout.closing_key(DAY)
    path.write_bytes(replace(closing, partitions=ends).to_bytes())
    result = orchestra.run("verify_day")
    assert passed(result) == {CHAIN: True, SIGNED: True, MISSING: False}
    found = findings(evaluations(result)[MISSING])
    assert str(found[0]["finding"]).startswith("1 landed events are in no manifest: ")


def test_a_day_without_a_manifest_fails_every_check(orchestra: Orchestra) -> None:
    orchestra.world.edge("north")
    orchestra.world.close()
    result = orchestra.run("verify_day")
    assert not result.success
    assert passed(result) == {CHAIN: False, SIGNED: False, MISSING: False}


def test_a_key_that_is_not_ours_fails_the_signature(orchestra: Orchestra) -> None:
    world = orchestra.world
    sealed_day(world)
    for key in world.folder.joinpath("keys").iterdir():
        if key.is_file():
            key.unlink()
    world.platform.keys.new("manifest", world.clock.now_ms())
    result = orchestra.run("verify_day")
    found = findings(evaluations(result)[SIGNED])
    assert any("which is not known" in str(f["finding"]) for f in found)


def test_each_tenant_day_keeps_its_own_result(orchestra: Orchestra) -> None:
    world = orchestra.world
    for tenant in ("north", "south"):
        edge = world.edge(tenant)
        start = edge.start(world.clock.now_ms())
        world.ingest(tenant, [start, *edge.heartbeats(3, 10, world.clock.now_ms())])
    world.archive()
    world.close()
    for tenant in ("north", "south"):
        world.seal(tenant)
    flip_last_hash(world)
    orchestra.know("north", "south")
    # One run over both: the last one must not hide the first.
    orchestra.run_range("verify_day", TenantDay(DAY, "north"), TenantDay(DAY, "south"))
    for spec in SPECS:
        history = orchestra.instance.event_log_storage.get_asset_check_execution_history(
            spec.key, limit=9
        )
        status = {r.partition: r.status.value for r in history}
        assert status[f"{DAY}|south"] == "SUCCEEDED", spec.name
        assert status[KEY] == "FAILED", spec.name
