"""Start-up of a service's process: the allocator's variables stand there when it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from audit_platform.processes import MALLOC_VARIABLES

PROGRAM = """
import gc, json, os, sys
from audit_platform.processes import freeze_startup_objects, tune_process
print("start", flush=True)
tune_process()
freeze_startup_objects()
values = [os.environ[name] for name in sys.argv[2:]]
print(json.dumps([os.getpid(), sys.argv[1:], values, gc.get_freeze_count()]))
"""


def run(**more: str) -> tuple[int, int, list[str], list[str], int]:
    """(starts, whether the process id stayed, arguments, variables, frozen objects)."""
    own = {k: v for k, v in os.environ.items() if k not in MALLOC_VARIABLES} | more
    arguments = ["an argument", *MALLOC_VARIABLES]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], env=own, stdout=subprocess.PIPE, text=True
    ) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    *starts, last = output.splitlines()
    pid, seen, values, frozen = json.loads(last)
    assert starts == ["start"] * len(starts)
    return len(starts), pid == process.pid, seen, values, frozen


def test_the_program_starts_again_once_as_the_same_process_with_the_variables_set() -> None:
    starts, same_pid, arguments, values, frozen = run()
    assert (starts, same_pid) == (2, True)
    assert arguments == ["an argument", *MALLOC_VARIABLES]
    assert values == list(MALLOC_VARIABLES.values())
    assert frozen > 1000


def test_an_operators_own_values_are_kept() -> None:
    own = dict.fromkeys(MALLOC_VARIABLES, "131072")
    starts, _, _, values, _ = run(**own)
    assert starts == 1
    assert values == list(own.values())


def test_a_value_of_the_operator_among_missing_ones_is_kept_too() -> None:
    name = next(iter(MALLOC_VARIABLES))
    starts, _, _, values, _ = run(**{name: "131072"})
    assert starts == 2
    assert values == ["131072", *list(MALLOC_VARIABLES.values())[1:]]
