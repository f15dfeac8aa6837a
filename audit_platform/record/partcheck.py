"""Reading a sealed part back: every row rebuilt and hashed, order, roots, chains.

What it finds names row, device and sequence wherever the row still decodes; an unreadable row
group is reported and does not keep the others from being read. Belongs here: judgement of one
part's bytes. Does not: which parts there should be (`fsck.py`), links between days (`chain.py`).
Source: design section 5 (sealed day), section 3 (verdicts); `docs/formats.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit_platform.record import merkle, sealed
from audit_platform.record.chain import ChainWalker, Finding
from audit_platform.record.columns import (
    Ints,
    Mask,
    blocks,
    canonical_lines,
    hashes_of,
    ints_of,
    text_at,
    texts_at,
)
from audit_platform.record.digests import sha256_column, sha256_hex
from audit_platform.record.edges import SIGNED_TYPES

#: A broken part may have as many bad rows as it has rows; this many are named, the rest counted.
MAX_NAMED_ROWS: Final = 20

_REQUIRED: Final = [name for name in sealed.SEALED_SCHEMA.names if name != "prev_hash"]


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is wrong at a row of a part. `row` counts from 0 in the part; None: the whole part."""

    reason: str
    row: int | None = None
    device_id: str | None = None
    chain_id: str | None = None
    sequence: int | None = None


@dataclass(slots=True)
class PartCheck:
    """What was read of a part.

    `whole`: every row group could be read. `sound`: every row has its hash and its place; chains
    are judged only so far, since links of changed rows say nothing. `signed` are the canonical
    events that carry an edge's signature (chain_start, loss).
    """

    rows: int = 0
    bad_rows: int = 0
    whole: bool = True
    sound: bool = True
    root: bytes = b""
    row_group_roots: list[bytes] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    chain_findings: list[Finding] = field(default_factory=list)
    signed: list[bytes] = field(default_factory=list)


def check_part(file: BinaryIO, tenant_id: str, walker: ChainWalker | None) -> PartCheck:
    """Read a part to its end and judge it. Bad bytes give problems, never an exception.

    `walker` is fed the rows in order as long as they are sound; with None chains are not judged.
    """
    check = PartCheck()
    try:
        parquet = pq.ParquetFile(file)
        found = parquet.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as e:
        check.whole = False
        check.problems.append(RowProblem(f"the Parquet footer cannot be read: {e}"))
        return check
    if not found.equals(sealed.SEALED_SCHEMA, check_metadata=False):
        check.whole = False
        check.problems.append(RowProblem("the columns are not those of a sealed part"))
        return check
    before: sealed.LastRow | None = None
    for group in range(parquet.num_row_groups):
        rows = _read_group(parquet, group, check)
        if rows is None:
            before = None
            continue
        leaves: list[bytes] = []
        for block in blocks(rows):
            _check_block(block, before, tenant_id, check, walker)
            hashes, times = hashes_of(block["event_hash"]), ints_of(block["ingestion_time"])
            leaves.append(merkle.leaf_hashes(hashes, times))
            before = sealed.last_row(block)
            check.rows += len(block)
        last = group == parquet.num_row_groups - 1
        if len(rows) != sealed.ROWS_PER_GROUP and not (last and len(rows) < sealed.ROWS_PER_GROUP):
            check.problems.append(RowProblem(f"row group {group} has {len(rows)} rows"))
        check.row_group_roots.append(merkle.root(b"".join(leaves)))
    check.sound = check.whole and not check.problems
    if check.whole:
        check.root = merkle.root_of_subtrees(check.row_group_roots)
    return check


def _read_group(parquet: pq.ParquetFile, group: int, check: PartCheck) -> pa.RecordBatch | None:
    try:
        table = parquet.read_row_group(group, use_threads=False).combine_chunks()
    except (pa.ArrowException, OSError, ValueError) as e:
        check.whole = False
        check.problems.append(_unreadable(parquet, group, check.rows, e))
        check.rows += parquet.metadata.row_group(group).num_rows
        return None
    batches = table.to_batches()
    if not batches:
        check.whole = False
        check.problems.append(RowProblem(f"row group {group} is empty", check.rows))
        return None
    rows: pa.RecordBatch = batches[0]
    empty = [name for name in _REQUIRED if rows[name].null_count]
    if empty:
        check.whole = False
        check.problems.append(RowProblem(f"row group {group}: {empty[0]} lacks values", check.rows))
        check.rows += len(rows)
        return None
    return rows


