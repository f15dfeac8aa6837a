"""A typed decoder says "good" only where the full JSON Schema and RFC 8785 say so."""

from __future__ import annotations

import importlib.resources
from typing import Any

import jsonschema_rs
import orjson
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.record import typed as typed_module
from audit_platform.record.canonical import load_canonical
from audit_platform.record.schemas import registry
from audit_platform.record.together import doubtful_numbers
from audit_platform.record.typed import NotTyped, TypedPayloads

SCHEMAS = {
    f"{name}/{version}": orjson.loads(
        importlib.resources.files("audit_platform")
        .joinpath("schemas", name, f"{version}.json")
        .read_bytes()
    )
    for name, version in registry().known()
}
TYPED = sorted(s.schema_ref for s in registry()._schemas.values() if s.typed is not None)

#: Values beside what a schema asks for: nearly right, and quite wrong.
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 1.0, 1e-7, 1e21, 37.5, 2**53, -(2**53), 0.1, 5e-324]),
    st.text(max_size=8),
    st.sampled_from(["stay-1", "stay-1\n", "stay-x", "user-1", "a\nb", "ü", "\U0001f600", ""]),
    st.just([]),
    st.just({}),
)


@st.composite
def _value(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """Often a valid value of a schema, sometimes one beside it."""
    if draw(st.integers(0, 30)) == 0:
        return draw(ODD)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    kind = schema.get("type")
    if kind == "object":
        names = schema.get("properties", {})
        left_out = {n for n in names if n not in schema.get("required", ()) and draw(st.booleans())}
        made = {n: draw(_value(s)) for n, s in names.items() if n not in left_out}
        if draw(st.integers(0, 30)) == 0:
            made[draw(st.sampled_from(["other", "synthetic", "a b", "\U0001f600"]))] = draw(ODD)
        return made
    if kind in {"number", "integer"}:
        low, high = schema.get("minimum", -1000), schema.get("maximum", 1000)
        near = st.integers(int(low) - 1, int(high) + 1)
        return draw(near if kind == "integer" else near | st.floats(low, high))
    if kind == "array":
        return draw(st.lists(_value(schema["items"]), max_size=3))
    if "pattern" in schema:
        return draw(st.from_regex(schema["pattern"]) | st.text(max_size=5))
    return draw(st.text(max_size=schema.get("maxLength", 10) + 1))


@pytest.mark.parametrize("ref", TYPED)
@settings(max_examples=40)
@given(data=st.data())
def test_what_a_typed_decoder_calls_good_is_valid_and_canonical(
    ref: str, data: st.DataObject
) -> None:
    payload = data.draw(_value(SCHEMAS[ref]))
    try:
        text = rfc8785.dumps(payload)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return
    typed = TypedPayloads(SCHEMAS[ref])
    is_good = typed.are_good(text + b"\n", 1) and not doubtful_numbers(text, [text])
    is_valid = jsonschema_rs.Draft202012Validator(SCHEMAS[ref]).is_valid(payload)
    assert not is_good or is_valid, text
    assert not is_good or load_canonical(text) == payload


@given(data=st.data())
def test_other_spellings_of_a_good_payload_are_never_called_good(data: st.DataObject) -> None:
    good = {"stayId": "stay-1", "reading": {"spo2": {"value": 97, "unit": "%"}}}
    text = orjson.dumps(good, option=orjson.OPT_SORT_KEYS)
    typed = TypedPayloads(SCHEMAS["vital_reading/1"])
    assert typed.are_good(text + b"\n", 1)
    at = data.draw(st.integers(0, len(text)))
    other = text[:at] + data.draw(st.binary(min_size=1, max_size=3)) + text[at:]
    if typed.are_good(other + b"\n", 1) and not doubtful_numbers(other, [other]):
        assert other == rfc8785.dumps(orjson.loads(other))
        assert registry().get("vital_reading", 1).validator.is_valid(orjson.loads(other))


def test_one_bad_payload_makes_its_batch_unsure() -> None:
    good = b'{"reading":{"spo2":{"unit":"%","value":97}},"stayId":"stay-1"}\n'
    typed = TypedPayloads(SCHEMAS["vital_reading/1"])
    assert typed.are_good(good * 3, 3)
    for bad in (
        good.replace(b"97", b"101"),
        good.replace(b"stay-1", b"stay-"),
        good.replace(b"stay-1", b"stay-1\\nstay-2"),
        good.replace(b'{"spo2":{"unit":"%","value":97}}', b"{}"),
        good.replace(b'"stayId"', b'"stay"'),
        good.replace(b':"stay-1"', b': "stay-1"'),
        good[:-2] + b',"synthetic":false}\n',
        b"\n",
        b"\xff\n",
        b"",
    ):
        assert not typed.are_good(good + bad + good, 3), bad


def test_most_event_types_have_a_typed_decoder() -> None:
    assert len(TYPED) >= 20


@pytest.mark.parametrize(
    "odd",
    [
        {"pattern": "^a|b$"},
        {"pattern": "^[^a]$"},
        {"pattern": "a.c"},
        {"format": "date"},
        {"type": ["string", "null"]},
        {"minLength": 1, "enum": ["a"]},
    ],
)
def test_what_a_typed_decoder_cannot_say_is_left_to_the_full_schema(odd: dict[str, Any]) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"} | odd},
        "additionalProperties": False,
    }
    with pytest.raises(NotTyped):
        TypedPayloads(schema)
    for change in ({"additionalProperties": True}, {"maxProperties": 0}, {"required": ["b"]}):
        with pytest.raises(NotTyped):
            TypedPayloads(schema | {"properties": {"a": {"type": "string"}}} | change)


def test_names_that_matched_are_remembered_up_to_a_limit_and_others_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(typed_module, "MAX_REMEMBERED", 3)
    typed = TypedPayloads({
        "type": "object",
        "properties": {"stayId": {"type": "string", "pattern": "^stay-[0-9]{1,20}$"}},
        "additionalProperties": False,
    })  # fmt: skip
    for _ in range(2):
        for n in range(8):
            assert typed.are_good(b'{"stayId":"stay-%d"}\n' % n * 2, 2)
            assert not typed.are_good(b'{"stayId":"stay-%d"}\n{"stayId":"stay-x"}\n' % n, 2)
            assert not typed.are_good(b'{"stayId":"stay-%d\\nstay-1"}\n' % n, 1)


@pytest.mark.parametrize("bad", ["", "a b", "a\\nb", "\u00fc", "a_b"])
def test_a_field_of_one_class_of_characters_takes_no_other_and_is_not_empty(bad: str) -> None:
    typed = TypedPayloads({
        "type": "object",
        "properties": {"recordId": {"type": "string", "pattern": "^[A-Za-z0-9-]+$"}},
        "additionalProperties": False,
    })  # fmt: skip
    good = b'{"recordId":"a-Z0"}\n'
    assert typed.are_good(good * 2, 2)
    assert not typed.are_good(good + f'{{"recordId":"{bad}"}}\n'.encode(), 2)


def test_numbers_with_an_exponent_are_doubtful_and_names_with_a_digit_before_an_e_are_not() -> None:
    names = [b'{"id":"3e4f-1e5a"}', b'{"id":"1e"}', b'{"a":"2.0x"}', b'{"v":12.05}']
    numbers = [
        b'{"v":1e-7}',
        b'{"v":[2e22,1]}',
        b'{"v":5e+300,"w":0}',
        b'{"v":1.0}',
        b'{"v":[1.0]}',
    ]
    texts = [*names, *numbers]
    doubtful = doubtful_numbers(b"\n".join(texts), texts)
    assert doubtful == set(range(len(names), len(texts)))
