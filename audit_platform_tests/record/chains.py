"""Rows for chain tests: events with real hashes, columns of them, and a judge in plain Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa

from audit_platform.record.chain import ChainSpan, ChainWalker, Finding, Gap

ZERO = bytes(32)

#: A finding without its words: verdict, device, chain, sequence.
Seen = tuple[str, str, str, int | None]


@dataclass(frozen=True, order=True)
class Row:
    """One event as the walker sees it, in the order of the sort keys."""

    device: str
    chain: str
    sequence: int
    hash: bytes
    prev: bytes


def row(device: str, chain: str, sequence: int, prev: bytes, salt: str = "") -> Row:
    """An event whose hash follows from all that it says."""
    said = f"{device} {chain} {sequence} {salt}".encode() + prev
    return Row(device, chain, sequence, hashlib.sha256(said).digest(), prev)


def run_of(device: str, chain: str, first: int, count: int, prev: bytes = ZERO) -> list[Row]:
    """`count` events, each linked to the one before."""
    rows: list[Row] = []
    for sequence in range(first, first + count):
        rows.append(row(device, chain, sequence, rows[-1].hash if rows else prev))
    return rows


def walk(rows: Sequence[Row], cuts: Iterable[int] = ()) -> tuple[list[Finding], list[ChainSpan]]:
    """Feed rows to a walker, cut into blocks at the given places."""
    walker = ChainWalker()
    findings: list[Finding] = []
    edges = sorted({0, len(rows), *(c for c in cuts if 0 < c < len(rows))})
    for a, b in pairwise(edges):
        block = rows[a:b]
        findings += walker.feed(
            pa.array([r.device for r in block], pa.string()),
            pa.array([r.chain for r in block], pa.string()),
            np.array([r.sequence for r in block], dtype=np.int64),
            np.frombuffer(b"".join(r.hash for r in block), np.uint8).reshape(-1, 32),
            np.frombuffer(b"".join(r.prev for r in block), np.uint8).reshape(-1, 32),
            first_row=a,
        )
    return findings, walker.finish()


def seen(findings: Iterable[Finding]) -> list[Seen]:
    return sorted(
        ((str(f.verdict), f.device_id, f.chain_id, f.sequence) for f in findings), key=repr
    )


def judged_plainly(rows: Sequence[Row]) -> tuple[list[Seen], list[ChainSpan]]:
    """The walker's findings and spans, one row after the other, by the words of the design."""
    found: list[Seen] = []
    spans: list[ChainSpan] = []
    for (device, chain), chain_rows in groupby(rows, key=lambda r: (r.device, r.chain)):
        groups = [list(g) for _, g in groupby(chain_rows, key=lambda r: r.sequence)]
        gaps: list[Gap] = []
        before: list[Row] = []
        for group in groups:
            sequence = group[0].sequence
            follows = bool(before) and before[0].sequence + 1 == sequence
            if before and not follows:
                found.append(("gap", device, chain, sequence))
                missing = (before[0].sequence + 1, sequence - 1)
                gaps.append(Gap(*missing, before[-1].hash.hex(), group[0].prev.hex()))
            for i, r in enumerate(group):
                if i and r.hash == group[i - 1].hash:
                    found.append(("duplicate", device, chain, sequence))
                    continue
                if i:
                    found.append(("fork", device, chain, sequence))
                if follows and r.prev not in {b.hash for b in before}:
                    found.append(("broken_link", device, chain, sequence))
            before = group
        spans.append(
            ChainSpan(
                device_id=device,
                chain_id=chain,
                first_sequence=groups[0][0].sequence,
                first_prev_hash=groups[0][0].prev.hex(),
                last_sequence=groups[-1][0].sequence,
                head=groups[-1][-1].hash.hex(),
                count=sum(len(g) for g in groups),
                gaps=tuple(gaps),
            )
        )
    return sorted(found, key=repr), spans
