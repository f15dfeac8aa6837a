"""The full stack for failure tests: clusters, alerts, our services twice, and load all the time.

One set of servers and one installation on it serve all tests of a run, one test after the other. A
test asserts the shape, breaks something, sees that it broke, sees the alert fire and clear. When
the last has ended, what was acknowledged in all of them is judged by the sender's receipts.
Belongs here: bringing that up, faults, alerts, the load. Does not: any test.

These tests run by themselves (`-m full_stack`, one process): two at once would each see the
other's load as a fault.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import urllib3

from audit_platform.adapters.clock import parse_clock
from audit_platform.metrics.ingest import INGEST_ACCEPTED
from audit_platform.stack import children, registry, supervision, volumes, webhook
from audit_platform.stack.model import HOST, Place, Server
from audit_platform.stack.prometheus import RULES, own_rules, reload_rules, watch_services
from audit_platform.stack.toxiproxy import FaultProxy
from audit_platform_tests.failures.installation import (
    PORT_OF,
    SECOND,
    TENANT,
    Installation,
    Judgement,
    installation,
    wait_for,
)
from audit_platform_tests.failures.on_servers import own_names
from audit_platform_tests.failures.questions import PATIENT, Investigator
from audit_platform_tests.failures.results import Trial
from audit_platform_tests.servers import free_base
from audit_platform_tests.soak.load import Load

#: What runs: services with their second instances, in the order in which events meet them.
RUNNING: Final = (
    "edge-gateway",
    "ingest-gateway",
    "archive-writer",
    "archive-writer-2",
    "search-indexer",
    "search-indexer-2",
    "exporter",
    "query-api",
)

#: Seven programs at once, beside 24 servers that have just started.
START_SECONDS: Final = 240.0

#: Seconds of load before a fault and after its recovery. The mission's 30 s, scaled for CI.
STEADY_SECONDS: Final = 8.0

#: Events a second of the load: below half of what two cores sustain with all servers beside it.
RATE: Final = 400.0

#: A range a minute, scaled; more often means thousands of objects to read at the end of a test.
RANGE_SECONDS: Final = "2"

#: An alert is at the webhook within scrape, evaluation and grouping: about 5 s when calm.
ALERT_SECONDS: Final = 180.0

UP_SECONDS: Final = 400

#: Between two looks at what costs a question to a server: the machine has other work to do.
LOOK_SECONDS: Final = 0.5

#: For one HTTP question to a service or to Prometheus; a machine may be loaded many times over.
ASK_SECONDS: Final = 30.0

#: MiB of the data volumes of servers whose disks are filled by a test.
VOLUMES: Final = {"kafka-3": 256, "minio-6": 512, **{f"opensearch-{n}": 512 for n in (1, 2, 3)}}


@dataclass
class Servers:
    """The servers of a run: where they are, and what is broken about them now."""

    place: Place
    chosen: list[Server]
    settings: dict[str, str]
    proxy: FaultProxy

    def kill(self, name: str) -> None:
        """SIGKILL; on return it does not run."""
        supervision.kill(self.place.home, name)

    def freeze(self, name: str) -> None:
        """SIGSTOP; on return it stands still."""
        supervision.freeze(self.place.home, name)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        supervision.thaw(self.place.home, name)

    def fill(self, name: str) -> None:
        """Leave no free byte on a server's bounded volume."""
        volumes.fill(self.place.folder(name))

    def empty(self, name: str) -> None:
        """Give a filled volume its size back."""
        volumes.empty(self.place.folder(name), VOLUMES[name])

    def lose_data(self, name: str) -> None:
        """A server that does not run has an empty disk from now on."""
        for path in self.place.folder(name).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def start(self, *names: str) -> None:
        """Those named (all, without a name) run again, where they do not, and answer."""
        up(self.place, [s for s in self.chosen if not names or s.name in names])

    def running(self, *asked: str) -> dict[str, str]:
        """Server -> state; whether it can work is asked of those named, of all without a name."""
        by_name = {s.name: s for s in self.chosen if not asked or s.name in asked}
        return {s.name: s.state for s in supervision.status(self.place.home, by_name, self.place)}

    def metric(self, expression: str) -> float | None:
        """The value of a PromQL expression now; None when there is no series."""
        answer = urllib3.request(
            "GET",
            f"http://{self.place.address('prometheus')}/api/v1/query",
            fields={"query": expression},
            timeout=ASK_SECONDS,
            retries=False,
        )
        found: list[Any] = answer.json()["data"]["result"]
        return float(found[0]["value"][1]) if found else None

    def wait_for_metric(self, expression: str, seconds: float = ALERT_SECONDS) -> None:
        """Wait until an expression has a series (a comparison keeps those that hold)."""
        wait_for(
            expression, lambda: self.metric(expression) is not None, seconds, every=LOOK_SECONDS
        )

    def now(self) -> int:
        """This moment, as `alerts` counts it: how many notifications have come."""
        return len(webhook.notifications(self.place))

    def alerts(self, name: str, since: int) -> list[str]:
        """Statuses that the webhook received of an alert since a moment, oldest first."""
        found = []
        for sent in webhook.notifications(self.place)[since:]:
            of_name = (a for a in sent["alerts"] if a["labels"]["alertname"] == name)
            found += [a["status"] for a in of_name]
        return found

    def wait_for_alert(
        self, name: str, status: str, since: int, seconds: float = ALERT_SECONDS
    ) -> float:
        """Wait for `firing` or `resolved`; seconds that it took."""
        begun = time.monotonic()

        def has_come() -> bool:
            found = self.alerts(name, since)
            # An end without a beginning is that of an earlier failure.
            return "firing" in found and status in found[found.index("firing") :]

        wait_for(f"{name} {status}", has_come, seconds, every=LOOK_SECONDS)
        return time.monotonic() - begun


