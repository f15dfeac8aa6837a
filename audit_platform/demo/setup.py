"""What must be there before the first event: signing key, tenants, credentials, Dagster's files.

Everything is made once and kept: a second run finds it. Belongs here: making it through the ports,
as the command line does. Does not: starting anything (`story.py`).
Source: issue "Walking skeleton"; design section 3 (edge keys), section 8.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import audit_platform
from audit_platform.demo.edges import edge_environment
from audit_platform.demo.home import DemoHome, DemoStopped
from audit_platform.ports import Metadata, Role
from audit_platform.settings import Settings
from audit_platform.stack.dagster_storage import on_postgres
from audit_platform.wiring import open_edge_keys, open_platform

#: The top of the clone, where dagster.yaml lies.
TOP: Final = Path(audit_platform.__file__).parents[1]

#: By the name in `workspace.yaml` of the clone: sensors keep their state by it.
CODE_LOCATION: Final = "audit-platform"


def investigator_file(home: DemoHome, tenant_id: str) -> Path:
    """Where the credential of a tenant's investigator lies."""
    return home.root / "investigators" / tenant_id


def auditor_file(home: DemoHome, tenant_id: str) -> Path:
    """Where the credential of a tenant's auditor lies."""
    return home.root / "auditors" / tenant_id


def prepare(home: DemoHome, settings: Settings, hospitals: Mapping[str, str]) -> None:
    """Make what is missing; `hospitals` are hospitalIds by tenant.

    Raises the ports' errors, `DemoStopped` outside of a clone.
    """
    platform = open_platform(settings)
    try:
        now_ms = platform.clock.now_ms()
        if not any(k.purpose == "manifest" for k in platform.keys.public_keys()):
            platform.keys.new("manifest", now_ms)
        for tenant_id, hospital in hospitals.items():
            platform.metadata.add_tenant(tenant_id, now_ms)
            of_edge = edge_environment(home, tenant_id, hospital)
            edge = Settings.from_environment({**settings.to_environment(), **of_edge})
            platform.metadata.add_edge_key(tenant_id, _edge_key(edge, now_ms), now_ms)
            _credential(edge.edge_secret, platform.metadata, tenant_id, Role.EDGE, now_ms)
            investigator = investigator_file(home, tenant_id)
            _credential(investigator, platform.metadata, tenant_id, Role.INVESTIGATOR, now_ms)
            auditor = auditor_file(home, tenant_id)
            _credential(auditor, platform.metadata, tenant_id, Role.AUDITOR, now_ms)
    finally:
        platform.close()


def _edge_key(edge: Settings, now_ms: int) -> bytes:
    """The edge's public key; made when missing, as `audit-platform edge init` does."""
    keys = open_edge_keys(edge)
    found = next((k for k in keys.public_keys() if k.purpose == "edge" and k.active), None)
    return (found or keys.new("edge", now_ms)).public_key


def _credential(path: Path, metadata: Metadata, tenant_id: str, role: Role, now_ms: int) -> None:
    if path.exists() and metadata.api_key_of(path.read_text("ascii").strip()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _, secret = metadata.add_api_key(tenant_id, role, now_ms)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as opened:
        opened.write(secret + "\n")


def prepare_dagster(folder: Path, code_port: int, profile: str) -> Path:
    """DAGSTER_HOME with the clone's dagster.yaml; returns a workspace of the one code server.

    In the profile `stack` its storage is the stack's PostgreSQL.
    """
    given = TOP / "dagster.yaml"
    if not given.exists():
        raise DemoStopped(f"{given} is not there", remedy="run the demo in a clone")
    folder.mkdir(parents=True, exist_ok=True)
    text = given.read_text("utf-8")
    (folder / given.name).write_text(on_postgres(text) if profile == "stack" else text, "utf-8")
    workspace = folder / "workspace.yaml"
    workspace.write_text(
        "# The demo's own: webserver and daemon share one code server.\n"
        "load_from:\n"
        "  - grpc_server:\n"
        "      host: 127.0.0.1\n"
        f"      port: {code_port}\n"
        f"      location_name: {CODE_LOCATION}\n",
        "utf-8",
    )
    return workspace
