"""Failure 22 on a real Redis: a stricter limit of each gateway, 503, recovery by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.limits import BURST_SECONDS
from audit_platform.adapters.redis import limits as redis_limits
from audit_platform.adapters.redis.limits import ALONE_SHARE, RETRY_SECONDS, RedisLimits, open_redis
from audit_platform_tests.own_stack import OwnStack, own_stack
from audit_platform_tests.services.ingest_world import World, body_of, event, open_world

RATE = 1.0
BURST = int(RATE * BURST_SECONDS)
ALONE = int(BURST * ALONE_SHARE)


@pytest.fixture(scope="module")
def own() -> Iterator[OwnStack]:
    """A server that may be killed and frozen."""
    with own_stack("redis") as stack:
        yield stack


@pytest.fixture
def now() -> list[float]:
    """When Redis is asked again goes by this clock, which stands until a test moves it."""
    return [1000.0]


@pytest.fixture
def limits(own: OwnStack, now: list[float]) -> Iterator[RedisLimits]:
    """Limits by it, one event a second."""
    opened = open_redis(own.settings().redis, "test", RATE)
    opened._client.flushdb()
    opened._monotonic = opened._alone._monotonic = lambda: now[0]
    yield opened
    opened.close()


def send(world: World, count: int, first: int) -> tuple[int, str]:
    """Status and slug for a body of so many events."""
    answer = world.post(body_of(*(event(first + n) for n in range(count))))
    if answer.status == 202:
        return 202, ""
    assert int(answer.headers["retry-after"]) >= 1
    return answer.status, answer.problem()


def gauge(world: World) -> bool:
    return b"audit_ingest_local_limits 1.0" in world.request("GET", "/metrics").body


def test_row_22_without_redis_ingest_goes_on_by_a_stricter_limit_and_recovers_by_itself(
    own: OwnStack, limits: RedisLimits, now: list[float], tmp_path: Path
) -> None:
    with open_world(tmp_path / "home", limits=limits) as world:
        assert send(world, BURST, 0) == (202, "")
        # Who sends too much is told so, and nothing of it is kept.
        assert send(world, BURST, 100) == (429, "rate_limited")
        assert not gauge(world)
        assert len(world.stored()) == BURST
        own.kill("redis")
        assert send(world, ALONE, 200) == (202, "")
        assert gauge(world)
        assert send(world, ALONE, 300) == (503, "limits_unavailable")
        assert world.request("GET", "/readyz").status == 200
        own.start()
        now[0] += RETRY_SECONDS
        # The shared budget goes on where it was: the file on disk has every take.
        assert send(world, BURST, 400)[0] == 429
        assert not gauge(world)
        assert len(world.stored()) == BURST + ALONE


def test_row_22_a_frozen_redis_makes_one_caller_wait_and_no_other(
    own: OwnStack, limits: RedisLimits, now: list[float]
) -> None:
    assert limits.take("north", 1) == 0.0
    own.freeze("redis")
    started = time.monotonic()
    assert limits.take("north", 1) == 0.0
    waited = time.monotonic() - started
    assert waited < 2 * redis_limits.ANSWER_SECONDS + redis_limits.CONNECT_SECONDS
    started = time.monotonic()
    for _ in range(100):
        limits.take("south", 1)
    assert time.monotonic() - started < redis_limits.ANSWER_SECONDS
    assert "redis://127.0.0.1" in limits.trouble()
    assert own.settings().redis.split("@")[0].removeprefix("redis://:") not in limits.trouble()
    own.thaw("redis")
    now[0] += RETRY_SECONDS
    assert limits.take("north", 1) == 0.0
    assert limits.trouble() == ""


def test_row_22_a_gateway_starts_without_redis(own: OwnStack, tmp_path: Path) -> None:
    own.kill("redis")
    opened = open_redis(own.settings().redis, "test", RATE)
    with open_world(tmp_path / "home", limits=opened) as world:
        assert send(world, 1, 0) == (202, "")
        assert gauge(world)
    opened.close()
    own.start()


def test_row_22_four_gateways_alone_let_in_no_more_than_the_whole(own: OwnStack) -> None:
    own.kill("redis")
    gateways = [open_redis(own.settings().redis, "test", RATE) for _ in range(4)]
    let_in = sum(gateway.take("north", 1) == 0.0 for gateway in gateways for _ in range(BURST))
    assert 0 < let_in <= BURST
    for gateway in gateways:
        gateway.close()
    own.start()
