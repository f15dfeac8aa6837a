"""What the edge's spool costs: appending in refs and MB/s, opening 50,000 segments in seconds.

Entries are what the edge keeps of real rows (what can be derived is left out), one device's events
each. Appending runs in a process of its own, through the spool's own append path, encrypted, one
fsync a commit. Opening runs in another: from `open` to the first acknowledged append, and its
memory. The files were just written, so the page cache is warm.
Run: `python -m benchmarks.spool [segments] [bytes]` (default 50,000 and 100,000,000 of entries).
Targets: open to first append <= 5 s and <= 200 MB; append <= 1.5 refs an event.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from audit_platform.adapters.clock import SystemClock
from audit_platform.adapters.embedded.files import FsyncSite, RealFiles
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.ports import NewEntry, SpoolLimits
from audit_platform.processes import MALLOC_VARIABLES
from benchmarks.refs import measure_ref
from benchmarks.rows import cached

SEGMENTS: Final = 50_000
BYTES: Final = 100_000_000
#: Rows read from the cache; used again from the start when they run out.
ROWS: Final = 100_000
#: (events an entry, events a commit): single events of many devices, and small batches.
SHAPES: Final = ((1, 100), (1, 500), (10, 500))

_LIMITS: Final = SpoolLimits(1 << 40, 72.0, {})
_LINE: Final = re.compile(
    rb'"criticality":"([^"]*)","deviceId":"([^"]*)".*"eventTime":"([^"]*)","eventType":"([^"]*)",'
    rb'"eventVersion":(\d+).*?"payload":(\{.*\}),"prevHash".*"sequenceNumber":(\d+)'
)


class NoFsync(RealFiles):
    """For making many segments in little time."""

    def fsync(self, handle: int, site: FsyncSite) -> None:
        """Nothing."""

    def fsync_dir(self, path: Path, site: FsyncSite) -> None:
        """Nothing."""


def peak_memory() -> int:
    """This program's own, in bytes: `ru_maxrss` would count what started it, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def entries(events_an_entry: int) -> Iterator[NewEntry]:
    """Entries of real rows as the edge keeps them, without end."""
    kept: list[tuple[str, str, bytes]] = []
    for body in cached(ROWS).bodies():
        for line in body.ndjson.splitlines():
            found = _LINE.search(line)
            assert found is not None
            criticality, device, at, kind, version, payload, sequence = found.groups()
            text = b" ".join((at, sequence, kind, version, criticality, b"", b"", payload))
            kept.append((device.decode(), criticality.decode(), text))
    while True:
        for first in range(0, len(kept) - events_an_entry + 1, events_an_entry):
            some = kept[first : first + events_an_entry]
            data = b"\n".join([text for _, _, text in some])
            yield NewEntry(some[0][0], some[0][1], len(some), data)


def fill(home: str, segments: int) -> int:
    """Make that many closed segments of 100 events each; returns their bytes."""
    files = NoFsync()
    limits = SpoolLimits(1 << 40, 72.0, {}, segment_bytes=1)
    spool = FileSpool.open(
        Path(home) / "spool", files, SystemClock(), limits, FileKeys(Path(home) / "keys", files)
    )
    source = entries(1)
    some = [list(islice(source, 100)) for _ in range(200)]
    for number in range(segments):
        spool.append(some[number % len(some)])
    size = spool.status().bytes
    spool.close()
    os.sync()  # else the first fsync of who opens it pays for all of this
    return size


def opening(home: str) -> dict[str, float]:
    """Open, append, and say how long it took."""
    base = peak_memory()
    keys = FileKeys(Path(home) / "keys")
    cpu, wall = time.process_time(), time.monotonic()
    spool = FileSpool.open(Path(home) / "spool", RealFiles(), SystemClock(), _LIMITS, keys)
    opened = time.monotonic() - wall
    spool.append([NewEntry("pump-1", "high", 1, b"the first")])
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    peak = peak_memory()
    status = spool.status()
    spool.close()
    return {
        "opened": opened,
        "wall": wall,
        "cpu": cpu,
        "base": base,
        "peak": peak,
        "segments": status.segments,
        "entries": status.entries,
    }


