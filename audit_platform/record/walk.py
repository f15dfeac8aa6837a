"""Walking the chains of a day: rows in order in, findings and spans out.

Rows are judged as whole columns; Python looks only at rows that are not simply the next event of
their chain, and at the boundaries of chains. Belongs here: judgement by rows that lie side by side.
Does not: links between days (`chain.py`), reading rows (`partcheck.py`).
Source: design section 3 (verdicts).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.record.columns import Hashes, Ints, Mask, texts_at
from audit_platform.record.spans import MAX_LISTED_GAPS, ChainSpan, Finding, Gap, Verdict


@dataclass(slots=True)
class _Open:
    """The chain that the last row fed belongs to.

    `group` are the hashes at the last sequence (several when it forks), `before` those at the
    sequence before it; None when no row holds that.
    """

    device_id: str
    chain_id: str
    first_sequence: int
    first_prev_hash: str
    last_sequence: int = 0
    head: bytes = b""
    count: int = 0
    gaps: list[Gap] = field(default_factory=list)
    unlisted_gaps: int = 0
    group: set[bytes] = field(default_factory=set)
    before: set[bytes] | None = None

    def span(self) -> ChainSpan:
        return ChainSpan(
            device_id=self.device_id,
            chain_id=self.chain_id,
            first_sequence=self.first_sequence,
            first_prev_hash=self.first_prev_hash,
            last_sequence=self.last_sequence,
            head=self.head.hex(),
            count=self.count,
            gaps=tuple(self.gaps),
            unlisted_gaps=self.unlisted_gaps,
        )


class ChainWalker:
    """A streaming judge of rows sorted by (deviceId, chainId, sequenceNumber, eventHash).

    Findings are `duplicate`, `fork`, `broken_link` and `gap` (the first `MAX_LISTED_GAPS` of a
    chain; its span counts the others). A chain's first row is not judged: what it must link to may
    be held by another day. Between calls one chain is remembered.
    """

    def __init__(self) -> None:
        self._open: _Open | None = None
        self._spans: list[ChainSpan] = []

    def feed(
        self,
        device_id: pa.Array,
        chain_id: pa.Array,
        sequence: Ints,
        event_hash: Hashes,
        prev_hash: Hashes,
        *,
        first_row: int,
    ) -> list[Finding]:
        """Judge the next n rows: two string columns, (n,) sequences, (n, 32) hashes.

        `first_row` is the number that the first of them has in findings. Raises `ValueError` when
        a sequence is smaller than the one before it in its chain: the rows are not sorted.
        """
        if len(sequence) == 0:
            return []
        block = _Block(device_id, chain_id, sequence, event_hash, prev_hash, self._open)
        findings: list[Finding] = []
        for a, b in pairwise(block.edges):
            carried = None if block.begins[a] else self._open
            if carried is None:
                if self._open is not None:
                    self._spans.append(self._open.span())
                self._open = block.opened(a)
            chain = self._open
            assert chain is not None
            for i in block.specials(a, b):
                findings += _judge(block, i, a, chain, carried, first_row)
            block.close_up(chain, a, b, carried)
        return findings

    def finish(self) -> list[ChainSpan]:
        """The spans of all chains that were fed, in their order. The walker is empty again."""
        if self._open is not None:
            self._spans.append(self._open.span())
        spans, self._spans, self._open = self._spans, [], None
        return spans


class _Block:
    """The rows of one call, as columns, with what can be said of all of them at once."""

    def __init__(
        self,
        device_id: pa.Array,
        chain_id: pa.Array,
        sequence: Ints,
        event_hash: Hashes,
        prev_hash: Hashes,
        before: _Open | None,
    ) -> None:
        n = len(sequence)
        self.sequence, self.event_hash, self.prev_hash = sequence, event_hash, prev_hash
        #: Rows of another chain than the row before.
        self.begins = np.ones(n, dtype=np.bool_)
        self.begins[1:] = _differs(device_id) | _differs(chain_id)
        #: How far the sequence goes on from the row before.
        self.step = np.zeros(n, dtype=np.int64)
        self.step[1:] = sequence[1:] - sequence[:-1]
        linked = np.zeros(n, dtype=np.bool_)
        linked[1:] = _equal(prev_hash[1:], event_hash[:-1])
        starts = np.flatnonzero(self.begins)
        #: (deviceId, chainId) at each row that another chain's row stands before.
        self._names = dict(
            zip(
                starts.tolist(),
                zip(texts_at(device_id, starts), texts_at(chain_id, starts), strict=True),
                strict=True,
            )
        )
        here = self._names[0]
        if before is not None and here == (before.device_id, before.chain_id):
            self.begins[0] = False
            self.step[0] = int(sequence[0]) - before.last_sequence
            linked[0] = prev_hash[0].tobytes() in before.group
        if (self.step[~self.begins] < 0).any():
            raise ValueError("rows are not sorted by (deviceId, chainId, sequenceNumber)")
        self._special = np.flatnonzero(~self.begins & ((self.step != 1) | ~linked))
        #: Index of the first row here that has the same chain and sequence.
        new_sequence = self.begins | (self.step != 0)
        new_sequence[0] = True
        self.group_start = np.maximum.accumulate(np.where(new_sequence, np.arange(n), 0))
        inner = np.flatnonzero(self.begins[1:]) + 1
        #: Where chains begin, 0, and n.
        self.edges: list[int] = [0, *inner.tolist(), n]
        self._known_group: tuple[int, set[bytes]] = (-1, set())

    def specials(self, a: int, b: int) -> list[int]:
        """Rows of [a, b) that are not simply the next event of their chain."""
        if not len(self._special):
            return []
        low, high = np.searchsorted(self._special, (a, b))
        found: list[int] = self._special[low:high].tolist()
        return found

    def opened(self, a: int) -> _Open:
        """A chain that begins at row a."""
        return _Open(
            *self._names[a],
            int(self.sequence[a]),
            self.prev_hash[a].tobytes().hex(),
        )

    def hash_at(self, i: int) -> bytes:
        """The eventHash of row i."""
        value: bytes = self.event_hash[i].tobytes()
        return value

    def group(self, i: int, a: int, carried: _Open | None) -> set[bytes]:
        """The hashes of rows up to i that have its sequence, in its chain from row a on."""
        first = int(self.group_start[i])
        hashes = {row.tobytes() for row in self.event_hash[first : i + 1]}
        if first == a and carried is not None and carried.last_sequence == self.sequence[i]:
            hashes |= carried.group
        return hashes

    def predecessors(self, i: int, a: int, carried: _Open | None) -> set[bytes] | None:
        """The hashes at the sequence before that of row i; None when no row holds it."""
        first = int(self.group_start[i])
        sequence = int(self.sequence[i])
        if first > a:
            if int(self.sequence[first - 1]) + 1 != sequence:
                return None
            # Many rows of one sequence ask for the same group: it is made once.
            if self._known_group[0] != first:
                self._known_group = (first, self.group(first - 1, a, carried))
            return self._known_group[1]
        if carried is None:
            return None
        if carried.last_sequence == sequence:
            return carried.before
        return carried.group if carried.last_sequence + 1 == sequence else None

    def close_up(self, chain: _Open, a: int, b: int, carried: _Open | None) -> None:
        """Bring a chain's state from before row a to after row b - 1."""
        if b == len(self.sequence):
            # Only the last chain of a block can go on in the next.
            group = self.group(b - 1, a, carried)
            chain.before = self.predecessors(b - 1, a, carried)
            chain.group = group
        chain.last_sequence = int(self.sequence[b - 1])
        chain.head = self.hash_at(b - 1)
        chain.count += b - a


