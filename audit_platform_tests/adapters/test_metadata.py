"""The SQL store beyond its contract: hashes, migrations, several processes, and power cuts."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from audit_platform.adapters.embedded import metadata
from audit_platform.adapters.embedded.metadata import open_sqlite
from audit_platform.adapters.sql.tables import HEAD, TABLES
from audit_platform.errors import AuditPlatformError, MetadataUnavailable
from audit_platform.ports import Role, Tenant
from audit_platform_tests.cutdisk import Fsync
from audit_platform_tests.tracing import Omit, Trace, record

NOW = 1_772_323_200_000
#: What the child says in one run.
PROMISES = 25
CHILD = "audit_platform_tests.adapters.metadata_child"
#: A store as revision 0001 left it, a tenant and an edge key in it.
FIRST_VERSION = (
    """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
CREATE TABLE tenants (tenant_id VARCHAR(63) NOT NULL PRIMARY KEY, created_ms BIGINT NOT NULL,
    suspended BOOLEAN NOT NULL);
CREATE TABLE api_keys (key_id VARCHAR(16) NOT NULL PRIMARY KEY,
    tenant_id VARCHAR(63) NOT NULL REFERENCES tenants (tenant_id), role VARCHAR(16) NOT NULL,
    secret_sha256 VARCHAR(64) NOT NULL, created_ms BIGINT NOT NULL, revoked_ms BIGINT NOT NULL);
CREATE TABLE edge_keys (tenant_id VARCHAR(63) NOT NULL REFERENCES tenants (tenant_id),
    key_id VARCHAR(16) NOT NULL, public_key BLOB NOT NULL, created_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, key_id));
