"""What a document costs OpenSearch, by mapping: CPU of the server, bytes on disk; and our own side.

Starts a node of its own, without the option that makes it start quickly and run slowly. Each round
loads the same rows into a fresh index in every way that is compared, in another order each time;
CPU time is that of the whole server, from the first request until it has refreshed and merged.
Run: `python -m benchmarks.opensearch_mapping [events [rounds]]`. Target: at most 0.75 of the plain
dynamic mapping's CPU a document.
"""

from __future__ import annotations

import http.client
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa

from audit_platform.adapters.opensearch import documents
from audit_platform.adapters.opensearch.hot import OpenSearchHot
from audit_platform.adapters.opensearch.template import MAPPING, SETTINGS
from audit_platform.operations.log_events import log_events
from audit_platform.ports import EventQuery, LogRecord
from audit_platform.record.event import format_time_ms, stored_line
from audit_platform.record.layout import EVENTS_TOPIC, MS_PER_DAY, day_start_ms
from audit_platform.stack import children, registry
from audit_platform.stack.model import HOST, Place
from audit_platform.stack.opensearch import servers
from audit_platform.stack.opensearch_programs import QUICK_START
from benchmarks.archive import headers_of
from benchmarks.refs import measure_ref
from benchmarks.rows import DAY, cached

EVENTS = 30_000
ROUNDS = 3
BASE_PORT = 25_200
INDEX = "/measured"
SEARCHES = 10
TICKS = 100  # of /proc's CPU times, a second

Document = dict[str, Any]
Same: Final[Callable[[Document], Document]] = lambda document: document  # noqa: E731 - a default


@dataclass(frozen=True)
class Way:
    """One way to index: the mapping, the settings, what becomes of our document, request size."""

    name: str
    mapping: dict[str, Any]
    settings: dict[str, Any]
    change: Callable[[Document], Document] | None = Same
    rows: int = documents.BULK_ROWS


def _field(name: str, said: dict[str, Any] | None) -> dict[str, Any]:
    """Our mapping with one field changed, or without it."""
    properties = {k: v for k, v in MAPPING["properties"].items() if k != name}
    return MAPPING | {"properties": properties | ({} if said is None else {name: said})}


def _with(**settings: Any) -> dict[str, Any]:
    return SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}


def _without_hash(document: Document) -> Document:
    return {k: v for k, v in document.items() if k not in {"hash_1", "hash_2"}}


def _with_envelope(document: Document) -> Document:
    names = ("hospital_id", "device_id", "chain_id", "event_type", "event_id", "schema_ref")
    said = " ".join(document[name] for name in (*names, "criticality"))
    return document | {"words": said}


def ways() -> list[Way]:
    """What is compared; the first is the measure of all."""
    kept = {"type": "keyword", "index": False, "doc_values": False}
    number = {"type": "long", "index": False}
    short = {name: chr(ord("a") + n) for n, name in enumerate(MAPPING["properties"])}
    pattern: dict[str, Any] = orjson.loads(orjson.dumps(SETTINGS["analysis"]))
    pattern["tokenizer"]["words"] = {"type": "simple_pattern", "pattern": "[a-zA-Z0-9]+"}
    times = MAPPING | {
        "properties": MAPPING["properties"] | {"ingestion_time": number, "event_time": number}
    }
    labels = dict.fromkeys(("chain_id", "schema_ref", "event_id"), kept)
    envelope = MAPPING | {"properties": MAPPING["properties"] | labels}
    renamed = MAPPING | {"properties": {short[k]: v for k, v in MAPPING["properties"].items()}}
    no_hash = MAPPING | {"properties": _without_hash(MAPPING["properties"])}
    ours = Way("ours", MAPPING, SETTINGS)
    return [
        Way("plain dynamic mapping of the event", {"dynamic": True}, {}, None),
        Way("dynamic mapping, payload as text", {"dynamic": True}, {}),
        ours,
        replace(ours, name="refreshed every second", settings=_with(refresh_interval="1s")),
        replace(ours, name="requests of 1,000 rows", rows=1000),
        replace(ours, name="requests of 20,000 rows", rows=20_000),
        replace(ours, name="best_compression", settings=_with(codec="best_compression")),
        replace(ours, name="translog not synced", settings=_with(translog__durability="async")),
        replace(ours, name="tokenizer simple_pattern", settings=_with(analysis=pattern)),
        replace(ours, name="envelope as words too", mapping=envelope, change=_with_envelope),
        replace(ours, name="times without trees", mapping=times),
        replace(ours, name="event id not indexed", mapping=_field("event_id", kept)),
        replace(ours, name="without numbers of the hash", mapping=no_hash, change=_without_hash),
        replace(
            ours,
            name="field names of one letter",
            mapping=renamed,
            change=lambda document: {short[k]: v for k, v in document.items()},
        ),
        replace(ours, name="payload not indexed (floor)", mapping=_field("payload", kept)),
        replace(ours, name="no _source (floor)", mapping=MAPPING | {"_source": {"enabled": False}}),
    ]


