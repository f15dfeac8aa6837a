"""Any servers at all: up, twice, at once, interrupted, broken on purpose, down without a trace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.errors import StackError
from audit_platform.stack import children, keeper, packages, state, supervision
from audit_platform.stack.model import HOST, Place, Program
from audit_platform_tests.stack.conftest import processes_of
from audit_platform_tests.stack.tiny import (
    CHATTY,
    ENDING,
    SILENT,
    WITH_A_CHILD,
    Tiny,
    ask,
)

#: Longer than anything here takes on a busy machine; reached only by a test that fails.
PATIENCE = 60.0


def up(place: Place, *servers: Tiny, seconds: float = PATIENCE) -> list[str]:
    told: list[str] = []
    supervision.up(place, servers, tell=told.append, seconds=seconds)
    return told


def down(place: Place) -> None:
    supervision.down(place.home, tell=lambda _: None)


def states(place: Place, *servers: Tiny) -> dict[str, str]:
    found = supervision.status(place.home, {s.name: s for s in servers}, place)
    return {s.name: s.state for s in found}


def head(place: Place, name: str) -> children.Identity:
    running = state.read_running(place.home, name)
    assert running is not None
    return running.who


def until(so: Callable[[], bool]) -> None:
    """Wait for what another process does; fails when it does not come."""
    tick = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if so():
            return
        tick.wait(0.02)
    pytest.fail("it did not come in time")


def test_a_server_is_up_when_it_answers_and_is_settled(place: Place) -> None:
    server = Tiny("one", 0)
    told = up(place, server)
    assert ask(place.base_port) == "one"
    assert server.done == ["fetch", "prepare", "settle"]
    assert states(place, server) == {"one": "up"}
    assert any("one: up after" in line for line in told)


def test_down_leaves_no_process_and_no_port_and_keeps_data_and_log(place: Place) -> None:
    servers = [Tiny("one", 0, WITH_A_CHILD), Tiny("two", 1, needs=("one",))]
    up(place, *servers)
    # Head, child, the other, the keeper.
    assert len(processes_of(place.home)) == 4
    down(place)
    assert processes_of(place.home) == []
    with socket.create_server((HOST, place.base_port)):
        pass
    assert states(place, *servers) == {"one": "down", "two": "down"}
    assert (place.home / "one" / "data").is_dir()
    assert "listening" in state.log_of(place.home, "one").read_text()
    down(place)


def test_up_twice_starts_nothing_a_second_time(place: Place) -> None:
    server = Tiny("one", 0)
    up(place, server)
    first = head(place, "one")
    assert up(place, server) == ["one: is up"]
    assert head(place, "one") == first
    assert server.done == ["fetch", "prepare", "settle"]


def test_two_ups_at_once_start_each_server_once(place: Place) -> None:
    servers = [Tiny("one", 0), Tiny("two", 1)]
    fetched = threading.Event()
    reached = threading.Event()

    def slowly(_: Path) -> None:
        reached.set()
        assert fetched.wait(PATIENCE)

    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if line.startswith("waiting for another command"):
            fetched.set()

    first = threading.Thread(target=lambda: up(place, replace(servers[0], fetching=slowly)))
    first.start()
    assert reached.wait(PATIENCE)
    supervision.up(place, servers, tell=tell, seconds=PATIENCE)
    first.join(PATIENCE)
    assert told[0].startswith("waiting for another command")
    assert "one: is up" in told
    assert states(place, *servers) == {"one": "up", "two": "up"}
    assert len(processes_of(place.home)) == 3


def test_what_needs_another_is_started_after_it_answers(place: Place) -> None:
    order: list[str] = []

    class Noting(Tiny):
        def prepare(self, place: Place) -> None:
            super().prepare(place)
            order.append(f"prepare {self.name}")

        def settle(self, place: Place) -> None:
            super().settle(place)
            order.append(f"settle {self.name}")

    up(place, Noting("two", 1, needs=("one",)), Noting("one", 0))
    assert order == ["prepare one", "settle one", "prepare two", "settle two"]


def test_a_server_that_ends_early_is_told_with_its_code_and_the_end_of_its_log(
    place: Place,
) -> None:
    fine = Tiny("fine", 1)
    with pytest.raises(StackError, match="one has ended with code 3") as told:
        up(place, Tiny("one", 0, ENDING), Tiny("two", 2, needs=("one",)), fine)
    assert "the volume is not formatted" in told.value.reason
    assert "two was not started: it needs one" in told.value.reason
    assert "stack logs one" in told.value.remedy
    # The others run, and `up` can be repeated when the cause is away.
    assert states(place, fine)["fine"] == "up"
    up(place, Tiny("one", 0), Tiny("two", 2, needs=("one",)), fine)
    assert ask(place.base_port + 2) == "two"


def test_a_server_that_never_answers_is_told_at_its_deadline_and_ended(place: Place) -> None:
    with pytest.raises(StackError, match=r"one did not answer within 1 s: it says ''") as told:
        up(place, Tiny("one", 0, SILENT), seconds=1.0)
    assert "thinking" in told.value.reason
    assert state.read_running(place.home, "one") is None
    down(place)
    assert processes_of(place.home) == []


def test_a_program_that_is_not_there_is_told(place: Place) -> None:
    class Absent(Tiny):
        def program(self, place: Place) -> Program:  # noqa: ARG002 - the form's argument
            return Program(argv=("there-is-no-such-program",))

    with pytest.raises(StackError, match=r"one cannot be started: .*there-is-no-such-program"):
        up(place, Absent("one", 0))


def test_a_port_that_another_program_has_is_told_with_the_way_out(place: Place) -> None:
    port = place.port("redis")
    with socket.create_server((HOST, port)), pytest.raises(StackError, match=f"port {port}") as e:
        up(place, Tiny("redis", port - place.base_port))
    assert "--base-port" in e.value.remedy


def test_an_id_that_another_program_has_got_since_is_never_signalled(place: Place) -> None:
    server = Tiny("one", 0)
    up(place, server)
    supervision.kill(place.home, "one")
    with subprocess.Popen([sys.executable, "-c", SILENT], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        # What stands on disk when the kernel has given the id to a stranger.
        stale = replace(head(place, "one"), pid=stranger.pid)
        state.write_running(place.home, "one", state.Running(stale, ready=True))
        assert states(place) == {"one": "dead"}
        with pytest.raises(StackError, match="does not run"):
            supervision.kill(place.home, "one")
        down(place)
        assert stranger.poll() is None
        stranger.kill()


def test_a_killed_server_is_dead_and_start_brings_it_back(place: Place) -> None:
    server = Tiny("one", 0, WITH_A_CHILD)
    up(place, server)
    supervision.kill(place.home, "one")
    assert ask(place.base_port) == ""
    assert states(place, server) == {"one": "dead"}
    assert len(processes_of(place.home)) == 1  # the keeper: the child is dead too
    up(place, server)
    assert ask(place.base_port) == "one"
    assert states(place, server) == {"one": "up"}


def test_a_frozen_server_takes_connections_and_says_nothing_until_it_is_thawed(
    place: Place,
) -> None:
    server = Tiny("one", 0)
    up(place, server)
    supervision.freeze(place.home, "one")
    assert states(place, server) == {"one": "frozen"}
    socket.create_connection((HOST, place.base_port), timeout=5).close()
    assert ask(place.base_port) == ""
    with pytest.raises(StackError, match="one is frozen") as told:
        up(place, server)
    assert told.value.remedy == "audit-platform stack thaw one"
    supervision.thaw(place.home, "one")
    until(lambda: ask(place.base_port) == "one")
    assert states(place, server) == {"one": "up"}


def test_a_frozen_server_goes_down(place: Place) -> None:
    up(place, Tiny("one", 0, WITH_A_CHILD))
    supervision.freeze(place.home, "one")
    down(place)
    assert processes_of(place.home) == []


def test_a_child_left_behind_by_a_dead_head_goes_down_too(place: Place) -> None:
    up(place, Tiny("one", 0, WITH_A_CHILD))
    who = head(place, "one")
    os.kill(who.pid, signal.SIGKILL)
    until(lambda: not children.alive(who))
    assert len(processes_of(place.home)) == 2
    down(place)
    assert processes_of(place.home) == []


def test_a_server_that_runs_and_cannot_work_is_silent_with_the_reason(place: Place) -> None:
    server = Tiny("one", 0)
    up(place, server)
    deaf = Tiny("one", 1)  # asked on a port where nobody is
    (found,) = supervision.status(place.home, {"one": deaf}, place)
    assert (found.state, found.detail) == ("silent", "it says ''")
    assert found.pid == head(place, "one").pid
    assert 1 << 20 < found.memory_bytes < 1 << 30


def test_a_log_over_its_cap_is_set_aside_and_the_server_writes_on(place: Place) -> None:
    up(place, Tiny("one", 0, CHATTY))
    log = state.log_of(place.home, "one")
    size = log.stat().st_size
    assert size > 2_000_000
    keeper.cap_logs(place.home, limit=1 << 20)
    assert log.stat().st_size == 0
    assert log.with_suffix(".log.1").stat().st_size == size
    keeper.cap_logs(place.home, limit=1 << 20)
    assert log.with_suffix(".log.1").stat().st_size == size


def test_the_keeper_wipes_a_stack_whose_owner_is_gone(place: Place) -> None:
    with subprocess.Popen([sys.executable, "-c", SILENT], stdout=subprocess.DEVNULL) as owner:
        who = children.identify(owner.pid)
        supervision.up(place, [Tiny("one", 0)], tell=lambda _: None, owner=who, seconds=PATIENCE)
        assert ask(place.base_port) == "one"
        owner.kill()
    until(lambda: not place.home.exists())
    until(lambda: processes_of(place.home) == [])
    assert ask(place.base_port) == ""


def test_missing_packages_are_told_with_the_command_and_the_others_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CI", "AUDIT_INSTALL"):
        monkeypatch.delenv(name, raising=False)
    fine = Tiny("fine", 1)
    lacking = Tiny("one", 0, packages=("dpkg", "no-such-package-as-this"))
    with pytest.raises(StackError, match="one is skipped: this machine lacks no-such-pac") as told:
        up(place, lacking, fine)
    assert "apt-get install --yes --no-install-recommends no-such-package" in told.value.remedy
    assert "AUDIT_INSTALL=1" in told.value.remedy
    assert lacking.done == []
    assert states(place, fine)["fine"] == "up"


def test_packages_that_are_there_are_not_asked_for() -> None:
    assert packages.missing(("dpkg", "no-such-package-as-this")) == ["no-such-package-as-this"]
    assert packages.missing(()) == []


def test_another_shape_in_the_same_home_is_refused(place: Place) -> None:
    up(place, Tiny("one", 0))
    with pytest.raises(StackError, match="holds a stack of size small") as told:
        up(replace(place, size="full"), Tiny("one", 0))
    assert "stack wipe" in told.value.remedy


def test_wipe_refuses_a_folder_that_is_not_a_stack(place: Place) -> None:
    place.home.mkdir()
    (place.home / "thesis.txt").write_text("mine")
    with pytest.raises(StackError, match="holds no stack"):
        supervision.wipe(place.home, tell=lambda _: None)
    assert (place.home / "thesis.txt").read_text() == "mine"


def test_wipe_forgets_everything(place: Place) -> None:
    up(place, Tiny("one", 0))
    supervision.wipe(place.home, tell=lambda _: None)
    assert not place.home.exists()


INTERRUPTED = """
import signal, sys
from pathlib import Path
from audit_platform.stack import supervision
from audit_platform.stack.model import Place
from audit_platform_tests.stack.tiny import SILENT, WITH_A_CHILD, Tiny
import subprocess

