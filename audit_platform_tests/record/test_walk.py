"""Chains within a day: clean ones give nothing, planted faults exactly themselves."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.chain import ChainWalker, Verdict, judge_ids, may_stand_twice
from audit_platform_tests.record.chains import Row, judged_plainly, run_of, seen, walk

CHAINS = [("bed-1", "a" * 16), ("bed-1", "b" * 16), ("pump-1", "a" * 16), ("pump-2", "c" * 16)]

cuts = st.lists(st.integers(0, 60), max_size=6)
hashes = st.sampled_from([bytes([i]) * 32 for i in range(5)])
messy_rows = st.lists(
    st.builds(
        lambda c, sequence, h, prev: Row(c[0], c[1], sequence, h, prev),
        st.sampled_from(CHAINS[:3]),
        st.integers(0, 6),
        hashes,
        hashes,
    ),
    max_size=30,
).map(sorted)
clean_chains = st.lists(
    st.tuples(st.integers(0, 2**40), st.integers(1, 15)), min_size=1, max_size=len(CHAINS)
).map(
    lambda sizes: [
        run_of(*CHAINS[i], first, count, bytes([i]) * 32) for i, (first, count) in enumerate(sizes)
    ]
)


@given(clean_chains, cuts)
def test_clean_chains_give_no_finding(chains: list[list[Row]], at: list[int]) -> None:
    rows = sorted(r for chain in chains for r in chain)
    findings, spans = walk(rows, at)
    assert findings == []
    assert [(s.device_id, s.chain_id, s.first_sequence, s.last_sequence) for s in spans] == [
        (c[0].device, c[0].chain, c[0].sequence, c[-1].sequence) for c in chains
    ]
    assert [(s.first_prev_hash, s.head, s.count, s.gaps) for s in spans] == [
        (c[0].prev.hex(), c[-1].hash.hex(), len(c), ()) for c in chains
    ]


@given(messy_rows, cuts)
def test_any_rows_are_judged_as_by_the_plain_judge(rows: list[Row], at: list[int]) -> None:
    findings, spans = walk(rows, at)
    wanted, wanted_spans = judged_plainly(rows)
    assert seen(findings) == wanted
    assert spans == wanted_spans
    # The same, row by row: nothing is forgotten from one block to the next.
    assert walk(rows, range(len(rows))) == (findings, spans)
    for f in findings:
        assert f.row is not None
        at_row = rows[f.row]
        assert (f.device_id, f.chain_id, f.sequence) == (
            at_row.device,
            at_row.chain,
            at_row.sequence,
        )


@given(st.data(), cuts)
def test_planted_faults_give_exactly_their_verdicts(data: st.DataObject, at: list[int]) -> None:
    rows: list[Row] = []
    planted = []
    for device, chain in CHAINS:
        clean = run_of(device, chain, 100, 24)
        # Faults keep a distance of three, so that each is judged by clean neighbours.
        for place in range(2, 21, 6):
            fault = data.draw(st.sampled_from(["", "gap", "fork", "broken_link", "duplicate"]))
            victim = clean[place]
            if not fault:
                continue
            following = clean[place + 1]
            planted.append((fault, device, chain, 100 + place + (fault == "gap")))
            if fault == "gap":
                clean[place] = replace(victim, device="")
            elif fault == "fork":
                other = hashlib.sha256(b"other" + victim.hash).digest()
                rows.append(replace(victim, hash=other))
                if data.draw(st.booleans()):
                    clean[place + 1] = replace(following, prev=other)
            elif fault == "duplicate":
                rows.append(victim)
            else:
                clean[place] = replace(victim, prev=bytes(32))
        rows += [r for r in clean if r.device]
    rows.sort()
    findings, spans = walk(rows, at)
    assert seen(findings) == sorted(planted, key=repr)
    assert sum(s.count for s in spans) == len(rows)
    assert sum(len(s.gaps) for s in spans) == sum(f[0] == "gap" for f in planted)


def test_findings_name_the_row_as_the_caller_numbers_it() -> None:
    rows = run_of("pump-1", "a" * 16, 0, 3) + run_of("pump-1", "a" * 16, 7, 2)
    findings, _ = walk(rows, [2, 4])
    (gap,) = findings
    assert (gap.verdict, gap.row, gap.sequence) == (Verdict.GAP, 3, 7)
    assert gap.detail == "sequences 3 to 6 are missing"


def test_one_chain_id_of_two_devices_is_two_chains() -> None:
    rows = run_of("a", "a" * 16, 0, 2) + run_of("b", "a" * 16, 2, 2)
    for cut in range(4):
        findings, spans = walk(rows, [cut])
        assert findings == []
        assert [s.device_id for s in spans] == ["a", "b"]


def test_a_fork_that_is_cut_in_two_is_judged_by_the_event_before_it() -> None:
    before, event = run_of("a", "a" * 16, 0, 2)
    for linked in (True, False):
        prev = before.hash if linked else bytes(32)
        other = replace(event, hash=b"\xff" * 32, prev=prev)
        findings, _ = walk([before, event, other], [2])
        verdicts = [f.verdict for f in findings]
        assert verdicts == [Verdict.FORK, *([] if linked else [Verdict.BROKEN_LINK])]


def test_a_walker_is_empty_again_after_its_end() -> None:
    walker = ChainWalker()
    assert walker.finish() == []
    rows = run_of("a", "a" * 16, 0, 2)
    findings, spans = walk(rows)
    assert (findings, len(spans)) == ([], 1)
    none = np.zeros((0, 32), np.uint8)
    empty = pa.array([], pa.string())
    assert walker.feed(empty, empty, np.zeros(0, np.int64), none, none, first_row=0) == []
    assert walker.finish() == []


def test_rows_out_of_order_are_the_callers_fault() -> None:
    rows = run_of("a", "a" * 16, 0, 4)
    for at in ([], [1], [2]):
        with pytest.raises(ValueError, match="not sorted"):
            walk([rows[0], rows[2], rows[1]], at)


def test_a_fork_of_very_many_rows_is_judged_in_linear_time() -> None:
    """All of a block at two sequences: each row asks for the same group of rows before it."""
    first = sorted(
        Row("a", "a" * 16, 1, hashlib.sha256(b"%d" % i).digest(), bytes(32)) for i in range(4000)
    )
    second = sorted(
        replace(r, sequence=2, prev=r.hash, hash=hashlib.sha256(r.hash).digest()) for r in first
    )
    findings, _ = walk(first + second, [2000, 6000])
    assert [f.verdict for f in findings] == [Verdict.FORK] * (2 * 3999)


# ------------------------------------------------------------------------------------------ ids

ids = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), max_size=12)


@given(ids)
def test_an_id_that_stands_twice_is_resent_or_reused(rows: list[tuple[int, int, int]]) -> None:
    def column(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        raw = b"".join(bytes([r[n]]) * 32 for r in rows)
        return np.frombuffer(raw, np.uint8).reshape(len(rows), 32)

    event_id = pa.array([f"id-{r[0]}" for r in rows], pa.string())
    found = [(f.row, str(f.verdict)) for f in judge_ids(event_id, column(1), column(2))]
    wanted = []
    first: dict[int, tuple[int, int, int]] = {}
    for i, r in enumerate(rows):
        other = first.setdefault(r[0], r)
        if other is not r or i != rows.index(r):
            same_hash, same_checksum = r[2] == other[2], r[1] == other[1]
            verdict = "duplicate" if same_hash else "resent" if same_checksum else "id_reuse"
            wanted.append((i, verdict))
    assert found == wanted


uuids = st.uuids().map(str)


@given(st.lists(uuids, unique=True, max_size=40), st.data())
def test_ids_that_stand_twice_are_always_suspected(ids: list[str], data: st.DataObject) -> None:
    column = pa.array(["", *ids], pa.string()).slice(1)
    assert not may_stand_twice(column)
    if ids:
        again = data.draw(st.permutations([*ids, data.draw(st.sampled_from(ids))]))
        assert may_stand_twice(pa.array(again))


def test_ids_that_are_no_uuids_are_suspected() -> None:
    assert may_stand_twice(pa.array(["x" * 36, "y" * 35]))
    assert may_stand_twice(pa.array(["x" * 36, None]))