def _unreadable(parquet: pq.ParquetFile, group: int, row: int, error: Exception) -> RowProblem:
    """Name the columns that fail, and the first row by the columns that still decode."""
    failing: list[str] = []
    first: dict[str, object] = {}
    for name in sealed.SEALED_SCHEMA.names:
        try:
            column = parquet.read_row_group(group, columns=[name], use_threads=False).column(0)
            first[name] = column[0].as_py() if len(column) else None
        except (pa.ArrowException, OSError, ValueError):
            failing.append(name)
    rows = parquet.metadata.row_group(group).num_rows
    device, chain, sequence = (
        first.get("device_id"),
        first.get("chain_id"),
        first.get("sequence_number"),
    )
    return RowProblem(
        f"row group {group} (rows {row} to {row + rows - 1}) cannot be decoded: "
        f"{', '.join(failing) or 'its pages'}: {error}",
        row,
        device if isinstance(device, str) else None,
        chain if isinstance(chain, str) else None,
        sequence if isinstance(sequence, int) else None,
    )


def _check_block(
    rows: pa.RecordBatch,
    before: sealed.LastRow | None,
    tenant_id: str,
    check: PartCheck,
    walker: ChainWalker | None,
) -> None:
    first_row = check.rows
    prev_hash = sealed.full_prev_hash(rows, before)
    checksum = sha256_hex(rows["payload"])
    lines = canonical_lines(rows, tenant_id=tenant_id, checksum=checksum, prev_hash=prev_hash)
    hashes = hashes_of(rows["event_hash"])
    wrong = (sha256_column(lines) != hashes).any(axis=1)
    _name_rows(rows, wrong, "the row's bytes do not have its eventHash", first_row, check)
    _name_rows(rows, ~_in_order(rows, before), "the row is out of order", first_row, check)
    # A null where no row before can stand for it is a value that was cut out.
    same_chain = sealed.same_chain_as_before(rows, before)
    left_out = np.asarray(rows["prev_hash"].is_null().to_numpy(zero_copy_only=False), dtype=bool)
    _name_rows(rows, left_out & ~same_chain, "prev_hash is missing", first_row, check)
    is_signed = pc.is_in(rows["event_type"], value_set=pa.array(SIGNED_TYPES))
    # As bytes: what was changed need not be text any more.
    check.signed += lines.filter(is_signed).cast(pa.binary()).to_pylist()
    check.sound = check.sound and not check.problems
    if walker is not None and check.sound:
        check.chain_findings += walker.feed(
            rows["device_id"],
            rows["chain_id"],
            ints_of(rows["sequence_number"]),
            hashes,
            prev_hash,
            first_row=first_row,
        )


def _in_order(rows: pa.RecordBatch, before: sealed.LastRow | None) -> Mask:
    """For each row: does it come after the row before it by the sort keys, strictly?"""
    n = len(rows)
    sequence = ints_of(rows["sequence_number"])
    hashes = hashes_of(rows["event_hash"])
    hash_before = sealed.hash_before(rows, before)
    step = np.zeros(n, dtype=np.int64)
    step[1:] = sequence[1:] - sequence[:-1]
    if before is not None:
        step[0] = sequence[0] - before.sequence
    same = sealed.same_chain_as_before(rows, before)
    ok: Mask = ~same | (step > 0)
    for i in np.flatnonzero(same & (step == 0)).tolist():
        ok[i] = hash_before[i].tobytes() < hashes[i].tobytes()
    # Only where another chain begins are names compared: the first row of each, and the one before.
    begins = np.flatnonzero(~same)
    here = _places(rows, begins)
    last = _places(rows, np.maximum(begins - 1, 0))
    for i, place, place_before in zip(begins.tolist(), here, last, strict=True):
        if i:
            ok[i] = place_before < place
        elif before is not None:
            ok[i] = (before.device_id, before.chain_id) < place
    return ok


def _places(rows: pa.RecordBatch, at: Ints) -> list[tuple[str, str]]:
    devices, chains = texts_at(rows["device_id"], at), texts_at(rows["chain_id"], at)
    return list(zip(devices, chains, strict=True))


def _name_rows(
    rows: pa.RecordBatch, wrong: Mask, reason: str, first_row: int, check: PartCheck
) -> None:
    at = np.flatnonzero(wrong)
    check.bad_rows += len(at)
    for i in at[: max(0, MAX_NAMED_ROWS - len(check.problems))].tolist():
        check.problems.append(
            RowProblem(
                reason,
                first_row + i,
                text_at(rows["device_id"], i),
                text_at(rows["chain_id"], i),
                int(ints_of(rows["sequence_number"])[i]),
            )
        )
