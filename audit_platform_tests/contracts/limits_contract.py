"""What every `ports.Limits` keeps. Subclass it; give the fixture `make`.

`make(rate)` is a new budget of so many events a second and a clock to move it by: a real one where
the budget lives on a server. Rates are chosen so that no real wait matters.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from audit_platform.adapters.embedded.limits import BURST_SECONDS
from audit_platform.ports import Limits


@dataclass
class Budget:
    """A budget, another process's view of the same one, and how to let time pass."""

    limits: Limits
    again: Callable[[], Limits]
    advance: Callable[[float], None]


class LimitsContract:
    """The promises of the port, one test each."""

    def test_a_burst_is_let_in_and_then_there_is_a_stated_wait(
        self, make: Callable[[float], Budget]
    ) -> None:
        budget = make(2.0)
        whole = int(2.0 * BURST_SECONDS)
        assert budget.limits.take("north", whole) == 0.0
        wait = budget.limits.take("north", 2)
        assert 0.5 < wait <= 1.0
        budget.advance(wait)
        assert budget.limits.take("north", 2) == 0.0

    def test_nothing_is_taken_by_who_must_wait(self, make: Callable[[float], Budget]) -> None:
        budget = make(1.0)
        assert budget.limits.take("north", 8) == 0.0
        for _ in range(5):
            assert budget.limits.take("north", 5) > 0.0
        assert budget.limits.take("north", 2) == 0.0

    def test_tenants_have_budgets_of_their_own(self, make: Callable[[float], Budget]) -> None:
        budget = make(1.0)
        assert budget.limits.take("north", 10) == 0.0
        assert budget.limits.take("north", 5) > 0.0
        assert budget.limits.take("south", 10) == 0.0

    def test_a_body_larger_than_the_burst_is_let_in_once_and_then_owed(
        self, make: Callable[[float], Budget]
    ) -> None:
        budget = make(2.0)
        assert budget.limits.take("north", 60) == 0.0  # the burst is 20
        wait = budget.limits.take("north", 1)
        assert 20.0 < wait <= 20.5
        budget.advance(wait)
        assert budget.limits.take("north", 1) == 0.0
        assert 9.0 < budget.limits.take("north", 60) <= 10.0  # until it is full once more

    def test_an_unused_budget_grows_no_further_than_the_burst(
        self, make: Callable[[float], Budget]
    ) -> None:
        budget = make(2.0)
        assert budget.limits.take("north", 20) == 0.0
        budget.advance(3600.0)
        assert budget.limits.take("north", 20) == 0.0
        assert budget.limits.take("north", 10) > 0.0

    def test_many_threads_together_get_no_more_than_one_would(
        self, make: Callable[[float], Budget]
    ) -> None:
        budget = make(1.0)
        with ThreadPoolExecutor(8) as pool:
            waits = list(pool.map(lambda _: budget.limits.take("north", 1), range(40)))
        assert 10 <= sum(wait == 0.0 for wait in waits) <= 12

    def test_a_budget_that_answers_has_no_trouble(self, make: Callable[[float], Budget]) -> None:
        budget = make(1.0)
        budget.limits.take("north", 1)
        assert budget.limits.trouble() == ""
