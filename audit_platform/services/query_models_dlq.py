"""The form of query-api's answers about dead letters, as /openapi.json describes them.

Belongs here: names, types and meanings of members. Does not: making an answer
(`query_routes_dlq.py`), other answers (`query_models.py`). Source: OpenAPI 3.1.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from audit_platform.services.query_models import Completeness


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=True)


class ClusterLine(_Answer):
    """Refused lines of one cause. `entries` are ids, at most as many as a proposal may name.

    Beyond 200 causes the rest is one line without a cause.
    """

    slug: str
    schema_ref: str | None = Field(description="What the lines name; null where they do not")
    field: str = Field(description="The path of what is wrong, without list indexes")
    count: int
    first: str
    last: str
    reason: str = Field(description="That of the first one found")
    entries: list[str]


class ProposalLine(_Answer):
    """A proposal in short."""

    proposal_id: str
    action: str = Field(description="`reject`, `replay_with_schema` or `repaired`")
    state: str = Field(
        description="`proposed`, `approved`, `void`, `rejected`, `replaying` or `replayed`"
    )
    entries: int
    proposer: str
    proposed: str
    approver: str | None
    reason: str


class ClustersAnswer(_Answer):
    """What was refused in a window, the most frequent cause first, and what was proposed in it."""

    request_id: str
    query: dict[str, Any]
    completeness: Completeness
    clusters: list[ClusterLine]
    proposals: list[ProposalLine]


class NamedLine(_Answer):
    """One entry of a set."""

    entry_id: str
    sha256: str


class NewEvent(_Answer):
    """A new event and the entry that it answers; "" for the start of their epoch."""

    entry_id: str
    event: str


class OutcomeLine(_Answer):
    """What becomes of a line, or would. `slug`, `field`, `reason` say why not."""

    entry_id: str
    outcome: str = Field(description="`accepted`, `refused`, `copy` or `rejected`")
    event_hash: str
    slug: str
    field: str
    reason: str


class DryRunPart(_Answer):
    """What would become of each line. `problems`: what could not be looked at."""

    number: int
    made: str
    sha256: str
    lines: list[OutcomeLine]
    problems: list[str]


class WholeProposal(ProposalLine):
    """A proposal with all that is to be looked at before it is approved."""

    schema_ref: str | None
    set_sha256: str
    set: list[NamedLine]
    events: list[NewEvent]
    dry_run: DryRunPart | None
    approved: str | None
    became: list[OutcomeLine]


class ProposalAnswer(_Answer):
    """One proposal."""

    request_id: str
    proposal: WholeProposal
