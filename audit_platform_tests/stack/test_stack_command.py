"""`audit-platform stack`: a person's way, with one real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from audit_platform.cli import main
from audit_platform.errors import StackError
from audit_platform.stack import state, supervision, volumes
from audit_platform.stack.model import Place
from audit_platform_tests.stack.conftest import processes_of
from audit_platform_tests.stack.tiny import Tiny, ask

#: Of `capabilities(7)`: who may mount.
CAP_SYS_ADMIN = 21


def stack(place: Place, *arguments: str, code: int = 0) -> str:
    """Run the command on that place; returns what it said, on either stream."""
    done = CliRunner().invoke(main, ["stack", *arguments, "--home", str(place.home)])
    assert done.exit_code == code, done.output
    return done.output


def up_and_away(place: Place, *arguments: str) -> str:
    """`up` in a process that is gone when this returns, as a person's terminal may be."""
    command = [sys.executable, "-m", "audit_platform.cli", "stack", "up", *arguments]
    done = subprocess.run(
        [*command, "--home", str(place.home)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(place: Place) -> dict[str, dict[str, object]]:
    return {row["server"]: row for row in json.loads(stack(place, "status", "--json"))}


def test_help_teaches_and_loads_no_servers_module() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "audit_platform.cli", "stack", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for word in ("up", "status", "kill", "cut", "heal", "fill", "wipe", "Example: "):
        assert word in done.stdout
    # What takes its time is loaded when a command runs: no server's module, no client.
    assert "audit_platform.stack" not in done.stderr
    assert "urllib3" not in done.stderr


def test_a_small_stack_may_have_tls_and_a_fault_proxy(place: Place) -> None:
    base = str(place.base_port)
    given = replace(place, faults=True, tls=True)
    said = up_and_away(place, "--tls", "--faults", "--only", "redis", "--base-port", base)
    assert "up: 2 servers." in said
    exported = stack(place, "env")
    assert f"export AUDIT_CA_FILE={given.authority}\n" in exported
    assert "rediss://" in exported
    assert f"@{given.front('redis')}/0" in exported
    assert given.front("redis") != place.address("redis")
    (shown,) = re.findall(r"AUDIT_REDIS=(\S+)", exported)

    def ping() -> bool:
        answers = redis.Redis.from_url(shown, ssl_ca_certs=str(given.authority), socket_timeout=2)
        with closing(answers), suppress(redis.RedisError):
            return bool(answers.ping())
        return False

    assert ping()
    stack(place, "cut", "services", "redis")
    assert not ping()
    stack(place, "heal")
    assert ping()
    assert "new certificates: redis" in stack(place, "rotate")
    assert ping()
    assert "restart services" in stack(place, "rotate", "--authority")
    assert "has no fault proxy" not in stack(place, "cut", "services", "redis")
    stack(place, "wipe")


def test_a_persons_way_from_up_to_wipe(place: Place) -> None:
    base = str(place.base_port)
    said = up_and_away(place, "--only", "redis", "--base-port", base)
    assert "redis: up after" in said
    assert "up: 1 servers." in said
    # The terminal is gone; another command finds it.
    row = rows(place)["redis"]
    assert (row["state"], row["port"]) == ("up", place.port("redis"))
    assert int(str(row["mib"])) < 100
    exported = stack(place, "env")
    assert "export AUDIT_PROFILE=stack\n" in exported
    assert f"@127.0.0.1:{place.port('redis')}/0" in exported
    assert "Redis" in stack(place, "logs", "redis", "-n", "100")

    stack(place, "freeze", "redis")
    assert rows(place)["redis"]["state"] == "frozen"
    stack(place, "thaw", "redis")
    stack(place, "kill", "redis")
    assert rows(place)["redis"]["state"] == "dead"
    assert "redis does not run" in stack(place, "kill", "redis", code=1)
    stack(place, "start", "redis")
    assert rows(place)["redis"]["state"] == "up"

    assert "no bounded volume" in stack(place, "fill", "redis", code=1)
    assert "no fault proxy" in stack(place, "cut", "services", "redis", code=1)
    assert "no server mainframe" in stack(place, "kill", "mainframe", code=1)

    stack(place, "down")
    assert rows(place)["redis"]["state"] == "down"
    assert (place.home / "redis").is_dir()
    stack(place, "wipe")
    assert not place.home.exists()
    assert "no stack in" in stack(place, "status", code=1)


def test_a_cut_needs_services_and_a_server(place: Place) -> None:
    assert "between those" in stack(place, "cut", "redis", "kafka-1", code=2)


def may_mount() -> bool:
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("CapEff:")
    )
    return bool(int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1)


def test_a_filled_volume_takes_no_byte_until_it_is_emptied_and_goes_with_the_stack(
    place: Place,
) -> None:
    server = Tiny("one", 0)
    data = place.folder("one") / "data" / "file"

    def up() -> None:
        supervision.up(place, [server], tell=lambda _: None, bounded={"one": 2}, seconds=60)

    if not may_mount():
        with pytest.raises(StackError, match="mounting needs root" if os.geteuid() else "mount"):
            up()
        return
    up()
    data.write_bytes(b"x" * 1000)
    volumes.fill(place.folder("one"))
    with pytest.raises(OSError, match="No space left"):
        data.write_bytes(b"x" * 10_000)
    # A killed server finds its volume again as it was.
    supervision.kill(place.home, "one")
    with pytest.raises(OSError, match="No space left"):
        data.write_bytes(b"x" * 10_000)
    shape = state.read_shape(place.home)
    assert shape is not None
    volumes.empty(place.folder("one"), shape.volumes["one"])
    up()
    data.write_bytes(b"x" * 1_000_000)
    with pytest.raises(OSError, match="No space left"):
        data.write_bytes(b"x" * 3_000_000)
    with data.open("rb"):  # somebody is still looking
        supervision.down(place.home, tell=lambda _: None)
    assert str(place.home) not in Path("/proc/self/mountinfo").read_text()
    assert processes_of(place.home) == []


def test_a_folder_with_data_is_not_hidden_by_a_bounded_volume(place: Place) -> None:
    supervision.up(place, [Tiny("one", 0)], tell=lambda _: None, seconds=60)
    supervision.down(place.home, tell=lambda _: None)
    wanted = "has data already" if os.geteuid() == 0 else "mounting needs root"
    with pytest.raises(StackError, match=wanted):
        supervision.up(place, [Tiny("one", 0)], tell=lambda _: None, bounded={"one": 2}, seconds=60)
    assert ask(place.base_port) == ""
