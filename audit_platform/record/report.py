"""What a check found: entries with a step number, counts, a verdict, an exit code.

Belongs here: the report's form. Does not: the checks (`fsck.py`), how a terminal shows it
(`commands/`). Source: issue of the walking skeleton; exit codes follow fsck(8) in spirit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final


class Step(IntEnum):
    """The numbered steps of a check, in their order. The same numbers stand in the code."""

    READ = 1
    FORM = 2
    SIGNATURE = 3
    SEQUENCE = 4
    DAYS = 5
    OBJECTS = 6
    ROWS = 7
    ROOTS = 8
    CHAINS = 9
    QUARANTINE = 10
    LINKS = 11
    EDGES = 12
    HEAD = 13
    REVISIONS = 14


STEP_TEXT: Final = {
    Step.READ: "there is something to check, and a key to check it with",
    Step.FORM: "each manifest has the stated form and belongs under its name",
    Step.SIGNATURE: "each manifest is signed by a known, unrevoked manifest key",
    Step.SEQUENCE: "manifests are numbered without a hole and each names the one before",
    Step.DAYS: "every day from the first to the last has its manifest",
    Step.OBJECTS: "every named object is there, with its size and SHA-256, and nothing hides it",
    Step.ROWS: "every row's rebuilt bytes have its eventHash, in order",
    Step.ROOTS: "row groups, parts and days have the signed Merkle roots",
    Step.CHAINS: "each device's chains are what the manifest says of them",
    Step.QUARANTINE: "refused events that are links are kept, with their bytes",
    Step.LINKS: "chains go on unbroken from day to day",
    Step.EDGES: "chain starts and losses are signed by known edge keys",
    Step.HEAD: "the newest manifest is at least the head that was given from outside",
    Step.REVISIONS: "a revision keeps every leaf, object and refused link of the one it replaces",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing found. A `note` informs; anything else is a finding. `row` counts from 0."""

    step: Step
    message: str
    note: bool = False
    tenant_id: str = ""
    day: str = ""
    key: str = ""
    verdict: str = ""
    row: int | None = None
    device_id: str | None = None
    chain_id: str | None = None
    sequence: int | None = None

    def to_json(self) -> dict[str, Any]:
        """For `--json`; absent members were not known."""
        names = {
            "tenantId": self.tenant_id,
            "day": self.day,
            "object": self.key,
            "verdict": self.verdict,
            "row": self.row,
            "deviceId": self.device_id,
            "chainId": self.chain_id,
            "sequence": self.sequence,
        }
        known = {k: v for k, v in names.items() if v not in ("", None)}
        kind = "note" if self.note else "finding"
        return {"step": int(self.step), "kind": kind, "message": self.message} | known


@dataclass(slots=True)
class Report:
    """Everything a check found and read.

    `heads`: number and hash of each tenant's newest valid manifest; `days`: those that count.
    """

    entries: list[Entry] = field(default_factory=list)
    tenants: int = 0
    manifests: int = 0
    objects: int = 0
    rows: int = 0
    bytes: int = 0
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)
    days: dict[str, list[str]] = field(default_factory=dict)
    fresh: bool = False

    @property
    def findings(self) -> list[Entry]:
        """Entries that are not notes."""
        return [e for e in self.entries if not e.note]

    @property
    def could_not_check(self) -> bool:
        """Nothing was read, or no key was given: a check that read nothing has failed."""
        return any(e.step is Step.READ and not e.note for e in self.entries)

    @property
    def exit_code(self) -> int:
        """0 clean, 1 findings, 2 could not check."""
        if self.could_not_check:
            return 2
        return 1 if self.findings else 0

    @property
    def verdict(self) -> str:
        """One line for a person."""
        if self.could_not_check:
            return "could not check"
        if self.findings:
            return f"{len(self.findings)} findings"
        return "clean" if self.fresh else "clean, freshness not proved"

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "verdict": self.verdict,
            "exitCode": self.exit_code,
            "tenants": self.tenants,
            "manifests": self.manifests,
            "objects": self.objects,
            "rows": self.rows,
            "bytes": self.bytes,
            "freshnessProved": self.fresh,
            "heads": {t: {"number": n, "sha256": h} for t, (n, h) in sorted(self.heads.items())},
            "steps": {str(int(s)): text for s, text in STEP_TEXT.items()},
            "entries": [e.to_json() for e in self.entries],
        }
