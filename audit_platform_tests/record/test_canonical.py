"""Canonical JSON: the RFC's own vectors, the fast path against the reference, hostile bytes."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from audit_platform.errors import EventRefused
from audit_platform.record.canonical import (
    MAX_DEPTH,
    MAX_SAFE_INTEGER,
    canonical_bytes,
    canonicalize,
    is_certainly_canonical,
    parse_strict,
)

VECTORS = Path(__file__).parent / "vectors"
NUMBERS = json.loads((VECTORS / "rfc8785_numbers.json").read_text())["samples"]

in_range = st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda x: not MAX_SAFE_INTEGER < abs(x) < 1e21
)
numbers = (
    st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | in_range
    | st.floats(1e-9, 1e-3)
    | st.integers(-(10**6), 10**6).map(float)
    | st.decimals(-1000, 1000, places=3).map(float)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def slug_of(raw: bytes) -> str:
    with pytest.raises(EventRefused) as caught:
        parse_strict(raw)
    assert caught.value.remedy
    return caught.value.slug


@pytest.mark.parametrize("sample", NUMBERS, ids=lambda s: str(s["bits"]))
def test_numbers_are_written_as_the_rfc_says(sample: dict[str, Any]) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(sample["bits"]))
    if sample.get("refused"):
        with pytest.raises(EventRefused) as caught:
            canonical_bytes([value])
        assert (caught.value.slug, caught.value.field) == ("number_range", "[0]")
    else:
        assert canonical_bytes(value).decode() == sample["text"]
        assert canonicalize(f"[{sample['text']}]".encode()).decode() == f"[{sample['text']}]"


def test_the_sample_of_the_rfc_comes_out_byte_for_byte() -> None:
    raw = (VECTORS / "rfc8785_section_3_2_2.input.json").read_bytes()
    wanted = bytes.fromhex((VECTORS / "rfc8785_section_3_2_4.hex").read_text())
    assert canonicalize(raw) == wanted


def test_keys_are_sorted_by_utf_16_as_the_rfc_says() -> None:
    raw = (VECTORS / "rfc8785_section_3_2_3.input.json").read_bytes()
    wanted = json.loads((VECTORS / "rfc8785_section_3_2_3.order.json").read_text())
    assert list(json.loads(canonicalize(raw)).values()) == wanted


@given(values)
@example({"a": 1.0, "b": -0.0, "c": 1e-6, "d": 1e-5, "e": 1e21, "f": 123456789012345.5})
@example({"\U0001f600": 1, "\ufb33": 2})
@example({"x": '\x7f\x1b\u2028"\\/'})
def test_a_value_has_the_bytes_of_the_reference(value: object) -> None:
    assert canonical_bytes(value) == rfc8785.dumps(value)  # type: ignore[arg-type] # JSON values


@given(values)
@example([1.0])
@example([1e-6])
@example({"a": 1e16 * 1e6})
@example([-0.0])
@example({"\ufb33": 1, "\U0001f600": 2})
def test_what_is_certainly_canonical_is_what_the_reference_writes(value: object) -> None:
    for raw in (orjson.dumps(value, option=orjson.OPT_SORT_KEYS), rfc8785.dumps(value)):  # type: ignore[arg-type] # JSON values
        if is_certainly_canonical(raw):
            assert raw == rfc8785.dumps(orjson.loads(raw))
        assert canonicalize(raw) == rfc8785.dumps(value)  # type: ignore[arg-type] # JSON values


@given(values)
def test_other_spellings_of_a_value_have_the_same_canonical_bytes(value: object) -> None:
    for ascii_only in (True, False):
        canonical = canonicalize(json.dumps(value, indent=1, ensure_ascii=ascii_only).encode())
        assert canonical == rfc8785.dumps(value)  # type: ignore[arg-type] # JSON values
        assert canonicalize(canonical) == canonical


def test_ordinary_device_payloads_take_the_fast_path() -> None:
    payload = {"alarm": None, "note": "µg/kg — ok", "on": True, "rate": 12.25, "values": [1, 2.5]}
    assert is_certainly_canonical(rfc8785.dumps(payload))


@pytest.mark.parametrize(
    ("raw", "slug"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"{} {}", "bad_json"),
        (b'{"a":1,}', "bad_json"),
        (b'{"a":"\x01"}', "bad_json"),
        (b'{"a":01}', "bad_json"),
        (b"\xff{}", "bad_utf8"),
        (b'{"a":"\xed\xa0\x80"}', "bad_utf8"),
        (b"\xef\xbb\xbf{}", "byte_order_mark"),
        (b'{"a":NaN}', "not_a_number"),
        (b'{"a":-Infinity}', "not_a_number"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":{"b":1,"\\u0062":2}}', "duplicate_key"),
        (b'{"a":"\\ud800"}', "lone_surrogate"),
        (b'{"\\udc00x":1}', "lone_surrogate"),
        (b'{"a":9007199254740992}', "number_range"),
        (b'{"a":-9007199254740992}', "number_range"),
        (b'{"a":9007199254740992.0}', "number_range"),
        (b'{"a":1e400}', "number_range"),
        (b'{"a":' + b"9" * 5000 + b"}", "number_range"),
    ],
)
def test_bad_json_is_refused_by_name(raw: bytes, slug: str) -> None:
    assert slug_of(raw) == slug
    assert not is_certainly_canonical(raw)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"a":{"b":[1,{"c":1e999}]}}', "a.b[1].c"),
        (b'{"a":["\\udfff"]}', "a[0]"),
        (b'{"a":{"b":1,"b":2}}', "b"),
    ],
)
def test_a_refusal_names_the_path(raw: bytes, field: str) -> None:
    with pytest.raises(EventRefused) as caught:
        parse_strict(raw)
    assert caught.value.field == field


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b"[{"])
def test_a_depth_bomb_is_refused_and_costs_little(opening: bytes) -> None:
    started = time.process_time()
    bomb = opening * 10**6
    assert slug_of(bomb) == "too_deep"
    assert not is_certainly_canonical(bomb)
    assert time.process_time() - started < 2


def test_hostile_strings_are_scanned_in_linear_time() -> None:
    started = time.process_time()
    assert slug_of(b'["' + b'\\"[' * 300_000) == "bad_json"
    assert slug_of(b'"[' * 300_000 + b"\\") in {"bad_json", "too_deep"}
    assert time.process_time() - started < 2


def test_nesting_is_taken_up_to_the_limit_and_not_beyond() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert canonicalize(deepest) == deepest
    assert canonical_bytes(parse_strict(deepest)) == deepest
    assert slug_of(b"[" + deepest + b"]") == "too_deep"
    with pytest.raises(EventRefused, match="nest"):
        canonical_bytes([orjson.loads(deepest)])
    assert slug_of(b'{"a":[[]],"b":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}") == "too_deep"


def test_brackets_inside_strings_and_many_side_by_side_are_no_depth() -> None:
    wide = b'{"a":["' + b"[{" * 200 + b'",' + b",".join([b"[{}]"] * 200) + b"]}"
    assert canonicalize(wide) == wide
    spaced = wide.replace(b"[{}]", b"[ {} ]")
    assert canonicalize(spaced) == wide


@pytest.mark.parametrize(
    "value",
    [{1: 2}, {"a": 1j}, {"a": b"x"}, {"a": {1, 2}}, {"a": "\ud800"}, {"\ud800": 1}],
    ids=repr,
)
def test_a_value_that_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(EventRefused) as caught:
        canonical_bytes(value)
    assert caught.value.slug in {"bad_json", "lone_surrogate"}


def test_a_value_nested_without_end_is_refused() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(EventRefused) as caught:
        canonical_bytes(value)
    assert caught.value.slug == "too_deep"


@given(
    st.binary(max_size=60)
    | st.text(alphabet='{}[]",:0123456789.eE+-\\u dn', max_size=40).map(str.encode)
)
def test_any_bytes_give_a_value_or_a_named_refusal(raw: bytes) -> None:
    try:
        canonical: bytes | None = canonicalize(raw)
    except EventRefused:
        canonical = None
    if canonical is None:
        assert not is_certainly_canonical(raw)
    else:
        assert canonicalize(canonical) == canonical
