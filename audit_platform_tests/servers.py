"""Real servers for tests: one small stack a test run, brought up when a test first asks for it.

`stack_settings("kafka", "versitygw")` returns the `AUDIT_` settings of those servers, which answer
then. All workers of a run share them: a test keeps to itself by its own topic prefix, bucket, index
prefix, database, key prefix. A server that cannot be had fails the test and says what to do.

The stack is the run's own: its folder and ports are drawn when the run starts, and it is put down
when the run ends, by its keeper even when the run was killed. Belongs here: that, and the hooks
that `conftest.py` calls. Does not: any test.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from audit_platform.errors import StackError
from audit_platform.stack import children, registry, supervision
from audit_platform.stack.children import Identity
from audit_platform.stack.model import HOST, PORT_SPAN, Place, Server
from audit_platform_tests.ports import FIRST_STACK_PORT

#: Where a run tells its workers which stack is theirs: `<base port> <pid> <start> <home>`. Not an
#: `AUDIT_` name: those are checked by every program of ours that the tests start.
_VARIABLE: Final = "TESTS_STACK"

#: What a person says who wants no server now (`make test-fast`): those tests are skipped.
_NONE: Final = "none"

#: Bases of test stacks. Above the ports that tests draw for single programs (`ports.free_port`),
#: below those that Linux lends; far from 21000 and 22000, where people start theirs.
_FIRST_BASE: Final = FIRST_STACK_PORT
_LAST_BASE: Final = 32_600

#: What is given back when the run ends: its ports.
_run: Final = ExitStack()


def stack_settings(*names: str) -> dict[str, str]:
    """Settings of the named servers (`kafka`, `opensearch-1`, ...) of the run's small stack.

    On return they answer. Fails the test when one cannot be had. Costs what the servers need to
    start once a run (seconds), later nothing.
    """
    if os.environ.get(_VARIABLE) == _NONE:
        pytest.skip("no server is wanted")
    found = _settings(tuple(sorted(names)))
    if isinstance(found, StackError):
        pytest.fail(
            f"the servers that this test needs cannot be had: {found.reason}\n"
            f"What to do: {found.remedy}",
            pytrace=False,
        )
    return dict(found)


@functools.cache
def _settings(names: tuple[str, ...]) -> dict[str, str] | StackError:
    """A server that cannot be had is waited for once, not once a test."""
    place, owner = run_place()
    try:
        chosen = _chosen(names)
        supervision.up(place, chosen, tell=lambda _: None, owner=owner)
        return registry.settings(place, chosen)
    except StackError as e:
        return e


def _chosen(names: Sequence[str]) -> list[Server]:
    if not names:
        raise ValueError("name the servers that the test needs")
    return registry.choose(registry.servers("small"), names, "small")


def run_place() -> tuple[Place, Identity]:
    """Where this run's stack lives, and the process that it lives as long as."""
    port, pid, started, home = os.environ[_VARIABLE].split(" ", 3)
    owner = Identity(pid=int(pid), started=int(started), boot=children.boot_id())
    return Place(Path(home), registry.default_cache(), int(port), "small"), owner


def begin_run(config: pytest.Config) -> None:
    """Draw folder and ports of this run's stack. Nothing is started. For `pytest_configure`."""
    if os.environ.get(_VARIABLE) == _NONE:
        return
    if hasattr(config, "workerinput"):
        return  # a worker of xdist has them from its controller
    me = children.identify(os.getpid())
    assert me is not None
    # Not below pytest's own folder: only its owner may enter that, and some servers step down
    # from root.
    home = Path(tempfile.mkdtemp(prefix="audit-tests-"))
    home.chmod(0o755)
    os.environ[_VARIABLE] = f"{_run.enter_context(free_base())} {me.pid} {me.started} {home}"


def summary() -> list[str]:
    """What the run's servers have come to, for its last lines; nothing when none was asked for."""
    if os.environ.get(_VARIABLE) == _NONE:
        return []
    place, _ = run_place()
    found = supervision.status(place.home, {}, place)
    if not found:
        return []
    total = sum(s.memory_bytes for s in found) >> 20
    parts = (f"{s.name} {s.memory_bytes >> 20} MiB ({s.state})" for s in found)
    return [f"servers of this run: {', '.join(parts)}; {total} MiB in all"]


def end_run(config: pytest.Config) -> None:
    """Put this run's stack down and forget it. For `pytest_unconfigure`: also after Ctrl-C."""
    if hasattr(config, "workerinput") or os.environ.get(_VARIABLE, _NONE) == _NONE:
        return
    place, _ = run_place()
    try:
        supervision.wipe(place.home, tell=lambda line: print(line, file=sys.stderr))  # noqa: T201 - the run's own output has ended
    finally:
        shutil.rmtree(place.home, ignore_errors=True)
        del os.environ[_VARIABLE]
        _run.close()


@contextmanager
def free_base() -> Iterator[int]:
    """The first of `PORT_SPAN` free ports, which no other test run or test takes meanwhile.

    A test that asks for them for servers of its own is skipped where no server is wanted.
    """
    if os.environ.get(_VARIABLE) == _NONE:
        pytest.skip("no server is wanted")
    bases = list(range(_FIRST_BASE, _LAST_BASE + 1, PORT_SPAN))
    random.SystemRandom().shuffle(bases)
    for base in bases:
        # Linux gives the name back when the process ends, however it ends.
        with socket.socket(socket.AF_UNIX) as reservation:
            try:
                reservation.bind(f"\0audit-tests-{base}")
                _all_free(base)
            except OSError:
                continue
            yield base
            return
    raise RuntimeError(f"no {PORT_SPAN} free ports from {_FIRST_BASE} on: end other test runs")


def _all_free(base: int) -> None:
    """Raises `OSError` when one is taken."""
    for port in range(base, base + PORT_SPAN):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