INSERT INTO tenants VALUES ('north', 5, 1);
INSERT INTO edge_keys VALUES ('north', '0011223344556677', CAST('"""
    + "k" * 32
    + """' AS BLOB), 5);
"""
)


def test_a_secret_is_stored_only_as_its_hash(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "metadata.db")
    store.add_tenant("north", NOW)
    key, secret = store.add_api_key("north", Role.EDGE, NOW)
    store.close()
    assert secret.startswith(f"ak_{key.key_id}_")
    stored = (tmp_path / "metadata.db").read_bytes()
    assert secret.removeprefix("ak_").encode() not in stored
    assert secret.rpartition("_")[2].encode() not in stored
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in stored


def test_a_secret_has_256_random_bits(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "metadata.db")
    store.add_tenant("north", NOW)
    secrets = [store.add_api_key("north", Role.EDGE, NOW)[1] for _ in range(20)]
    store.close()
    assert len({s.split("_", 2)[2] for s in secrets}) == 20
    assert {len(s.split("_", 2)[2]) for s in secrets} == {43}  # 256 bits, 6 a character


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    open_sqlite(path).close()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert set(sa.inspect(connection).get_table_names()) == {*TABLES.tables, "alembic_version"}
        assert compare_metadata(context, TABLES) == []
    engine.dispose()


def test_the_newest_revision_is_the_one_that_the_code_knows() -> None:
    config = Config()
    config.set_main_option("script_location", "audit_platform.adapters.sql:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_a_store_of_the_first_version_is_brought_up_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    with sqlite3.connect(path) as raw:
        raw.executescript(FIRST_VERSION)
    raw.close()
    store = open_sqlite(path)
    assert store.tenants() == [Tenant("north", 5, suspended=True)]
    assert store.enrol_devices("north", ["pump-1"], NOW) == 1
    assert store.edge_keys("north") == {"0011223344556677": b"k" * 32}
    store.close()


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    open_sqlite(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(AuditPlatformError, match="9999") as caught:
        open_sqlite(path)
    assert "newer version" in caught.value.remedy


def test_a_store_that_is_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    open_sqlite(path).close()
    code = (
        "import sys; from pathlib import Path; "
        "from audit_platform.adapters.embedded.metadata import open_sqlite; "
        f"open_sqlite(Path({str(path)!r})).close(); print('alembic' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


def test_a_store_keeps_what_it_was_told_when_opened_again(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "deep" / "down" / "metadata.db")
    store.add_tenant("north", NOW)
    key, secret = store.add_api_key("north", Role.AUDITOR, NOW)
    store.close()
    again = open_sqlite(tmp_path / "deep" / "down" / "metadata.db")
    assert again.api_key_of(secret) == key
    again.close()


@pytest.mark.parametrize("content", [b"this is no database, but a text of some length" * 50])
def test_a_file_that_is_no_database_is_an_error_with_a_remedy(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "metadata.db"
    path.write_bytes(content)
    with pytest.raises(MetadataUnavailable) as caught:
        open_sqlite(path)
    assert caught.value.remedy
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MetadataUnavailable) as caught:
        open_sqlite(tmp_path / "file" / "metadata.db")
    assert caught.value.remedy


def test_a_locked_store_is_unavailable_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metadata.db"
    monkeypatch.setattr(metadata, "PRAGMAS", (*metadata.PRAGMAS, "busy_timeout=1"))
    store = open_sqlite(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(MetadataUnavailable, match="locked"):
        store.add_tenant("north", NOW)
    assert store.tenants() == []  # readers do not wait for a writer
    other.execute("ROLLBACK")
    other.close()
    assert store.add_tenant("north", NOW).tenant_id == "north"
    store.close()


def test_many_processes_open_a_new_store_at_once_and_lose_no_tenant(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    code = (
        "import sys; from pathlib import Path; "
        "from audit_platform.adapters.embedded.metadata import open_sqlite; "
        "import alembic.command; sys.stdin.read(); "  # all have imported: now open together
        f"store = open_sqlite(Path({str(path)!r})); "
        "store.add_tenant('same', 1); store.add_tenant('tenant-' + sys.argv[1], 1); store.close()"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(n)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for n in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    for child in children:
        assert child.stderr is not None
        errors = child.stderr.read()
        child.stderr.close()
        assert child.wait() == 0, errors.decode()
    store = open_sqlite(path)
    assert [t.tenant_id for t in store.tenants()] == ["same", *(f"tenant-{n}" for n in range(4))]
    store.close()


def test_many_threads_use_one_store(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "metadata.db")
    store.add_tenant("north", NOW)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: store.add_api_key("north", Role.EDGE, NOW + n), range(40)))
        found = list(pool.map(store.api_key_of, [secret for _, secret in made]))
    assert found == [key for key, _ in made]
    assert store.api_keys() == [key for key, _ in made]
    store.close()


# ------------------------------------------------------------------------------------ power cuts


def _traced(tmp_path: Path, *options: str) -> Trace:
    root = tmp_path / "disk"
    root.mkdir()
    command = [sys.executable, "-m", CHILD, str(root / "home" / "metadata.db"), *options]
    return record(command, root, log=tmp_path / "strace.log")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """One run of the child as the code is."""
    return _traced(tmp_path_factory.mktemp("traced"))


def _promises(trace: Trace) -> list[tuple[int, dict[str, str]]]:
    return [(number, json.loads(line)) for number, line in trace.said(1)]


def _broken(disk_folder: Path, promised: list[dict[str, str]]) -> list[str]:
    """Promises that a store found on this disk does not keep."""
    try:
        store = open_sqlite(disk_folder / "home" / "metadata.db")
    except AuditPlatformError as e:
        return [f"cannot be opened: {e}"]
    try:
        tenants = {t.tenant_id for t in store.tenants()}
        revoked = {k.key_id for k in store.api_keys() if k.revoked_ms}
        secrets_of_revoked = {
            s for p in promised for s in [p.get("secret")] if s and s[3:19] in revoked
        }
        keeps: dict[str, Callable[[dict[str, str]], bool]] = {
            "tenant": lambda p: p["tenant"] in tenants,
            "secret": lambda p: (
                store.api_key_of(p["secret"]) is not None or p["secret"] in secrets_of_revoked
            ),
            "edge_of": lambda p: (
                bytes.fromhex(p["public"]) in store.edge_keys(p["edge_of"]).values()
            ),
            "revoked": lambda p: p["revoked"] in revoked,
            "enrolled_in": lambda p: len(store.devices(p["enrolled_in"])) == 2,
            "suspended": lambda p: store.tenant(p["suspended"]).suspended,
            "retired_in": lambda p: any(d.retired_ms for d in store.devices(p["retired_in"])),
        }
        return [str(p) for p in promised if not keeps[next(iter(p))](p)]
    except AuditPlatformError as e:
        return [f"cannot be read: {e}"]
    finally:
        store.close()


def _cuts(trace: Trace, folder: Path, omit: Omit | None = None) -> tuple[int, list[str]]:
    """(cuts tried, broken promises) over a power cut after every operation that changes anything.

    Between two cuts with equal disks and equal promises nothing can differ, so one is tried.
    """
    promises = _promises(trace)
    tried = 0
    broken: list[str] = []
    seen: tuple[int, int] | None = None
    for number, disk in trace.cuts(omit):
        promised = [p for at, p in promises if at <= number]
        if (disk.version, len(promised)) == seen:
            continue
        seen = (disk.version, len(promised))
        tried += 1
        disk.write_to(folder / str(tried))
        broken += [f"cut after {number}: {b}" for b in _broken(folder / str(tried), promised)]
    return tried, broken


def test_every_promise_survives_a_power_cut_after_any_system_call(
    trace: Trace, tmp_path: Path
) -> None:
    assert len(_promises(trace)) == PROMISES
    tried, broken = _cuts(trace, tmp_path)
    assert broken == []
    assert tried > 40


def test_without_sqlites_fsyncs_promises_break(tmp_path: Path) -> None:
    off = _traced(tmp_path, "OFF")
    (tmp_path / "cuts").mkdir()
    assert len(_promises(off)) == PROMISES
    _, broken = _cuts(off, tmp_path / "cuts")
    assert broken


@pytest.mark.parametrize(
    ("what", "omit"),
    [
        ("bytes of the WAL", lambda f: f.path.endswith("-wal")),
        ("bytes of the database", lambda f: f.path.endswith("metadata.db")),
        ("names in the home folder", lambda f: f.path == "home"),
        ("the name of the home folder", lambda f: f.path == ""),
    ],
)
def test_with_one_kind_of_fsync_taken_out_promises_break(
    trace: Trace, tmp_path: Path, what: str, omit: Callable[[Fsync], bool]
) -> None:
    assert any(omit(f) for f in trace.fsyncs()), f"nobody fsyncs {what}"
    _, broken = _cuts(trace, tmp_path, omit)
    assert broken


def test_the_name_of_the_wal_is_fsynced_before_anything_in_it_is_promised(
    trace: Trace, tmp_path: Path
) -> None:
    # The database's own name is made durable by the first fsync of its folder; take out the later.
    first = next(f.call for f in trace.fsyncs() if f.path == "home")
    assert any(f.path == "home" and f.call > first for f in trace.fsyncs())
    _, broken = _cuts(trace, tmp_path, lambda f: f.path == "home" and f.call > first)
    assert broken
