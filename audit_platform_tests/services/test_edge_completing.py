"""Entries completed by the block: the very lines that each of them gives by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import RecordMalformed
from audit_platform.ports import Entry
from audit_platform.record.layout import ZERO_HASH
from audit_platform.services.edge_completing import lines_of_all
from audit_platform.services.edge_entry import Place, conflict_entry, encode, lines_of, stored_line
from audit_platform_tests.services.test_edge_entry import PLACE, as_said, events

OTHERS = [Place("fedcba9876543210", "h-2", "north", "bed-2"), PLACE._replace(tenant_id="south")]


def entry(data: bytes) -> Entry:
    return Entry(0, 0, "pump-1", "low", 1, data)


def encoded(values: list[dict[str, Any]], place: Place = PLACE, prev: str = ZERO_HASH) -> bytes:
    return encode(place, prev, [stored_line(as_said(value)) for value in values])


ours = st.builds(
    encoded,
    st.lists(events, min_size=1, max_size=4),
    st.just(PLACE),
    st.sampled_from([ZERO_HASH, "ab" * 32]),
)
of_others = st.builds(encoded, st.lists(events, min_size=1, max_size=2), st.sampled_from(OTHERS))
odd = (
    st.binary(max_size=60)
    | st.text(alphabet="e1c \n{}09af-", max_size=60).map(str.encode)
    | st.sampled_from([b"", b"e1 a b c d e", b"e1 a b c d e\nx", b"e1 a b c d e\n" + b" " * 9])
    | st.builds(bytes.replace, ours, st.sampled_from([b"0", b"-", b" "]), st.just(b"\xd9"))
)


def by_itself(data: bytes) -> list[bytes] | None:
    try:
        return lines_of(entry(data))
    except RecordMalformed:
        return None


@given(st.lists(ours | of_others | odd | st.binary(max_size=9).map(conflict_entry), min_size=1))
def test_what_the_block_gives_is_what_each_entry_gives_by_itself(block: list[bytes]) -> None:
    for data, lines in zip(block, lines_of_all([entry(data) for data in block]), strict=True):
        if lines is not None:
            assert lines == by_itself(data)
            assert not any(b"\n" in line or not line.startswith(b"{") for line in lines)


@given(st.lists(ours, min_size=1, max_size=6), st.integers(0, 5))
def test_entries_of_one_edge_are_all_certain_whatever_joins_no_chain_among_them(
    block: list[bytes], at: int
) -> None:
    block.insert(at, conflict_entry(b'{"deviceId":"pump-1"}'))
    found = lines_of_all([entry(data) for data in block])
    assert found == [None if data.startswith(b"c1") else by_itself(data) for data in block]


@pytest.mark.parametrize("bad", [b"2026-02-30T00:00:00.000Z", b"2026-01-01T00:00:00.000", b"x"])
def test_a_time_that_is_none_leaves_its_block_to_who_names_the_fault(bad: bytes) -> None:
    line = b"%b 1 reading 1 low   {}"
    block = [
        b"e1 %b\n" % b" ".join(p.encode() for p in (*PLACE, ZERO_HASH)) + line % time
        for time in (b"2026-01-01T00:00:00.000Z", bad)
    ]
    assert lines_of_all([entry(data) for data in block]) == [None, None]
    assert by_itself(block[0]) is not None
    assert by_itself(block[1]) is None
