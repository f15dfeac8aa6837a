"""Typed decoders made from the JSON Schemas, where these fit: many payloads judged by one call.

`TypedPayloads.are_good` says of payloads of one event type that all of them are valid and written
as our encoder writes them; anything else ("not sure") goes the full JSON Schema way, which is the
truth and the only one that names a fault. Tests hold that a typed "good" is a full "good".
Belongs here: from a schema to a typed decoder. Does not: canonical number text (`fastcheck.py`),
what is wrong with a payload (`schemas.py`).
Source: JSON Schema 2020-12; measured limits, section 2.

A schema fits when it is made of: objects with named properties and nothing else in them, numbers
with bounds, strings with lengths, `enum` of strings, `const: true`, simple patterns,
`minProperties` 1, and lists of what has none of the last three. Others raise `NotTyped`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from audit_platform.record.canonical import MAX_SAFE_INTEGER

#: Patterns that never match a line feed, so that texts joined by line feeds are judged by one
#: match: literals, classes that name what is in them, groups of words, all with optional counts.
_SIMPLE_PATTERN: Final = re.compile(
    r"\^(?:(?:[A-Za-z0-9-]|\[[A-Za-z0-9._:/-]+\]|\((?:[a-z]+\|?)+\))(?:\+|\*|\{\d+(?:,\d+)?\})?)*\$"
)

#: The commonest of them: any number of characters of one class, at least one.
_ONE_CLASS: Final = re.compile(r"\^\[([A-Za-z0-9._:/-]+)\]\+\$")

#: Texts that matched and are remembered, by pattern: about 10 MB when full, of the longest.
MAX_REMEMBERED: Final = 50_000

#: Keywords that say nothing about validity.
_NOTES: Final = frozenset({"description", "title", "$schema", "$id", "x-criticality"})

_ANNOTATIONS: Final = _NOTES | {"x-device-class"}

#: Whether all of these objects are certainly as wanted.
_Check = Callable[[Sequence[Any]], bool]


class NotTyped(Exception):
    """This schema says something that a typed decoder does not."""


class TypedPayloads:
    """Judges payloads of one schema. Raises `NotTyped` when the schema does not fit."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        kind, check = _object(schema, "Payload")
        self._decode = msgspec.json.Decoder(kind).decode_lines
        self._encode = msgspec.json.Encoder().encode_lines
        self._check = check

    def are_good(self, joined: bytes, count: int) -> bool:
        """Whether `joined`, `count` payloads each with a line feed, is certainly good as a whole.

        Good: every payload is valid, has sorted keys, no white space, no key twice and the shortest
        strings. Of numbers it says only that they are written as msgspec writes them.
        """
        try:
            values = self._decode(joined)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return (
            len(values) == count
            and self._encode(values) == joined
            and (self._check is None or self._check(values))
        )


# ---------------------------------------------------------------------------------------- schemas


def _typed(schema: Mapping[str, Any], name: str) -> tuple[Any, _Check | None]:
    """The Python type of a schema, and what must be checked of its values beside it."""
    rest = {k: v for k, v in schema.items() if k not in _ANNOTATIONS}
    match rest:
        case {"type": "object"}:
            return _object(schema, name)
        case {"type": "number" | "integer" | "string" | "array"}:
            return _of_type(rest, name)
        case {"enum": list(words), **others} if not others and all(
            isinstance(word, str) for word in words
        ):
            return Literal[tuple(words)], None
        case {"const": True, **others} if not others and rest["const"] is True:
            return bool, _all_true
    raise NotTyped(name)


def _of_type(rest: dict[str, Any], name: str) -> tuple[Any, _Check | None]:
    kind = rest.pop("type")
    if kind == "array":
        item, check = _typed(rest.pop("items", {}), f"{name}Item")
        lengths = {k: rest.pop(w) for k, w in _LENGTHS_OF_LIST if w in rest}
        if rest or check is not None:
            raise NotTyped(name)
        return Annotated[list.__class_getitem__(item), msgspec.Meta(**lengths)], None
    if kind == "string":
        pattern = rest.pop("pattern", None)
        words = rest.pop("enum", None)
        lengths = {k: rest.pop(w) for k, w in _LENGTHS if w in rest}
        if rest or (words is not None and (lengths or pattern)):
            raise NotTyped(name)
        if words is not None:
            return Literal[tuple(words)], None
        return Annotated[str, msgspec.Meta(**lengths)], _matching(pattern, name)
    return _number(rest, name, is_integer=kind == "integer"), None


