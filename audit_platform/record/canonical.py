"""Canonical JSON (RFC 8785, JCS): one value, one byte string.

Belongs here: the strict parser that everything from outside passes, the canonical bytes of a
value, and the fast test that received bytes are canonical already. Does not: what the fields of an
event mean (`event.py`).
Source: RFC 8785 (JCS), RFC 7493 (I-JSON); where orjson and JCS differ: measured, design section 3.
The reference is the package `rfc8785`; the fast path is proved equal to it by property tests.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

import numpy as np
import orjson
import rfc8785

from audit_platform.errors import EventRefused

#: Deepest nesting of arrays and objects that is taken. Device data needs about 5; the parsers
#: below recurse, and 64 is far from the depth where any of them would run out of stack.
MAX_DEPTH: Final = 64

#: Largest integer that every JSON reader keeps exactly (I-JSON, RFC 7493 section 2.2).
MAX_SAFE_INTEGER: Final = 2**53 - 1

#: From here on JCS writes numbers with an exponent; below, an integral number is plain digits.
_FIRST_EXPONENT: Final = 1e21

#: Non-integral floats in this range are spelt alike by orjson and JCS; exponents begin outside.
_PLAIN_FLOAT_FROM: Final = 1e-5
_PLAIN_FLOAT_TO: Final = 1e15

# Lead bytes of characters beyond the BMP: only those sort differently by UTF-8 and by UTF-16.
_NOT_BEYOND_BMP: Final = bytes(range(0xF0))

# A string, or a string that never ends (so that the scan stays linear on hostile bytes).
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(b for b in range(256) if b not in b"[]{}")
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def canonicalize(raw: bytes) -> bytes:
    """The canonical bytes of a JSON text; the same object back when it is certainly canonical.

    Raises `EventRefused` as `parse_strict`.
    """
    if is_certainly_canonical(raw):
        return raw
    return canonical_bytes(parse_strict(raw))


def is_certainly_canonical(raw: bytes) -> bool:
    """True only for canonical bytes. False means: not sure, take the slow path."""
    return load_canonical(raw) is not None


def load_canonical(raw: bytes) -> Any | None:
    """The object or array that certainly canonical bytes stand for; None when not sure.

    Nesting is less than `MAX_DEPTH`, so that the value may stand inside an envelope.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if (
        type(value) in (dict, list)
        and _is_plain(value, 1)
        and orjson.dumps(value, option=orjson.OPT_SORT_KEYS) == raw
        and _sorts_alike(raw)
    ):
        return value
    return None


def canonical_bytes(value: object) -> bytes:
    """Canonical bytes of a value made of dict, list, tuple, str, int, float, bool and None.

    `parse_strict` takes the result back. Raises `EventRefused` for a value that JCS or I-JSON
    cannot say: NaN, a number whose canonical text is an integer beyond 2^53-1, a lone surrogate, a
    key that is no text, nesting deeper than `MAX_DEPTH`, another type.
    """
    if type(value) in (dict, list) and _is_plain(value, 1):
        try:
            fast = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except TypeError:  # a key that is no text, a lone surrogate: the slow path says which
            fast = b""
        if fast and _sorts_alike(fast):
            return fast
    try:
        _refuse_outside_i_json(value, "")
        slow = rfc8785.dumps(value)  # type: ignore[arg-type] # it refuses other types itself
    except RecursionError:
        _refuse_depth()
    except ValueError as e:
        raise EventRefused(
            "bad_json", "", f"not a JSON value: {e}", remedy="send plain JSON values"
        ) from e
    if not _is_shallow(slow):
        _refuse_depth()
    return slow


_NUMBER_REMEDY: Final = "send integers within 2^53-1; larger numbers and exact decimals as text"


def _is_plain(value: Any, depth: int) -> bool:
    """Whether orjson surely writes every scalar in an object or array as JCS does.

    Not plain, though perhaps valid: integers beyond 2^53-1, integral or very small or large
    floats, NaN, anything that is no JSON value, nesting as deep as `MAX_DEPTH`.
    """
    for inner in value.values() if type(value) is dict else value:
        kind = type(inner)
        if kind is str:
            continue
        if kind is float:
            if not _PLAIN_FLOAT_FROM <= abs(inner) < _PLAIN_FLOAT_TO or not inner % 1.0:
                return False
        elif kind is int:
            if not -MAX_SAFE_INTEGER <= inner <= MAX_SAFE_INTEGER:
                return False
        elif kind is dict or kind is list:
            if depth + 1 >= MAX_DEPTH or not _is_plain(inner, depth + 1):
                return False
        elif kind is not bool and inner is not None:
            return False
    return True


