"""A program that changes a metadata store and says, line by line, what it was promised.

Started under strace by `test_metadata.py`: `python -m … PATH [SYNCHRONOUS]`. Each line on stdout is
one JSON object, written right after the promise. Not here: what must hold.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from audit_platform.adapters.embedded import metadata
from audit_platform.ports import Role

NOW = 1_772_323_200_000


def _say(**promised: object) -> None:
    os.write(1, json.dumps(promised).encode() + b"\n")


def main(path: Path) -> None:
    """Open twice (so that the WAL is written back and removed once), and change things."""
    for round_number in range(2):
        store = metadata.open_sqlite(path)
        if round_number:
            # The store above has made the WAL; another connection is the first to write to it.
            other = metadata.open_sqlite(path)
            other.add_tenant("other", NOW)
            _say(tenant="other")
            other.close()
        for number in range(2):
            tenant = f"tenant-{round_number}-{number}"
            store.add_tenant(tenant, NOW)
            _say(tenant=tenant)
            key, secret = store.add_api_key(tenant, Role.EDGE, NOW)
            _say(secret=secret)
            public = bytes([round_number * 16 + number]) * 32
            store.add_edge_key(tenant, public, NOW)
            _say(edge_of=tenant, public=public.hex())
            store.enrol_devices(tenant, ["pump-1", "pump-2"], NOW)
            _say(enrolled_in=tenant)
            store.set_suspended(tenant, suspended=True)
            _say(suspended=tenant)
            if number:
                store.retire_device(tenant, "pump-1", NOW)
                _say(retired_in=tenant)
                store.revoke_api_key(key.key_id, NOW)
                _say(revoked=key.key_id)
        store.close()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        kept = [p for p in metadata.PRAGMAS if not p.startswith("synchronous")]
        metadata.PRAGMAS = (*kept, f"synchronous={sys.argv[2]}")  # type: ignore[misc] # a fault is put in: the pragma is Final
    main(Path(sys.argv[1]))
