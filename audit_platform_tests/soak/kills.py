"""Kills of our own processes, in the embedded profile: `campaign.Chaos`.

Belongs here: who is killed and when. Does not: what is judged (`campaign.py`).
"""

from __future__ import annotations

import random
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from audit_platform_tests.failures.installation import Installation, installation
from audit_platform_tests.soak.campaign import SERVICES

#: Seconds between a kill and the next one. Services are up after about 2 s, so some die while they
#: start.
SHORTEST_SECONDS: Final = 0.1
LONGEST_SECONDS: Final = 2.5


class ProcessKills:
    """A service is killed and started again; nobody waits until it is up."""

    worker_share = 8
    rate = 0.0

    def installation(self, folder: Path) -> AbstractContextManager[Installation]:
        """See `Chaos`."""
        return installation(folder)

    def strike(self, made: Installation, chance: random.Random) -> tuple[str, float]:
        """See `Chaos`."""
        wait = chance.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
        name = chance.choice(SERVICES)
        time.sleep(wait)
        made.kill(name)
        made.launch(name)
        return name, wait
