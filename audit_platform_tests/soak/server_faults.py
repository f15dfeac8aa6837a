"""Faults of real servers, one after another, on a small stack of its own: `campaign.Chaos`.

A server is killed and started again, frozen and thawed, or cut off from services and healed. Each
fault is seen from where services stand: by their way nobody answers a question that is answered
before and after it. Belongs here: that. Does not: what is judged (`campaign.py`).
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from audit_platform.stack import registry
from audit_platform.stack.model import HOST, Place
from audit_platform.stack.toxiproxy import FaultProxy
from audit_platform_tests.failures.installation import Installation, installation, wait_for
from audit_platform_tests.failures.lab import RATE
from audit_platform_tests.failures.on_servers import own_names
from audit_platform_tests.own_stack import OwnStack, own_stack

_HTTP: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

#: What carries events, and of each a question that is answered at once: ApiVersions, a page,
#: SSLRequest, PING.
ASKED: Final[Mapping[str, bytes]] = {
    "kafka-1": struct.pack(">ihhih", 10, 18, 0, 1, -1),
    "versitygw": _HTTP,
    "opensearch-1": _HTTP,
    "postgres": struct.pack(">ii", 8, 80_877_103),
    "redis": b"PING\r\n",
}

KINDS: Final = ("kill", "freeze", "cut")

#: Seconds of load between two faults, and for which one lasts: below and above what clients wait.
SHORTEST_SECONDS: Final = 0.1
LONGEST_SECONDS: Final = 2.0
SHORTEST_FAULT: Final = 0.5
LONGEST_FAULT: Final = 6.0

#: A healthy server answers in milliseconds, on a busy machine in tenths of a second.
_ANSWER_SECONDS: Final = 1.0

#: A server that was killed may have to recover its data.
_BACK_SECONDS: Final = 120.0

#: So that Redis is asked at all; more than any load here.
_LIMIT: Final = "100000"


class ServerFaults:
    """Servers fail one at a time; the next one when the last is back."""

    worker_share = 0
    rate = RATE

    def __init__(self) -> None:
        self._stack: OwnStack | None = None

    @contextmanager
    def installation(self, folder: Path) -> Iterator[Installation]:
        """See `Chaos`. All processes of it have the same hour before midnight."""
        with own_stack(*ASKED, faults=True) as stack:
            self._stack = stack
            settings = registry.settings(stack.place, stack.servers)
            with (
                own_names(stack.place, settings, "versitygw") as own,
                installation(
                    folder,
                    {**own, "AUDIT_INGEST_EVENTS_PER_SECOND": _LIMIT, "AUDIT_RANGE_SECONDS": "2"},
                    int(time.time() * 1000),
                ) as made,
            ):
                yield made

    def strike(self, made: Installation, chance: random.Random) -> tuple[str, float]:
        """See `Chaos`."""
        del made
        assert self._stack is not None
        wait = chance.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
        lasts = chance.uniform(SHORTEST_FAULT, LONGEST_FAULT)
        kind, name = chance.choice(KINDS), chance.choice(list(ASKED))
        time.sleep(wait)
        assert answers(self._stack.place, name), f"{name} was not well before the fault"
        _break(self._stack, kind, name)
        assert not answers(self._stack.place, name), f"{kind} {name}: it still answers"
        time.sleep(lasts)
        _mend(self._stack, kind, name)
        place = self._stack.place
        wait_for(f"{name} after {kind}", lambda: answers(place, name), _BACK_SECONDS)
        return f"{kind} {name}", wait


def answers(place: Place, name: str) -> bool:
    """Whether a server answers its question by the way that services take."""
    address = (HOST, place.front_port(name))
    try:
        with socket.create_connection(address, timeout=_ANSWER_SECONDS) as asked:
            asked.sendall(ASKED[name])
            return bool(asked.recv(1))
    except OSError:
        return False


def _break(stack: OwnStack, kind: str, name: str) -> None:
    if kind == "kill":
        stack.kill(name)
    elif kind == "freeze":
        stack.freeze(name)
    else:
        FaultProxy(stack.place).cut(name)


def _mend(stack: OwnStack, kind: str, name: str) -> None:
    if kind == "kill":
        stack.start()
    elif kind == "freeze":
        stack.thaw(name)
    else:
        FaultProxy(stack.place).heal(name)
