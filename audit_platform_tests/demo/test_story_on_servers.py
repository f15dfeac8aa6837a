"""The first command on the real servers: the same story and proofs, and nothing left behind.

The stack is the demo's own. Belongs here: whole runs, and what the ground does otherwise than the
embedded one. Does not: the embedded run (`test_story.py`), the servers (`stack/`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.adapters.faulty import Fault, Faults, faulty
from audit_platform.demo.ground import Servers, StoreSource
from audit_platform.demo.home import DemoHome, DemoStopped
from audit_platform.demo.mapping import tenant_ids
from audit_platform.demo.record_view import RecordView
from audit_platform.errors import StoreUnavailable
from audit_platform.ports import Objects
from audit_platform.stack.model import HOST, PORT_SPAN
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.demo import test_story
from audit_platform_tests.servers import free_base
from audit_platform_tests.world import DAY, open_world

#: Longer than alone: services run twice and beside the servers, and all must have started before
#: the line is healed.
DAY_SECONDS: Final = 150

#: Calls of the store by which a view has read the world of the test below.
CALLS: Final = 6

#: Five minutes on two cores with nothing else; three times that where much else runs.
LIMIT_SECONDS: Final = 900


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that servers which step down from root may enter."""
    made = Path(tempfile.mkdtemp(prefix="audit-demo-"))
    made.chmod(0o755)
    yield made / "demo"
    shutil.rmtree(made)


@pytest.fixture
def base_port() -> Iterator[int]:
    """The first of a stack's ports; free again at the end."""
    with free_base() as base:
        yield base
        assert [p for p in range(base, base + PORT_SPAN) if not _is_free(p)] == []


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _running(home: Path) -> list[str]:
    """Living processes that have this folder in their environment or command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            if str(home).encode() in command + (folder / "environ").read_bytes():
                found.append(command.decode(errors="replace"))
        except OSError:
            continue
    return found


def _command(home: Path, base_port: int, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "audit_platform.demo", "--profile", "stack"),
        *("--home", str(home), "--base-port", str(base_port)),
        *("--hospitals", str(test_story.HOSPITALS), "--day-seconds", str(DAY_SECONDS), *more),
    ]


@pytest.mark.full_stack
@pytest.mark.timeout(LIMIT_SECONDS + 60)
def test_the_first_command_proves_the_same_on_real_servers_and_leaves_nothing_running(
    home: Path, base_port: int
) -> None:
    done = subprocess.run(
        _command(home, base_port, "--exit"),
        env=test_story._environment(8621),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert _running(home) == []
    tenants = tenant_ids()[: test_story.HOSPITALS]
    table = test_story._table(said)
    test_story._compare_copies(table, tenants)
    test_story._compare(table, test_story._expected(tenants))
    assert said.count("PROVED") == 10
    assert "FAILED" not in said
    assert "verdict: every proof held" in said
    assert f"{test_story.HOSPITALS + 1} runs of seal_day, started by its sensor" in said
    assert "events waited in the spool and came in order (0 of" in said
    assert "unaccounted 0 by the senders, 0 of" in said
    assert "lost 0, twice 0, not sent 0, altered 0" in said
    assert re.search(r"\d+ from HOT with versitygw killed, \d+ from COLD with opensearch-1", said)
    assert re.search(r"[1-9]\d* indexes with [1-9]\d* events deleted", said)
    assert re.search(r"FINDING step 7: .* \[object cold/.*, row \d+, device .*, sequence", said)
    # Every service that is shared had both instances; Dagster kept nothing in files.
    for name in ("ingest-gateway", "archive-writer", "search-indexer"):
        assert (home / "logs" / f"{name}-2.log").stat().st_size > 0
    assert list((home / "dagster").rglob("*.db")) == []
    # What the embedded profile would have made is not there, and the servers' data are.
    assert not (home / "log").exists()
    assert (home / "servers" / "kafka-1").is_dir()
    assert (home / "objects" / "landing").is_dir()
    with pytest.raises(DemoStopped, match="do not run"):
        Servers(DemoHome(home), threading.Event()).check_up()


@pytest.mark.full_stack
@pytest.mark.timeout(LIMIT_SECONDS)
def test_ctrl_c_while_the_servers_start_leaves_nothing_running(home: Path, base_port: int) -> None:
    demo = subprocess.Popen(
        _command(home, base_port),
        env=test_story._environment(8661),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a shell's job has
    )
    with demo:
        assert demo.stdout is not None
        assert any("redis: up" in line for line in demo.stdout)
        assert _running(home)
        os.killpg(demo.pid, signal.SIGINT)
        _, said = demo.communicate(timeout=LIMIT_SECONDS)
    assert demo.returncode == 130, said
    assert "goes on from here" in said
    assert _running(home) == []


# ----------------------------------------------------------------------------- the record's view


def test_what_a_store_could_not_tell_just_now_is_read_when_it_is_back(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        edge = world.edge("north")
        now = world.clock.now_ms()
        world.ingest("north", [edge.start(now), *edge.heartbeats(3, 4, now)])
        world.archive()
        world.close()
        world.seal("north")
    store: Objects = EmbeddedObjects(tmp_path / "objects", RealFiles(), ManualClock())
    whole = RecordView(StoreSource(store))
    whole.refresh()
    assert whole.archived["north", DAY] == whole.manifests["north", DAY].rows > 0
    for number in range(1, CALLS + 1):
        faults = Faults({number: Fault.BEFORE})
        view = RecordView(StoreSource(faulty(store, StoreUnavailable, faults)))
        view.show()
        assert [n for n, _, _ in faults.happened] == [number]
        view.show()
        assert (view.archived, view.manifests) == (whole.archived, whole.manifests)


def test_a_store_is_not_asked_again_before_its_time(tmp_path: Path) -> None:
    faults = Faults()
    store: Objects = EmbeddedObjects(tmp_path, RealFiles(), ManualClock())
    view = RecordView(StoreSource(faulty(store, StoreUnavailable, faults)), look_seconds=3600.0)
    view.show()
    asked = len(faults.calls)
    assert asked > 0
    view.show()
    assert len(faults.calls) == asked


def test_the_demos_servers_that_do_not_run_are_told_how_to_be_started(tmp_path: Path) -> None:
    done = subprocess.run(
        [*(sys.executable, "-m", "audit_platform.demo", "--profile", "stack"),
         *("--print-environment", "--home", str(tmp_path))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    (tmp_path / "state.json").write_bytes(
        b'{"first_day": "2026-03-01", "day": "2026-03-01", "tenants": ["north"]}'
    )
    servers = Servers(DemoHome(tmp_path), threading.Event())
    with pytest.raises(DemoStopped, match="do not run") as told:
        servers.check_up()
    assert str(servers.folder) in told.value.remedy
