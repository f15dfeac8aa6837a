"""A real installation of real processes: edge, gateway, writer, indexer, devices, CLI verbs.

Everything starts by the command line, dies by SIGKILL where a test says so, and is judged by the
sender's receipts and the independent checker. Belongs here: starting, stopping, asking. Does not:
any test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
import pyarrow.parquet as pq
import urllib3

from audit_platform.adapters.directory import DirectorySource
from audit_platform.demo import independent_checker
from audit_platform.errors import LogUnavailable, StoreUnavailable
from audit_platform.operations.closing import close_day
from audit_platform.operations.reconcile import Reconciliation, reconcile
from audit_platform.operations.seal import SealResult, seal_day
from audit_platform.operations.verify import trusted_keys
from audit_platform.ports import Platform, Role
from audit_platform.record import fsck, layout
from audit_platform.record.report import Report
from audit_platform.settings import Settings
from audit_platform.wiring import open_edge_keys, open_platform
from audit_platform_tests.ports import free_port

TENANT: Final = "clif-demo"
HOSPITAL: Final = "h-1"
DAY: Final = "2026-03-01"
GRACE_SECONDS: Final = 1

#: A run of all failures takes most of an hour, and several on a machine that does much else.
LONG_HOURS: Final = 8

#: The services, in the order in which events meet them, and the setting of each one's port.
PORT_OF: Final = {
    "edge-gateway": "AUDIT_EDGE_PORT",
    "ingest-gateway": "AUDIT_INGEST_PORT",
    "archive-writer": "AUDIT_ARCHIVE_PORT",
    "search-indexer": "AUDIT_INDEXER_PORT",
    "query-api": "AUDIT_QUERY_PORT",
    "exporter": "AUDIT_EXPORTER_PORT",
}

#: Second instances of services that share their work; started only by tests that want them.
SECOND: Final = {
    "ingest-gateway-2": "AUDIT_INGEST_PORT",
    "archive-writer-2": "AUDIT_ARCHIVE_PORT",
    "search-indexer-2": "AUDIT_INDEXER_PORT",
}

#: A process on a loaded machine may take this long to start, answer or end.
PATIENCE_SECONDS: Final = 180.0


def wait_for(
    what: str,
    ready: Callable[[], bool],
    seconds: float = PATIENCE_SECONDS,
    *,
    every: float = 0.05,
) -> None:
    """Poll until `ready`; a test that waits in vain fails saying for what."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(every)