def up(place: Place, chosen: Sequence[Server]) -> None:
    """Have them answer. They live no longer than this process."""
    me = children.identify(os.getpid())
    assert me is not None
    bounded = {s.name: VOLUMES[s.name] for s in chosen if s.name in VOLUMES}
    supervision.up(
        place, chosen, tell=lambda _: None, bounded=bounded, owner=me, seconds=UP_SECONDS
    )


@contextmanager
def full_stack(*names: str) -> Iterator[Servers]:
    """Servers of the full stack (all, without names), answering; gone with their data at last."""
    home = Path(tempfile.mkdtemp(prefix="audit-lab-"))
    home.chmod(0o755)  # servers that step down from root must get in
    with ExitStack() as opened:
        opened.callback(shutil.rmtree, home, ignore_errors=True)
        place = Place(home, registry.default_cache(), opened.enter_context(free_base()), "full")
        chosen = registry.choose(registry.servers("full"), names, "full")
        opened.callback(supervision.wipe, home, tell=lambda _: None)
        up(place, chosen)
        yield Servers(place, chosen, registry.settings(place, chosen), FaultProxy(place))


@contextmanager
def scaled(servers: Servers, alert: str, figures: Mapping[str, str]) -> Iterator[None]:
    """The rule of an alert a second time, with some words of its text replaced."""
    rules = "\n\n".join(path.read_text() for path in sorted(RULES.glob("*.yml")))
    (rule,) = [text for text in rules.split("\n\n") if f"- alert: {alert}\n" in text]
    rule = rule[rule.index("      - alert:") :]
    for wanted, smaller in figures.items():
        assert wanted in rule, f"{alert} has no {wanted!r}"
        rule = rule.replace(wanted, smaller)
    file = own_rules(servers.place) / f"{alert}.yml"
    file.write_text(f"groups:\n  - name: scaled\n    rules:\n{rule}\n")
    reload_rules(servers.place)
    try:
        yield
    finally:
        file.unlink()
        reload_rules(servers.place)