def never_ends(cache):
    cache.mkdir(exist_ok=True)
    (cache / "reached").touch()
    subprocess.run([sys.executable, "-c", "import signal; signal.pause()", "a-download"])

signal.signal(signal.SIGTERM, signal.default_int_handler)
place = Place(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), "small")
servers = [
    Tiny("one", 0, WITH_A_CHILD),
    Tiny("two", 1, SILENT),
    Tiny("three", 2, fetching=never_ends),
]
supervision.up(place, servers, tell=lambda line: print(line, flush=True))
"""


def interrupted(place: Place) -> list[str]:
    """A command whose `up` has one server up, one that never answers, one that is being fetched."""
    where = [str(place.home), str(place.cache), str(place.base_port)]
    return [sys.executable, "-c", INTERRUPTED, *where]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_the_middle_of_up_leaves_nothing_running(
    place: Place, number: signal.Signals
) -> None:
    with subprocess.Popen(
        interrupted(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        while "one: up" not in running.stdout.readline():
            assert running.poll() is None, running.stderr.read()
        until((place.cache / "reached").exists)
        until(lambda: state.read_running(place.home, "two") is not None)
        running.send_signal(number)
        _, error = running.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in error
    assert processes_of(place.home) == []
    helpers = subprocess.run(
        ["pgrep", "--session", str(running.pid)],  # noqa: S607 - procps, wherever it is
        capture_output=True,
        check=False,
    )
    assert helpers.stdout == b""


def test_what_an_up_that_was_killed_has_started_goes_down(place: Place) -> None:
    with subprocess.Popen(
        interrupted(place), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        while "one: up" not in running.stdout.readline():
            assert running.poll() is None
        until((place.cache / "reached").exists)
        os.killpg(running.pid, signal.SIGKILL)
    assert len(processes_of(place.home)) >= 3
    down(place)
    assert processes_of(place.home) == []


def test_a_record_that_is_torn_does_not_hide_its_server_from_down(place: Place) -> None:
    up(place, Tiny("one", 0))
    (place.home / "run" / "one.json").write_text('{"who": {"pid"')
    down(place)
    assert processes_of(place.home) == []


def test_a_file_that_is_not_a_stacks_is_told(place: Place) -> None:
    place.home.mkdir()
    (place.home / "stack.json").write_text(json.dumps({"size": "small"}))
    with pytest.raises(StackError, match="is not a stack's file"):
        up(place, Tiny("one", 0))
    (place.home / "stack.json").unlink()