# -------------------------------------------------------------------------------------------- rows


def rows_and_lines(count: int) -> tuple[pa.RecordBatch, list[bytes]]:
    """The benchmark's rows as columns and as stored lines, tenants mixed."""
    batches: list[pa.RecordBatch] = []
    lines: list[bytes] = []
    start = day_start_ms(DAY)
    for n, body in enumerate(cached(count).bodies()):
        time_text = format_time_ms(start + n * 5).encode()
        some = [stored_line(line, time_text) + b"\n" for line in body.ndjson.splitlines()]
        headers = headers_of(body.tenant_id, len(some))
        record = LogRecord(EVENTS_TOPIC, 0, n, start, b"".join(some), headers)
        lines += some
        for found in log_events([record]).rows.values():
            batches += found
    rows = pa.concat_batches(batches)
    if not rows.num_rows == len(lines) == count:
        raise SystemExit(f"{rows.num_rows} rows and {len(lines)} lines of {count}")
    return rows, lines


def requests_of(way: Way, rows: pa.RecordBatch, lines: list[bytes]) -> Iterator[bytes]:
    """Bulk requests of a way."""
    ours = b"".join(bulk.data for bulk in documents.bulks(rows)).splitlines(keepends=True)
    actions, said = ours[::2], ours[1::2]
    if way.change is None:
        said = lines
    elif way.change is not Same:
        said = [orjson.dumps(way.change(orjson.loads(line))) + b"\n" for line in said]
    for start in range(0, len(said), way.rows):
        end = start + way.rows
        pairs = zip(actions[start:end], said[start:end], strict=True)
        yield b"".join(part for pair in pairs for part in pair)


# ------------------------------------------------------------------------------------------ server


class Node:
    """A node of the benchmark's own."""

    def __init__(self, place: Place, process: subprocess.Popen[bytes]) -> None:
        self.url = f"http://{place.address('opensearch-1')}"
        self._port = place.port("opensearch-1")
        self._process = process

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request; its JSON. `SystemExit` on anything but success."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=120)
        data = body if isinstance(body, bytes) else orjson.dumps(body) if body else None
        connection.request(method, path, data, {"content-type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {said[:300]!r}")
        return orjson.loads(said)

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICKS


@contextmanager
def node() -> Iterator[Node]:
    """Started, and gone at the end."""
    home = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    home.chmod(0o755)
    place = Place(home, registry.default_cache(), BASE_PORT, "small")
    (server,) = servers("small")
    server.fetch(place.cache, print)
    server.prepare(place)
    program = server.program(place)
    user = program.user
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        [part for part in program.argv if part != QUICK_START],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
        group=None if user is None else children.group_of(user),
        extra_groups=None if user is None else (),
    )
    try:
        while (why := server.missing(place)) and process.poll() is None:
            print(f"  {why}", file=sys.stderr)
            time.sleep(1)
        yield Node(place, process)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home)


# ----------------------------------------------------------------------------------------- measure


