"""The uplink's own two kinds of files: what ingest cannot read, and the sender's receipts.

Belongs here: writing them durably, and their form. Does not: when something is written.
Source: design section 6 (the sender keeps its receipts in its own file, for a checker that trusts
nothing of ours); `docs/edge.md`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import orjson

from audit_platform.services.edge_uplink_http import Receipt


class SetAside:
    """A folder of bytes that could not be delivered: `<position>-<16 hex of SHA-256>`.

    Beside each stands a `.json` that says why. The same bytes of the same position are kept once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _fsync_folder(folder.parent)
        self.count = sum(1 for path in folder.iterdir() if not path.suffix)

    def keep(self, position: int, data: bytes, reason: str) -> None:
        """Keep bytes; durable on return. Raises `OSError`: then nothing counts as kept."""
        path = self._folder / f"{position:020d}-{hashlib.sha256(data).hexdigest()[:16]}"
        is_new = not path.exists()
        _write(path.with_suffix(".json"), orjson.dumps({"position": position, "reason": reason}))
        # The bytes last: a file without suffix is whole, and its reason is there.
        _write(path, data)
        _fsync_folder(self._folder)
        self.count += is_new


class ReceiptsFile:
    """NDJSON: a line for each acknowledged event, then one for its batch. Give `note` to `Uplink`.

    The form is that of the demonstration's receipts, which the independent checker reads. A batch
    whose receipt was lost on the way stands there twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)

    def note(self, lines: Sequence[bytes], receipt: Receipt) -> None:
        """Append what a receipt acknowledges; durable on return. Raises `OSError`."""
        written = [_event(line, receipt, n) for n, line in enumerate(lines)]
        records = [record._asdict() for record in receipt.records]
        written.append({"batchId": receipt.batch_id, "records": records})
        is_new = not self._path.exists()
        with self._path.open("ab") as opened:
            opened.write(b"".join(orjson.dumps(value) + b"\n" for value in written))
            opened.flush()
            os.fsync(opened.fileno())
        if is_new:
            _fsync_folder(self._path.parent)


def _event(line: bytes, receipt: Receipt, number: int) -> dict[str, object]:
    slug = receipt.refused.get(number)
    said: dict[str, object] = {
        "eventHash": hashlib.sha256(line).hexdigest(),
        "outcome": "refused" if slug else "accepted",
        **({"slug": slug} if slug else {}),
        "batchId": receipt.batch_id,
    }
    try:
        event = orjson.loads(line)
        return {"tenantId": event["tenantId"], "eventId": event["eventId"], **said}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return said  # a line that joins no chain names no event


def _cut_torn_line(path: Path) -> None:
    """A line that was being written when the process died is cut off, so that the next is whole."""
    if not path.exists():
        return
    with path.open("r+b") as opened:
        opened.seek(0, os.SEEK_END)
        at = end = opened.tell()
        while at > 0:
            start = max(0, at - 65536)
            opened.seek(start)
            feed = opened.read(at - start).rfind(b"\n")
            if feed >= 0:
                at = start + feed + 1
                break
            at = start
        if at < end:
            opened.truncate(at)
            os.fsync(opened.fileno())


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(path)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
