"""Kafka's programs in the cache, and the files that a node is started with.

Belongs here: fetching by the pom beside this file, the text of configuration files. Does not: which
nodes there are and what is asked of them (`kafka.py`).
Source: Kafka 4.3 documentation, "Broker Configs" and "KRaft"; issue "The same path on the real
servers".
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack.model import Tell

VERSION: Final = "4.3.1"

#: What copies the pom's jars: pinned as they are.
_COPY_GOAL: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

#: From an empty cache it takes 25 s on two busy cores; a registry may be slow.
_FETCH_SECONDS: Final = 900

#: How much of a program's last words is shown.
_LAST_WORDS: Final = 600

_BESIDE: Final = Path(__file__).parent
_POM: Final = _BESIDE / "kafka.pom.xml"
_SUMS: Final = _BESIDE / "kafka.sha256"

AGENT_JAR: Final = "jmx_prometheus_javaagent-1.0.1.jar"


def jars(cache: Path) -> Path:
    """Where the jars are."""
    return cache / f"kafka-{VERSION}"


def fetch(cache: Path, tell: Tell) -> None:
    """Have all jars in the cache, each with its SHA-256. Raises `StackError`."""
    if jars(cache).is_dir():  # it came there whole
        return
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"kafka-{VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if jars(cache).is_dir():  # another process was quicker
            return
        tell(f"kafka: fetching {VERSION} (57 MB)")
        with tempfile.TemporaryDirectory(dir=cache, prefix=".kafka-") as draft:
            copied = Path(draft) / "jars"
            _copy_jars(Path(draft), copied)
            check_jars(copied)
            copied.rename(jars(cache))
        tell(f"kafka: {VERSION} is there")


def _copy_jars(draft: Path, into: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise StackError(
            "Kafka comes by Maven, and there is no mvn", remedy="apt-get install maven"
        )
    shutil.copy(_POM, draft / "pom.xml")
    run(
        (
            *(maven, "--batch-mode", "--quiet", "--file", str(draft / "pom.xml"), _COPY_GOAL),
            *("-DincludeScope=runtime", f"-DoutputDirectory={into}"),
        ),
        _FETCH_SECONDS,
        "fetching Kafka's jars",
        "look at the network and at Maven's own settings, then try again",
    )


def check_jars(folder: Path) -> None:
    """Compare a folder with the committed list. Raises `StackError` at the first difference."""
    wanted = {
        name: digest
        for digest, _, name in (line.partition("  ") for line in _SUMS.read_text().splitlines())
    }
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise StackError(
                f"kafka: {name}: SHA-256 {found.get(name, 'missing')}, "
                f"wanted {wanted.get(name, 'no such file')}",
                remedy="the registry gave something else than what was checked: do not use it",
            )


def run(argv: tuple[str, ...], seconds: float, doing: str, remedy: str) -> None:
    """Run a program to its end. Raises `StackError` with its last words."""
    try:
        ended = subprocess.run(  # noqa: S603 - our own words
            argv, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as e:
        raise StackError(f"{doing} took more than {seconds:.0f} s", remedy=remedy) from e
    if ended.returncode:
        said = (ended.stdout + ended.stderr).strip()[-_LAST_WORDS:]
        raise StackError(f"{doing} failed: {said}", remedy=remedy)


def properties(of: Mapping[str, object]) -> str:
    """A properties file."""
    return "".join(f"{name}={value}\n" for name, value in of.items())


#: For every node. Memory: the log cleaner's and the threads' defaults take 130 MiB more a node.
#: A record of ours is up to 1 MiB and some headers; a killed broker is to be seen in 3 s, not 9.
COMMON: Final[Mapping[str, object]] = {
    "log.cleaner.dedupe.buffer.size": 4194304,
    "log.cleaner.io.buffer.size": 65536,
    "num.network.threads": 2,
    "num.io.threads": 3,
    "background.threads": 2,
    "offsets.topic.num.partitions": 8,
    "transaction.state.log.num.partitions": 4,
    "group.initial.rebalance.delay.ms": 0,
    # Below 6 s a client may not ask for; the classic protocol's members ask for 8 s.
    "group.min.session.timeout.ms": 1000,
    "auto.create.topics.enable": "false",
    "unclean.leader.election.enable": "false",
    "message.max.bytes": 2097152,
    "replica.fetch.max.bytes": 2097152,
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
}


def replication(copies: int, in_sync: int) -> dict[str, object]:
    """How often Kafka keeps our topics and its own."""
    of_kafka = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        **{f"{name}.replication.factor": copies for name in of_kafka},
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


#: To standard output, which becomes the node's log. A node without a quorum would write 5,000
#: lines a minute: what is not an error passes 5 a second at most.
LOG_SETTINGS: Final = """\
<Configuration status="ERROR">
  <Appenders>
    <Console name="out">
      <PatternLayout pattern="%d{ISO8601} %p %c{1}: %m%n"/>
      <BurstFilter level="WARN" rate="5" maxBurst="200"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="kafka" level="INFO"/>
    <Logger name="org.apache.kafka" level="WARN"/>
    <Root level="WARN"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"""

#: What the metrics agent tells of the JVM's beans: only what alerts and dashboards ask for, so that
#: a scrape takes milliseconds.
METRICS_SETTINGS: Final = """\
lowercaseOutputName: true
includeObjectNames:
  - kafka.server:type=ReplicaManager,name=UnderReplicatedPartitions
  - kafka.server:type=ReplicaManager,name=UnderMinIsrPartitionCount
  - kafka.server:type=BrokerTopicMetrics,name=BytesInPerSec
  - kafka.server:type=BrokerTopicMetrics,name=BytesOutPerSec
  - kafka.server:type=BrokerTopicMetrics,name=MessagesInPerSec
  - kafka.server:type=raft-metrics
  - kafka.controller:type=KafkaController,name=ActiveControllerCount
  - kafka.controller:type=KafkaController,name=OfflinePartitionsCount
  - kafka.controller:type=KafkaController,name=ActiveBrokerCount
  - kafka.controller:type=ControllerStats,name=UncleanLeaderElectionsPerSec
  - kafka.log:type=LogManager,name=OfflineLogDirectoryCount
  - kafka.network:type=RequestMetrics,name=ErrorsPerSec,*
rules:
  - pattern: kafka.network<type=RequestMetrics, name=ErrorsPerSec, request=(.+), error=(.+)><>Count
    name: kafka_network_request_errors_total
    type: COUNTER
    labels: {request: "$1", error: "$2"}
  - pattern: kafka.(\\w+)<type=(.+), name=(.+)PerSec><>Count
    name: kafka_$1_$2_$3_total
    type: COUNTER
  - pattern: kafka.(\\w+)<type=(.+), name=(.+)><>Value
    name: kafka_$1_$2_$3
    type: GAUGE
  - pattern: kafka.server<type=raft-metrics><>current-(leader|epoch)
    name: kafka_raft_current_$1
    type: GAUGE
"""
