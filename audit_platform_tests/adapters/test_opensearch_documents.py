"""Rows as bulk lines and back, without a server."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.opensearch import documents, find
from audit_platform.adapters.opensearch.template import MAPPING, Name, Names
from audit_platform.ports import EventQuery
from audit_platform_tests.hot_rows import DAY, DAY_MS, Event, batch

hashes = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20)


def columns(some: list[bytes]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(some), np.uint8).reshape(-1, 32)


def lines_of(rows: pa.RecordBatch) -> list[Any]:
    data = b"".join(bulk.data for bulk in documents.bulks(rows))
    assert data.endswith(b"\n")
    return [orjson.loads(line) for line in data.split(b"\n")[:-1]]


@given(hashes)
def test_an_id_is_base64_for_urls_and_comes_back(some: list[bytes]) -> None:
    made = documents.ids(columns(some)).to_pylist()
    assert made == [base64.urlsafe_b64encode(h).decode().rstrip("=") for h in some]
    assert made == [documents.id_of(h) for h in some]
    assert [documents.hash_of(i) for i in made] == some


@pytest.mark.parametrize("text", ["", "A", "A" * 42, "A" * 44, "\xe9" * 43])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - several decoders refuse, each in its words
        documents.hash_of(text)


@given(hashes)
def test_halves_sort_as_the_bytes_do(some: list[bytes]) -> None:
    first, second = documents.halves(columns(some))
    pairs = sorted(zip(first.tolist(), second.tolist(), some, strict=True))
    assert [h[:16] for _, _, h in pairs] == [h[:16] for h in sorted(some)]


@given(st.lists(st.text(), min_size=1, max_size=8), st.integers(-(2**45), 2**45))
def test_any_text_becomes_one_document_of_the_mapping(texts: list[str], ms: int) -> None:
    made = [
        Event(sequence_number=n, event_time=ms, payload=text, device_id=text or "d")
        for n, text in enumerate(texts)
    ]
    rows = batch(made)
    lines = lines_of(rows)
    assert len(lines) == 2 * len(made)
    hits = []
    for event, action, document in zip(made, lines[::2], lines[1::2], strict=True):
        assert action == {"create": {"_id": documents.id_of(event.event_hash)}}
        assert document.keys() <= MAPPING["properties"].keys()
        assert document["payload"] == event.payload
        hits.append((action["create"]["_id"], document))
    assert documents.to_table(hits).to_pylist() == rows.to_pylist()


def test_a_row_without_prev_hash_comes_back_without() -> None:
    rows = batch([Event(sequence_number=n) for n in range(3)])
    column = pa.array([None, bytes(32), None], pa.binary(32))
    rows = rows.set_column(rows.schema.get_field_index("prev_hash"), "prev_hash", column)
    lines = lines_of(rows)
    hits = [(a["create"]["_id"], d) for a, d in zip(lines[::2], lines[1::2], strict=True)]
    assert documents.to_table(hits)["prev_hash"].to_pylist() == column.to_pylist()


def test_a_request_is_cut_by_rows_and_by_bytes() -> None:
    large = [Event(sequence_number=n, payload="x" * 300_000) for n in range(40)]
    cut = list(documents.bulks(batch(large)))
    assert sum(bulk.rows for bulk in cut) == len(large)
    assert len(cut) > 1
    assert all(len(bulk.data) <= documents.BULK_BYTES for bulk in cut)
    whole = b"".join(bulk.data for bulk in cut).split(b"\n")
    assert [orjson.loads(line)["sequence_number"] for line in whole[1::2]] == list(range(40))
    small = [Event(sequence_number=n) for n in range(documents.BULK_ROWS + 1)]
    assert [b.rows for b in documents.bulks(batch(small))] == [documents.BULK_ROWS, 1]
    over = [Event(payload="x" * (documents.BULK_BYTES + 1)), Event()]
    assert [b.rows for b in documents.bulks(batch(over))] == [1, 1]


def test_rows_of_a_slice_are_its_own() -> None:
    made = [Event(sequence_number=n) for n in range(9)]
    lines = lines_of(batch(made).slice(3, 4))
    assert [d["sequence_number"] for d in lines[1::2]] == [3, 4, 5, 6]


def test_a_name_says_tenant_day_and_generation_and_no_other_prefix() -> None:
    names = Names("audit")
    index = names.index("north", DAY, 12)
    assert index == "audit.north.20260301.g12"
    assert names.parsed(index) == Name("north", DAY, 12)
    for other in ("audit2.north.20260301.g1", "audit.north.20260301", "audit.north.x.g1", "north"):
        assert names.parsed(other) is None
    for tenant in ("*", "north,south", "no.rth", "", "_all", "NORTH"):
        with pytest.raises(ValueError, match="tenant"):
            names.read(tenant)


def test_a_whole_event_id_is_looked_for_without_walking_over_all_ids() -> None:
    event = Event()
    query = EventQuery("north", DAY_MS, DAY_MS + 1, text=event.event_id)
    text = orjson.dumps(find.body(query, 10)).decode()
    assert f'{{"term":{{"event_id":"{event.event_id}"}}}}' in text
    assert '{"regexp":{"event_id"' not in text
    piece = orjson.dumps(find.body(replace(query, text="dead"), 10)).decode()
    assert '{"regexp":{"event_id"' in piece
