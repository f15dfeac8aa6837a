"""One question to Redis: are you there?

Belongs here: that. Does not: limits (`limits.py`).
Source: Redis 7.0, `PING`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from audit_platform.errors import Recoverable

_SECONDS: Final = 2.0


def asker(url: str, ca_file: Path | None) -> Callable[[], None]:
    """A function that asks over a connection of its own each time, and raises `Recoverable`."""

    def ask() -> None:
        tls: dict[str, Any] = {} if ca_file is None else {"ssl_ca_certs": str(ca_file)}
        client = redis.Redis.from_url(
            url,
            socket_connect_timeout=_SECONDS,
            socket_timeout=_SECONDS,
            retry=Retry(NoBackoff(), 0),
            **(tls if url.startswith("rediss:") else {}),
        )
        try:
            client.ping()
        except (redis.RedisError, OSError) as e:
            raise Recoverable(f"Redis: {type(e).__name__}: {e}", remedy="start it") from e
        finally:
            client.close()

    return ask
