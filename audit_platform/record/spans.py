"""What chains are judged by: verdicts, findings, and the span of a chain that a manifest states.

Belongs here: these words and the JSON form of a span. Does not: the judging (`walk.py` within a
day, `chain.py` over days).
Source: design section 3 (verdicts), 5 (manifest); `docs/formats.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from audit_platform.errors import RecordMalformed
from audit_platform.record.canonical import MAX_SAFE_INTEGER
from audit_platform.record.envelope import CHAIN_PATTERN, HASH_PATTERN
from audit_platform.record.layout import IDENTIFIER_PATTERN


class Verdict(StrEnum):
    """What can be said of an event's place in its chain. `INFORMATIONAL` are no faults."""

    OK = "ok"
    DUPLICATE = "duplicate"
    RESENT = "resent"
    GAP = "gap"
    DECLARED_GAP = "declared_gap"
    FORK = "fork"
    BROKEN_LINK = "broken_link"
    BAD_CHECKSUM = "bad_checksum"
    ID_REUSE = "id_reuse"
    CHAIN_RESET = "chain_reset"
    TRUNCATED = "truncated"
    HIDDEN = "hidden"


#: Verdicts that say what happened and accuse nobody.
INFORMATIONAL: Final = frozenset(
    {
        Verdict.OK,
        Verdict.DUPLICATE,
        Verdict.RESENT,
        Verdict.DECLARED_GAP,
        Verdict.CHAIN_RESET,
    }
)


#: Gaps of one chain that a day's span lists; more are counted. A device that was cut off has a few
#: gaps a day and a gap every quarter of an hour is a hundred; one that skips every second sequence
#: has hundreds of thousands, which would make its tenant's manifest 100 MB. The rows show them all.
MAX_LISTED_GAPS: Final = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict and where it holds.

    `row` counts from the first row that the judge was told of; None when no row shows it. Ids are
    "" and `sequence` None where the judge was not given them. `day` is set when days are judged;
    `after_day` where a day between it and `day` could mend what was found ("": any day before).
    """

    verdict: Verdict
    device_id: str
    chain_id: str
    sequence: int | None
    row: int | None
    detail: str
    day: str = ""
    after_day: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Sequences `first` to `last` that are missing between two rows; hashes are lower hex.

    `head_before` is the eventHash of the row before, `prev_hash_after` the prevHash of the next.
    """

    first: int
    last: int
    head_before: str
    prev_hash_after: str

    def to_json(self) -> dict[str, Any]:
        """A camelCase object."""
        return {
            "first": self.first,
            "last": self.last,
            "headBefore": self.head_before,
            "prevHashAfter": self.prev_hash_after,
        }

    @classmethod
    def from_json(cls, value: object) -> Gap:
        """Parse, strictly. Raises `RecordMalformed`."""
        v = _members(value, _GAP_MEMBERS)
        return cls(
            first=_sequence(v, "first"),
            last=_sequence(v, "last"),
            head_before=_hash(v, "headBefore"),
            prev_hash_after=_hash(v, "prevHashAfter"),
        )


@dataclass(frozen=True, slots=True)
class ChainSpan:
    """What the rows of a day hold of one chain of one device; hashes are lower hex.

    `count` counts rows. `head` is the eventHash of the last row; where several rows share the last
    sequence (a fork), of the one with the greatest hash. `gaps` are the first `MAX_LISTED_GAPS`;
    behind the last of them are `unlisted_gaps` more.
    """

    device_id: str
    chain_id: str
    first_sequence: int
    first_prev_hash: str
    last_sequence: int
    head: str
    count: int
    gaps: tuple[Gap, ...] = ()
    unlisted_gaps: int = 0

    def to_json(self) -> dict[str, Any]:
        """A camelCase object; `unlistedGaps` stands in it only where there are some."""
        more = {"unlistedGaps": self.unlisted_gaps} if self.unlisted_gaps else {}
        return more | {
            "deviceId": self.device_id,
            "chainId": self.chain_id,
            "firstSequence": self.first_sequence,
            "firstPrevHash": self.first_prev_hash,
            "lastSequence": self.last_sequence,
            "head": self.head,
            "count": self.count,
            "gaps": [g.to_json() for g in self.gaps],
        }

    @classmethod
    def from_json(cls, value: object) -> ChainSpan:
        """Parse, strictly. Raises `RecordMalformed`, and nothing else.

        Gaps must lie in order inside the span, and the count must not be smaller than they allow.
        """
        is_cut = isinstance(value, dict) and "unlistedGaps" in value
        v = _members(value, _SPAN_MEMBERS | {"unlistedGaps"} if is_cut else _SPAN_MEMBERS)
        if not isinstance(v["gaps"], list):
            raise _malformed("gaps", "not a list")
        span = cls(
            device_id=_text(v, "deviceId", IDENTIFIER_PATTERN),
            chain_id=_text(v, "chainId", CHAIN_PATTERN),
            first_sequence=_sequence(v, "firstSequence"),
            first_prev_hash=_hash(v, "firstPrevHash"),
            last_sequence=_sequence(v, "lastSequence"),
            head=_hash(v, "head"),
            count=_integer(v, "count", 1),
            gaps=tuple(Gap.from_json(g) for g in v["gaps"]),
            unlisted_gaps=_integer(v, "unlistedGaps", 1) if is_cut else 0,
        )
        at = span.first_sequence
        held = 0
        for gap in span.gaps:
            if not at < gap.first <= gap.last < span.last_sequence:
                raise _malformed("gaps", "not in order inside the span")
            held += gap.first - at
            at = gap.last + 1
        # Behind the last listed gap every further gap has a row on either side of it.
        held += span.unlisted_gaps + 1 if is_cut else span.last_sequence - at + 1
        if span.last_sequence < at or span.count < held:
            raise _malformed("count", "fewer rows than sequences that are not missing")
        return span


_GAP_MEMBERS: Final = frozenset({"first", "last", "headBefore", "prevHashAfter"})
_SPAN_MEMBERS: Final = frozenset(
    {
        "deviceId",
        "chainId",
        "firstSequence",
        "firstPrevHash",
        "lastSequence",
        "head",
        "count",
        "gaps",
    }
)


def _malformed(field: str, reason: str) -> RecordMalformed:
    return RecordMalformed("chain span", field, reason)


def _members(value: object, wanted: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.keys() != wanted:
        raise _malformed("", f"not an object with exactly {', '.join(sorted(wanted))}")
    return value


def _integer(value: Mapping[str, Any], name: str, least: int) -> int:
    number = value[name]
    if type(number) is not int or not least <= number <= MAX_SAFE_INTEGER:
        raise _malformed(name, f"not an integer from {least} to 2^53-1")
    return number


def _sequence(value: Mapping[str, Any], name: str) -> int:
    return _integer(value, name, 0)


def _text(value: Mapping[str, Any], name: str, pattern: Any) -> str:
    text = value[name]
    if not isinstance(text, str) or pattern.fullmatch(text) is None:
        raise _malformed(name, "not of its form")
    return text


def _hash(value: Mapping[str, Any], name: str) -> str:
    return _text(value, name, HASH_PATTERN)
