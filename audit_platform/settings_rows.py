"""The settings of the platform's own programs: name, default, what is wanted, what it is for.

Belongs here: one row for each `AUDIT_` name that is not a server's (`settings_servers.py`), with a
field in `settings.Settings`. Does not: how text becomes a value (`settings_forms.py`).
Source: design section 8 (settings).
"""

from __future__ import annotations

from typing import Final

from audit_platform.adapters.clock import SCALED_FORM, SYSTEM
from audit_platform.record.layout import IDENTIFIER_PATTERN, SHARDS, TENANT_PATTERN
from audit_platform.settings_forms import (
    MAX_CLOSING_SECONDS,
    MAX_EVENTS_PER_SECOND,
    MAX_GRACE_SECONDS,
    MAX_POLL_SECONDS,
    MAX_QUERY_SECONDS,
    MAX_RANGE_BYTES,
    MAX_RANGE_SECONDS,
    MAX_SPOOL_BYTES,
    MAX_SPOOL_HOURS,
    MAX_TENANT_GROUPS,
    MAX_VERIFY_BYTES,
    MIN_CLOSING_SECONDS,
    MIN_SPOOL_BYTES,
    PORT_WANTED,
    Setting,
    clock_form,
    day,
    folder,
    full,
    host,
    matching,
    optional_folder,
    optional_url,
    port,
    profile,
    seconds,
    tenant_group,
    url,
    whole,
)

