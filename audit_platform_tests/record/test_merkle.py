"""The Merkle tree: known answers of RFC 6962, and its own words against the batch code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record import merkle

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "rfc6962_tree.json").read_text()
)
LEAVES = [merkle.leaf_hash(bytes.fromhex(data)) for data in VECTORS["leaves"]]

digests = st.binary(min_size=32, max_size=32)


def mth(data: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word by word."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    k = 1
    while k * 2 < len(data):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


def leaves_of(n: int) -> bytes:
    return b"".join(merkle.leaf_hash(b"%d" % i) for i in range(n))


def unhex(path: list[str]) -> list[bytes]:
    return [bytes.fromhex(node) for node in path]


def test_the_empty_tree_has_the_known_root() -> None:
    assert merkle.root(b"").hex() == VECTORS["empty_root"]
    assert merkle.day_root([]).hex() == VECTORS["empty_root"]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_known_ones(size: int) -> None:
    assert merkle.root(b"".join(LEAVES[:size])).hex() == VECTORS["roots"][size - 1]


@pytest.mark.parametrize("v", VECTORS["paths"], ids=lambda v: f"{v['index']} of {v['size']}")
def test_inclusion_paths_are_the_known_ones(v: dict[str, Any]) -> None:
    index, size, path = v["index"], v["size"], unhex(v["path"])
    assert merkle.inclusion_path(b"".join(LEAVES[:size]), index) == path
    found = merkle.root_from_path(LEAVES[index], index, size, path)
    assert found is not None
    assert found.hex() == VECTORS["roots"][size - 1]


@pytest.mark.parametrize("v", VECTORS["consistency"], ids=lambda v: f"{v['old']} in {v['new']}")
def test_consistency_proofs_are_the_known_ones(v: dict[str, Any]) -> None:
    old, new, path = v["old"], v["new"], unhex(v["path"])
    assert merkle.consistency_path(b"".join(LEAVES[:new]), old) == path
    roots = [bytes.fromhex(r) for r in VECTORS["roots"]]
    assert merkle.is_consistent(roots[old - 1], old, roots[new - 1], new, path)


@given(st.lists(st.binary(max_size=5), max_size=40))
def test_the_batch_root_is_the_recursive_definition(data: list[bytes]) -> None:
    assert merkle.root(b"".join(merkle.leaf_hash(d) for d in data)) == mth(data)


@given(st.lists(st.tuples(digests, st.integers(-(2**63), 2**63 - 1)), max_size=20))
def test_leaf_hashes_of_a_batch_are_those_of_its_rows(rows: list[tuple[bytes, int]]) -> None:
    hashes = np.frombuffer(b"".join(h for h, _ in rows), np.uint8).reshape(len(rows), 32)
    times = np.array([ms for _, ms in rows], dtype=np.int64)
    one_by_one = [
        hashlib.sha256(b"\x00" + h + ms.to_bytes(8, "big", signed=True)).digest() for h, ms in rows
    ]
    assert merkle.leaf_hashes(hashes, times) == b"".join(one_by_one)


def test_rows_of_unequal_number_have_no_leaves() -> None:
    with pytest.raises(ValueError, match="not n rows"):
        merkle.leaf_hashes(np.zeros((2, 32), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="not n rows"):
        merkle.leaf_hashes(np.zeros((2, 31), np.uint8), np.zeros(2, np.int64))


@given(st.integers(0, 4), st.integers(0, 70))
def test_roots_of_full_row_groups_give_the_root_over_all_rows(log2: int, n: int) -> None:
    leaves, step = leaves_of(n), 2**log2 * 32
    groups = [merkle.root(leaves[i : i + step]) for i in range(0, len(leaves), step)]
    assert merkle.root_of_subtrees(groups) == merkle.root(leaves)


@given(st.integers(1, 70), st.data())
def test_each_leaf_is_proved_and_no_other(n: int, data: st.DataObject) -> None:
    leaves, index = leaves_of(n), data.draw(st.integers(0, n - 1))
    path, leaf = merkle.inclusion_path(leaves, index), leaves[index * 32 : index * 32 + 32]
    root = merkle.root(leaves)
    assert merkle.root_from_path(leaf, index, n, path) == root
    assert merkle.root_from_path(merkle.leaf_hash(b"x"), index, n, path) != root
    other = data.draw(st.integers(-1, n))
    if other != index:
        assert merkle.root_from_path(leaf, other, n, path) != root
    assert merkle.root_from_path(leaf, index, n, [*path, leaf]) is None
    if path:
        assert merkle.root_from_path(leaf, index, n, path[:-1]) is None


@given(st.integers(1, 70), st.data())
def test_a_tree_is_consistent_with_its_beginnings_and_nothing_else(
    n: int, data: st.DataObject
) -> None:
    leaves, old = leaves_of(n), data.draw(st.integers(1, n))
    path = merkle.consistency_path(leaves, old)
    old_root, new_root = merkle.root(leaves[: old * 32]), merkle.root(leaves)
    assert merkle.is_consistent(old_root, old, new_root, n, path)
    wrong = merkle.leaf_hash(b"x")
    assert not merkle.is_consistent(wrong, old, new_root, n, path)
    assert not merkle.is_consistent(old_root, old, wrong, n, path)
    assert not merkle.is_consistent(old_root, old, new_root, n, [*path, wrong])
    if path:
        assert not merkle.is_consistent(old_root, old, new_root, n, path[:-1])
        at = data.draw(st.integers(0, len(path) - 1))
        spoilt = [*path[:at], wrong, *path[at + 1 :]]
        assert not merkle.is_consistent(old_root, old, new_root, n, spoilt)


@pytest.mark.parametrize("old", [0, 4, -1])
def test_there_is_no_consistency_with_no_tree_or_a_larger_one(old: int) -> None:
    with pytest.raises(ValueError, match="old size"):
        merkle.consistency_path(leaves_of(3), old)
    assert not merkle.is_consistent(b"", old, merkle.root(leaves_of(3)), 3, [])


@pytest.mark.parametrize("index", [-1, 3])
def test_a_leaf_that_is_not_there_has_no_path(index: int) -> None:
    with pytest.raises(IndexError, match="no leaf"):
        merkle.inclusion_path(leaves_of(3), index)


@given(st.integers(0, 3), st.lists(st.integers(1, 30), min_size=1, max_size=5), st.data())
def test_a_row_is_proved_from_its_own_row_group_up_to_the_day(
    log2: int, sizes: list[int], data: st.DataObject
) -> None:
    group_rows = 2**log2
    parts = []
    for number, rows in enumerate(sizes):
        hashes = [hashlib.sha256(b"%d.%d" % (number, i)).digest() for i in range(rows)]
        parts.append(hashes)
    leaves = [
        [merkle.leaf_hash(merkle.row_leaf_data(h, i)) for i, h in enumerate(hashes)]
        for hashes in parts
    ]
    part_roots = [merkle.root(b"".join(part)) for part in leaves]
    day = merkle.day_root(part_roots)
    assert day == mth(part_roots)

    part = data.draw(st.integers(0, len(sizes) - 1))
    row = data.draw(st.integers(0, sizes[part] - 1))
    groups = [leaves[part][i : i + group_rows] for i in range(0, sizes[part], group_rows)]
    proof = merkle.prove_row(
        b"".join(groups[row // group_rows]),
        [merkle.root(b"".join(g)) for g in groups],
        part_roots,
        row=row,
        rows=sizes[part],
        group_rows=group_rows,
        part=part,
    )
    event_hash = parts[part][row]
    assert merkle.row_is_included(proof, event_hash, row, day)
    # Another time, hash, place or root is not in the day.
    assert not merkle.row_is_included(proof, event_hash, row + 1, day)
    assert not merkle.row_is_included(proof, bytes(32), row, day)
    assert not merkle.row_is_included(proof, event_hash, row, part_roots[part])
    for wrong in (
        replace(proof, row=row + 1),
        replace(proof, row=-1),
        replace(proof, part=part + 1),
        replace(proof, group_rows=0),
        replace(proof, day_path=(*proof.day_path, day)),
    ):
        assert not merkle.row_is_included(wrong, event_hash, row, day)