@dataclass
class Lab:
    """One installation under load on the servers."""

    servers: Servers
    made: Installation
    load: Load
    investigator: Investigator
    #: Failures that ended well so far; what was acknowledged in them is judged at the end.
    passed: list[Trial] = field(default_factory=list)

    def steady(self, seconds: float = STEADY_SECONDS) -> None:
        """Let the load run; it must go through, or the shape is not what the test needs."""
        before = self.load.acknowledged
        time.sleep(seconds)
        assert self.load.acknowledged > before, "no event was taken while nothing was broken"

    def progress(self, seconds: float) -> int:
        """Events acknowledged within a time."""
        before = self.load.acknowledged
        time.sleep(seconds)
        return self.load.acknowledged - before

    def ingested(self) -> float:
        """Events that ingest has acknowledged: what the edge's spool took is not among them."""
        return self.counted("ingest-gateway", INGEST_ACCEPTED.name)

    def counted(self, service: str, series: str) -> float:
        """A service's own metric, summed over the series that begin with these words."""
        lines = self.metrics(service)
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

    def metrics(self, service: str) -> list[str]:
        """What a service tells of itself now, line by line."""
        url = f"http://{HOST}:{self.made.ports[service]}/metrics"
        answer = urllib3.request("GET", url, timeout=ASK_SECONDS, retries=False)
        return answer.data.decode().splitlines()

    def post(self, body: bytes) -> urllib3.BaseHTTPResponse:
        """Send ingest a body as the edge does, once; its answer."""
        return urllib3.request(
            "POST",
            f"http://{HOST}:{self.made.ports['ingest-gateway']}/v1/events",
            body=body,
            headers={
                "authorization": f"Bearer {self.made.secret_file.read_text()}",
                "content-type": "application/x-ndjson",
            },
            timeout=30.0,
            retries=False,
        )

    def is_edge_level(self) -> bool:
        """Whether the edge has sent all but what devices said in the last two seconds."""
        backlog: int = self.made.edge_status()["uplink"]["backlogEvents"]
        return backlog <= 2 * RATE

    def seconds_until_it_goes_on(self) -> float:
        """Wait until ingest has taken two seconds' worth of new events; how long that took."""
        begun, wanted = time.monotonic(), self.ingested() + 2 * RATE
        wait_for(
            "ingest to go on", lambda: self.ingested() >= wanted, ALERT_SECONDS, every=LOOK_SECONDS
        )
        return time.monotonic() - begun

    def waits_for(self, name: str) -> str:
        """What a consumer of the log says it waits for; "" when all goes on."""
        url = f"http://{HOST}:{self.made.ports[name]}/healthz"
        said = urllib3.request("GET", url, timeout=ASK_SECONDS, retries=False).json()
        return str(said["waitingFor"] or said.get("waiting") or "")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No event is said inside; then the devices go on where they were."""
        self.load.stop()
        yield
        self.load.start()

    def ended_well(self, *trials: Trial) -> None:
        """After a failure: events go on for a while, and the edge has nothing left over."""
        self.steady()
        wait_for("the edge to be level", self.is_edge_level, ALERT_SECONDS, every=LOOK_SECONDS)
        self.passed += trials

    def repair(self) -> None:
        """A test that failed half way must not have broken the next one's servers and services."""
        self.servers.proxy.heal_all()
        for name in VOLUMES:
            self.servers.empty(name)
        for name, state in self.servers.running().items():
            if state == "frozen":
                self.servers.thaw(name)
        self.servers.start()
        for name in self.made.running:
            self.made.thaw(name)
        for name in RUNNING:
            if name not in self.made.running:
                self.made.launch(name)
        for name in RUNNING:
            self.made.wait_until_healthy(name, START_SECONDS)
        if self.load.failure:
            raise AssertionError(self.load.failure)

    def finish(self) -> Judgement:
        """End the load, let everything arrive, seal, and judge by the sender's own receipts."""
        self.load.stop()
        self.made.wait_for_the_edge()
        for name in ("edge-gateway", "ingest-gateway"):
            self.made.stop(name)
        self.made.wait_for_the_archive()
        self.made.wait_for_the_index()
        for name in RUNNING:
            if name in self.made.running:
                self.made.stop(name)
        judged = self.made.seal_and_judge()
        assert judged.receipts["clean"], judged.receipts
        assert judged.sealed.rows >= self.load.acknowledged > 0
        return judged


@contextmanager
def under_load(servers: Servers, folder: Path, store: str) -> Iterator[Lab]:
    """A new installation on the servers, its services running twice, events coming in."""
    with (
        own_names(servers.place, servers.settings, store) as own,
        installation(
            folder,
            {**own, "AUDIT_RANGE_SECONDS": RANGE_SECONDS, **PATIENT},
            int(time.time() * 1000),
        ) as made,
    ):
        for name in RUNNING:
            made.launch(name)
        for name in RUNNING:
            made.wait_until_healthy(name, START_SECONDS)
        ports = {**PORT_OF, **SECOND}
        watch_services(
            servers.place,
            {
                job: [f"{HOST}:{made.ports[n]}" for n in RUNNING if n.removesuffix("-2") == job]
                for job in dict.fromkeys(n.removesuffix("-2") for n in ports)
            },
        )
        now_ms: Callable[[], int] = parse_clock(made.settings().clock).now_ms
        receipts = made.devices_home / "receipts.ndjson"
        load = Load(TENANT, made.edge_url, receipts, now_ms, RATE)
        lab = Lab(servers, made, load, Investigator.at(made))
        load.start()
        try:
            yield lab
        finally:
            load.abandon()
