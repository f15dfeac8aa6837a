"""JSON texts and values by the block: decoded together, written together, doubtful ones named.

One call of the decoder or the encoder for hundreds of small texts costs a fraction of hundreds of
calls. Belongs here: what is true of a block without looking at each value in Python. Does not:
what the values mean (`event.py`), the strict parser and the slow path (`canonical.py`).
Source: RFC 8785 (JCS); where orjson and JCS differ: `canonical.py`, design section 3.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from audit_platform.record.canonical import MAX_DEPTH, load_canonical
from audit_platform.record.columns import Ints

#: Between two texts that stand together: one that only this process knows, so no sender can write
#: it. Without digits or brackets, which are looked for below.
_FENCE: Final = "".join(secrets.choice("ghijklmnopqrstuv") for _ in range(20))
_FENCE_BYTES: Final = b',"%b",' % _FENCE.encode("ascii")

_FIRST_BEYOND_BMP: Final = 0xF0  # as the first byte of a character
_SPACE: Final = 0x20
_ENDS_NUMBER: Final = np.isin(np.arange(256), np.frombuffer(b",]}", np.uint8))

#: The end of a number from its exponent on, as encoders write it. In a string it may stand too.
_EXPONENT: Final = re.compile(rb"e[+-]?[0-9]+[,\]}]")

_CANONICAL: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def decode_plain(texts: Sequence[bytes]) -> tuple[list[Any], Ints] | None:
    """The value of each JSON text and how many keys it has; None when any is not JSON.

    The count is of the keys as written: a key that stands twice counts twice, though the value has
    it once. It is -1 for a text in which keys cannot be counted so simply (a backslash, white
    space before a colon): look at that one by itself.
    """
    joined = b"[%b]" % _FENCE_BYTES.join(texts)
    try:
        found = orjson.loads(joined)
    except orjson.JSONDecodeError:
        return None
    if not _is_fenced(found, len(texts)):
        return None
    return found[::2], _keys(joined, _ends(texts, len(_FENCE_BYTES)))


def encode_canonical(values: Sequence[Any]) -> tuple[list[bytes], Ints, set[int]] | None:
    """The JCS bytes of objects, their numbers of keys as `decode_plain` has them, doubtful ones.

    None when any of them has an integer beyond 2^53-1 or a key that is no text. Doubtful are those
    whose bytes may differ from JCS, or that are nested as deep as `MAX_DEPTH`.
    """
    if not values:
        return [], np.zeros(0, np.int64), set()
    fenced = [_FENCE] * (2 * len(values) - 1)
    fenced[::2] = values
    try:
        joined = orjson.dumps(fenced, option=_CANONICAL)
    except orjson.JSONEncodeError:
        return None
    texts = joined[1:-1].split(_FENCE_BYTES)
    return texts, _keys(joined, _ends(texts, len(_FENCE_BYTES))), _doubtful(joined, texts)


def canonical_values(texts: Sequence[bytes]) -> list[Any]:
    """The object of each text whose bytes are certainly canonical, None for the others."""
    # No sender can write the fence, so it marks where one text ends and the next begins, whatever
    # brackets stand in them.
    joined = b"[%b]" % _FENCE_BYTES.join(texts)
    try:
        found = orjson.loads(joined)
        # One comparison for all: sorted keys, no white space, no key twice, shortest numbers.
        same = joined == orjson.dumps(found, option=_CANONICAL)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        same = False
    if not same or not _is_fenced(found, len(texts)):
        return [load_canonical(text) for text in texts]
    values: list[Any] = found[::2]
    for n in sorted(_doubtful(joined, texts)):
        values[n] = load_canonical(texts[n])
    return values


def doubtful_numbers(joined: bytes, texts: Sequence[bytes]) -> set[int]:
    """Texts that may not be canonical though a typed decoder, which knows their depth, took them.

    `joined` has a line feed between each two of the texts, each of which is an object or an array.
    """
    return _texts_at(np.concatenate(_odd_places(joined)), texts, 1)


def _is_fenced(found: list[Any], count: int) -> bool:
    return len(found) == 2 * count - 1 and found[1::2] == [_FENCE] * (count - 1)


def _ends(texts: Sequence[bytes], fence: int) -> Ints:
    """Where each text and the fence behind it end, when they stand together."""
    ends: Ints = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + fence)
    return ends


def _rows(at: Ints, ends: Ints) -> Ints:
    rows: Ints = np.searchsorted(ends, at, side="right")
    return rows


def _keys(joined: bytes, ends: Ints) -> Ints:
    """Keys by text: colons right behind a quote; -1 where that may count wrongly.

    Without backslashes, such a colon inside a string is its first character: it stands there
    however the text is written, so two counts of one value still compare.
    """
    data: npt.NDArray[np.uint8] = np.frombuffer(joined, np.uint8)
    colons = np.flatnonzero(data == ord(":"))
    before = data[colons - 1]
    keys: Ints = np.bincount(_rows(colons[before == ord('"')], ends), minlength=len(ends))
    loose = colons[before <= _SPACE]
    if loose.size:
        keys[_rows(loose, ends)] = -1
    if b"\\" in joined:
        keys[_rows(np.flatnonzero(data == ord("\\")), ends)] = -1
    return keys


def _doubtful(joined: bytes, texts: Sequence[bytes]) -> set[int]:
    """Texts that orjson may write in another way than JCS, or that are nested deeply.

    `joined` has a fence between each two of the texts.
    """
    data = np.frombuffer(joined, np.uint8)
    # `[` and `{` differ in one bit. Counted also inside strings: then it is only looked at again.
    brackets = np.flatnonzero(data | 0x20 == ord("{"))
    # Where so many of them stand in less room than the longest text, one may be nested deeply.
    spread = brackets[MAX_DEPTH - 1 :] - brackets[: 1 - MAX_DEPTH]
    deep = brackets[: len(spread)][spread < max(map(len, texts))]
    return _texts_at(np.concatenate([deep, *_odd_places(joined)]), texts, len(_FENCE_BYTES))


def _odd_places(joined: bytes) -> list[Ints]:
    """Where an encoder may write in another way than JCS.

    Those are numbers with an exponent, integral floats (`1.0`), keys beyond the BMP, and what only
    looks so inside a string.
    """
    data = np.frombuffer(joined, np.uint8)
    # Whole columns are compared first: `e` alone is in every other word, but seldom behind a digit.
    e = 1 + np.flatnonzero((data[1:-1] == ord("e")) & (data[:-2] - np.uint8(ord("0")) < 10))  # noqa: PLR2004 - ten digits
    exponent = [at for at in e.tolist() if _EXPONENT.match(joined, at)]
    zero = np.flatnonzero((data[:-2] == ord(".")) & (data[1:-1] == ord("0")))
    odd = [np.array(exponent, np.int64), zero[_ENDS_NUMBER[data[zero + 2]]]]
    if not joined.isascii():
        odd.append(np.flatnonzero(data >= _FIRST_BEYOND_BMP))
    return odd


def _texts_at(places: Ints, texts: Sequence[bytes], fence: int) -> set[int]:
    """Which of the texts those places are in; `fence` bytes stand between two texts."""
    return set(_rows(places, _ends(texts, fence)).tolist()) if places.size else set()
