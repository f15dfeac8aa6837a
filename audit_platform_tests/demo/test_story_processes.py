"""The demo's processes and ports: whatever ends the demo, nothing of it is left."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from audit_platform.demo import children as children_module
from audit_platform.demo.children import Children, end_stale, free_port, members
from audit_platform.demo.home import DemoStopped
from audit_platform.settings_forms import FIRST_LENT_PORT

#: Longer than any test: what still runs then was forgotten.
WAITS = "import signal; signal.pause()"

#: Says when it is deaf; only SIGKILL ends it.
DEAF = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); signal.pause()"
)

#: Has a child that is as deaf, says its number, and is gone at the first signal.
PARENT_OF_DEAF = f"""
import subprocess, sys, signal
child = subprocess.Popen([sys.executable, '-c', {DEAF!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
signal.pause()
"""


#: Says much, then waits for one SIGUSR1.
WAIT_USR1 = (
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); "
    "print('a' * 11, flush=True); signal.sigwait([signal.SIGUSR1])"
)


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    listed = tmp_path / "children.json"
    if listed.exists():
        for pid in members(orjson.loads(listed.read_bytes())):
            os.kill(pid, signal.SIGKILL)


def _children(place: Path) -> Children:
    environment = {**os.environ, "AUDIT_HOME": str(place)}
    return Children(place / "logs", place / "children.json", environment)


def _gone(pid: int) -> bool:
    """Wait for the end of a process, somebody else's child perhaps."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with closing(os.fdopen(handle, "rb", buffering=0)) as watched:
        return bool(select.select([watched], [], [], 30)[0])


def _first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def _said(log: Path) -> str:
    """The first line of a log, as soon as it is there."""
    with subprocess.Popen(
        ["tail", "-f", "-n", "+1", str(log)],  # noqa: S607 - any tail will do
        stdout=subprocess.PIPE,
    ) as tail:
        line = _first_line(tail)
        tail.kill()
    return line


def test_stopping_ends_children_and_their_children_even_deaf_ones(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children_module, "STOP_SECONDS", 0.2)
    started = _children(place)
    parent = started.start("parent", [sys.executable, "-c", PARENT_OF_DEAF])
    grandchild = int(_said(parent.log))
    assert set(members([parent.leads])) == {parent.leads, grandchild}
    started.stop()
    assert members([parent.leads]) == []
    assert _gone(grandchild)
    assert not (place / "children.json").exists()


def test_a_child_that_ended_says_so_and_its_error_shows_the_end_of_its_log(place: Path) -> None:
    started = _children(place)
    child = started.start("sad", [sys.executable, "-c", "import sys; sys.exit('no disk')"])
    assert child.process.wait() == child.ended() == 1
    error = child.failure("ended")
    assert "sad ended" in error.reason
    assert "no disk" in error.reason
    assert str(child.log) in error.remedy
    started.stop()


def test_output_goes_to_its_own_file_and_words_to_the_log(place: Path) -> None:
    started = _children(place)
    output = place / "answer.json"
    code = "import sys; print('{}'); sys.stderr.write('thinking')"
    child = started.start("asked", [sys.executable, "-c", code], output)
    assert child.process.wait() == 0
    assert (output.read_text(), child.log.read_text()) == ("{}\n", "thinking")
    started.stop()


def test_a_log_that_grew_too_long_is_put_aside_and_goes_on_at_its_new_end(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children_module, "MAX_LOG_BYTES", 10)
    started = _children(place)
    code = f"import signal; {WAIT_USR1}; print('b')"
    child = started.start("talks", [sys.executable, "-c", code])
    assert _said(child.log) == "a" * 11
    started.cap_logs()
    assert child.log.with_suffix(".log.1").read_text() == "a" * 11 + "\n"
    os.kill(child.leads, signal.SIGUSR1)
    assert child.process.wait() == 0
    assert child.log.read_text() == "b\n"
    started.stop()


def test_a_child_dies_with_a_demo_that_is_killed(place: Path) -> None:
    code = f"""
import signal, sys
from pathlib import Path
from audit_platform.demo.children import Children
place = Path({str(place)!r})
child = Children(place / "logs", place / "children.json", {{}}).start(
    "waits", [sys.executable, "-c", {WAITS!r}])
print(child.leads, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as demo:
        child = int(_first_line(demo))
        demo.kill()
    assert _gone(child)


def test_a_child_hears_the_interrupt_that_the_demo_itself_was_started_to_ignore(
    place: Path,
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        started = _children(place)
        code = "import signal; print(signal.getsignal(signal.SIGINT) != signal.SIG_IGN)"
        child = started.start("asks", [sys.executable, "-c", code])
        assert child.process.wait() == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert child.log.read_text() == "True\n"
    started.stop()


# --------------------------------------------------------------------------------------- stale


def _stale(home: Path, code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "AUDIT_HOME": str(home)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def test_what_a_killed_demo_left_is_ended_even_when_it_is_deaf(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children_module, "STOP_SECONDS", 0.8)
    listed = place / "children.json"
    with _stale(place, WAITS) as waits, _stale(place, DEAF) as deaf:
        assert _first_line(deaf) == "deaf"
        listed.write_bytes(orjson.dumps([waits.pid, deaf.pid]))
        assert end_stale(listed, place) == 2
        assert (waits.wait(), deaf.wait()) == (-signal.SIGTERM, -signal.SIGKILL)
    assert not listed.exists()


def test_what_outlived_its_leader_is_found_by_its_session(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children_module, "STOP_SECONDS", 0.8)
    listed = place / "children.json"
    with _stale(place, PARENT_OF_DEAF) as parent:
        left = int(_first_line(parent))
        listed.write_bytes(orjson.dumps([parent.pid]))
        parent.kill()
    assert members([parent.pid], f"AUDIT_HOME={place}\0".encode()) == [left]
    assert end_stale(listed, place) == 1
    assert _gone(left)


def test_a_number_that_is_somebody_elses_now_is_left_alone(place: Path) -> None:
    listed = place / "children.json"
    with _stale(place / "other", WAITS) as other:
        listed.write_bytes(orjson.dumps([other.pid, 2**22 + 1]))
        assert end_stale(listed, place) == 0
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("data", [b"", b"[12", b'{"a": 1}', b'["x"]'])
def test_a_torn_list_of_children_does_not_wedge_the_next_run(place: Path, data: bytes) -> None:
    listed = place / "children.json"
    listed.write_bytes(data)
    assert end_stale(listed, place) == 0
    assert not listed.exists()


def test_without_a_list_there_is_nothing_to_end(place: Path) -> None:
    assert end_stale(place / "children.json", place) == 0


# --------------------------------------------------------------------------------------- ports


def test_a_busy_port_gives_way_to_the_next_free_one() -> None:
    wanted = free_port(20_000)
    assert 20_000 <= wanted < FIRST_LENT_PORT
    with socket.create_server(("127.0.0.1", wanted)):
        found = free_port(wanted)
        assert wanted < found < FIRST_LENT_PORT
        assert free_port(wanted, [found]) > found


def test_no_port_is_taken_where_the_system_lends_them() -> None:
    with pytest.raises(DemoStopped, match="is free"):
        free_port(FIRST_LENT_PORT)
