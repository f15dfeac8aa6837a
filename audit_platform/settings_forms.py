"""What a setting's text may be: one parser a form, with the limits and their reasons.

Each parser raises `ValueError` for any text that is not as wanted. Belongs here: forms of values.
Does not: names, defaults and meanings (`settings_rows.py`, `settings_servers.py`).
Source: design section 8 (settings).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from audit_platform.adapters.clock import parse_clock

PREFIX: Final = "AUDIT_"

#: `embedded` needs no server; `stack` has the real ones.
PROFILES: Final = ("embedded", "stack")

#: Names with our prefix that other parts read: a kill point (tests), the installer's choice (make).
READ_ELSEWHERE: Final = frozenset({"AUDIT_FREEZE_AT", "AUDIT_INSTALL", "AUDIT_KILL_AT"})

#: Linux lends ports from here on to outgoing connections, so a server's port may be taken there.
FIRST_LENT_PORT: Final = 32768

#: The last TCP port that there is.
LAST_PORT: Final = 65535

#: The longest wait of a range: design section 5; the mission asks for less than 10 minutes.
MAX_RANGE_SECONDS: Final = 300.0

#: Waiting longer than this for the next look makes an idle service seem dead.
MAX_POLL_SECONDS: Final = 60.0

#: Dagster's daemon looks at its sensors every 5 s; beyond an hour, nobody would wait for a seal.
MIN_CLOSING_SECONDS: Final = 5
MAX_CLOSING_SECONDS: Final = 3600

#: A grace beyond a week would outlive the log that the late events wait in (7 days).
MAX_GRACE_SECONDS: Final = 604_800.0

#: A query longer than this outlives the patience of every reader and proxy before it.
MAX_QUERY_SECONDS: Final = 300.0

#: A hundred times what the largest tenant sends; more is no limit at all.
MAX_EVENTS_PER_SECOND: Final = 10_000_000

#: A range is one object in memory; beyond 1 GiB the archive-writer would break its memory bound.
MAX_RANGE_BYTES: Final = 1 << 30
#: A petabyte a night is more than any machine reads.
MAX_VERIFY_BYTES: Final = 1 << 50


#: Below this the spool's segments would be too small to be worth their names; the largest disk that
#: an edge has.
MIN_SPOOL_BYTES: Final = 1 << 20
MAX_SPOOL_BYTES: Final = 1 << 44

#: What AUDIT_EDGE_FULL may name: each criticality, and the members of `ports.Full` (the ports are
#: not loaded here).
EVENT_CLASSES: Final = frozenset({"low", "normal", "high", "critical"})
FULL_POLICIES: Final = frozenset({"refuse_new", "drop_oldest"})

#: A year: longer than any key or schema of an edge lasts.
MAX_SPOOL_HOURS: Final = 8760.0


#: A code location is a process of some 200 MB; more of them ask for more machines.
MAX_TENANT_GROUPS: Final = 64


@dataclass(frozen=True, slots=True)
class Setting:
    """One name: its default as text, what is wanted, what it is for, and how text becomes a value.

    `parse` raises `ValueError` for any text that is not as wanted.
    """

    name: str
    default: str
    wanted: str
    meaning: str
    parse: Callable[[str], Any]

    @property
    def field(self) -> str:
        """Name of the field of `Settings`."""
        return self.name.removeprefix(PREFIX).lower()


def profile(text: str) -> str:
    """One of the profiles."""
    if text not in PROFILES:
        raise ValueError(text)
    return text


def folder(text: str) -> Path:
    """A folder, made absolute."""
    if not text:
        raise ValueError(text)
    return Path(text).absolute()


def host(text: str) -> str:
    """A host name or address."""
    if not text or text != text.strip():
        raise ValueError(text)
    return text


def optional_folder(text: str) -> Path | None:
    """A folder, or none where the text is empty."""
    return folder(text) if text else None


def matching(pattern: re.Pattern[str], *, optional: bool = True) -> Callable[[str], str]:
    """Text that matches as a whole; with `optional` also the empty one."""

    def parse(text: str) -> str:
        if not (optional and text == "") and pattern.fullmatch(text) is None:
            raise ValueError(text)
        return text

    return parse


def url(text: str) -> str:
    """An http(s) URL with a host."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(text)
    return text


def full(text: str) -> str:
    """The policies of a full spool."""
    policies = full_policies(text)
    if not (EVENT_CLASSES.issuperset(policies) and FULL_POLICIES.issuperset(policies.values())):
        raise ValueError(text)
    return text


def full_policies(text: str) -> dict[str, str]:
    """The policy of each criticality that a value of AUDIT_EDGE_FULL names."""
    parts = [part.partition(":") for part in text.split(",")]
    return {name: policy for name, _, policy in parts}


def clock_form(text: str) -> str:
    """What `parse_clock` reads."""
    parse_clock(text)
    return text


def day(text: str) -> str:
    """A day as YYYY-MM-DD."""
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError(text)
    return text


def tenant_group(text: str) -> str:
    """`2/3`: the second of three."""
    number, of = (int(part) for part in text.split("/"))
    if not 1 <= number <= of <= MAX_TENANT_GROUPS or text != f"{number}/{of}":
        raise ValueError(text)
    return text


def whole(low: int, high: int) -> Callable[[str], int]:
    """Whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Seconds from `low` to `high`."""

    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:  # also refuses nan
            raise ValueError(text)
        return value

    return parse


port = whole(1, FIRST_LENT_PORT - 1)
PORT_WANTED: Final = f"a port from 1 to {FIRST_LENT_PORT - 1}"


def text(value: str) -> str:
    """Any text, also none."""
    return value


def database(text: str) -> str:
    """A PostgreSQL URL, or none."""
    parts = urlsplit(text)
    if text and (parts.scheme != "postgresql" or not parts.hostname or not parts.path.strip("/")):
        raise ValueError(text)
    return text


def redis(text: str) -> str:
    """A Redis URL, or none."""
    parts = urlsplit(text)
    if text and (parts.scheme not in {"redis", "rediss"} or not parts.hostname):
        raise ValueError(text)
    return text


def optional_url(text: str) -> str:
    """An http(s) URL, or none."""
    return url(text) if text else text


def urls(text: str) -> str:
    """A list of http(s) URLs, or none."""
    for one in text.split(",") if text else ():
        url(one)
    return text


def addresses(text: str) -> str:
    """A list of host:port, or none."""
    for address in text.split(",") if text else ():
        name, _, number = address.rpartition(":")
        if not name or not 1 <= int(number) <= LAST_PORT:
            raise ValueError(text)
    return text
