"""Words of a text: cut, folded, and the same by the quick way as by the careful one."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.columns import EVENT_SCHEMA
from audit_platform.record.words import rows_with_words, words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        ("  -- ", []),
        ("Pump_7: RATE 2.5 ml/h", ["pump", "7", "rate", "2", "5", "ml", "h"]),
        ("GRÖSSE Größe", ["grösse", "größe"]),
        ("Éclair éclair e\u0301clair", ["éclair", "éclair", "e\u0301clair"]),
        ("\u0301a", ["a"]),
        ("Москва,東京 3½", ["москва", "東京", "3½"]),
        ("İstanbul", ["İstanbul"]),
        ('{"note":"a\\nb"}', ["note", "a", "nb"]),
    ],
)
def test_a_text_is_cut_into_folded_words(text: str, wanted: list[str]) -> None:
    assert words(text) == wanted


@given(st.text())
def test_words_hold_every_letter_and_number_and_nothing_that_parts(text: str) -> None:
    found = words(text)
    assert all(found)
    kept = [
        c for c in text if unicodedata.category(c)[0] in "LN" or unicodedata.category(c) == "Co"
    ]
    joined = "".join(found)
    marks = sum(unicodedata.category(c)[0] == "M" for c in joined)
    assert len(joined) - marks == len(kept)
    assert words(" ".join(found)) == found


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_the_quick_way_for_ascii_gives_the_same(text: str) -> None:
    assert words(text) == words(text + " é")[:-1]


@given(
    st.lists(st.text(max_size=20), max_size=8),
    st.lists(st.text(max_size=6), max_size=3),
)
def test_rows_are_found_by_their_words_alone(texts: list[str], asked: list[str]) -> None:
    rows = pa.RecordBatch.from_pylist(
        [dict.fromkeys(EVENT_SCHEMA.names[:1], "") | {"payload": text} for text in texts],
        schema=EVENT_SCHEMA,
    )
    names = ("device_id", "chain_id", "event_type", "event_id", "schema_ref", "criticality")
    for name in names:
        place = EVENT_SCHEMA.get_field_index(name)
        rows = rows.set_column(
            place, EVENT_SCHEMA.field(name), pa.array([""] * len(texts), pa.string())
        )
    wanted = {word for text in asked for word in words(text)}
    mask = rows_with_words(rows, wanted)
    assert mask.tolist() == [wanted <= set(words(text)) for text in texts]
    assert mask.dtype == np.bool_
