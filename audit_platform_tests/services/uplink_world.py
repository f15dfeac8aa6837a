"""An uplink over a real spool, and servers for it to talk to: a gateway, or one that misbehaves.

Belongs here: what tests of the uplink share. Does not: any test.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import zstandard

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform.ports import Clock, Entry, Full, NewEntry, Platform, SpoolLimits
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform.services.archive_writer import METRICS as ARCHIVE_METRICS
from audit_platform.services.archive_writer import ArchiveWriter
from audit_platform.services.edge_entry import LiveEntry
from audit_platform.services.edge_uplink import METRICS, Uplink
from audit_platform.services.edge_uplink_files import SetAside
from audit_platform.services.edge_uplink_http import Receipt, UplinkSender
from audit_platform.telemetry import Telemetry
from audit_platform_tests.clocks import ManualClock
from audit_platform_tests.services.ingest_world import event, free_socket

LIMITS = SpoolLimits(64 << 20, 72.0, {"normal": Full.REFUSE}, 1 << 20)


@dataclass
class Seconds:
    """Real time, moved by hand."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def plain_lines(entry: Entry) -> list[bytes]:
    """The lines of entries as tests here spool them: whole lines, joined."""
    return entry.data.split(b"\n")


def no_jitter() -> float:
    """The longest of each pause."""
    return 1.0


def open_spool(folder: Path, clock: Clock | None = None, limits: SpoolLimits = LIMITS) -> FileSpool:
    """A real spool, not encrypted; its warning about that is no concern here."""
    return FileSpool.open(folder, RealFiles(), clock or ManualClock(), limits, None)


@dataclass
class Edge:
    """A spool, an uplink over it, and its receipts. `restart` as after a crash."""

    folder: Path
    sender: UplinkSender
    seconds: Seconds = field(default_factory=Seconds)
    limits: SpoolLimits = LIMITS
    numbers: dict[str, int] = field(default_factory=dict)
    receipts: list[tuple[list[bytes], Receipt]] = field(default_factory=list)
    lines_given: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.set_aside = SetAside(self.folder / "set-aside")
        self.telemetry = Telemetry(METRICS)
        self.open()

    def open(self) -> None:
        """Open spool and uplink."""
        self.spool = open_spool(self.folder / "spool", limits=self.limits)
        self.uplink = Uplink(
            self.spool,
            self.sender,
            self.telemetry,
            self.set_aside,
            lines_of=plain_lines,
            on_receipt=lambda lines, receipt: self.receipts.append((list(lines), receipt)),
            monotonic=self.seconds,
            jitter=no_jitter,
        )

    def restart(self) -> None:
        """Another process over the same folder."""
        self.spool.close()
        self.open()

    def close(self) -> None:
        """End."""
        self.spool.close()

    # ------------------------------------------------------------------------------ what is spooled

    def lines(self, device: str, count: int) -> list[bytes]:
        """The next events of a device."""
        first = self.numbers.get(device, 0)
        self.numbers[device] = first + count
        return [event(n, device) for n in range(first, first + count)]

    def append(self, device: str = "pump-1", count: int = 1, *, offer: bool = True) -> list[bytes]:
        """Spool events of a device as one entry, and offer it as the intake does."""
        lines = self.lines(device, count)
        self.append_lines(lines, device, offer=offer)
        return lines

    def append_each(self, devices: Sequence[str]) -> None:
        """Spool an event of each device as an entry of its own, by one commit; offer nothing."""
        lines = [self.lines(device, 1)[0] for device in devices]
        named = zip(devices, lines, strict=True)
        self.spool.append([NewEntry(device, "normal", 1, line) for device, line in named])
        self.lines_given += lines

    def append_lines(
        self, lines: list[bytes], device: str = "pump-1", *, offer: bool = True
    ) -> int:
        """Spool any lines as one entry."""
        new = NewEntry(device, "normal", len(lines), b"\n".join(lines))
        [position], _ = self.spool.append([new])
        self.lines_given += lines
        if offer:
            self.uplink.offer([LiveEntry(position, device, len(lines), lines)])
        return position

    # ------------------------------------------------------------------------------- what is sent

    def run(self, most: int = 10_000) -> int:
        """Step until there is nothing to do now; how many steps did something."""
        for n in range(most):
            if not self.uplink.step():
                return n
        raise AssertionError(f"still busy after {most} steps")

    def pass_pauses(self, rounds: int = 40, seconds: float = 30.0) -> None:
        """Let time pass, so that pauses end, and run."""
        for _ in range(rounds):
            self.run()
            self.seconds.now += seconds
        self.run()

    def sent(self) -> list[bytes]:
        """All lines of all receipts, in the order of the acknowledgements."""
        return [line for lines, _ in self.receipts for line in lines]

    def unreleased(self) -> int:
        """Entries that the spool still has to keep."""
        first, end = self.spool.bounds()
        return end - first - sum(b - a for a, b in self.spool.released())


