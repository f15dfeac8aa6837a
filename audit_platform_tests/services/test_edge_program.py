"""The edge as a program: its commands, its process, its death at its kill point."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import urllib3
from click.testing import CliRunner, Result

from audit_platform.cli import main
from audit_platform.killpoints import Killpoint
from audit_platform_tests.ports import free_port
from audit_platform_tests.services.edge_world import line

PATIENCE_SECONDS = 60.0


@dataclass
class Program:
    """One edge by its command line, in a folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AUDIT_")}
        return inherited | {
            "AUDIT_HOME": str(self.folder),
            "AUDIT_EDGE_TENANT": "north",
            "AUDIT_EDGE_HOSPITAL": "h-1",
            "AUDIT_EDGE_PORT": str(self.port),
            # Nobody is there: the edge lives alone.
            "AUDIT_EDGE_UPLINK": "http://127.0.0.1:1",
            **more,
        }

    def run(self, *arguments: str) -> Result:
        """A command, in this process."""
        inherited = dict.fromkeys((k for k in os.environ if k.startswith("AUDIT_")), None)
        return CliRunner().invoke(main, arguments, env=inherited | self.environment())

    def start(self, **more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "audit_platform.cli", "edge-gateway"],
            env=self.environment(**more),
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready():
            assert self.process.poll() is None, "the edge ended"
            assert time.monotonic() < deadline, "the edge did not come up"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return self.post(None).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def post(self, body: bytes | None) -> urllib3.BaseHTTPResponse:
        """Send a body, or ask whether it is ready."""
        url = f"http://127.0.0.1:{self.port}"
        if body is None:
            return urllib3.request("GET", f"{url}/readyz", retries=False, timeout=5)
        headers = {"content-type": "application/x-ndjson"}
        return urllib3.request(
            "POST", f"{url}/v1/events", body=body, headers=headers, retries=False, timeout=30
        )

    def end(self, how: signal.Signals | None = signal.SIGTERM) -> int:
        assert self.process is not None
        if how is not None:
            self.process.send_signal(how)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def program(folder: Path) -> Iterator[Program]:
    made = Program(folder)
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def test_init_makes_the_keys_once_and_says_how_to_register_them(tmp_path: Path) -> None:
    edge = Program(tmp_path)
    first: dict[str, Any] = json.loads(edge.run("edge", "init", "--json").stdout)
    again: dict[str, Any] = json.loads(edge.run("edge", "init", "--json").stdout)
    assert first == again
    register = first["register"].split()
    assert register == ["audit-platform", "edge-key", "add", "north", first["publicKey"]]
    assert len(first["publicKey"]) == 64
    assert edge.run("tenant", "add", "north").exit_code == 0
    added = edge.run(*register[1:])
    assert added.exit_code == 0, added.output
    assert first["keyId"] in added.stdout
    assert (tmp_path / "edge" / "keys" / "keys.json").exists()


def test_status_of_an_edge_that_does_not_answer_names_what_to_do(tmp_path: Path) -> None:
    nobody = Program(tmp_path).run("edge", "status")
    assert nobody.exit_code == 1
    assert "no edge answers" in nobody.stderr
    assert "audit-platform edge-gateway" in nobody.stderr


def test_an_edge_lives_alone_dies_before_it_answers_and_has_what_it_spooled(
    tmp_path: Path,
) -> None:
    with program(tmp_path) as edge:
        assert edge.run("edge", "init").exit_code == 0
        # The first time is its chain_start.
        edge.start(AUDIT_KILL_AT=f"{Killpoint.SPOOLED.value}:2")
        with pytest.raises(urllib3.exceptions.HTTPError):
            edge.post(line(0) + b"\n" + line(1))
        assert edge.end(None) == -signal.SIGKILL
        edge.start()
        answer = edge.post(line(0) + b"\n" + line(1) + b"\n" + line(2)).json()
        assert (answer["alreadyTaken"], answer["accepted"]) == (2, 1)
        shown = edge.run("edge", "status")
        assert shown.exit_code == 1  # not connected
        assert "connected       no" in shown.stdout
        found = json.loads(edge.run("edge", "status", "--json").stdout)
        assert found["spool"]["entries"] == 4
        assert found["spool"]["encrypted"] is True
        assert edge.end() == 0