@dataclass
class Installation:
    """One folder, its processes, and the two times of day at which they live."""

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    #: `AUDIT_` settings beside our own: the servers that stand behind the ports.
    servers: Mapping[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    #: Real time (ms) at which the day has `LONG_HOURS` left, for all processes alike; 0: each
    #: process starts a minute to midnight.
    began_ms: int = 0

    @classmethod
    def of(cls, folder: Path) -> Installation:
        """An installation that lies in a folder; its services are not running."""
        return cls(folder)

    @classmethod
    def new(
        cls, folder: Path, servers: Mapping[str, str] | None = None, began_ms: int = 0
    ) -> Installation:
        """A fresh one: keys, a tenant, the edge's credential and public key."""
        folder.mkdir(parents=True, exist_ok=True)
        ports = {name: free_port() for name in (*PORT_OF, *SECOND)}
        made = cls(folder, ports, servers or {}, began_ms=began_ms)
        made.devices_home.mkdir()
        if made.servers:
            made.cli("log", "init")
        with made.platform() as opened:
            now = opened.clock.now_ms()
            opened.keys.new("manifest", now)
            opened.metadata.add_tenant(TENANT, now)
            _, secret = opened.metadata.add_api_key(TENANT, Role.EDGE, now)
            public = open_edge_keys(made.settings()).new("edge", now).public_key
            opened.metadata.add_edge_key(TENANT, public, now)
        made.secret_file.write_text(secret)
        return made

    @property
    def devices_home(self) -> Path:
        """The devices' folder, their receipts in it."""
        return self.folder / "devices"

    @property
    def secret_file(self) -> Path:
        """The edge's credential."""
        return self.folder / "api-key"

    @property
    def edge_url(self) -> str:
        """Where the devices find their edge."""
        return f"http://127.0.0.1:{self.ports['edge-gateway']}"

    # ---------------------------------------------------------------------------- environment

    def environment(self, *, after_day: bool = False) -> dict[str, str]:
        """The clock stands before midnight; for the verbs the day and its grace are over."""
        wall, real = layout.day_end_ms(DAY), int(time.time() * 1000)
        if after_day:
            wall += GRACE_SECONDS * 1000 + 1000
        elif self.began_ms:
            wall, real = wall - LONG_HOURS * 3_600_000, self.began_ms
        else:
            wall -= 60_000
        own = {
            "AUDIT_HOME": str(self.folder / "home"),
            "AUDIT_PARTITIONS": "2",
            "AUDIT_CLOCK": f"scaled:{wall}:{real}:1",
            "AUDIT_GRACE_SECONDS": str(GRACE_SECONDS),
            "AUDIT_RANGE_SECONDS": "0.2",
            "AUDIT_POLL_SECONDS": "0.05",
            "AUDIT_EDGE_TENANT": TENANT,
            "AUDIT_EDGE_HOSPITAL": HOSPITAL,
            "AUDIT_EDGE_SECRET_FILE": str(self.secret_file),
            **self.servers,
            **{PORT_OF[name]: str(self.ports[name]) for name in PORT_OF if self.ports},
        }
        if self.ports:
            own["AUDIT_EDGE_UPLINK"] = f"http://127.0.0.1:{self.ports['ingest-gateway']}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AUDIT_")}
        return inherited | own

    def settings(self, *, after_day: bool = False) -> Settings:
        """The same as every process reads them."""
        own = {k: v for k, v in self.environment(after_day=after_day).items() if k[:6] == "AUDIT_"}
        return Settings.from_environment(own)

    @contextmanager
    def platform(self, *, after_day: bool = False) -> Iterator[Platform]:
        """The installation as a process of its own would open it."""
        opened = open_platform(self.settings(after_day=after_day))
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
        self.launch(name, kill_at=kill_at)
        self.wait_until_healthy(name)

    def launch(self, name: str, *, kill_at: str = "", freeze_at: str = "") -> None:
        """Start a service and do not wait; it is to die, or to stand still, at a kill point."""
        extra = {"AUDIT_KILL_AT": kill_at} if kill_at else {}
        extra |= {"AUDIT_FREEZE_AT": freeze_at} if freeze_at else {}
        if name in SECOND:
            extra[SECOND[name]] = str(self.ports[name])
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "audit_platform.cli", name.removesuffix("-2")],
            env=self.environment() | extra,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.running[name] = process

    def wait_until_healthy(self, name: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a service answers, or is dead."""
        process, port = self.running[name], self.ports[name]
        wait_for(
            f"{name} to be healthy", lambda: process.poll() is not None or _healthy(port), seconds
        )

    def died(self, name: str) -> int:
        """Wait for a service to end by itself; its return code (negative: the signal)."""
        process = self.running.pop(name)
        return process.wait(timeout=PATIENCE_SECONDS)

    def stop(self, name: str) -> None:
        """Ask a service to end and wait for it."""
        process = self.running.pop(name)
        process.terminate()
        assert process.wait(timeout=PATIENCE_SECONDS) == 0

    def kill(self, name: str) -> None:
        """End a process as a power switch would end it."""
        process = self.running.pop(name)
        process.kill()
        assert process.wait(timeout=PATIENCE_SECONDS) == -signal.SIGKILL

    def wait_until_frozen(self, name: str) -> None:
        """Wait until a process stands still, by its own doing or another's."""
        stat = Path(f"/proc/{self.running[name].pid}/stat")
        wait_for(f"{name} to freeze", lambda: stat.read_text().rpartition(") ")[2][0] == "T")

    def thaw(self, name: str) -> None:
        """Let a frozen process go on where it stood."""
        self.running[name].send_signal(signal.SIGCONT)

    def start_devices(self, to_ms: int) -> subprocess.Popen[bytes]:
        """Start saying the excerpt's events up to a time of day; all of them are due at once."""
        log = (self.folder / "devices.log").open("ab")
        arguments: Mapping[str, str] = {
            "--tenant": TENANT,
            "--url": self.edge_url,
            "--home": str(self.devices_home),
            "--day": DAY,
            "--to-ms": str(to_ms),
        }
        flat = [part for pair in arguments.items() for part in pair]
        process = subprocess.Popen(
            [sys.executable, "-m", "audit_platform.demo.devices", *flat],
            env=self.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.running["devices"] = process
        return process

    def edge_status(self) -> dict[str, Any]:
        """What the edge says of itself."""
        answer = urllib3.request("GET", f"{self.edge_url}/v1/status", timeout=5.0, retries=False)
        status: dict[str, Any] = answer.json()
        return status

    def wait_for_the_edge(self) -> None:
        """Wait until the platform has archived all that the edge holds."""
        wait_for("the edge to have nothing unarchived", self._is_edge_empty)

    def _is_edge_empty(self) -> bool:
        try:
            status = self.edge_status()
        except urllib3.exceptions.HTTPError:
            return False
        uplink = status["uplink"]
        return not (uplink["backlogEntries"] or uplink["unarchivedRecords"])

    def wait_for_the_archive(self) -> None:
        """Wait until the writer has archived everything that is in the log."""
        with self.platform() as opened:
            wait_for("the archive to hold all", lambda: _is_archived(opened))

    def wait_for_the_index(self) -> None:
        """Wait until the indexer's group has committed everything that is in the log."""
        with self.platform() as opened:
            wait_for("the index to hold all", lambda: _is_indexed(opened))

    def start_sealing_worker(self) -> subprocess.Popen[bytes]:
        """Have Dagster seal the day in a process of its own, as a run worker does."""
        log = (self.folder / "dagster.log").open("ab")
        home = self.settings().dagster_folder
        environment = self.environment(after_day=True) | {"DAGSTER_HOME": str(home)}
        if not home.exists():
            home.mkdir(parents=True)
            known = f"dagster.DagsterInstance.get().add_dynamic_partitions('tenant', ['{TENANT}'])"
            command = [sys.executable, "-c", f"import dagster; {known}"]
            subprocess.run(command, env=environment, check=True, stdout=log, stderr=log)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster", "asset", "materialize"),
                *("-m", "audit_platform.definitions"),
                *("--select", "cold_day,cold_manifest", "--partition", f"{DAY}|{TENANT}"),
            ],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        return process

    # ------------------------------------------------------------------------------ judgement

    def objects(self) -> Path:
        """A folder with the oldest version of every object, as an outsider would be handed it."""
        if not self.servers:
            return self.folder / "home" / "objects"
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy_bucket(self.settings(), copy)
        return copy

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
            report = fsck.check(DirectorySource(self.objects()), trusted_keys(opened))
            reconciled = reconcile(opened)
        assert report.exit_code == 0, report.findings
        assert reconciled.ok
        assert (reconciled.unaccounted, reconciled.lost, reconciled.doubled) == (0, 0, 0)
        return Judgement(sealed, report, reconciled, self._check_receipts())

    def sealed_hashes(self) -> set[bytes]:
        """The eventHashes of all sealed rows of the tenant, read from the objects themselves."""
        found: set[bytes] = set()
        for file in (self.objects() / "cold").rglob("part-*.parquet"):
            column = pq.ParquetFile(file).read(columns=["event_hash"])["event_hash"]
            found |= set(column.to_pylist())
        return found

    def _check_receipts(self) -> dict[str, Any]:
        """The independent checker's verdict on the sender's own receipts."""
        checked = subprocess.run(
            [
                sys.executable,
                "-I",
                str(Path(independent_checker.__file__)),
                "--objects",
                str(self.objects()),
                "--receipts",
                str(self.devices_home / "receipts.ndjson"),
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
    try:
        found = reconcile(opened)
    except (LogUnavailable, StoreUnavailable):  # a busy machine; `wait_for` has its own limit
        return False
    return found.events > 0 and found.pending == 0


def _is_indexed(opened: Platform) -> bool:
    try:
        known = opened.log.committed(layout.INDEXER_GROUP, layout.EVENTS_TOPIC)
        partitions = opened.log.describe(layout.EVENTS_TOPIC).partitions
        ends = [opened.log.bounds(layout.EVENTS_TOPIC, p)[1] for p in range(partitions)]
    except LogUnavailable:
        return False
    return all(known.get(p, 0) == end for p, end in enumerate(ends))


def _healthy(port: int) -> bool:
    try:
        answer = urllib3.request(
            "GET", f"http://127.0.0.1:{port}/healthz", timeout=2.0, retries=False
        )
    except urllib3.exceptions.HTTPError:
        return False
    return answer.status == 200


def copy_bucket(settings: Settings, folder: Path) -> None:
    """Every key's oldest version as a file, by the vendor's client alone."""
    client: Any = boto3.client(
        "s3",
        endpoint_url=settings.s3,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key,
        region_name="us-east-1",
        verify=None if settings.ca_file is None else str(settings.ca_file),
    )
    oldest: dict[str, str] = {}  # a key's versions are listed newest first
    for page in client.get_paginator("list_object_versions").paginate(Bucket=settings.s3_bucket):
        oldest |= {v["Key"]: v["VersionId"] for v in page.get("Versions", [])}
    assert oldest, "nothing is in the bucket"
    for key, version in oldest.items():
        body = client.get_object(Bucket=settings.s3_bucket, Key=key, VersionId=version)["Body"]
        file = folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body.read())
    client.close()


@contextmanager
def installation(
    folder: Path, servers: Mapping[str, str] | None = None, began_ms: int = 0
) -> Iterator[Installation]:
    """A new installation; whatever still runs at the end is killed."""
    made = Installation.new(folder, servers, began_ms)
    try:
        yield made
    finally:
        for process in made.running.values():
            process.kill()
            process.wait()
