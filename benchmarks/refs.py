"""The unit of all benchmarks: CPU time of one `hashlib.sha256(700 B).digest()` on this host, now.

Hosts differ by 2.6 times and slow down under load, so a figure in microseconds says little; a
figure in *refs* compares. Measure the unit before and after the thing, in the same run; and where
two processors are busy in the thing itself, also meanwhile: two virtual ones often are one real.
Source: the measured limits, sections 0 and 12.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

#: Calls timed at a time, and how often: about a second, in pieces that other programs disturb
#: one by one.
CALLS = 50_000
ROUNDS = 11

#: The same meanwhile: 1 ms of work every 50 ms, so that it does not become the load.
SLICE_CALLS = 1000
SLICE_SECONDS = 0.05

_DATA = bytes(range(256)) * 2 + bytes(188)  # 700 bytes


def _seconds_per_call(calls: int) -> float:
    sha256, data = hashlib.sha256, _DATA
    started = time.thread_time()
    for _ in range(calls):
        sha256(data).digest()
    return (time.thread_time() - started) / calls


def measure_ref() -> float:
    """Seconds of CPU time of one call: the median of `ROUNDS` rounds."""
    return sorted(_seconds_per_call(CALLS) for _ in range(ROUNDS))[ROUNDS // 2]


@dataclass(slots=True)
class Meanwhile:
    """The unit as it was while something else ran. `ref` is there when the block has ended."""

    slices: list[float] = field(default_factory=list)

    @property
    def ref(self) -> float:
        """Seconds of CPU time of one call: the median of all slices."""
        return sorted(self.slices)[len(self.slices) // 2]


@contextmanager
def meanwhile() -> Iterator[Meanwhile]:
    """Measure the unit in a thread while the block runs."""
    found = Meanwhile()
    done = threading.Event()

    def sample() -> None:
        while True:
            found.slices.append(_seconds_per_call(SLICE_CALLS))
            if done.wait(SLICE_SECONDS):
                return

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