PLATFORM_SETTINGS: Final = (
    Setting(
        "AUDIT_PROFILE",
        "embedded",
        "`embedded` or `stack`",
        "Which systems stand behind the ports. `embedded` needs no server; `stack` needs those "
        "that the settings below name.",
        profile,
    ),
    Setting(
        "AUDIT_HOME",
        ".audit",
        "a folder",
        "All data is below it: `log/` `objects/` `hot/` `keys/` `metadata.db` `dagster/`. A "
        "relative path counts from the current folder.",
        folder,
    ),
    Setting(
        "AUDIT_CLOCK",
        SYSTEM,
        f"`system`, or `{SCALED_FORM}`",
        "The wall clock. A scaled one showed the first number at the real time that is the second, "
        "and runs at the rate; from the last on, where given, as fast as the real one. For "
        "demonstrations and tests; time-outs stay on real time.",
        clock_form,
    ),
    Setting(
        "AUDIT_PARTITIONS",
        "2",
        f"a whole number from 1 to {SHARDS}",
        "Partitions of each topic when the log is made. A log that exists keeps its own number.",
        whole(1, SHARDS),
    ),
    Setting(
        "AUDIT_GRACE_SECONDS",
        "600",
        f"seconds from 0 to {MAX_GRACE_SECONDS:.0f}",
        "Wall-clock time after a UTC day's end before the day is closed.",
        seconds(0, MAX_GRACE_SECONDS),
    ),
    Setting(
        "AUDIT_RANGE_SECONDS",
        "60",
        f"seconds from 0.01 to {MAX_RANGE_SECONDS:.0f}",
        "The archive-writer closes a range when its first record is this old (real time).",
        seconds(0.01, MAX_RANGE_SECONDS),
    ),
    Setting(
        "AUDIT_RANGE_BYTES",
        str(64 << 20),
        f"bytes from 1 to {MAX_RANGE_BYTES}",
        "The archive-writer closes a range when it holds this many bytes of log values.",
        whole(1, MAX_RANGE_BYTES),
    ),
    Setting(
        "AUDIT_INGEST_HOST",
        "127.0.0.1",
        "a host name or address",
        "Address on which the services listen.",
        host,
    ),
    Setting(
        "AUDIT_INGEST_PORT",
        "8501",
        PORT_WANTED,
        "Port of ingest-gateway.",
        port,
    ),
    Setting(
        "AUDIT_INGEST_EVENTS_PER_SECOND",
        "0",
        f"a whole number from 0 to {MAX_EVENTS_PER_SECOND}",
        "Events a second that each tenant may send, with a burst of 10 s; 0: as many as it likes. "
        "All gateways together with AUDIT_REDIS, otherwise each.",
        whole(0, MAX_EVENTS_PER_SECOND),
    ),
    Setting(
        "AUDIT_ARCHIVE_PORT",
        "8502",
        PORT_WANTED,
        "Port of archive-writer's health and metrics.",
        port,
    ),
    Setting(
        "AUDIT_INDEXER_PORT",
        "8505",
        PORT_WANTED,
        "Port of search-indexer's health and metrics.",
        port,
    ),
    Setting(
        "AUDIT_UI_PORT",
        "8503",
        PORT_WANTED,
        "Port of Dagster's web UI.",
        port,
    ),
    Setting(
        "AUDIT_QUERY_PORT",
        "8506",
        PORT_WANTED,
        "Port of query-api.",
        port,
    ),
    Setting(
        "AUDIT_EXPORTER_PORT",
        "8507",
        PORT_WANTED,
        "Port of the exporter's health and metrics.",
        port,
    ),
    Setting(
        "AUDIT_GATE_PORT",
        "8508",
        PORT_WANTED,
        "Port of dagster-gate, by which people reach Dagster's pages.",
        port,
    ),
    Setting(
        "AUDIT_GATE_URL",
        "",
        "a URL, or nothing for AUDIT_INGEST_HOST and AUDIT_GATE_PORT",
        "Where browsers find dagster-gate: with TLS in front of it, its https address.",
        optional_url,
    ),
    Setting(
        "AUDIT_QUERY_SECONDS",
        "10",
        f"seconds from 0.1 to {MAX_QUERY_SECONDS:.0f}",
        "Real time that one query may take; then it is cancelled.",
        seconds(0.1, MAX_QUERY_SECONDS),
    ),
    Setting(
        "AUDIT_QUERY_COOL_DOWN_SECONDS",
        "10",
        f"seconds from 0 to {MAX_QUERY_SECONDS:.0f}",
        "How long a tenant's next queries are refused after one was cancelled (real time).",
        seconds(0, MAX_QUERY_SECONDS),
    ),
    Setting(
        "AUDIT_EDGE_HOME",
        "",
        "a folder, or nothing for `edge/` below AUDIT_HOME",
        "All data of an edge-gateway is below it: `spool/` `keys/` `quarantine/` `set-aside/`.",
        optional_folder,
    ),
    Setting(
        "AUDIT_EDGE_HOST",
        "127.0.0.1",
        "a host name or address",
        "Address on which edge-gateway listens. Devices are not authenticated: an address of the "
        "devices' own network, never a public one.",
        host,
    ),
    Setting(
        "AUDIT_EDGE_PORT",
        "8504",
        PORT_WANTED,
        "Port of edge-gateway.",
        port,
    ),
    Setting(
        "AUDIT_EDGE_TENANT",
        "",
        "a tenant id, or nothing",
        "Tenant of the edge and of all its devices. An edge-gateway needs it.",
        matching(TENANT_PATTERN),
    ),
    Setting(
        "AUDIT_EDGE_HOSPITAL",
        "",
        "1 to 128 of A-Z a-z 0-9 . _ : / -, or nothing",
        "The hospitalId of all events of this edge. An edge-gateway needs it.",
        matching(IDENTIFIER_PATTERN),
    ),
    Setting(
        "AUDIT_EDGE_SITE",
        "",
        "1 to 128 of A-Z a-z 0-9 . _ : / -, or nothing for the hospital",
        "Label `site` of the edge's metrics.",
        matching(IDENTIFIER_PATTERN),
    ),
    Setting(
        "AUDIT_EDGE_DEVICE",
        "edge",
        "1 to 128 of A-Z a-z 0-9 . _ : / -",
        "The edge's own deviceId: one for each edge of a tenant.",
        matching(IDENTIFIER_PATTERN, optional=False),
    ),
    Setting(
        "AUDIT_EDGE_UPLINK",
        "http://127.0.0.1:8501",
        "an http or https URL",
        "Address of ingest-gateway.",
        url,
    ),
    Setting(
        "AUDIT_EDGE_SECRET_FILE",
        "",
        "a file, or nothing for `api-key` below AUDIT_EDGE_HOME",
        "Holds the API key (role edge) that ingest-gateway knows this edge by.",
        optional_folder,
    ),
    Setting(
        "AUDIT_EDGE_SPOOL_BYTES",
        str(20 << 30),
        f"bytes from {MIN_SPOOL_BYTES} to {MAX_SPOOL_BYTES}",
        "The spool holds at most this much; then AUDIT_EDGE_FULL says what goes.",
        whole(MIN_SPOOL_BYTES, MAX_SPOOL_BYTES),
    ),
    Setting(
        "AUDIT_EDGE_SPOOL_HOURS",
        "72",
        f"hours from 0.01 to {MAX_SPOOL_HOURS:.0f}",
        "The spool holds nothing older; then AUDIT_EDGE_FULL says what goes.",
        seconds(0.01, MAX_SPOOL_HOURS),
    ),
    Setting(
        "AUDIT_EDGE_FULL",
        "low:drop_oldest,normal:drop_oldest,high:refuse_new,critical:refuse_new",
        "a list of criticality:policy, with `refuse_new` or `drop_oldest`",
        "What a full spool may do with stored events of each criticality: give up the oldest (a "
        "signed `loss` says which), or keep them and refuse new events.",
        full,
    ),
    Setting(
        "AUDIT_FIRST_DAY",
        "2026-01-01",
        "a day as YYYY-MM-DD",
        "First UTC day that Dagster has a partition for.",
        day,
    ),
    Setting(
        "AUDIT_POLL_SECONDS",
        "0.5",
        f"seconds from 0.01 to {MAX_POLL_SECONDS:.0f}",
        "How long a service that found nothing to do waits before it looks again (real time).",
        seconds(0.01, MAX_POLL_SECONDS),
    ),
    Setting(
        "AUDIT_CLOSING_SECONDS",
        "30",
        f"whole seconds from {MIN_CLOSING_SECONDS} to {MAX_CLOSING_SECONDS}",
        "How often Dagster's sensor looks for days to close and to seal (real time).",
        whole(MIN_CLOSING_SECONDS, MAX_CLOSING_SECONDS),
    ),
    Setting(
        "AUDIT_TENANT_GROUP",
        "1/1",
        f"`number/groups`, at most {MAX_TENANT_GROUPS} groups",
        "Which tenants this code location of Dagster is for; set by the workspace that "
        "`audit-platform locations` prints.",
        tenant_group,
    ),
    Setting(
        "AUDIT_VERIFY_BYTES",
        str(1 << 40),
        f"bytes from 1 to {MAX_VERIFY_BYTES}",
        "Sealed bytes that may be read again in a night. It must be at least a 90th of all, so "
        "that each object is read every 90 days; Dagster's check says when it is not.",
        whole(1, MAX_VERIFY_BYTES),
    ),
)
