"""Rate limits that all gateways share: one token bucket a tenant, kept by Redis.

Belongs here: the script, the time-outs, what stands in while Redis is away. Does not: what a
refused sender is told (`services/ingest_limits.py`).
Source: Redis 7.0 (scripts are atomic; `TIME` is the server's clock); failure 22.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from audit_platform.adapters.certificates import WANTED, disbelief
from audit_platform.adapters.embedded.limits import BURST_SECONDS, LocalLimits
from audit_platform.errors import SettingInvalid

_log: Final = logging.getLogger(__name__)

#: One answer takes a millisecond, with its fsync a few; every body waits for it.
CONNECT_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 0.5

#: While it is away it is tried again this often, by one caller; the others do not wait.
RETRY_SECONDS: Final = 1.0

#: What one process lets through while nobody counts for all: four gateways stay within the whole.
ALONE_SHARE: Final = 0.25

#: Connections kept: the gateway's worker threads.
_POOL_SIZE: Final = 8

#: KEYS[1] bucket; ARGV: rate, burst, events. Answers microseconds to wait, 0 when it was taken.
#: The bucket is forgotten once it would be full again.
_TAKE: Final = """\
local rate, burst, events = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.call('HMGET', KEYS[1], 'level', 'at')
local level, at = tonumber(held[1]) or burst, tonumber(held[2]) or now
level = math.min(burst, level + math.max(0, now - at) * rate / 1000000)
local lacking = math.min(events, burst) - level
if lacking > 0 then
  return math.ceil(lacking / rate * 1000000)
end
level = level - events
redis.call('HSET', KEYS[1], 'level', string.format('%.6f', level), 'at', string.format('%d', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - level) / rate * 1000) + 1000)
return 0
"""


class RedisLimits:
    """`ports.Limits` by one Redis. It need not answer yet; safe from several threads."""

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        prefix: str,
        rate: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._name = name
        self._prefix = prefix
        self._rate = rate
        self._monotonic = monotonic
        self._script = client.register_script(_TAKE)
        self._alone = LocalLimits(rate * ALONE_SHARE, monotonic=monotonic)
        self._changing = threading.Lock()
        self._trouble = ""
        self._try_again = float("-inf")

    def take(self, tenant_id: str, events: int) -> float:
        """See `ports.Limits`. Waits for Redis at most a second, and never for one that is away."""
        if not self._may_ask():
            return self._alone.take(tenant_id, events)
        try:
            # The braces keep a tenant's keys on one node of a cluster.
            key = f"{self._prefix}:limit:{{{tenant_id}}}"
            answer = self._script(keys=[key], args=[self._rate, self._rate * BURST_SECONDS, events])
            wait = int(answer) / 1_000_000
        except (redis.RedisError, OSError, ValueError, TypeError) as e:
            self._went(f"{type(e).__name__}: {e}")
            return self._alone.take(tenant_id, events)
        self._came()
        return wait

    def trouble(self) -> str:
        """See `ports.Limits`."""
        return self._trouble

    def close(self) -> None:
        """See `ports.Limits`."""
        self._client.close()

    def _may_ask(self) -> bool:
        """Whether this caller asks: everybody while it answers, one now and then otherwise."""
        if not self._trouble:
            return True
        with self._changing:
            now = self._monotonic()
            if now < self._try_again:
                return False
            self._try_again = now + RETRY_SECONDS
            return True

    def _went(self, why: str) -> None:
        with self._changing:
            self._try_again = self._monotonic() + RETRY_SECONDS
            if not self._trouble:
                _log.warning("the rate limits at %s do not answer: %s", self._name, why)
            self._trouble = f"{self._name} does not answer: {why}"

    def _came(self) -> None:
        if self._trouble:
            with self._changing:
                _log.warning("the rate limits at %s answer again", self._name)
                self._trouble = ""


def open_redis(url: str, prefix: str, rate: float, *, ca_file: Path | None = None) -> RedisLimits:
    """Limits at a redis:// or rediss:// URL; `rate` is events a second of each tenant, above 0.

    It need not answer yet. Raises `SettingInvalid` for one that answers and will never do.
    """
    tls: dict[str, Any] = {} if ca_file is None else {"ssl_ca_certs": str(ca_file)}
    client = redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        max_connections=_POOL_SIZE,
        retry=Retry(NoBackoff(), 0),  # what stands in is at once, and better than waiting
        **(tls if url.startswith("rediss:") else {}),
    )
    parts = urlsplit(url)
    name = f"redis://{parts.hostname}:{parts.port or 6379}"
    try:
        _refuse_what_is_wrong(client, name)
    except SettingInvalid:
        client.close()
        raise
    return RedisLimits(client, name, prefix, rate)


def _refuse_what_is_wrong(client: redis.Redis, name: str) -> None:
    """Ask once. One that is away is no reason not to start: `LocalLimits` stand in."""
    try:
        client.ping()
    except (redis.AuthenticationError, redis.InvalidResponse) as e:
        wanted = "a Redis, with its password in the URL"
        raise SettingInvalid("AUDIT_REDIS", f"{name}: {str(e)[:100]}", wanted) from e
    except (redis.RedisError, OSError) as e:
        if why := disbelief(e):
            raise SettingInvalid("AUDIT_REDIS", f"{name}: {why}", WANTED) from e
