"""A query of the port as a search of OpenSearch: filters, words, order.

Belongs here: the search's body. Does not: sending it, pages, copies (`hot.py`).
Source: `ports.EventQuery`, `record/words.py`; OpenSearch's query DSL.

Words are a sieve: what the server finds holds every row that has them, and now and then one that
has not; the caller looks at the rows. The envelope's text is not indexed by words: its few
different values are looked through when somebody asks for a word. Event ids are many: a whole one
is looked for as such, a piece of one costs a walk over all ids of the index.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

from audit_platform.adapters.opensearch.documents import halves
from audit_platform.ports import EventClock, EventQuery
from audit_platform.record.words import words

#: Words that the server is asked for; the caller tests a query with more by all of them.
MAX_SIEVE_WORDS: Final = 32

#: Ids and labels of the envelope have 128 characters at most, all of them ASCII.
MAX_ENVELOPE_WORD: Final = 128

_ENVELOPE: Final = (
    "hospital_id",
    "device_id",
    "chain_id",
    "event_type",
    "schema_ref",
    "criticality",
)
_FILTERS: Final = ("device_id", "hospital_id", "event_type", "criticality")

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID_PIECE: Final = re.compile(r"[0-9a-f]{4}|[0-9a-f]{8}|[0-9a-f]{12}")
_WHOLE_WORD: Final = "(.*[^a-zA-Z0-9])?{}([^a-zA-Z0-9].*)?"


def clock_column(clock: EventClock) -> str:
    """The field of a clock."""
    return "event_time" if clock is EventClock.EVENT else "ingestion_time"


def body(query: EventQuery, size: int) -> dict[str, Any]:
    """The search for the first `size` documents after `query.after`."""
    clock = clock_column(query.clock)
    from_ms = max(query.from_ms, query.after.ms) if query.after else query.from_ms
    filters: list[dict[str, Any]] = [{"range": {clock: {"gte": from_ms, "lt": query.to_ms}}}]
    for name in _FILTERS:
        wanted = getattr(query, name)
        if wanted is not None:
            filters.append({"term": {name: wanted}})
    filters += _sieve(query.text or "")
    found: dict[str, Any] = {
        "size": size,
        "query": {"bool": {"filter": filters}},
        "sort": [clock, "device_id", "sequence_number", "hash_1", "hash_2"],
        "track_total_hits": False,
    }
    if query.after:
        ms, device_id, sequence_number, event_hash = query.after
        first, second = halves(np.frombuffer(event_hash, np.uint8).reshape(1, 32))
        found["search_after"] = [ms, device_id, sequence_number, int(first[0]), int(second[0])]
    return found


def _sieve(text: str) -> list[dict[str, Any]]:
    """Conditions that every row with these words fulfils."""
    needed = dict.fromkeys(words(text))
    conditions = []
    for event_id in dict.fromkeys(_UUID.findall(text.lower())):
        pieces = event_id.split("-")
        if not needed.keys() >= set(pieces):
            continue  # it stands inside longer words
        # Either it is the event's id, or some piece of it stands elsewhere.
        elsewhere = [place for piece in pieces for place in _places(piece)]
        conditions.append(_any([{"term": {"event_id": event_id}}, *elsewhere]))
        for piece in pieces:
            needed.pop(piece, None)
    for word in list(needed)[:MAX_SIEVE_WORDS]:
        places = _places(word)
        if _UUID_PIECE.fullmatch(word):
            places.append(_word_in("event_id", word))
        conditions.append(_any(places))
    return conditions


def _any(places: list[dict[str, Any]]) -> dict[str, Any]:
    return {"bool": {"should": places, "minimum_should_match": 1}}


def _places(word: str) -> list[dict[str, Any]]:
    """Where a word can stand, event ids apart."""
    places: list[dict[str, Any]] = [
        {"match": {field: {"query": word, "operator": "and"}}} for field in ("payload", "words")
    ]
    if word.isascii() and len(word) <= MAX_ENVELOPE_WORD:
        places += [_word_in(field, word) for field in _ENVELOPE]
    return places


def _word_in(field: str, word: str) -> dict[str, Any]:
    """A word of ASCII letters and digits somewhere in a label."""
    value = _WHOLE_WORD.format(word)
    return {"regexp": {field: {"value": value, "flags": "NONE", "case_insensitive": True}}}