def writing(home: str, size: int, events_an_entry: int, events_a_commit: int) -> dict[str, float]:
    """Append entries of `size` bytes together; figures per event."""
    keys = FileKeys(Path(home) / "keys")
    spool = FileSpool.open(Path(home) / "spool", RealFiles(), SystemClock(), _LIMITS, keys)
    source = entries(events_an_entry)
    groups = [
        list(islice(source, events_a_commit // events_an_entry))
        for _ in range(ROWS // events_a_commit)
    ]
    sizes = [sum(len(entry.data) for entry in group) for group in groups]
    ref = measure_ref()
    events, written, turn = 0, 0, 0
    cpu, wall = time.process_time(), time.monotonic()
    while written < size:
        spool.append(groups[turn % len(groups)])
        written += sizes[turn % len(groups)]
        events += events_a_commit
        turn += 1
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    ref = (ref + measure_ref()) / 2
    status = spool.status()
    spool.close()
    return {
        "cpu": cpu / events,
        "wall": wall,
        "ref": ref,
        "events": events,
        "written": written,
        "stored": status.bytes,
        "segments": status.segments,
        "fsync": status.fsync_seconds / status.commits,
        "peak": peak_memory(),
    }


def _child(*arguments: str) -> dict[str, float]:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "benchmarks.spool", "--child", *arguments],
        env=MALLOC_VARIABLES | dict(os.environ),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def show_opening(segments: int) -> None:
    """Fill in this process, open in a child, print."""
    with tempfile.TemporaryDirectory() as home:
        size = fill(home, segments)
        got = _child("opening", home)
    if got["segments"] != segments + 1:
        raise SystemExit(f"{got['segments']} segments were found of {segments}")
    print(f"spool, {segments:,} segments of {size / segments:.0f} B:")
    print(f"  open             {got['opened']:6.2f} s")
    print(f"  to first append  {got['wall']:6.2f} s, CPU {got['cpu']:.2f} s (<= 5)")
    print(
        f"  peak memory      {got['peak'] / 1e6:6.0f} MB, {got['base'] / 1e6:.0f} before (<= 200)"
    )


def show_writing(size: int) -> None:
    """Append in a child for each shape, print."""
    for an_entry, a_commit in SHAPES:
        with tempfile.TemporaryDirectory() as home:
            got = _child("writing", home, str(size), str(an_entry), str(a_commit))
        micros, events = got["cpu"] * 1e6, got["events"]
        print(
            f"spool, {got['written'] / 1e6:,.0f} MB in entries of {an_entry}, {a_commit} a commit:"
        )
        print(
            f"  CPU          {micros:6.2f} us/event = {got['cpu'] / got['ref']:5.2f} refs (<= 1.5)"
        )
        print(f"  one ref      {got['ref'] * 1e6:6.2f} us")
        print(f"  throughput   {got['written'] / got['wall'] / 1e6:6.1f} MB/s, ", end="")
        print(f"{events / got['wall']:,.0f} events/s, one fsync {got['fsync'] * 1e3:.2f} ms")
        print(
            f"  stored       {got['stored'] / events:6.1f} B/event of {got['written'] / events:.0f}"
        )
        print(f"  peak memory  {got['peak'] / 1e6:6.0f} MB")


def main() -> None:
    """Both, or a child's part."""
    if sys.argv[1:2] == ["--child"]:
        if sys.argv[2] == "opening":
            print(json.dumps(opening(sys.argv[3])))
        else:
            print(json.dumps(writing(sys.argv[3], *map(int, sys.argv[4:7]))))
        return
    show_opening(int(sys.argv[1]) if len(sys.argv) > 1 else SEGMENTS)
    show_writing(int(sys.argv[2]) if len(sys.argv) > 2 else BYTES)


if __name__ == "__main__":
    main()
