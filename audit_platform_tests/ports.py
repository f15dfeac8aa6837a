"""Ports for the programs that tests start. Not here: any test."""

from __future__ import annotations

import random
import socket
from typing import Final

#: From here on up to those that Linux lends to outgoing connections, a test run's stack has its
#: ports (`servers.py`).
FIRST_STACK_PORT: Final = 30_000


def free_port() -> int:
    """A loopback port that is free now and is not lent to outgoing connections."""
    while True:
        # Drawn, not counted up: test processes that run at once rarely meet.
        port = random.SystemRandom().randrange(10_000, FIRST_STACK_PORT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
