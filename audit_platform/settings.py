"""Every setting of the platform: read once from the environment, validated once, never changed.

Belongs here: one row in `SETTINGS` and one field in `Settings` for each `AUDIT_` name, with what
is wanted and what it is for (`docs/settings.md` is made from the rows). Does not: what a setting
does, other programs' variables. This module must stay cheap to import: `--help` imports it.
Source: design section 8 (settings).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from audit_platform.adapters.clock import SCALED_FORM, SYSTEM, parse_clock
from audit_platform.errors import SettingInvalid
from audit_platform.record.layout import IDENTIFIER_PATTERN, SHARDS, TENANT_PATTERN

PREFIX: Final = "AUDIT_"

#: Names with our prefix that other parts read: a kill point (tests), the installer's choice (make).
READ_ELSEWHERE: Final = frozenset({"AUDIT_KILL_AT", "AUDIT_INSTALL"})

#: Linux lends ports from here on to outgoing connections, so a server's port may be taken there.
FIRST_LENT_PORT: Final = 32768

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

#: A range is one object in memory; beyond 1 GiB the archive-writer would break its memory bound.
MAX_RANGE_BYTES: Final = 1 << 30


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


def _embedded(text: str) -> str:
    if text != "embedded":
        raise ValueError(text)
    return text


def _folder(text: str) -> Path:
    if not text:
        raise ValueError(text)
    return Path(text).absolute()


def _host(text: str) -> str:
    if not text or text != text.strip():
        raise ValueError(text)
    return text


def _optional_folder(text: str) -> Path | None:
    return _folder(text) if text else None


def _matching(pattern: re.Pattern[str], *, optional: bool = True) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not (optional and text == "") and pattern.fullmatch(text) is None:
            raise ValueError(text)
        return text

    return parse


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(text)
    return text


def _full(text: str) -> str:
    policies = full_policies(text)
    if not (EVENT_CLASSES.issuperset(policies) and FULL_POLICIES.issuperset(policies.values())):
        raise ValueError(text)
    return text


def full_policies(text: str) -> dict[str, str]:
    """The policy of each criticality that a value of AUDIT_EDGE_FULL names."""
    parts = [part.partition(":") for part in text.split(",")]
    return {name: policy for name, _, policy in parts}


def _clock(text: str) -> str:
    parse_clock(text)
    return text


def _day(text: str) -> str:
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError(text)
    return text


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:  # also refuses nan
            raise ValueError(text)
        return value

    return parse


_port = _whole(1, FIRST_LENT_PORT - 1)
_PORT_WANTED: Final = f"a port from 1 to {FIRST_LENT_PORT - 1}"


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


SETTINGS: Final = (
    Setting(
        "AUDIT_PROFILE",
        "embedded",
        "`embedded`",
        "Which systems stand behind the ports. `embedded` needs no server.",
        _embedded,
    ),
    Setting(
        "AUDIT_HOME",
        ".audit",
        "a folder",
        "All data is below it: `log/` `objects/` `hot/` `keys/` `metadata.db` `dagster/`. A "
        "relative path counts from the current folder.",
        _folder,
    ),
    Setting(
        "AUDIT_CLOCK",
        SYSTEM,
        f"`system`, or `{SCALED_FORM}`",
        "The wall clock. A scaled one showed the first number at the real time that is the second, "
        "and runs at the rate; from the last on, where given, as fast as the real one. For "
        "demonstrations and tests; time-outs stay on real time.",
        _clock,
    ),
    Setting(
        "AUDIT_PARTITIONS",
        "2",
        f"a whole number from 1 to {SHARDS}",
        "Partitions of each topic when the log is made. A log that exists keeps its own number.",
        _whole(1, SHARDS),
    ),
    Setting(
        "AUDIT_GRACE_SECONDS",
        "600",
        f"seconds from 0 to {MAX_GRACE_SECONDS:.0f}",
        "Wall-clock time after a UTC day's end before the day is closed.",
        _seconds(0, MAX_GRACE_SECONDS),
    ),
    Setting(
        "AUDIT_RANGE_SECONDS",
        "60",
        f"seconds from 0.01 to {MAX_RANGE_SECONDS:.0f}",
        "The archive-writer closes a range when its first record is this old (real time).",
        _seconds(0.01, MAX_RANGE_SECONDS),
    ),
    Setting(
        "AUDIT_RANGE_BYTES",
        str(64 << 20),
        f"bytes from 1 to {MAX_RANGE_BYTES}",
        "The archive-writer closes a range when it holds this many bytes of log values.",
        _whole(1, MAX_RANGE_BYTES),
    ),
    Setting(
        "AUDIT_INGEST_HOST",
        "127.0.0.1",
        "a host name or address",
        "Address on which the services listen.",
        _host,
    ),
    Setting(
        "AUDIT_INGEST_PORT",
        "8501",
        _PORT_WANTED,
        "Port of ingest-gateway.",
        _port,
    ),
    Setting(
        "AUDIT_ARCHIVE_PORT",
        "8502",
        _PORT_WANTED,
        "Port of archive-writer's health and metrics.",
        _port,
    ),
    Setting(
        "AUDIT_INDEXER_PORT",
        "8505",
        _PORT_WANTED,
        "Port of search-indexer's health and metrics.",
        _port,
    ),
    Setting(
        "AUDIT_UI_PORT",
        "8503",
        _PORT_WANTED,
        "Port of Dagster's web UI.",
        _port,
    ),
    Setting(
        "AUDIT_QUERY_PORT",
        "8506",
        _PORT_WANTED,
        "Port of query-api.",
        _port,
    ),
    Setting(
        "AUDIT_QUERY_SECONDS",
        "10",
        f"seconds from 0.1 to {MAX_QUERY_SECONDS:.0f}",
        "Real time that one query may take; then it is cancelled.",
        _seconds(0.1, MAX_QUERY_SECONDS),
    ),
    Setting(
        "AUDIT_QUERY_COOL_DOWN_SECONDS",
        "10",
        f"seconds from 0 to {MAX_QUERY_SECONDS:.0f}",
        "How long a tenant's next queries are refused after one was cancelled (real time).",
        _seconds(0, MAX_QUERY_SECONDS),
    ),
    Setting(
        "AUDIT_EDGE_HOME",
        "",
        "a folder, or nothing for `edge/` below AUDIT_HOME",
        "All data of an edge-gateway is below it: `spool/` `keys/` `quarantine/` `set-aside/`.",
        _optional_folder,
    ),
    Setting(
        "AUDIT_EDGE_HOST",
        "127.0.0.1",
        "a host name or address",
        "Address on which edge-gateway listens. Devices are not authenticated: an address of the "
        "devices' own network, never a public one.",
        _host,
    ),
    Setting(
        "AUDIT_EDGE_PORT",
        "8504",
        _PORT_WANTED,
        "Port of edge-gateway.",
        _port,
    ),
    Setting(
        "AUDIT_EDGE_TENANT",
        "",
        "a tenant id, or nothing",
        "Tenant of the edge and of all its devices. An edge-gateway needs it.",
        _matching(TENANT_PATTERN),
    ),
    Setting(
        "AUDIT_EDGE_HOSPITAL",
        "",
        "1 to 128 of A-Z a-z 0-9 . _ : / -, or nothing",
        "The hospitalId of all events of this edge. An edge-gateway needs it.",
        _matching(IDENTIFIER_PATTERN),
    ),
    Setting(
        "AUDIT_EDGE_SITE",
        "",
        "1 to 128 of A-Z a-z 0-9 . _ : / -, or nothing for the hospital",
        "Label `site` of the edge's metrics.",
        _matching(IDENTIFIER_PATTERN),
    ),
    Setting(
        "AUDIT_EDGE_DEVICE",
        "edge",
        "1 to 128 of A-Z a-z 0-9 . _ : / -",
        "The edge's own deviceId: one for each edge of a tenant.",
        _matching(IDENTIFIER_PATTERN, optional=False),
    ),
    Setting(
        "AUDIT_EDGE_UPLINK",
        "http://127.0.0.1:8501",
        "an http or https URL",
        "Address of ingest-gateway.",
        _url,
    ),
    Setting(
        "AUDIT_EDGE_SECRET_FILE",
        "",
        "a file, or nothing for `api-key` below AUDIT_EDGE_HOME",
        "Holds the API key (role edge) that ingest-gateway knows this edge by.",
        _optional_folder,
    ),
    Setting(
        "AUDIT_EDGE_SPOOL_BYTES",
        str(20 << 30),
        f"bytes from {MIN_SPOOL_BYTES} to {MAX_SPOOL_BYTES}",
        "The spool holds at most this much; then AUDIT_EDGE_FULL says what goes.",
        _whole(MIN_SPOOL_BYTES, MAX_SPOOL_BYTES),
    ),
    Setting(
        "AUDIT_EDGE_SPOOL_HOURS",
        "72",
        f"hours from 0.01 to {MAX_SPOOL_HOURS:.0f}",
        "The spool holds nothing older; then AUDIT_EDGE_FULL says what goes.",
        _seconds(0.01, MAX_SPOOL_HOURS),
    ),
    Setting(
        "AUDIT_EDGE_FULL",
        "low:drop_oldest,normal:drop_oldest,high:refuse_new,critical:refuse_new",
        "a list of criticality:policy, with `refuse_new` or `drop_oldest`",
        "What a full spool may do with stored events of each criticality: give up the oldest (a "
        "signed `loss` says which), or keep them and refuse new events.",
        _full,
    ),
    Setting(
        "AUDIT_FIRST_DAY",
        "2026-01-01",
        "a day as YYYY-MM-DD",
        "First UTC day that Dagster has a partition for.",
        _day,
    ),
    Setting(
        "AUDIT_POLL_SECONDS",
        "0.5",
        f"seconds from 0.01 to {MAX_POLL_SECONDS:.0f}",
        "How long a service that found nothing to do waits before it looks again (real time).",
        _seconds(0.01, MAX_POLL_SECONDS),
    ),
    Setting(
        "AUDIT_CLOSING_SECONDS",
        "30",
        f"whole seconds from {MIN_CLOSING_SECONDS} to {MAX_CLOSING_SECONDS}",
        "How often Dagster's sensor looks for days to close and to seal (real time).",
        _whole(MIN_CLOSING_SECONDS, MAX_CLOSING_SECONDS),
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, valid. Units are in the names; `home` is absolute."""

    profile: str
    home: Path
    clock: str
    partitions: int
    grace_seconds: float
    range_seconds: float
    range_bytes: int
    ingest_host: str
    ingest_port: int
    archive_port: int
    indexer_port: int
    ui_port: int
    query_port: int
    query_seconds: float
    query_cool_down_seconds: float
    edge_home: Path | None
    edge_host: str
    edge_port: int
    edge_tenant: str
    edge_hospital: str
    edge_site: str
    edge_device: str
    edge_uplink: str
    edge_secret_file: Path | None
    edge_spool_bytes: int
    edge_spool_hours: float
    edge_full: str
    first_day: str
    poll_seconds: float
    closing_seconds: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read and validate all `AUDIT_` names. Raises `SettingInvalid` at the first wrong one.

        A name that nobody reads is refused too: a typing error must not pass as a default.
        """
        for name in sorted(environment):
            if name.startswith(PREFIX) and name not in _BY_NAME and name not in READ_ELSEWHERE:
                raise SettingInvalid(name, environment[name], _did_you_mean(name))
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            text = environment.get(setting.name, setting.default)
            try:
                values[setting.field] = setting.parse(text)
            except ValueError as e:
                raise SettingInvalid(setting.name, text, setting.wanted) from e
        settings = cls(**values)
        settings._refuse_a_shared_port()
        return settings

    def _refuse_a_shared_port(self) -> None:
        taken: dict[int, str] = {}
        for name in (s.name for s in SETTINGS if s.name.endswith("_PORT")):
            port = getattr(self, _BY_NAME[name].field)
            if port in taken:
                raise SettingInvalid(name, str(port), f"a port that {taken[port]} does not have")
            taken[port] = name

    def to_environment(self) -> dict[str, str]:
        """Every setting as text, for the environment of a child: it will read equal settings."""
        return {s.name: _text(getattr(self, s.field)) for s in SETTINGS}

    @property
    def log_folder(self) -> Path:
        """Folder of the embedded log."""
        return self.home / "log"

    @property
    def objects_folder(self) -> Path:
        """Folder of the embedded object store."""
        return self.home / "objects"

    @property
    def hot_folder(self) -> Path:
        """Folder of the embedded search indexes."""
        return self.home / "hot"

    @property
    def keys_folder(self) -> Path:
        """Folder of the signing keys."""
        return self.home / "keys"

    @property
    def edge_folder(self) -> Path:
        """Folder of an edge-gateway."""
        return self.edge_home or self.home / "edge"

    @property
    def edge_keys_folder(self) -> Path:
        """Folder of the edge's keys: they sign what it says and encrypt its spool."""
        return self.edge_folder / "keys"

    @property
    def edge_secret(self) -> Path:
        """The file with the edge's API key."""
        return self.edge_secret_file or self.edge_folder / "api-key"

    @property
    def metadata_file(self) -> Path:
        """The metadata database."""
        return self.home / "metadata.db"

    @property
    def dagster_folder(self) -> Path:
        """DAGSTER_HOME of the installation."""
        return self.home / "dagster"


_BY_NAME: Final = {s.name: s for s in SETTINGS}


def _did_you_mean(name: str) -> str:
    import difflib  # noqa: PLC0415 - only a mistaken name pays for it

    near = difflib.get_close_matches(name, list(_BY_NAME), n=1)
    known = near[0] if near else ", ".join(_BY_NAME)
    return f"a name that is read (nearest: {known})"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def settings_page() -> str:
    """`docs/settings.md`: the table of all settings as Markdown."""
    rows = [
        "# Settings",
        "",
        "Read once from the environment when a program starts, and validated once. A wrong value,",
        "or a name with the prefix `AUDIT_` that nobody reads, stops the program with exit code 2.",
        "",
        "| name | default | wanted | for |",
        "|---|---|---|---|",
        *(f"| `{s.name}` | `{s.default}` | {s.wanted} | {s.meaning} |" for s in SETTINGS),
        "",
        "`AUDIT_KILL_AT` (a kill point of `audit_platform/killpoints.py`, for tests) and",
        "`AUDIT_INSTALL` (how `make` installs) are read elsewhere.",
        "",
        "This page is the output of `audit-platform settings --markdown`; a test holds it equal.",
        "",
    ]
    return "\n".join(rows)
