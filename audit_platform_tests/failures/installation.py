"""A real installation of real processes: gateway, writer, feeder and CLI verbs, each its own.

Everything starts by the command line, dies by SIGKILL where a test says so, and is judged by the
sender's receipts and the independent checker. Belongs here: starting, stopping, asking. Does not:
any test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import urllib3

from audit_platform.adapters.directory import DirectorySource
from audit_platform.demo import independent_checker
from audit_platform.demo.edge_state import edge_key
from audit_platform.operations.closing import close_day
from audit_platform.operations.reconcile import Reconciliation, reconcile
from audit_platform.operations.seal import SealResult, seal_day
from audit_platform.operations.verify import trusted_keys
from audit_platform.ports import Platform, Role
from audit_platform.record import fsck, layout, signing
from audit_platform.record.report import Report
from audit_platform.settings import Settings
from audit_platform.wiring import open_platform
from audit_platform_tests.ports import free_port

TENANT: Final = "clif-demo"
DAY: Final = "2026-03-01"
GRACE_SECONDS: Final = 1

#: A process on a loaded machine may take this long to start, answer or end.
PATIENCE_SECONDS: Final = 60.0


def wait_for(what: str, ready: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Poll until `ready`; a test that waits in vain fails saying for what."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


@dataclass
class Installation:
    """One folder, its processes, and the two times of day at which they live."""

    folder: Path
    ports: tuple[int, int] = (8501, 8502)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Installation:
        """An installation that lies in a folder; its services are not running."""
        return cls(folder)

    @classmethod
    def new(cls, folder: Path) -> Installation:
        """A fresh one: keys, a tenant, the edge's credential and public key."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder, (free_port(), free_port()))
        made.edge_home.mkdir()
        with made.platform() as opened:
            now = opened.clock.now_ms()
            opened.keys.new("manifest", now)
            opened.metadata.add_tenant(TENANT, now)
            _, secret = opened.metadata.add_api_key(TENANT, Role.EDGE, now)
            public = signing.public_bytes(edge_key(made.edge_home))
            opened.metadata.add_edge_key(TENANT, public, now)
        made.secret_file.write_text(secret)
        return made

    @property
    def edge_home(self) -> Path:
        """The feeder's folder, its receipts in it."""
        return self.folder / "edge"

    @property
    def secret_file(self) -> Path:
        """The edge's credential."""
        return self.folder / "api-key"

    # ---------------------------------------------------------------------------- environment

    def environment(self, *, after_day: bool = False) -> dict[str, str]:
        """All day long it is a minute to midnight; for the verbs the day and its grace are over."""
        end = layout.day_end_ms(DAY)
        wall = end + GRACE_SECONDS * 1000 + 1000 if after_day else end - 60_000
        own = {
            "AUDIT_HOME": str(self.folder / "home"),
            "AUDIT_PARTITIONS": "2",
            "AUDIT_CLOCK": f"scaled:{wall}:{int(time.time() * 1000)}:1",
            "AUDIT_GRACE_SECONDS": str(GRACE_SECONDS),
            "AUDIT_RANGE_SECONDS": "0.2",
            "AUDIT_POLL_SECONDS": "0.05",
            "AUDIT_INGEST_PORT": str(self.ports[0]),
            "AUDIT_ARCHIVE_PORT": str(self.ports[1]),
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AUDIT_")}
        return inherited | own

    @contextmanager
    def platform(self, *, after_day: bool = False) -> Iterator[Platform]:
        """The installation as a process of its own would open it."""
        own = {k: v for k, v in self.environment(after_day=after_day).items() if k[:6] == "AUDIT_"}
        opened = open_platform(Settings.from_environment(own))
        try:
            yield opened
        finally:
            opened.close()

    # -------------------------------------------------------------------------------- commands

    def cli(
        self, *arguments: str, after_day: bool = False, expect: Sequence[int] = (0,), **more: str
    ) -> str:
        """Run a verb to its end, with more in its environment; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "audit_platform.cli", *arguments],
            env=self.environment(after_day=after_day) | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS * 2,
        )
        assert done.returncode in expect, f"{arguments}: {done.returncode}\n{done.stderr}"
        return done.stdout

    # -------------------------------------------------------------------------------- services

    def start(self, name: str, *, kill_at: str = "") -> None:
        """Start a service and wait until it is healthy (or dead, when it is to die early)."""
        extra = {"AUDIT_KILL_AT": kill_at} if kill_at else {}
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "audit_platform.cli", name],
            env=self.environment() | extra,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.running[name] = process
        port = self.ports[0] if name == "ingest-gateway" else self.ports[1]
        wait_for(f"{name} to be healthy", lambda: process.poll() is not None or _healthy(port))

    def died(self, name: str) -> int:
        """Wait for a service to end by itself; its return code (negative: the signal)."""
        process = self.running.pop(name)
        return process.wait(timeout=PATIENCE_SECONDS)

    def stop(self, name: str) -> None:
        """Ask a service to end and wait for it."""
        process = self.running.pop(name)
        process.terminate()
        assert process.wait(timeout=PATIENCE_SECONDS) == 0

    def start_feeder(self, to_ms: int) -> subprocess.Popen[bytes]:
        """Start sending the excerpt's events up to a time of day; all of them are due at once."""
        log = (self.folder / "feeder.log").open("ab")
        arguments: Mapping[str, str] = {
            "--tenant": TENANT,
            "--url": f"http://127.0.0.1:{self.ports[0]}",
            "--api-key-file": str(self.secret_file),
            "--home": str(self.edge_home),
            "--day": DAY,
            "--to-ms": str(to_ms),
        }
        flat = [part for pair in arguments.items() for part in pair]
        process = subprocess.Popen(
            [sys.executable, "-m", "audit_platform.demo.feeder", *flat],
            env=self.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.running["feeder"] = process
        return process

    def wait_for_the_archive(self) -> None:
        """Wait until the writer has archived everything that is in the log."""
        with self.platform() as opened:
            wait_for("the archive to hold all", lambda: _is_archived(opened))

    # ------------------------------------------------------------------------------ judgement

    def finish_and_judge(self) -> Judgement:
        """Close, seal, and hold everything that was acknowledged against what is sealed."""
        self.wait_for_the_archive()
        self.stop("archive-writer")
        return self.seal_and_judge()

    def seal_and_judge(self) -> Judgement:
        """As `finish_and_judge`, when all is archived and no service runs."""
        with self.platform(after_day=True) as opened:
            close_day(opened, DAY, GRACE_SECONDS * 1000)
            sealed = seal_day(opened, TENANT, DAY)
            report = fsck.check(
                DirectorySource(self.folder / "home" / "objects"), trusted_keys(opened)
            )
            reconciled = reconcile(opened)
        assert report.exit_code == 0, report.findings
        assert reconciled.ok
        assert (reconciled.unaccounted, reconciled.lost, reconciled.doubled) == (0, 0, 0)
        return Judgement(sealed, report, reconciled, self._check_receipts())

    def _check_receipts(self) -> dict[str, Any]:
        """The independent checker's verdict on the sender's own receipts."""
        checked = subprocess.run(
            [
                sys.executable,
                "-I",
                str(Path(independent_checker.__file__)),
                "--objects",
                str(self.folder / "home" / "objects"),
                "--receipts",
                str(self.edge_home / "receipts.ndjson"),
                "--json",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS * 2,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        verdict: dict[str, Any] = json.loads(checked.stdout)
        assert verdict["acknowledged"] > 0
        return verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was sealed, and what four judges said of it."""

    sealed: SealResult
    report: Report
    reconciled: Reconciliation
    receipts: dict[str, Any]


def _is_archived(opened: Platform) -> bool:
    found = reconcile(opened)
    return found.events > 0 and found.pending == 0


def _healthy(port: int) -> bool:
    try:
        answer = urllib3.request(
            "GET", f"http://127.0.0.1:{port}/healthz", timeout=2.0, retries=False
        )
    except urllib3.exceptions.HTTPError:
        return False
    return answer.status == 200


@contextmanager
def installation(folder: Path) -> Iterator[Installation]:
    """A new installation; whatever still runs at the end is killed."""
    made = Installation.new(folder)
    try:
        yield made
    finally:
        for process in made.running.values():
            process.kill()
            process.wait()
