"""What an edge asks about what it sent: the form of a question, and its limits.

Belongs here: reading a question. Does not: answering it (`ingest_archived.py`).
Source: design section 4; `docs/formats.md` (receipts and questions about them).
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import orjson

from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC
from audit_platform.services.ingest_problems import Problem

#: Log records in one question: 250 bodies of a small site. Their answer is a few kB.
MAX_RECORDS_ASKED: Final = 1000

#: Bytes of a question: 1000 records of at most 120 bytes.
MAX_QUESTION_BYTES: Final = 128 * 1024

_TOPICS: Final = frozenset({EVENTS_TOPIC, DLQ_TOPIC})
_DIGEST: Final = re.compile(r"[0-9a-f]{16}")
_MAX_NUMBER: Final = 2**63 - 1


class Asked(NamedTuple):
    """A log record as a receipt named it. `digest` is the number that its 16 hex digits are."""

    topic: str
    partition: int
    offset: int
    digest: int


def parse_question(data: bytes) -> list[Asked]:
    """The log records that an edge asks about. Raises `Problem` `bad_question`."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as e:
        raise _bad_question(f"it is not JSON: {e}") from e
    records = value.get("records") if isinstance(value, dict) else None
    if not isinstance(records, list) or len(records) > MAX_RECORDS_ASKED:
        raise _bad_question(f"wanted: `records`, a list of at most {MAX_RECORDS_ASKED}")
    return [_asked(n, record) for n, record in enumerate(records)]


def _asked(number: int, record: Any) -> Asked:
    if isinstance(record, dict):
        topic, partition = record.get("topic"), record.get("partition")
        offset, digest = record.get("offset"), record.get("digest")
        if (
            isinstance(topic, str)
            and topic in _TOPICS
            and type(partition) is int
            and type(offset) is int
            and min(partition, offset) >= 0
            and max(partition, offset) <= _MAX_NUMBER
            and isinstance(digest, str)
            and _DIGEST.fullmatch(digest)
        ):
            return Asked(topic, partition, offset, int(digest, 16))
    raise _bad_question(f"record {number} is not {{topic, partition, offset, digest}}")


def _bad_question(detail: str) -> Problem:
    return Problem("bad_question", detail, remedy="ask about records as a receipt names them")
