"""PostgreSQL with its disk lost comes back as it was, also as it was before a mistake."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from audit_platform.adapters.postgres.metadata import open_postgres
from audit_platform.errors import StackError
from audit_platform.stack import postgres_backup
from audit_platform.stack.model import HOST
from audit_platform.stack.postgres_backup import backups, restore, take_backup
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.own_stack import OwnStack, own_stack

PATIENCE_SECONDS = 120.0


@pytest.fixture
def own() -> Iterator[OwnStack]:
    with own_stack("postgres", size="full") as stack:
        yield stack


def database(own: OwnStack) -> str:
    """Without the fault proxy, which is not there."""
    url = own.settings().database
    return url.replace(own.place.front("postgres"), own.place.address("postgres"))


def add(own: OwnStack, tenant: str) -> None:
    with closing(open_postgres(database(own))) as store:
        store.add_tenant(tenant, START_MS)


def tenants(own: OwnStack) -> dict[str, bool]:
    """Name -> is it suspended."""
    with closing(open_postgres(database(own))) as store:
        return {t.tenant_id: t.suspended for t in store.tenants()}


def archived(own: OwnStack) -> datetime:
    """Wait until all that is committed is in the archive; the server's time then."""
    folder = own.place.folder("postgres")
    target = f"host={HOST} port={own.place.port('postgres')} user=postgres dbname=postgres"
    password = (folder / "password").read_text()
    with psycopg.connect(target, password=password, autocommit=True) as connection:
        (row,) = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchall()
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE_SECONDS
        while not (folder / "archive" / row[0]).exists():
            assert time.monotonic() < deadline, "nothing is archived"
            pause.wait(0.1)
        (now,) = connection.execute("SELECT clock_timestamp()").fetchall()
    at: datetime = now[0]
    return at


def end(own: OwnStack) -> None:
    """As a power cut would."""
    for name in ("postgres", "postgres-standby"):
        own.kill(name)


def lose(own: OwnStack) -> None:
    """The disk with the database is gone; backups and archive are on another one."""
    end(own)
    data = own.place.folder("postgres") / "data"
    assert data.is_dir()
    shutil.rmtree(data)


def test_a_lost_database_comes_back_and_so_does_the_moment_before_a_mistake(own: OwnStack) -> None:
    add(own, "before-backup")
    take_backup(own.place)
    add(own, "archived")
    good = archived(own)
    with closing(open_postgres(database(own))) as store:
        store.set_suspended("archived", suspended=True)
    add(own, "after")
    archived(own)
    add(own, "not-archived")  # what the last minute has is what may be lost
    lose(own)
    restore(own.place)
    own.start()
    assert tenants(own) == {"after": False, "archived": True, "before-backup": False}
    end(own)
    restore(own.place, good)
    own.start()
    assert tenants(own) == {"archived": False, "before-backup": False}
    # It goes on from there: another timeline, whose log is archived beside the old one's.
    add(own, "later")
    archived(own)
    lose(own)
    restore(own.place)
    own.start()
    assert tenants(own) == {"archived": False, "before-backup": False, "later": False}


def test_old_backups_go_with_the_log_that_only_they_need_and_a_running_server_is_left_alone(
    own: OwnStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_backup, "KEPT", 1)
    take_backup(own.place)
    archived(own)
    archive = own.place.folder("postgres") / "archive"
    old = set(archive.iterdir())
    take_backup(own.place)
    (kept,) = backups(own.place)
    assert old - set(archive.iterdir()), "the log grows for ever"
    with pytest.raises(StackError, match="postgres runs"):
        restore(own.place)
    end(own)
    with pytest.raises(StackError, match="the first backup is of"):
        restore(own.place, kept - timedelta(seconds=1))
    assert (own.place.folder("postgres") / "data").is_dir()
    restore(own.place, datetime.now(UTC))
    lost = list(own.place.folder("postgres").glob("data.lost-*"))
    assert len(lost) == 1


def test_a_small_stack_has_no_archive_and_says_so() -> None:
    with own_stack("postgres") as small, pytest.raises(StackError, match="archives no log"):
        take_backup(small.place)
