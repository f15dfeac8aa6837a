"""Words of a text, as searches mean them: the same in HOT and in COLD.

Belongs here: cutting and folding, which fields of an event are searched, and the test of rows. Does
not: an index (HOT adapters), reading rows (`operations/query/`).
Source: `ports.EventQuery.text`. The rule is SQLite's FTS5 `unicode61 remove_diacritics 0`: a word
is a run of letters, numbers and private-use characters with the marks that follow them; case is
folded one character at a time, diacritics stay. SQLite knows Unicode 6.1 and Python a later one, so
an index is fed with these words and asked for these words, never with raw text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.record.columns import Mask

#: Columns of an event whose text is searched, in this order.
TEXT_COLUMNS: Final = (
    "hospital_id",
    "device_id",
    "chain_id",
    "event_type",
    "event_id",
    "schema_ref",
    "criticality",
    "payload",
)

_ASCII_WORD: Final = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """The words of a text, folded, in order, with repetitions. Any text is fine; "" has none."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = []
    run: list[str] = []
    for character in text:
        folded = _folded(character)
        if folded and (run or unicodedata.category(character)[0] != "M"):
            run.append(folded)
        elif run:
            found.append("".join(run))
            run = []
    if run:
        found.append("".join(run))
    return found


@lru_cache(maxsize=4096)
def _folded(character: str) -> str:
    """The character in lower case where that is one character; "" for one that parts words."""
    category = unicodedata.category(character)
    if category[0] not in "LNM" and category != "Co":
        return ""
    lower = character.lower()
    return lower if len(lower) == 1 else character


def searched_text(rows: pa.RecordBatch) -> pa.StringArray:
    """What is searched of each row of events: `TEXT_COLUMNS`, joined by spaces."""
    return pc.binary_join_element_wise(*(rows[name] for name in TEXT_COLUMNS), " ")


def rows_with_words(rows: pa.RecordBatch, wanted: Iterable[str]) -> Mask:
    """For each row of events: do all of these (folded) words stand in it? Shape (n,)."""
    needed = set(wanted)
    mask = np.ones(len(rows), dtype=np.bool_)
    if not needed or not len(rows):
        return mask
    text = searched_text(rows)
    # A cheap sieve by ASCII words in any case, anywhere; what passes is cut into words.
    for word in sorted(needed):
        if word.isascii():
            found = pc.match_substring(text, word, ignore_case=True)
            mask &= np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)
    at = np.flatnonzero(mask)
    texts = text.take(pa.array(at)).to_pylist()
    mask[at] = [needed <= set(words(t)) for t in texts]
    return mask
