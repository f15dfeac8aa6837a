"""PostgreSQL beyond the metadata contract: opening, migrations, wrong settings, server faults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from audit_platform.adapters.postgres import metadata
from audit_platform.adapters.postgres.metadata import open_postgres
from audit_platform.adapters.sql.store import SqlMetadata
from audit_platform.adapters.sql.tables import TABLES
from audit_platform.errors import AuditPlatformError, MetadataUnavailable, SettingInvalid
from audit_platform.ports import Role, Tenant
from audit_platform_tests.databases import new_database
from audit_platform_tests.own_stack import OwnStack, own_stack
from audit_platform_tests.ports import free_port
from audit_platform_tests.servers import stack_settings

NOW = 1_772_323_200_000


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of an empty database on the shared server."""
    with new_database(stack_settings("postgres")["AUDIT_DATABASE"]) as url:
        yield url


@pytest.fixture(scope="module")
def own() -> Iterator[OwnStack]:
    """A server that may be killed and frozen."""
    with own_stack("postgres") as stack:
        yield stack


def plain_engine(database: str) -> sa.Engine:
    """An engine that knows nothing of ours."""
    return sa.create_engine(database.replace("postgresql:", "postgresql+psycopg:"))


def password_of(database: str) -> str:
    return database.split(":")[2].partition("@")[0]


# --------------------------------------------------------------------------------------- opening


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(database: str) -> None:
    open_postgres(database).close()
    engine = plain_engine(database)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert set(sa.inspect(connection).get_table_names()) == {*TABLES.tables, "alembic_version"}
        assert compare_metadata(context, TABLES) == []
    engine.dispose()


def test_ten_services_open_a_new_store_at_once_and_one_brings_it_up(database: str) -> None:
    with ThreadPoolExecutor(10) as pool:
        stores = list(pool.map(open_postgres, [database] * 10))
        list(pool.map(lambda n: stores[n].add_tenant(f"tenant-{n}", NOW), range(10)))
    assert [t.tenant_id for t in stores[0].tenants()] == [f"tenant-{n}" for n in range(10)]
    for store in stores:
        store.close()


def test_a_store_of_the_first_version_is_brought_up_and_keeps_its_rows(database: str) -> None:
    engine = plain_engine(database)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "audit_platform.adapters.sql:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("INSERT INTO tenants VALUES ('north', 5, true)"))
    engine.dispose()
    store = open_postgres(database)
    assert store.tenants() == [Tenant("north", 5, suspended=True)]
    assert store.enrol_devices("north", ["pump-1"], NOW) == 1
    store.close()


def test_a_store_of_a_newer_version_is_refused_and_left_alone(database: str) -> None:
    open_postgres(database).close()
    engine = plain_engine(database)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(AuditPlatformError, match="9999") as caught:
        open_postgres(database)
    assert "newer version" in caught.value.remedy
    with engine.begin() as connection:
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    assert found == "9999"
    engine.dispose()


def test_a_database_of_somebody_elses_revisions_is_refused(database: str) -> None:
    engine = plain_engine(database)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('0000abcd')"))
    engine.dispose()
    with pytest.raises(AuditPlatformError, match="another program") as caught:
        open_postgres(database)
    assert "AUDIT_DATABASE" in caught.value.remedy


@pytest.mark.parametrize(
    ("part", "wanted"),
    [("password", "password"), ("user", "user"), ("database", "database")],
)
def test_a_setting_that_will_never_do_is_refused_by_name_and_without_its_password(
    part: str, wanted: str
) -> None:
    database = stack_settings("postgres")["AUDIT_DATABASE"]
    secret = password_of(database)
    wrong = {
        "password": database.replace(secret, "geheim"),
        "user": database.replace("//audit:", "//nobody:"),
        "database": database.removesuffix("audit") + "elsewhere",
    }[part]
    with pytest.raises(SettingInvalid, match="AUDIT_DATABASE") as caught:
        open_postgres(wrong)
    assert wanted in caught.value.wanted or "password" in caught.value.wanted
    assert secret not in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_server_without_tls_is_refused_where_an_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="AUDIT_DATABASE"):
        open_postgres(stack_settings("postgres")["AUDIT_DATABASE"], ca_file=tmp_path / "ca.pem")