def archive(platform: Platform) -> None:
    """Archive all that is in the log."""
    writer = ArchiveWriter(
        platform,
        Telemetry(ARCHIVE_METRICS),
        member="writer-1",
        range_seconds=0.0,
        range_bytes=1 << 26,
    )
    while writer.step():
        pass
    writer.leave()


def device_of(line: bytes) -> tuple[str, int]:
    """The device and the number of a line."""
    value = orjson.loads(line)
    return value["deviceId"], value["sequenceNumber"]


def assert_first_copies_in_order(lines: Sequence[bytes]) -> None:
    """Of each device, the first copies come in the order of its numbers, from 0 without a gap."""
    seen: set[tuple[str, int]] = set()
    following: dict[str, int] = {}
    for line in lines:
        device, number = device_of(line)
        if (device, number) in seen:
            continue
        seen.add((device, number))
        assert number == following.get(device, 0), f"{device}: {number} too early"
        following[device] = number + 1
    assert seen


# ------------------------------------------------------------------------------ a scripted server


@dataclass
class Request:
    """What came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def lines(self) -> list[bytes]:
        """The lines of a body of events."""
        plain = zstandard.ZstdDecompressor().decompress(self.body)
        assert plain.endswith(b"\n")
        return plain[:-1].split(b"\n")


#: Makes the bytes of an answer, or None to close the connection without one.
Script = Callable[[Request], bytes | None]


def http(status: int, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP answer."""
    shown = {"content-length": str(len(body))} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    head = "".join(f"{k}: {v}\r\n" for k, v in shown.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body


def problem(status: int, slug: str, **headers: str) -> bytes:
    """An answer of ingest-gateway that is no receipt."""
    body = orjson.dumps({"type": f"urn:audit-platform:problem:{slug}", "title": "t",
                         "status": status, "detail": "d", "remedy": "r"})  # fmt: skip
    return http(status, body, content_type="application/problem+json", **headers)


def receipt_value(lines: Sequence[bytes], offset: int = 0) -> dict[str, Any]:
    """The receipt of lines that are all accepted, as one log record."""
    body = b"".join(line + b"\n" for line in lines)
    digest = hashlib.sha256(body).hexdigest()
    return {
        "batchId": digest,
        "accepted": len(lines),
        "refused": [],
        "records": [
            {
                "topic": EVENTS_TOPIC,
                "partition": 0,
                "offset": offset,
                "digest": digest[:16],
                "count": len(lines),
            }
        ],
    }


@dataclass
class Scripted:
    """An HTTP server that answers as a test says. Questions are answered `pending` by itself."""

    script: Script
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self.taken: list[bytes] = []

    def accept(self, request: Request) -> bytes:
        """Acknowledge a body."""
        value = receipt_value(request.lines, offset=len(self.taken))
        self.taken += request.lines
        return http(202, orjson.dumps(value))

    def answer(self, request: Request) -> bytes | None:
        """What goes back."""
        if request.path == "/v1/archived":
            count = len(orjson.loads(request.body)["records"])
            return http(200, orjson.dumps({"states": ["pending"] * count}))
        self.requests.append(request)
        return self.script(request)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve in a thread; the address."""
        listener = free_socket()
        thread = threading.Thread(target=self._serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            # Wakes `accept`, which closing alone does not.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(30)
            assert not thread.is_alive()

    def _serve(self, listener: socket.socket) -> None:
        opened: list[socket.socket] = []
        threads: list[threading.Thread] = []
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self.connections += 1
                # A client may leave a broken connection open for a while and come by another.
                opened.append(connection)
                threads.append(threading.Thread(target=self._talk, args=(connection,)))
                threads[-1].start()
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(30)

    def _talk(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader, contextlib.suppress(OSError):
            while (request := _read(reader)) is not None:
                answer = self.answer(request)
                if answer is None:
                    break
                connection.sendall(answer)
                if b"\r\nconnection: close" in answer:
                    break


def _read(reader: Any) -> Request | None:
    first = reader.readline()
    if not first:
        return None
    headers: dict[str, str] = {}
    while (line := reader.readline().strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    body = reader.read(int(headers.get("content-length", "0")))
    return Request(first.split()[1].decode(), headers, body)


@contextmanager
def scripted_edge(folder: Path, script: Script | None = None) -> Iterator[tuple[Edge, Scripted]]:
    """An edge whose ingest is a scripted server; without a script it acknowledges everything."""
    server = Scripted(script or (lambda _: None))
    if script is None:
        server.script = server.accept
    with server.serving() as url:
        sender = UplinkSender(url, lambda: "secret", ManualClock(), read_seconds=5.0)
        edge = Edge(folder, sender)
        try:
            yield edge, server
        finally:
            edge.close()
            sender.close()
