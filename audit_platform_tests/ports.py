"""Ports for the programs that tests start. Not here: any test."""

from __future__ import annotations

import random
import socket

from audit_platform.settings_forms import FIRST_LENT_PORT


def free_port() -> int:
    """A loopback port that is free now and is not lent to outgoing connections."""
    while True:
        # Drawn, not counted up: test processes that run at once rarely meet.
        port = random.SystemRandom().randrange(10_000, FIRST_LENT_PORT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