_LENGTHS: Final = (("min_length", "minLength"), ("max_length", "maxLength"))
_LENGTHS_OF_LIST: Final = (("min_length", "minItems"), ("max_length", "maxItems"))
_BOUNDS: Final = (("ge", "minimum"), ("gt", "exclusiveMinimum"), ("le", "maximum"))


def _number(rest: dict[str, Any], name: str, *, is_integer: bool) -> Any:
    bounds = {k: rest.pop(w) for k, w in _BOUNDS if w in rest}
    if rest:
        raise NotTyped(name)
    whole = {k: math.floor(v) if k in {"le", "gt"} else math.ceil(v) for k, v in bounds.items()}
    # Larger integers have no canonical text of their own (RFC 8785: numbers are doubles).
    whole["le"] = min(whole.get("le", MAX_SAFE_INTEGER), MAX_SAFE_INTEGER)
    if "gt" not in whole:
        whole["ge"] = max(whole.get("ge", -MAX_SAFE_INTEGER), -MAX_SAFE_INTEGER)
    integer = Annotated[int, msgspec.Meta(**whole)]
    if is_integer:
        return integer
    of_float: dict[str, Any] = {k: float(v) for k, v in bounds.items()}
    return integer | Annotated[float, msgspec.Meta(**of_float)]


def _object(schema: Mapping[str, Any], name: str) -> tuple[Any, _Check | None]:
    rest = {k: v for k, v in schema.items() if k not in _ANNOTATIONS}
    properties: dict[str, Any] = rest.pop("properties", {})
    required = frozenset(rest.pop("required", ()))
    at_least, at_most = rest.pop("minProperties", 0), rest.pop("maxProperties", len(properties))
    if (
        rest != {"type": "object", "additionalProperties": False}
        or not required <= properties.keys()
        or at_most < len(properties)
        or at_least > max(1, len(required))
        or not all(key.isascii() and key.isidentifier() for key in properties)
    ):
        raise NotTyped(name)
    fields: list[Any] = []
    checks: list[_Check] = []
    # Encoded in this order: that of RFC 8785, which for ASCII is that of the bytes.
    for key in sorted(properties):
        kind, check = _typed(properties[key], f"{name}_{key}")
        if key in required:
            fields.append((key, kind))
        else:
            fields.append((key, kind | UnsetType, UNSET))
        if check is not None:
            checks.append(_of_field(key, check, is_required=key in required))
    made = msgspec.defstruct(name, fields, forbid_unknown_fields=True, kw_only=True, gc=False)
    if at_least > len(required):
        empty = made()
        checks.append(lambda values: empty not in values)
    if not checks:
        return made, None
    return made, lambda values: all(check(values) for check in checks)


# ----------------------------------------------------------------------------------------- checks


def _of_field(name: str, check: _Check, *, is_required: bool) -> _Check:
    get = operator.attrgetter(name)
    if is_required:
        return lambda values: check(list(map(get, values)))

    def of_field(values: Sequence[Any]) -> bool:
        found = list(map(get, values))
        if UNSET in found:
            found = [value for value in found if value is not UNSET]
        return not found or check(found)

    return of_field


def _all_true(values: Sequence[Any]) -> bool:
    return all(values)


def _matching(pattern: str | None, name: str) -> _Check | None:
    if pattern is None:
        return None
    if not _SIMPLE_PATTERN.fullmatch(pattern):
        raise NotTyped(name)
    of_class = _ONE_CLASS.fullmatch(pattern)
    return _of_class(of_class[1]) if of_class else _remembering(pattern)


def _of_class(characters: str) -> _Check:
    """For `^[...]+$`: whatever stands in such a field, one pass over all of it is the cheapest."""
    allowed = bytes(b for b in range(128) if re.fullmatch(f"[{characters}]", chr(b)))

    def of_class(values: Sequence[str]) -> bool:
        # `strict` is no matter: half a surrogate pair never comes out of the decoder.
        return "" not in values and not "".join(values).encode().translate(None, allowed)

    return of_class


def _remembering(pattern: str) -> _Check:
    """For names: the same few come again and again, so those that matched are remembered."""
    each = re.compile(f"(?:(?:{pattern[1:-1]})\n)*", re.ASCII)
    known: set[str] = set()

    def matching(values: Sequence[str]) -> bool:
        if known.issuperset(values):
            return True
        new = set(values) - known
        # A text with a line feed in it cannot pass: no part of the pattern takes one, so the text's
        # two halves would have to match on their own, and then there is one more than there are.
        joined = "\n".join(new)
        if joined.count("\n") != len(new) - 1 or not each.fullmatch(joined + "\n"):
            return False
        if len(known) + len(new) > MAX_REMEMBERED:
            known.clear()
        known.update(new)
        return True

    return matching
