"""The first command, as a newcomer runs it: every process of its own, nothing left behind.

It takes minutes on a busy machine; the parts have their own tests in `test_story_*.py`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import orjson
import pytest

from audit_platform.demo.home import DemoHome, scaled_clock
from audit_platform.demo.mapping import tenant_ids
from audit_platform.demo.numbers import expected_numbers
from audit_platform.settings import Settings

#: Real seconds of the day: an edge that is killed in it must be back before its end, beside other
#: tests too. What arrives after midnight is the next day's.
DAY_SECONDS: Final = 60
HOSPITALS: Final = 3

#: Two minutes alone on two cores; ten for a machine that does much else.
LIMIT_SECONDS: Final = 600


#: Whole demos: minutes each, alone. Beside much other work an edge's events come after midnight.
pytestmark = pytest.mark.full_stack


def _command(home: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "audit_platform.demo", "--home", str(home)]
    return [*start, "--hospitals", str(HOSPITALS), "--day-seconds", str(DAY_SECONDS), *more]


def _environment(first_port: int) -> dict[str, str]:
    # Ports of its own: two demos at once would race for the same ones.
    names = ("INGEST", "ARCHIVE", "UI", "INDEXER", "QUERY", "EDGE")
    return {
        **os.environ,
        **{f"AUDIT_{name}_PORT": str(first_port + n) for n, name in enumerate(names)},
    }


def _left(home: Path) -> list[str]:
    """Living processes that work on this home."""
    mark = f"AUDIT_HOME={home}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().decode())
        except OSError:
            continue
    return found


@pytest.mark.timeout(LIMIT_SECONDS + 30)
def test_the_first_command_plays_seals_and_proves_a_day_and_leaves_nothing_running(
    tmp_path: Path,
) -> None:
    home = tmp_path / "demo"
    done = subprocess.run(
        _command(home, "--exit"),
        env=_environment(8521),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert _left(home) == []
    assert not (home / "children.json").exists()
    tenants = tenant_ids()[:HOSPITALS]
    table = _table(said)
    _compare_copies(table, tenants)
    _compare(table, _expected(tenants))
    assert said.count("PROVED") == 10
    assert "FAILED" not in said
    assert "verdict: every proof held" in said
    assert f"{HOSPITALS + 1} runs of seal_day, started by its sensor" in said
    assert "events waited in the spool and came in order (0 of" in said
    assert "unaccounted 0 by the senders, 0 of" in said
    assert "lost 0, twice 0, not sent 0, altered 0" in said
    assert "clean; read" in said
    assert re.search(
        r"FINDING step 7: .* \[object cold/.*, row \d+, device .*, sequence \d+\]", said
    )
    assert "/runs/" in said
    _next_run_can_go_on(home, tenants)


def _table(said: str) -> dict[str, list[int]]:
    rows = (re.findall(r"[^│\s]+", line) for line in said.splitlines() if line.startswith("│"))
    return {name: [int(n) for n in figures] for name, *figures in rows}


def _expected(tenants: list[str]) -> dict[str, tuple[int, int]]:
    """Sent and refused events of each tenant; from the excerpt."""
    numbers = expected_numbers()
    table = {t: (numbers[t].sent, sum(numbers[t].refused.values())) for t in tenants}
    table["all"] = (sum(s for s, _ in table.values()), sum(r for _, r in table.values()))
    return table


def _compare(table: dict[str, list[int]], expected: dict[str, tuple[int, int]]) -> None:
    assert table.keys() == expected.keys()
    for tenant, (wanted, bad) in expected.items():
        sent, acknowledged, archived, sealed, duplicates, refused, unaccounted = table[tenant]
        assert (sent, acknowledged, refused, unaccounted) == (wanted, wanted, bad, 0)
        own = sealed - (wanted - bad)  # what the edges said of themselves: at least that they began
        assert own >= 1
        assert archived == sealed + refused + duplicates


def _compare_copies(table: dict[str, list[int]], tenants: list[str]) -> None:
    """Copies come of what was done to an edge alone, and are counted once.

    The second tenant's edge is killed, and sends again what it did not know to be archived. The
    first one's line is cut: a body that had arrived and whose answer was on its way is sent again.
    """
    cut, killed, *others = tenants
    copies = {name: figures[4] for name, figures in table.items()}
    assert copies[killed] > 0
    assert {tenant: copies[tenant] for tenant in others} == dict.fromkeys(others, 0)
    assert copies["all"] == copies[killed] + copies[cut]


def _next_run_can_go_on(home: Path, tenants: list[str]) -> None:
    """The state names the day, and `--print-environment` gives settings to look at it."""
    state = DemoHome(home).load()
    assert state is not None
    assert state.tenants == tenants
    done = subprocess.run(
        _command(home, "--print-environment"), capture_output=True, text=True, check=True
    )
    names = dict(re.findall(r"export (\w+)=(.*)", done.stdout))
    assert names["DAGSTER_HOME"] == str(home / "dagster")
    assert (home / "dagster" / "dagster.yaml").exists()
    ours = {name: value for name, value in names.items() if name.startswith("AUDIT_")}
    clock = scaled_clock(Settings.from_environment(ours).clock)
    assert clock.wall_start_ms == state.wall_ms


def _start(home: Path, first_port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _command(home),
        env=_environment(first_port),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(demo: subprocess.Popen[str], words: str) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if words in line:
            return
    assert demo.stderr is not None
    pytest.fail(f"it never said {words!r}: {demo.stderr.read()}")


@pytest.mark.timeout(LIMIT_SECONDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_ended_at_once_leaves_nothing_running_and_can_be_gone_on_with(
    tmp_path: Path, number: signal.Signals
) -> None:
    home = tmp_path / "demo"
    with _start(home, 8541 + 20 * (number == signal.SIGINT)) as demo:
        _wait_for(demo, "services start")
        assert _left(home)
        demo.send_signal(number)
        _, said = demo.communicate(timeout=LIMIT_SECONDS)
    assert demo.returncode == 130
    assert "goes on from here" in said
    assert _left(home) == []
    assert DemoHome(home).load() is not None


@pytest.mark.timeout(LIMIT_SECONDS)
def test_a_service_that_dies_ends_the_demo_which_names_its_log_and_leaves_nothing_running(
    tmp_path: Path,
) -> None:
    home = tmp_path / "demo"
    with _start(home, 8581) as demo:
        _wait_for(demo, "devices speak")
        os.kill(orjson.loads((home / "children.json").read_bytes())[0], signal.SIGKILL)
        _, said = demo.communicate(timeout=LIMIT_SECONDS)
    assert demo.returncode == 1
    assert "ingest-gateway ended with code -9" in said
    assert str(home / "logs" / "ingest-gateway.log") in said
    assert _left(home) == []


@pytest.mark.timeout(LIMIT_SECONDS)
def test_a_demo_that_was_killed_does_not_wedge_the_next_one(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    with _start(home, 8601) as killed:
        _wait_for(killed, "devices speak")
        killed.kill()
        killed.communicate(timeout=LIMIT_SECONDS)
    seen = DemoHome(home).load()
    assert seen is not None
    with _start(home, 8601) as demo:
        _wait_for(demo, "devices speak")
        demo.terminate()
        demo.communicate(timeout=LIMIT_SECONDS)
    assert demo.returncode == 130
    assert _left(home) == []
    again = DemoHome(home).load()
    assert again is not None
    assert again.day == seen.day
    assert again.wall_ms >= seen.wall_ms


def test_before_the_first_run_there_is_no_environment_to_print(tmp_path: Path) -> None:
    done = subprocess.run(
        _command(tmp_path / "demo", "--print-environment"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "make demo" in done.stderr


@pytest.mark.parametrize("value", ["0", "19", "1e9", "nan", "soon"])
def test_a_day_of_no_possible_length_is_refused(tmp_path: Path, value: str) -> None:
    done = subprocess.run(
        _command(tmp_path, "--day-seconds", value), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--day-seconds" in done.stderr
