"""The limits port's contract, over every adapter that there is."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest
import redis

from audit_platform.adapters.embedded.limits import LocalLimits
from audit_platform.adapters.redis.limits import RedisLimits, open_redis
from audit_platform_tests.contracts.limits_contract import Budget, LimitsContract
from audit_platform_tests.servers import stack_settings


class TestLocal(LimitsContract):
    """The budget of one process."""

    @pytest.fixture
    def make(self) -> Callable[[float], Budget]:
        """Moved by hand."""
        now = [1000.0]

        def made(rate: float) -> Budget:
            limits = LocalLimits(rate, monotonic=lambda: now[0])

            def advance(seconds: float) -> None:
                now[0] += seconds

            return Budget(limits, lambda: limits, advance)

        return made


class TestRedis(LimitsContract):
    """The budget that all processes share, by the server's own clock."""

    @pytest.fixture
    def make(self) -> Iterator[Callable[[float], Budget]]:
        """A prefix for each test. Time passes by making what is stored older."""
        url = stack_settings("redis")["AUDIT_REDIS"]
        prefix = f"test-{secrets.token_hex(6)}"
        client = redis.Redis.from_url(url)
        opened: list[RedisLimits] = []

        def made(rate: float) -> Budget:
            def another() -> RedisLimits:
                opened.append(open_redis(url, prefix, rate))
                return opened[-1]

            def advance(seconds: float) -> None:
                for key in client.scan_iter(f"{prefix}:*"):
                    at = int(client.hget(key, "at") or b"")
                    client.hset(key, "at", str(at - int(seconds * 1_000_000)))

            return Budget(another(), another, advance)

        yield made
        for limits in opened:
            limits.close()
        client.close()

    def test_processes_share_one_budget(self, make: Callable[[float], Budget]) -> None:
        budget = make(1.0)
        other = budget.again()
        assert budget.limits.take("north", 6) == 0.0
        assert other.take("north", 6) > 0.0
        assert other.take("north", 4) == 0.0
        assert budget.limits.take("north", 2) > 0.0

    def test_a_budget_that_would_be_full_again_is_forgotten(
        self, make: Callable[[float], Budget]
    ) -> None:
        budget = make(1000.0)
        assert budget.limits.take("north", 5) == 0.0
        assert isinstance(budget.limits, RedisLimits)
        [key] = budget.limits._client.scan_iter(f"{budget.limits._prefix}:*")
        assert 0 < budget.limits._client.pttl(key) <= 1005