def _sorts_alike(raw: bytes) -> bool:
    """Whether no key of this text can sort differently by UTF-8 (orjson) and UTF-16 (JCS)."""
    return raw.isascii() or not raw.translate(None, _NOT_BEYOND_BMP)


def parse_strict(raw: bytes) -> Any:
    """The value of a JSON text, or `EventRefused` with one of these slugs.

    `byte_order_mark`, `bad_utf8`, `too_deep`, `bad_json`, `not_a_number` (NaN, Infinity),
    `duplicate_key`, `number_range`, `lone_surrogate`. Never a `RecursionError`.
    """
    if raw.startswith(_BYTE_ORDER_MARK):
        raise EventRefused(
            "byte_order_mark", "", "begins with a byte order mark", remedy="send plain UTF-8"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise EventRefused(
            "bad_utf8", "", f"not UTF-8 at byte {e.start}", remedy="send UTF-8"
        ) from e
    if not _is_shallow(raw):
        _refuse_depth()
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_int=_integer,
        )
    except json.JSONDecodeError as e:
        raise EventRefused(
            "bad_json", "", f"not JSON: {e.msg} at character {e.pos}", remedy="send one JSON text"
        ) from e
    _refuse_outside_i_json(value, "")
    return value


def _is_shallow(raw: bytes) -> bool:
    """Whether brackets outside strings nest at most `MAX_DEPTH` deep. Linear, no recursion."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return True
    steps = _STRING.sub(b"", raw).translate(_STEPS, _NOT_BRACKETS)
    depth = np.frombuffer(steps, dtype=np.int8).cumsum(dtype=np.int64)
    return depth.size == 0 or int(depth.max()) <= MAX_DEPTH


def _refuse_depth() -> NoReturn:
    raise EventRefused(
        "too_deep",
        "",
        f"arrays and objects nest more than {MAX_DEPTH} deep",
        remedy="flatten the payload",
    )


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value] # the short form of "seen before"
        raise EventRefused(
            "duplicate_key",
            _printable(twice),
            f"the key {twice!a} stands twice in one object",
            remedy="name each key once",
        )
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise EventRefused(
        "not_a_number", "", f"{text} is not JSON", remedy="leave the field out, or send null"
    )


def _integer(text: str) -> int:
    # More digits than any safe integer has: not worth converting, refused below with its path.
    return int(text) if len(text) <= 20 else MAX_SAFE_INTEGER + 1  # noqa: PLR2004 # 2^64 has 20


def _printable(text: str) -> str:
    """Text for a field path: a lone surrogate in a key is shown, not passed on."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _refuse_outside_i_json(value: object, path: str) -> None:
    """Refuse numbers and strings that I-JSON excludes, with their path."""
    if isinstance(value, str):
        if not value.isascii() and not _is_unicode(value):
            raise EventRefused(
                "lone_surrogate", path, "half of a surrogate pair", remedy="send whole characters"
            )
    elif isinstance(value, dict):
        for key, inner in value.items():
            name = _printable(str(key))
            inner_path = f"{path}.{name}" if path else name
            _refuse_outside_i_json(key, inner_path)
            _refuse_outside_i_json(inner, inner_path)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            _refuse_outside_i_json(inner, f"{path}[{i}]")
    elif isinstance(value, (int, float)) and not _is_in_range(value):
        raise EventRefused(
            "number_range", path, "a number outside the range of I-JSON", remedy=_NUMBER_REMEDY
        )


def _is_in_range(value: float) -> bool:
    if isinstance(value, int):
        return -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER
    # Between 2^53 and 1e21 JCS writes plain digits, which no reader could take back.
    size = abs(value)
    return math.isfinite(value) and not MAX_SAFE_INTEGER < size < _FIRST_EXPONENT


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
