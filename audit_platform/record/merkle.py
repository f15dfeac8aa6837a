"""The Merkle tree of RFC 6962 over the rows of a day: roots, proofs, and their verification.

The leaf data of a row are its eventHash (32 bytes) and its ingestionTime (ms, 8 bytes, big-endian).
Row groups of 2^k rows are complete subtrees, so the part's root follows from the groups' roots; the
day's root is a tree whose leaf data are the parts' roots. Belongs here: hashing and proofs. Does
not: which rows there are (`sealed.py`), who signs a root (`manifest.py`).
Source: RFC 6962 section 2.1; RFC 9162 section 2.1 (verification); design section 5.

Nodes of a level lie one after the other in one `bytes`, 32 bytes each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from audit_platform.record.digests import sha256_rows

NODE_BYTES: Final = 32

#: Root of the tree without leaves: a day without rows.
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


# -------------------------------------------------------------------------------------- hashing


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf."""
    return hashlib.sha256(_LEAF + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return hashlib.sha256(_NODE + left + right).digest()


def row_leaf_data(event_hash: bytes, ingestion_ms: int) -> bytes:
    """Leaf data of one row, 40 bytes."""
    return event_hash + ingestion_ms.to_bytes(8, "big", signed=True)


def leaf_hashes(event_hash: npt.NDArray[np.uint8], ingestion_ms: npt.NDArray[np.int64]) -> bytes:
    """Leaf hashes of rows: (n, 32) hashes and (n,) times in, n * 32 bytes out.

    Raises `ValueError` when the two do not have the same number of rows.
    """
    n = len(event_hash)
    if event_hash.shape != (n, NODE_BYTES) or ingestion_ms.shape != (n,):
        raise ValueError(f"shapes {event_hash.shape} and {ingestion_ms.shape} are not n rows")
    rows = np.zeros((n, 1 + NODE_BYTES + 8), dtype=np.uint8)
    rows[:, 1 : 1 + NODE_BYTES] = event_hash
    rows[:, 1 + NODE_BYTES :] = ingestion_ms.astype(">i8").view(np.uint8).reshape(n, 8)
    return sha256_rows(rows).tobytes()


def root(leaves: bytes) -> bytes:
    """Root over leaf hashes (n * 32 bytes); the root of the empty tree when there are none."""
    if not leaves:
        return EMPTY_ROOT
    level = leaves
    while len(level) > NODE_BYTES:
        level = _parents(level)
    return level


def root_of_subtrees(roots: Sequence[bytes]) -> bytes:
    """Root of a tree from the roots of its subtrees, in order.

    All subtrees but the last must have the same power of two of leaves, and the last no more: then
    this is the root over all leaves.
    """
    return root(b"".join(roots))


def day_root(part_roots: Sequence[bytes]) -> bytes:
    """Root of a day: the tree whose leaf data are the roots of its parts."""
    return root(b"".join(leaf_hash(r) for r in part_roots))


def _parents(level: bytes) -> bytes:
    """The level above. A node without a sibling goes up as it is (RFC 6962: split at 2^k < n)."""
    nodes = len(level) // NODE_BYTES
    pairs = nodes // 2
    rows = np.empty((pairs, 1 + 2 * NODE_BYTES), dtype=np.uint8)
    rows[:, 0] = 1
    paired = np.frombuffer(level, dtype=np.uint8, count=pairs * 2 * NODE_BYTES)
    rows[:, 1:] = paired.reshape(pairs, 2 * NODE_BYTES)
    return sha256_rows(rows).tobytes() + level[pairs * 2 * NODE_BYTES :]


# --------------------------------------------------------------------------------------- proofs


def inclusion_path(leaves: bytes, index: int) -> list[bytes]:
    """The siblings from leaf `index` up to the root. Raises `IndexError`."""
    if not 0 <= index * NODE_BYTES < len(leaves):
        raise IndexError(f"no leaf {index} in a tree of {len(leaves) // NODE_BYTES}")
    path: list[bytes] = []
    level = leaves
    while len(level) > NODE_BYTES:
        sibling = (index ^ 1) * NODE_BYTES
        if sibling < len(level):
            path.append(level[sibling : sibling + NODE_BYTES])
        level, index = _parents(level), index // 2
    return path


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a path leads to from leaf hash `leaf` in a tree of `size` leaves.

    None when the path has not exactly the length that index and size ask for.
    """
    if not 0 <= index < size:
        return None
    node, last, steps = leaf, size - 1, iter(path)
    while last:
        # A node that is the last of its level and even has no sibling: it goes up as it is.
        if index & 1 or index < last:
            sibling = next(steps, None)
            if sibling is None:
                return None
            node = node_hash(sibling, node) if index & 1 else node_hash(node, sibling)
        index, last = index // 2, last // 2
    return node if next(steps, None) is None else None


def consistency_path(leaves: bytes, old_size: int) -> list[bytes]:
    """Proof that the tree of the first `old_size` leaves is a beginning of this one.

    Raises `ValueError` unless 0 < old_size <= number of leaves.
    """
    size = len(leaves) // NODE_BYTES
    if not 0 < old_size <= size:
        raise ValueError(f"old size {old_size} is not 1 to {size}")
    path: list[bytes] = []
    whole, first, last = True, 0, size
    # RFC 6962 section 2.1.2, SUBPROOF(m, D[n], b): `whole` is b, [first, last) is D, m = old_size.
    while old_size < last:
        split = first + _split(last - first)
        if old_size <= split:
            path.append(_subtree(leaves, split, last))
            last = split
        else:
            path.append(_subtree(leaves, first, split))
            first, whole = split, False
    if not whole:
        path.append(_subtree(leaves, first, last))
    return path[::-1]


def is_consistent(
    old_root: bytes, old_size: int, new_root: bytes, new_size: int, path: Sequence[bytes]
) -> bool:
    """Verify a consistency proof by the numbered steps of RFC 9162 section 2.1.4.2."""
    if not 0 < old_size <= new_size:
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    # Steps 1 and 2: a complete old tree is its own first node.
    nodes = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path)
    if len(nodes) <= 1:
        return False
    # Steps 3 to 5.
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = nodes[0]
    # Step 6.
    for c in nodes[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    # Step 7.
    return fr == old_root and sr == new_root and sn == 0


def _split(n: int) -> int:
    """The largest power of two smaller than n (n > 1)."""
    return 1 << ((n - 1).bit_length() - 1)


def _subtree(leaves: bytes, first: int, last: int) -> bytes:
    return root(leaves[first * NODE_BYTES : last * NODE_BYTES])


# ----------------------------------------------------------------------------------- row proofs


@dataclass(frozen=True, slots=True)
class RowProof:
    """That a row is in a day: its path in its row group, in its part's groups, in the day.

    `row` counts in the part; every row group but the part's last has `group_rows` rows, a power of
    two.
    """

    row: int
    rows: int
    group_rows: int
    part: int
    parts: int
    group_path: tuple[bytes, ...]
    part_path: tuple[bytes, ...]
    day_path: tuple[bytes, ...]


def prove_row(
    group_leaves: bytes,
    group_roots: Sequence[bytes],
    part_roots: Sequence[bytes],
    *,
    row: int,
    rows: int,
    group_rows: int,
    part: int,
) -> RowProof:
    """Prove one row of a part from the leaves of its own row group and the roots that are kept.

    Raises `IndexError` for a row, group or part that is not there.
    """
    group = row // group_rows
    return RowProof(
        row=row,
        rows=rows,
        group_rows=group_rows,
        part=part,
        parts=len(part_roots),
        group_path=tuple(inclusion_path(group_leaves, row % group_rows)),
        part_path=tuple(inclusion_path(b"".join(group_roots), group)),
        day_path=tuple(inclusion_path(b"".join(leaf_hash(r) for r in part_roots), part)),
    )


def row_is_included(proof: RowProof, event_hash: bytes, ingestion_ms: int, root: bytes) -> bool:
    """Whether the proof leads from this row to this day root."""
    if not 0 <= proof.row < proof.rows or proof.group_rows < 1:
        return False
    # 1. From the row to the root of its row group.
    group, at = divmod(proof.row, proof.group_rows)
    size = min(proof.group_rows, proof.rows - group * proof.group_rows)
    leaf = leaf_hash(row_leaf_data(event_hash, ingestion_ms))
    node = root_from_path(leaf, at, size, proof.group_path)
    # 2. From there to the root of the part.
    groups = -(-proof.rows // proof.group_rows)
    node = node and root_from_path(node, group, groups, proof.part_path)
    # 3. From there to the root of the day.
    node = node and root_from_path(leaf_hash(node), proof.part, proof.parts, proof.day_path)
    return node == root