def _judge(
    block: _Block, i: int, a: int, chain: _Open, carried: _Open | None, first_row: int
) -> list[Finding]:
    """The findings at a row that is not simply the next event of its chain."""
    sequence, step = int(block.sequence[i]), int(block.step[i])

    def finding(verdict: Verdict, detail: str) -> Finding:
        return Finding(verdict, chain.device_id, chain.chain_id, sequence, first_row + i, detail)

    before = block.hash_at(i - 1) if i > a or carried is None else carried.head
    if step > 1:
        if len(chain.gaps) == MAX_LISTED_GAPS:
            chain.unlisted_gaps += 1
            return []
        first, last = sequence - step + 1, sequence - 1
        chain.gaps.append(Gap(first, last, before.hex(), block.prev_hash[i].tobytes().hex()))
        return [finding(Verdict.GAP, f"sequences {first} to {last} are missing")]
    findings: list[Finding] = []
    if step == 0:
        if block.hash_at(i) == before:
            return [finding(Verdict.DUPLICATE, "the same event again")]
        findings.append(finding(Verdict.FORK, "another event of this chain has this sequence"))
    linked_to = block.predecessors(i, a, carried)
    if linked_to is not None and block.prev_hash[i].tobytes() not in linked_to:
        detail = "prevHash is not the eventHash of the event before"
        findings.append(finding(Verdict.BROKEN_LINK, detail))
    return findings


def _differs(column: pa.Array) -> Mask:
    """For each row but the first: has it another value than the row before?"""
    n = len(column)
    different = pc.not_equal(column.slice(1), column.slice(0, max(0, n - 1)))
    return np.asarray(different.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _equal(left: Hashes, right: Hashes) -> Mask:
    words = np.ascontiguousarray(left).view(np.uint64) == np.ascontiguousarray(right).view(
        np.uint64
    )
    return np.asarray(words.all(axis=1), dtype=np.bool_)
