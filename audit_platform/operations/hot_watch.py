"""Looking at many tenants' indexes again and again: what is known stays known, a look ends in time.

A tenant's manifests never change, so what was read of them is kept for as long as the process
lives; the first looks, which read everything, take tenants in turn. Belongs here: that. Does not:
what is wrong with an index (`hot_check.py`), who repairs it.
Source: issue "100 tenants x 730 days: sensor tick <= 30 s".
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from audit_platform.operations.claims import read_claim
from audit_platform.operations.query.reader import Reader
from audit_platform.ports import Platform
from audit_platform.record import layout

#: Real time after which a look goes on with the next one. Dagster gives a tick up after 60 s, and
#: a store that hangs takes up to 10 s for the tenant that was begun.
LOOK_SECONDS: Final = 20.0

_kept: dict[str, Reader] = {}
_keeping: Final = threading.Lock()


def kept_reader(platform: Platform) -> Reader:
    """The process's reader of this platform's record, asking through the platform given now.

    A record is told by the version of its first log generation, which no two have; before there is
    one, nothing is kept. Raises `StoreUnavailable`.
    """
    first = read_claim(platform.objects, layout.generation_key(1))
    if first is None:
        return Reader(platform)
    with _keeping:
        reader = _kept.get(first.version_id)
        if reader is None:
            _kept.clear()  # one record a process; tests have one after the other
            reader = _kept[first.version_id] = Reader(platform)
        reader.platform = platform
        return reader


def in_turn(tenant_ids: Sequence[str], after: str) -> list[str]:
    """All of them in order, beginning behind the one that the last look ended with."""
    ordered = sorted(tenant_ids)
    return [t for t in ordered if t > after] + [t for t in ordered if t <= after]