def test_a_server_that_is_not_there_yet_stops_no_service_from_starting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = f"postgresql://audit:geheim@127.0.0.1:{free_port()}/audit"
    store = open_postgres(database)
    assert "started without the metadata store" in caplog.text
    with pytest.raises(MetadataUnavailable) as caught:
        store.tenants()
    assert caught.value.remedy
    assert "geheim" not in str(caught.value) + caplog.text
    store.close()


def test_text_is_listed_in_one_order_whatever_the_servers_language_is() -> None:
    server = stack_settings("postgres")["AUDIT_DATABASE"]
    with new_database(server, language="en-US") as database:
        store = open_postgres(database)
        names = ["a", "B", "c-1", "C:1", "1", "_"]
        for tenant_id in ("c1", "c-2", "c3"):
            store.add_tenant(tenant_id, NOW)
        store.enrol_devices("c1", names, NOW)
        assert [d.device_id for d in store.devices("c1")] == sorted(names)
        assert [t.tenant_id for t in store.tenants()] == ["c-2", "c1", "c3"]
        store.close()


# ---------------------------------------------------------------------------------- server faults


@pytest.fixture
def store(own: OwnStack) -> Iterator[SqlMetadata]:
    """A store on the server that may be hurt."""
    opened = open_postgres(own.settings().database)
    yield opened
    opened.close()


def test_while_the_server_is_dead_calls_fail_soon_and_afterwards_all_is_there(
    own: OwnStack, store: SqlMetadata
) -> None:
    store.add_tenant("north", NOW)
    key, secret = store.add_api_key("north", Role.EDGE, NOW)
    own.kill("postgres")
    for call in (partial(store.api_key_of, secret), partial(store.add_tenant, "lost", NOW)):
        started = time.monotonic()
        with pytest.raises(MetadataUnavailable, match="postgresql://audit@"):
            call()
        assert time.monotonic() - started < 2 * metadata.CONNECT_SECONDS
    own.start()
    assert store.api_key_of(secret) == key  # connections of before are not handed out
    assert store.add_tenant("found", NOW).tenant_id == "found"
    assert "lost" not in [t.tenant_id for t in store.tenants()]


def test_a_restart_that_nobody_noticed_fails_no_call(own: OwnStack, store: SqlMetadata) -> None:
    store.add_tenant("north", NOW)
    own.kill("postgres")
    own.start()
    assert store.tenant("north").tenant_id == "north"


def test_while_the_server_is_frozen_calls_fail_in_bounded_time(
    own: OwnStack, store: SqlMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata._Connection, "reply_seconds", 0.3)
    store.add_tenant("north", NOW)
    own.freeze("postgres")
    started = time.monotonic()
    with pytest.raises(MetadataUnavailable):
        store.tenant("north")
    # A pooled connection is asked, then a new one is made, which nobody answers either.
    assert time.monotonic() - started < 0.3 + 2 * metadata.CONNECT_SECONDS
    own.thaw("postgres")
    assert store.tenant("north").tenant_id == "north"


def test_a_store_opened_while_the_server_was_dead_comes_up_at_its_first_use(own: OwnStack) -> None:
    own.kill("postgres")
    store = open_postgres(own.settings().database)
    with pytest.raises(MetadataUnavailable):
        store.tenants()
    own.start()
    assert isinstance(store.tenants(), list)
    store.close()


def test_a_statement_that_takes_too_long_is_ended_by_the_server(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "STATEMENT_SECONDS", 1)
    store = open_postgres(database)
    engine = plain_engine(database)
    store.add_tenant("north", NOW)
    with engine.begin() as other:
        other.execute(sa.text("UPDATE tenants SET created_ms = 1 WHERE tenant_id = 'north'"))
        with pytest.raises(MetadataUnavailable, match="statement timeout"):
            store.set_suspended("north", suspended=True)
    assert store.set_suspended("north", suspended=True).suspended
    engine.dispose()
    store.close()
