"""Everything that judges chains, by name, and ids that stand twice.

Import chains from here: the words (`spans.py`), the walker over a day's rows (`walk.py`), the judge
over days (`linking.py`). Belongs here: `judge_ids`. Does not: signatures (`signing.py`).
Source: design section 3 (eventId, chains, verdicts).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.record.columns import Hashes
from audit_platform.record.linking import (
    ChainStart,
    DayChains,
    LinkJudgement,
    LossRun,
    judge_links,
    loss_runs,
)
from audit_platform.record.spans import INFORMATIONAL, ChainSpan, Finding, Gap, Verdict
from audit_platform.record.walk import ChainWalker

__all__ = [
    "INFORMATIONAL",
    "ChainSpan",
    "ChainStart",
    "ChainWalker",
    "DayChains",
    "Finding",
    "Gap",
    "LinkJudgement",
    "LossRun",
    "Verdict",
    "judge_ids",
    "judge_links",
    "loss_runs",
]


def judge_ids(event_id: pa.Array, checksum: Hashes, event_hash: Hashes) -> list[Finding]:
    """Rows whose eventId stands at an earlier row too: `resent`, `id_reuse` or `duplicate`.

    A string column, (n, 32) checksums, (n, 32) hashes. Equal hashes are `duplicate`; equal
    checksums `resent`; else `id_reuse`. Each is compared with the first row of its eventId.
    """
    codes = np.asarray(pc.dictionary_encode(event_id).indices)
    if len(codes) == 0 or int(codes.max()) + 1 == len(codes):
        return []
    _, first_row = np.unique(codes, return_index=True)
    first = first_row[codes]
    findings: list[Finding] = []
    for i in np.flatnonzero(first != np.arange(len(codes))).tolist():
        j = int(first[i])
        if (event_hash[i] == event_hash[j]).all():
            verdict, detail = Verdict.DUPLICATE, "the same event again"
        elif (checksum[i] == checksum[j]).all():
            verdict, detail = Verdict.RESENT, f"says what row {j} says, in another chain or place"
        else:
            verdict, detail = Verdict.ID_REUSE, f"has the eventId of row {j} and another checksum"
        findings.append(Finding(verdict, "", "", None, i, detail))
    return findings
