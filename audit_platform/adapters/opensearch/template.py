"""How an event stands in an index: the mapping, chosen by measuring, and how it is guarded.

Belongs here: names of indexes and aliases, the template, what is refused at start. Does not: rows
as documents (`documents.py`), searches (`find.py`). Source: design section 8 (HOT);
`docs/benchmarks.md` (OpenSearch mapping) tells the alternatives.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from audit_platform.record.layout import TENANT_PATTERN

#: The versions of the server that the adapter is proved on: the major number.
MAJOR: Final = "3"

#: The form of documents. A new form is a new template; a day is brought over by `rebuild-hot`.
FORM: Final = "events-v1"

#: Where the notes of an index stand in its `_meta` (`upkeep.py`).
NOTES: Final = "notes"

_KEPT: Final = {"type": "keyword", "index": False, "doc_values": False}
_FOUND: Final = {"type": "keyword", "doc_values": False}
_ORDERED: Final = {"type": "long", "index": False}
_WORDS: Final = {"type": "text", "analyzer": "words", "norms": False, "index_options": "docs"}

MAPPING: Final[dict[str, Any]] = {
    "dynamic": "strict",
    "_meta": {"form": FORM},
    "properties": {
        "ingestion_time": {"type": "long"},
        "event_time": {"type": "long"},
        "device_id": {"type": "keyword"},
        "sequence_number": _ORDERED,
        "hash_1": _ORDERED,
        "hash_2": _ORDERED,
        "hospital_id": _FOUND,
        "event_type": _FOUND,
        "criticality": _FOUND,
        "chain_id": _FOUND,
        "schema_ref": _FOUND,
        "event_id": _FOUND,
        "event_version": {"type": "integer", "index": False, "doc_values": False},
        "prev_hash": _KEPT,
        "payload": _WORDS,
        "words": _WORDS,
    },
}

SETTINGS: Final[dict[str, Any]] = {
    "number_of_shards": 1,
    # A copy as soon as there is a second node.
    "auto_expand_replicas": "0-1",
    # Searches refresh what they look at (`hot.py`): nobody pays for what nobody looks for.
    "refresh_interval": "-1",
    # An fsync before every answer: what `create` returned for is not lost.
    "translog.durability": "request",
    # A node that comes back within moments brings its own copies.
    "unassigned.node_left.delayed_timeout": "3s",
    "analysis": {
        "tokenizer": {
            "words": {
                "type": "char_group",
                "tokenize_on_chars": ["whitespace", "punctuation", "symbol"],
            }
        },
        "analyzer": {"words": {"type": "custom", "tokenizer": "words", "filter": ["lowercase"]}},
    },
}

_INDEX: Final = re.compile(r"(?P<tenant>[^.]+)\.(?P<day>\d{8})\.g(?P<generation>[1-9]\d*)")


class Name(NamedTuple):
    """What the name of an index says."""

    tenant_id: str
    day: str
    generation: int


class Names:
    """Names below one prefix: several installations share a cluster."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    @property
    def template(self) -> str:
        """The index template."""
        return f"{self.prefix}.{FORM}"

    def index(self, tenant_id: str, day: str, generation: int) -> str:
        """An index."""
        return f"{self.write(tenant_id, day)}.g{generation}"

    def write(self, tenant_id: str, day: str) -> str:
        """The alias that a day's new events go to."""
        return f"{self.read(tenant_id)}.{day.replace('-', '')}"

    def read(self, tenant_id: str) -> str:
        """The alias of all indexes of a tenant that searches read. `ValueError` for no tenant id.

        Ids hold neither dots nor commas nor stars: a name never reaches another tenant.
        """
        if not TENANT_PATTERN.fullmatch(tenant_id):
            raise ValueError(f"not a tenant id: {tenant_id!r}")
        return f"{self.prefix}.{tenant_id}"

    def day_pattern(self, tenant_id: str, day: str) -> str:
        """All generations of a day."""
        return f"{self.write(tenant_id, day)}.*"

    def pattern(self, tenant_id: str | None) -> str:
        """All indexes (of a tenant)."""
        return f"{self.prefix if tenant_id is None else self.read(tenant_id)}.*"

    def parsed(self, index: str) -> Name | None:
        """What a name says; None for an index that is not ours."""
        found = _INDEX.fullmatch(index.removeprefix(f"{self.prefix}."))
        if found is None or not index.startswith(f"{self.prefix}."):
            return None
        day = found["day"]
        day = f"{day[:4]}-{day[4:6]}-{day[6:]}"
        return Name(found["tenant"], day, int(found["generation"]))

    def template_body(self) -> dict[str, Any]:
        """The template as it is put."""
        return {
            "index_patterns": [f"{self.prefix}.*.g*"],
            "priority": 500,
            "_meta": {"form": FORM},
            "template": {"settings": {"index": SETTINGS}, "mappings": MAPPING},
        }
