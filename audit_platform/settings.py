"""Every setting of the platform: read once from the environment, validated once, never changed.

Belongs here: all settings as one value, how they are read and shown (`docs/settings.md` is made
from the rows). Does not: the rows (`settings_rows.py`, `settings_servers.py`), what a setting does,
other programs' variables. This module must stay cheap to import: `--help` imports it.
Source: design section 8 (settings).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audit_platform.errors import SettingInvalid
from audit_platform.settings_forms import PREFIX, READ_ELSEWHERE
from audit_platform.settings_rows import PLATFORM_SETTINGS
from audit_platform.settings_servers import NEEDED_BY_STACK, SERVER_SETTINGS

SETTINGS: Final = (*PLATFORM_SETTINGS, *SERVER_SETTINGS)


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
    ingest_events_per_second: int
    archive_port: int
    indexer_port: int
    ui_port: int
    query_port: int
    exporter_port: int
    gate_port: int
    gate_url: str
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
    tenant_group: str
    verify_bytes: int
    ca_file: Path | None
    kafka: str
    kafka_prefix: str
    kafka_user: str
    kafka_password: str
    s3: str
    s3_bucket: str
    s3_access_key: str
    s3_secret_key: str
    s3_second: str
    opensearch: str
    opensearch_prefix: str
    opensearch_snapshots: str
    database: str
    redis: str
    redis_prefix: str
    oidc_issuer: str
    oidc_audience: str
    oidc_client: str
    oidc_secret: str
    dagster: str
    pkcs11_module: Path | None
    pkcs11_token: str
    pkcs11_pin: str

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
        settings._refuse_a_missing_server()
        return settings

    def _refuse_a_shared_port(self) -> None:
        taken: dict[int, str] = {}
        for name in (s.name for s in SETTINGS if s.name.endswith("_PORT")):
            port = getattr(self, _BY_NAME[name].field)
            if port in taken:
                raise SettingInvalid(name, str(port), f"a port that {taken[port]} does not have")
            taken[port] = name

    def _refuse_a_missing_server(self) -> None:
        if self.profile == "stack":
            for name in NEEDED_BY_STACK:
                if not getattr(self, _BY_NAME[name].field):
                    raise SettingInvalid(name, "", f"{_BY_NAME[name].wanted}; `stack` needs it")

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
    def hot_snapshots_folder(self) -> Path:
        """Snapshots of the embedded search indexes: on the same disk, sharing files."""
        return self.home / "hot-snapshots"

    @property
    def work_folder(self) -> Path:
        """What may be lost at any time: rows of a day that is being sealed."""
        return self.home / "work"

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
        "`AUDIT_KILL_AT` and `AUDIT_FREEZE_AT` (for tests: `audit_platform/killpoints.py`) and",
        "`AUDIT_INSTALL` (how `make` installs) are read elsewhere.",
        "",
        "This page is the output of `audit-platform settings --markdown`; a test holds it equal.",
        "",
    ]
    return "\n".join(rows)
