"""The one process of ours beside a stack's servers: caps their logs, and outlives an owner.

Belongs here: what must go on while no command runs. Does not: starting and stopping servers.

A log over its cap is copied beside itself and emptied; servers append, so they write on at its new
end. What is written between the two is lost: some lines once in 32 MiB. A pipe and a pump a server
would lose none, and cost a process each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import audit_platform
from audit_platform.errors import StackError
from audit_platform.stack import children, state
from audit_platform.stack.model import Program

#: A log of this size is set aside; there are two of each at most. A Kafka node without quorum
#: writes 5,000 lines a minute: half an hour of that is kept.
LOG_BYTES: Final = 32 << 20

#: How often logs and owner are looked at.
LOOK_SECONDS: Final = 0.5


def ensure(home: Path) -> None:
    """Have the keeper of that stack run. The caller holds the stack's lock."""
    running = state.read_running(home, state.KEEPER)
    if running is not None and children.alive(running.who):
        return
    program = Program(
        argv=(sys.executable, "-m", __name__, str(home)),
        # The package as it is here, also from a folder that is not installed.
        environment={"PYTHONPATH": str(Path(audit_platform.__file__).parent.parent)},
    )
    process = children.start(program, folder=home, log=state.log_of(home, state.KEEPER))
    who = children.identify(process.pid)
    if who is None:
        raise StackError(f"the keeper of {home} has ended", remedy=state.tail(home, state.KEEPER))
    state.write_running(home, state.KEEPER, state.Running(who, ready=True))


def dismiss(home: Path) -> None:
    """End it; it may be the caller itself, which then ends by itself."""
    running = state.read_running(home, state.KEEPER)
    if running is not None and running.who.pid != os.getpid():
        children.end(home, running.who)
    state.forget_running(home, state.KEEPER)


def cap_logs(home: Path, limit: int = LOG_BYTES) -> None:
    """Set aside every log of more than `limit` bytes."""
    for log in (home / "logs").glob("*.log"):
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > limit:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)


def main(home: Path) -> None:
    """Look after the stack until it is down, or its owner is gone: then wipe it."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while not stop.wait(LOOK_SECONDS):
        shape = state.read_shape(home)
        if shape is None:
            return
        cap_logs(home)
        if shape.owner is not None and not children.alive(shape.owner):
            from audit_platform.stack import supervision  # noqa: PLC0415 - it imports this module

            supervision.wipe(home, tell=lambda _: None)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
