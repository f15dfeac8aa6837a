"""`python -m audit_platform_tests.soak --help`: random faults under load, as many as asked."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Final

from audit_platform_tests.soak.campaign import Chaos, run
from audit_platform_tests.soak.kills import ProcessKills
from audit_platform_tests.soak.server_faults import ServerFaults

#: Profile -> its kind of faults, and how many without a number.
_KINDS: Final[dict[str, tuple[type[Chaos], int]]] = {
    "embedded": (ProcessKills, 200),
    "stack": (ServerFaults, 100),
}


def main() -> int:
    """0 when nothing was lost; an `AssertionError` says what was."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--profile", choices=_KINDS, default="embedded")
    parser.add_argument("--faults", type=int, help="how many (embedded 200, stack 100)")
    parser.add_argument("--seed", type=int, help="of an earlier run, to replay it")
    given = parser.parse_args()
    chaos, usual = _KINDS[given.profile]
    faults = usual if given.faults is None else given.faults
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    profile = "" if given.profile == "embedded" else f" PROFILE={given.profile}"
    sys.stdout.write(
        f"seed {seed}: {faults} faults; replay: make soak KILLS={faults} SEED={seed}{profile}\n"
    )
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder) / "installation", seed, faults, chaos())
    sys.stdout.write(outcome.to_text() + "\n")
    return 0


sys.exit(main())
