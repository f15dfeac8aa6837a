"""`python -m audit_platform.demo`: the first command. `make demo` calls it.

Belongs here: arguments, signals, exit codes. Does not: the story (`story.py`).
Exit codes: 0 every proof held; 1 one did not, or the demo could not go on; 2 a wrong argument or
setting; 130 ended by a person before the proofs.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from audit_platform.demo.display import new_console
from audit_platform.demo.ground import Servers
from audit_platform.demo.home import DemoHome, resting_clock_text
from audit_platform.demo.story import Options, Story
from audit_platform.errors import AuditPlatformError

#: Where the demo of each profile lives in a clone.
HOMES: Final = {"embedded": Path(".audit/demo"), "stack": Path(".audit/demo-stack")}

#: The day's real time. Slow enough for two cores that start Dagster at the same time; on servers
#: services run twice, and beside the servers.
DAY_SECONDS: Final = {"embedded": 60.0, "stack": 120.0}

#: A faster day is over before its devices have started; a slower one than real time is none.
MIN_DAY_SECONDS: Final = 20.0
MAX_DAY_SECONDS: Final = 86_400.0

#: The excerpt has six. Each costs an edge and its devices, two processes; three fit two cores.
MIN_HOSPITALS: Final = 3
MAX_HOSPITALS: Final = 6

#: What a shell says of a program that was ended by Ctrl-C.
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    given = _parser().parse_args(arguments)
    home = given.home or HOMES[given.profile]
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    options = Options(
        home,
        given.hospitals,
        given.exit,
        given.fresh,
        given.day_seconds or DAY_SECONDS[given.profile],
        given.profile,
        given.base_port,
        given.keep_servers,
    )
    try:
        if given.print_environment:
            return _print_environment(DemoHome(home), given.profile)
        return Story(options, new_console(), stop).run()
    except AuditPlatformError as e:
        sys.stderr.write(f"error: {e.reason}\n")
        if e.remedy:
            sys.stderr.write(f"remedy: {e.remedy}\n")
        return e.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("ended before the proofs; the next run goes on from here\n")
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m audit_platform.demo",
        description="A day of real bedside data: in, sealed, signed, verified, proved.",
    )
    parser.add_argument("--exit", action="store_true", help="stop after the proofs")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs first")
    parser.add_argument(
        "--profile",
        choices=list(HOMES),
        default="embedded",
        help="stack: on real servers, which it starts and ends (default: %(default)s)",
    )
    parser.add_argument(
        "--base-port",
        type=int,
        default=0,
        help="the first of the 100 ports of new servers (default: 21000, or the next free ones)",
    )
    parser.add_argument(
        "--keep-servers", action="store_true", help="let the servers run on at the end"
    )
    parser.add_argument(
        "--home",
        type=Path,
        help="its folder (default: .audit/demo, of the stack .audit/demo-stack)",
    )
    parser.add_argument(
        "--hospitals",
        type=int,
        choices=range(MIN_HOSPITALS, MAX_HOSPITALS + 1),
        default=MIN_HOSPITALS,
        help="how many a first run takes; later ones keep them (default: %(default)s)",
    )
    parser.add_argument(
        "--day-seconds",
        type=_day_seconds,
        help="real seconds that the day is played in (default: 60, on the stack 120)",
    )
    parser.add_argument(
        "--print-environment",
        action="store_true",
        help="print the settings for `dagster dev` or `audit-platform` on the demo's data",
    )
    return parser


def _print_environment(home: DemoHome, profile: str) -> int:
    """Lines for a shell's `eval`. Raises `DemoStopped` where the servers of the data do not run."""
    state = home.load()
    if state is None:
        sys.stderr.write(f"error: no demo has run in {home.root}\nremedy: make demo\n")
        return 1
    servers: dict[str, str] = {}
    if profile == "stack":
        ground = Servers(home, threading.Event())
        ground.check_up()
        servers = ground.settings() | ground.environment()
    names = {
        "AUDIT_HOME": str(home.root),
        "AUDIT_CLOCK": resting_clock_text(state, time.time_ns() // 10**6),
        "AUDIT_FIRST_DAY": state.first_day,
        "DAGSTER_HOME": str(home.dagster),
        "DAGSTER_FOLDER": str(home.dagster),
        **servers,
    }
    for name, value in names.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    return 0


def _day_seconds(text: str) -> float:
    value = float(text)
    if not MIN_DAY_SECONDS <= value <= MAX_DAY_SECONDS:
        raise argparse.ArgumentTypeError(f"wanted {MIN_DAY_SECONDS:.0f} to {MAX_DAY_SECONDS:.0f}")
    return value


if __name__ == "__main__":
    sys.exit(main())
