"""The unit of all benchmarks: CPU time of one `hashlib.sha256(700 B).digest()` on this host, now.

Hosts differ by 2.6 times and slow down under load, so a figure in microseconds says little; a
figure in *refs* compares. Measure the unit before and after the thing, in the same run.
Source: the measured limits, section 12.
"""

from __future__ import annotations

import hashlib
import time

#: Calls timed at a time, and how often: about a second, in pieces that other programs disturb
#: one by one.
CALLS = 50_000
ROUNDS = 11


def measure_ref() -> float:
    """Seconds of CPU time of one call: the median of `ROUNDS` rounds."""
    data = bytes(range(256)) * 3
    data = data[:700]
    sha256 = hashlib.sha256
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(CALLS):
            sha256(data).digest()
        rounds.append((time.process_time() - started) / CALLS)
    return sorted(rounds)[ROUNDS // 2]
