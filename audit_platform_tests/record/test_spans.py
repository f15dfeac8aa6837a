"""The span of a chain as a manifest states it: read back the same, refused when malformed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import RecordMalformed
from audit_platform.record.chain import INFORMATIONAL, ChainSpan, Gap, Verdict

HASH = "ab" * 32
SPAN = ChainSpan(
    "pump-1", "a" * 16, 3, "0" * 64, 20, HASH, 14, (Gap(5, 6, HASH, HASH), Gap(9, 10, HASH, HASH))
)


@given(st.integers(0, 2**50), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=5))
def test_a_span_is_read_back_as_it_was(first: int, pieces: list[tuple[int, int]]) -> None:
    gaps, at, count = [], first, 0
    for held, missing in pieces:
        gaps.append(Gap(at + held, at + held + missing - 1, HASH, HASH))
        at, count = at + held + missing, count + held
    span = ChainSpan("pump-1", "a" * 16, first, HASH, at, HASH, count + 1, tuple(gaps))
    assert ChainSpan.from_json(span.to_json()) == span


def test_the_json_of_a_span_is_camel_case_and_plain() -> None:
    assert SPAN.to_json() == {
        "deviceId": "pump-1",
        "chainId": "a" * 16,
        "firstSequence": 3,
        "firstPrevHash": "0" * 64,
        "lastSequence": 20,
        "head": HASH,
        "count": 14,
        "gaps": [
            {"first": 5, "last": 6, "headBefore": HASH, "prevHashAfter": HASH},
            {"first": 9, "last": 10, "headBefore": HASH, "prevHashAfter": HASH},
        ],
    }


def gap(first: int, last: int) -> dict[str, Any]:
    return Gap(first, last, HASH, HASH).to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"deviceId": ""},
        {"deviceId": 7},
        {"chainId": "x"},
        {"firstSequence": -1},
        {"firstSequence": 2**53},
        {"firstSequence": True},
        {"firstSequence": 3.0},
        {"firstSequence": 21},
        {"firstPrevHash": "AB" * 32},
        {"head": None},
        {"count": 0},
        {"count": 13},
        {"gaps": None},
        {"gaps": [7]},
        {"gaps": [{"first": 5}]},
        {"gaps": [gap(3, 4)]},
        {"gaps": [gap(6, 5)]},
        {"gaps": [gap(19, 20)]},
        {"gaps": [gap(9, 10), gap(5, 6)]},
        {"gaps": [gap(5, 6), gap(7, 8)]},
        {"more": 1},
    ],
    ids=repr,
)
def test_a_malformed_span_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordMalformed):
        ChainSpan.from_json(SPAN.to_json() | changes)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_anything_else_is_refused_by_the_same_error(value: object) -> None:
    with pytest.raises(RecordMalformed):
        ChainSpan.from_json(value)


def test_verdicts_are_the_words_of_the_design() -> None:
    assert {str(v) for v in Verdict} == {
        "ok", "duplicate", "resent", "gap", "declared_gap", "fork", "broken_link", "bad_checksum",
        "id_reuse", "chain_reset", "truncated", "hidden",
    }  # fmt: skip
    assert Verdict.GAP not in INFORMATIONAL
    assert Verdict.DECLARED_GAP in INFORMATIONAL


def test_gaps_that_are_counted_only_are_told_in_a_member_of_their_own() -> None:
    cut = replace(SPAN, count=7, unlisted_gaps=2)
    value = cut.to_json()
    assert value["unlistedGaps"] == 2
    assert ChainSpan.from_json(value) == cut
    for wrong in (0, -1, "2", None):
        with pytest.raises(RecordMalformed):
            ChainSpan.from_json(value | {"unlistedGaps": wrong})
    with pytest.raises(RecordMalformed):  # rows 3, 4, 7, 8 and one on each side of two more gaps
        ChainSpan.from_json(value | {"count": 6})
