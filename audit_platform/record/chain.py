"""Everything that judges chains, by name, and ids that stand twice.

Import chains from here: the words (`spans.py`), the walker over a day's rows (`walk.py`), the judge
over days (`linking.py`). Belongs here: `judge_ids`. Does not: signatures (`signing.py`).
Source: design section 3 (eventId, chains, verdicts).
"""

from __future__ import annotations

from typing import Final

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
from audit_platform.record.windows import WIDTH

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
    "may_stand_twice",
]


#: Any odd number with bits all over it: what it multiplies is told apart by its high bits too.
_SPREAD: Final = np.uint64(0x9E37_79B9_7F4A_7C15)


def may_stand_twice(event_id: pa.Array) -> bool:
    """Whether an eventId may stand twice: False is sure, True asks for `judge_ids`.

    By numbers made of the ids' last 16 bytes, where UUIDs differ: a table of the texts themselves
    costs ten times as much.
    """
    n = len(event_id)
    if n == 0:
        return False
    ends = np.frombuffer(event_id.buffers()[1], np.int32)[event_id.offset : event_id.offset + n + 1]
    if event_id.null_count or (ends[1:] - ends[:-1] != WIDTH["event_id"]).any():
        return True
    data = np.frombuffer(event_id.buffers()[2], np.uint8)[ends[0] : ends[-1]]
    last = np.ascontiguousarray(data.reshape(n, -1)[:, -16:]).view(np.uint64)
    numbers = np.sort(last[:, 0] * _SPREAD ^ last[:, 1])
    return bool((numbers[1:] == numbers[:-1]).any())


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