def load(at: Node, way: Way, rows: pa.RecordBatch, lines: list[bytes]) -> tuple[float, float]:
    """(microseconds of server CPU, bytes on disk) a document."""
    settings = way.settings | {"number_of_replicas": 0, "store.stats_refresh_interval": "0s"}
    settings = {k: v for k, v in settings.items() if k != "auto_expand_replicas"}
    at.ask("PUT", INDEX, {"settings": {"index": settings}, "mappings": way.mapping})
    requests = list(requests_of(way, rows, lines))
    before = at.cpu()
    for request in requests:
        at.ask("POST", f"{INDEX}/_bulk?filter_path=errors,items.create.status", request)
    at.ask("POST", f"{INDEX}/_refresh")
    while at.ask("GET", f"{INDEX}/_stats/merge")["_all"]["total"]["merges"]["current"]:
        time.sleep(0.05)
    cpu = at.cpu() - before
    at.ask("POST", f"{INDEX}/_forcemerge?max_num_segments=1")
    at.ask("POST", f"{INDEX}/_flush?force=true")
    found = at.ask("GET", f"{INDEX}/_stats/store,docs,translog")["_all"]["primaries"]
    size = found["store"]["size_in_bytes"]
    held = found["docs"]["count"]
    at.ask("DELETE", INDEX)
    # The plain mapping refuses some: a field that is an object in one event and text in another.
    if held != rows.num_rows and way.change is not None:
        raise SystemExit(f"{way.name}: {held} of {rows.num_rows} documents")
    return cpu / rows.num_rows * 1e6, size / held


def ours(at: Node, rows: pa.RecordBatch) -> None:
    """Our own side, through the adapter: create, search, list."""
    ref = measure_ref()
    started = time.process_time()
    for _ in documents.bulks(rows):
        pass
    joining = time.process_time() - started
    hot = OpenSearchHot(at.url, "bench")
    hot.create("north", DAY, rows.slice(0, 1))  # the index, and what is loaded at the first use
    started, wall = time.process_time(), time.monotonic()
    hot.create("north", DAY, rows)
    cpu, wall = time.process_time() - started, time.monotonic() - wall
    ref = (ref + measure_ref()) / 2
    one = ref * rows.num_rows
    print(
        f"client side  {cpu / one:.2f} refs (<= 5, log apart), of it documents {joining / one:.2f}"
    )
    print(f"             {rows.num_rows / wall:,.0f} documents/s")
    wall = time.monotonic()
    listed = len(hot.hashes("north", DAY, 1))
    wall = time.monotonic() - wall
    print(f"hashes       {listed / wall:,.0f}/s")
    start = day_start_ms(DAY)
    window = EventQuery("north", start, start + MS_PER_DAY)
    some = hot.search(window, is_cancelled=lambda: False)
    event_id = some["event_id"][70].as_py()
    asked = {
        "any": window,
        "a device": replace(window, device_id=some["device_id"][50].as_py()),
        "a common word": replace(window, text="rate"),
        "an event id": replace(window, text=event_id),
        "a piece of an id": replace(window, text=event_id.split("-")[4]),
        "no such word": replace(window, text="nosuchword"),
    }
    for name, query in asked.items():
        print(f"search       {_median_ms(hot, query):6.1f} ms  {name}, 100 rows at most")
    hot.close()


def _median_ms(hot: OpenSearchHot, query: EventQuery) -> float:
    took = []
    for _ in range(SEARCHES):
        started = time.perf_counter()
        hot.search(query, is_cancelled=lambda: False)
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def main(arguments: Sequence[str]) -> None:
    """Load in all ways, round by round; the first round only warms the server."""
    count = int(arguments[0]) if arguments else EVENTS
    rounds = int(arguments[1]) if len(arguments) > 1 else ROUNDS
    rows, lines = rows_and_lines(count)
    compared = ways()
    cpu: dict[str, list[float]] = {way.name: [] for way in compared}
    size: dict[str, float] = {}
    with node() as at:
        for number in range(rounds + 1):
            order = list(compared)
            random.Random(number).shuffle(order)
            for way in order:
                took, size[way.name] = load(at, way, rows, lines)
                if number:
                    cpu[way.name].append(took)
                print(f"  round {number}: {way.name}: {took:.1f} us", file=sys.stderr, flush=True)
        plain = statistics.median(cpu[compared[0].name])
        print(f"| {count:,} events, {rounds} rounds | us/document | of plain | bytes |")
        print("|---|---|---|---|")
        for way in compared:
            middle = statistics.median(cpu[way.name])
            spread = f"{min(cpu[way.name]):.0f}-{max(cpu[way.name]):.0f}"
            print(
                f"| {way.name} | {middle:.0f} ({spread}) | {middle / plain:.2f}"
                f" | {size[way.name]:.0f} |"
            )
        ours(at, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
