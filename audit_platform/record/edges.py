"""What an edge's signed events say: chains that begin, sequences that were dropped.

Belongs here: from canonical `chain_start` and `loss` events to the facts that a manifest lists and
a check recomputes. Does not: the signature itself (`signing.py`), judging chains (`chain.py`).
Source: design section 3 (chains, losses): only a bad signature or an unknown key is a finding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from audit_platform.errors import RecordMalformed
from audit_platform.record.chain import ChainStart, LossRun, loss_runs
from audit_platform.record.signing import CHAIN_START, LOSS, problem_of_signed_event

#: Event types whose payload an edge signs.
SIGNED_TYPES: Final = (CHAIN_START, LOSS)


@dataclass(frozen=True, slots=True)
class EdgeProblem:
    """A signed event that cannot be believed. Its place is empty where it is not JSON."""

    reason: str
    device_id: str
    chain_id: str
    sequence: int | None


@dataclass(slots=True)
class EdgeFacts:
    """Facts of good signature, the ids of the keys that signed them, and what was not good."""

    starts: list[ChainStart] = field(default_factory=list)
    losses: list[LossRun] = field(default_factory=list)
    key_ids: set[str] = field(default_factory=set)
    problems: list[EdgeProblem] = field(default_factory=list)


def edge_facts(lines: Iterable[bytes], edge_keys: Mapping[str, str]) -> EdgeFacts:
    """Read canonical signed events; `edge_keys` maps key ids to public keys in hex."""
    facts = EdgeFacts()
    for line in lines:
        try:
            event: dict[str, Any] = orjson.loads(line)
        except orjson.JSONDecodeError as e:
            facts.problems.append(EdgeProblem(f"a signed event is not JSON: {e}", "", "", None))
            continue
        place = (event["deviceId"], event["chainId"], event["sequenceNumber"])
        problem = problem_of_signed_event(event, edge_keys)
        if problem:
            facts.problems.append(EdgeProblem(problem, *place))
            continue
        facts.key_ids.add(event["payload"]["edgeKeyId"])
        if event["eventType"] == CHAIN_START:
            facts.starts.append(ChainStart(*place, hashlib.sha256(line).hexdigest()))
            continue
        try:
            facts.losses += loss_runs(event["payload"])
        except RecordMalformed as e:
            facts.problems.append(EdgeProblem(str(e), *place))
    return facts
