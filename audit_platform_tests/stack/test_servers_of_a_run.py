"""The servers of a test run end with it: at its end, after Ctrl-C, after its death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit_platform.stack import children, state
from audit_platform_tests.stack.conftest import processes_of

PATIENCE = 60.0

#: Asks for a server, says where the run's stack is, and goes on as it was told.
RUN = """
import os, signal
from pathlib import Path
from audit_platform_tests.servers import run_place, stack_settings

def test_that_asks(tmp_path):
    assert stack_settings("redis")["AUDIT_REDIS"].startswith("redis://")
    home = str(run_place()[0].home)
    with Path(os.environ["REACHED"]).open("a") as reached:
        reached.write(home + "\\n")
    if os.environ["THEN"] == "wait":
        signal.pause()

def test_that_asks_again(tmp_path):
    test_that_asks(tmp_path)
"""


@contextmanager
def begin(tmp_path: Path, then: str, *options: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A test run of its own; killed at the end, should it still run."""
    (tmp_path / "test_of_a_run.py").write_text(RUN)
    plain = {n: v for n, v in os.environ.items() if not n.startswith(("TESTS_", "PYTEST_"))}
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-p", "audit_platform_tests.conftest"),
            *("-p", "no:cacheprovider", "-q", *options, "test_of_a_run.py"),
        ],
        cwd=tmp_path,
        env={**plain, "REACHED": str(tmp_path / "reached"), "THEN": then, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        try:
            yield run
        finally:
            run.kill()


def until(so: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(int(PATIENCE / 0.05)):
        if so():
            return
        tick.wait(0.05)
    pytest.fail("it did not come in time")


def homes(tmp_path: Path) -> list[Path]:
    return [Path(line) for line in (tmp_path / "reached").read_text().splitlines()]


def test_all_workers_of_a_run_share_one_stack_which_ends_with_it(tmp_path: Path) -> None:
    with begin(tmp_path, "end", "-n", "2") as run:
        said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, said
    assert "2 passed" in said
    assert "servers of this run: redis" in said
    first, second = homes(tmp_path)
    assert first == second
    assert not first.exists()
    assert processes_of(first) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_from_outside_leaves_no_server(
    tmp_path: Path, number: signal.Signals
) -> None:
    with begin(tmp_path, "wait") as run:
        until(lambda: (tmp_path / "reached").exists() and homes(tmp_path) != [])
        (home,) = homes(tmp_path)
        redis = state.read_running(home, "redis")
        assert redis is not None
        assert children.alive(redis.who)
        run.send_signal(number)
        run.communicate(timeout=PATIENCE)
    # After SIGKILL it is the keeper that sees to it.
    until(lambda: not home.exists() and processes_of(home) == [])
    assert not children.alive(redis.who)


def test_a_server_that_cannot_be_had_fails_the_test_and_says_what_to_do(tmp_path: Path) -> None:
    with begin(tmp_path, "end", PATH=str(tmp_path)) as run:
        said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 1, said
    assert "2 failed" in said
    assert "the servers that this test needs cannot be had" in said
    assert "What to do: " in said


def test_who_wants_no_server_has_those_tests_skipped(tmp_path: Path) -> None:
    with begin(tmp_path, "end", TESTS_STACK="none") as run:
        said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, said
    assert "2 skipped" in said
