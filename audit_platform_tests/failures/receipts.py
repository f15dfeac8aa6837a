"""The sender's own list of what it was promised, and the independent checker's verdict on it.

Belongs here: for tests that run in one process. Does not: real processes (`installation.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from audit_platform.demo import independent_checker
from audit_platform.record.event import event_hash


@dataclass
class Receipts:
    """Lines as a sender writes them down when its batch was acknowledged."""

    lines: list[bytes] = field(default_factory=list)

    def took(self, events: Iterable[bytes], outcome: str = "accepted") -> None:
        """Canonical events that were acknowledged."""
        for line in events:
            event = orjson.loads(line)
            self.lines.append(
                orjson.dumps(
                    {
                        "tenantId": event["tenantId"],
                        "eventId": event["eventId"],
                        "eventHash": event_hash(line).hex(),
                        "outcome": outcome,
                    }
                )
            )

    def check(self, objects: Path, folder: Path) -> dict[str, Any]:
        """Compare with what is sealed and quarantined below `objects`, as sets."""
        file = folder / "receipts.ndjson"
        file.write_bytes(b"".join(line + b"\n" for line in self.lines))
        return independent_checker.check(objects, [file], [])
