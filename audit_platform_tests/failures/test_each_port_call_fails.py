"""Each call of a good run fails in turn, before or after its effect, and nothing is lost.

A good run is counted first, port by port. Then, for a call of it and a kind of fault, the whole way
is walked again with that one fault; the step is retried as its service would, and judges compare:
fsck, reconciliation, the independent checker with the sender's own receipts, and HOT's set.
CI walks a sample, spread evenly over the calls of each port; its size is printed.
`SOAK=1` (set by `make soak`) walks all of them.
"""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

from audit_platform.adapters.faulty import Fault, Faults
from audit_platform_tests.failures.faulty_way import PORTS, Template, Way, walk

#: Ways of each port that CI walks, at about 0.2 s each on one core.
SAMPLE = {"clock": 12, "log": 45, "objects": 60, "hot": 8, "metadata": 6, "keys": 6}
SEED = 4


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template.new(tmp_path_factory.mktemp("template") / "home")


@pytest.fixture(scope="module")
def good(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Way:
    """A run without any fault: what there is to fail."""
    way, _ = walk(template, tmp_path_factory.mktemp("good"))
    return way


def possible(way: Way, port: str) -> list[tuple[int, Fault]]:
    """Every (call, fault) of a port that a run can have."""
    found = []
    for number, name in enumerate(way.faults[port].calls, 1):
        found += [(number, Fault.BEFORE), (number, Fault.AFTER)]
        if name in {"append", "versions"}:
            found.append((number, Fault.PARTIAL))
    return found


def chosen(all_of_them: list[tuple[int, Fault]], size: int) -> list[tuple[int, Fault]]:
    """One of each stretch of calls, by seed; all of them when there is time."""
    if os.environ.get("SOAK") == "1" or len(all_of_them) <= size:
        return all_of_them
    dice = random.Random(SEED)
    edges = [len(all_of_them) * i // size for i in range(size + 1)]
    return [all_of_them[dice.randrange(a, b)] for a, b in itertools.pairwise(edges)]


def test_a_good_run_asks_every_port(good: Way) -> None:
    for port in PORTS:
        assert good.faults[port].calls, port
        assert good.faults[port].happened == []
    asked = {name for port in PORTS for name in good.faults[port].calls}
    assert asked >= {
        "now_ms", "append", "read", "join", "assignment", "commit", "committed", "describe",
        "bounds", "put", "get", "open", "head", "oldest", "versions", "extend", "api_key_of",
        "tenant", "edge_keys", "public_keys", "sign", "create", "search",
    }  # fmt: skip


@pytest.mark.parametrize("port", PORTS)
def test_whichever_call_fails_nothing_acknowledged_is_lost(
    template: Template, good: Way, port: str, tmp_path: Path
) -> None:
    plans = possible(good, port)
    tried = chosen(plans, SAMPLE[port])
    print(f"{port}: {len(tried)} of {len(plans)} faults walked, seed {SEED}")  # noqa: T201 - the report of a sample
    broken = []
    for number, fault in tried:
        faults = Faults({number: fault})
        what = f"{port} call {number} ({good.faults[port].calls[number - 1]}) {fault}"
        try:
            walk(template, tmp_path / f"{number}-{fault}", **{port: faults})
        except Exception as e:  # noqa: BLE001 - all broken ways are told together
            broken.append(f"{what}: {e!r}")
        if [(n, f) for n, _, f in faults.happened] != [(number, fault)]:
            broken.append(f"{what}: the fault did not happen")
    assert broken == []
    assert tried
