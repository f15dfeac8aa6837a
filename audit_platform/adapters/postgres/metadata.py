"""The metadata store on PostgreSQL: the same statements and revisions as on SQLite.

Belongs here: what PostgreSQL needs: connections that never wait for ever, the lock under which a
store is brought up. Does not: tables, statements and revisions (`adapters/sql/`).
Source: PostgreSQL 15's manual, chapters 20 (time-outs) and 13.3.5 (advisory locks); failure 21.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import psycopg
import sqlalchemy as sa
from psycopg import errors
from psycopg.conninfo import make_conninfo
from sqlalchemy.exc import SQLAlchemyError

from audit_platform.adapters.sql.revisions import bring_up, is_up
from audit_platform.adapters.sql.store import SqlMetadata, unavailable
from audit_platform.errors import MetadataUnavailable, SettingInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.abc import PQGen

_Result = TypeVar("_Result")

_log: Final = logging.getLogger(__name__)

#: A healthy server answers a connect in milliseconds; ingest's look-ups wait for this one.
CONNECT_SECONDS: Final = 2

#: The longest statement here reads 100,000 devices in half a second.
STATEMENT_SECONDS: Final = 5

#: The server ends a statement by itself; one that is frozen does not, so we do, a little later.
REPLY_SECONDS: Final = STATEMENT_SECONDS + 1

#: Waiting for another process's migration, and one's own.
MIGRATION_SECONDS: Final = 60

#: A connection for each look-up thread and a few for the others; ten services stay far below the
#: hundred connections that a server has by default.
POOL_SIZE: Final = 2
POOL_MORE: Final = 3

#: The advisory lock of whoever brings the store up. Any number, but always the same.
LOCK_NUMBER: Final = 0x6175646974  # "audit"

_REMEDY: Final = "see that PostgreSQL runs and that this machine reaches it, then try again"

#: What the server says when trying again is of no use, and what is wrong with the setting then. A
#: refused connection has no code, only this text.
_NEVER: Final = {
    "password authentication failed": "the password is not that user's",
    "no pg_hba.conf entry": "the server does not let that user in from here",
    'role "': "the server has no such user",
    'database "': "the server has no such database",
    "certificate verify failed": "the server's certificate is not from AUDIT_CA_FILE",
    "server certificate for": "the server's certificate has another name",
    "expected authentication request": "it is no PostgreSQL",
    "invalid response to SSL negotiation": "it is no PostgreSQL",
    "does not support SSL": "the server has no TLS, and AUDIT_CA_FILE asks for it",
}


class _Connection(psycopg.Connection[Any]):
    """One whose every wait ends, also when the server is frozen or the line is cut."""

    reply_seconds = float(REPLY_SECONDS)

    def wait(
        self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None
    ) -> _Result:
        """As psycopg's, with a limit of ours where there is none."""
        limit = self.reply_seconds if timeout is None else timeout
        try:
            return super().wait(gen, interval, limit)
        except errors._WaitTimeout as e:  # noqa: SLF001 - what the documented time-out raises
            self.pgconn.finish()  # what it would answer now belongs to nobody
            raise psycopg.OperationalError(f"no reply within {limit:g} s") from e


class _Migrating(_Connection):
    """One that may take as long as a migration."""

    reply_seconds = float(MIGRATION_SECONDS + 1)


def open_postgres(database: str, *, ca_file: Path | None = None) -> SqlMetadata:
    """The store at a postgresql:// URL. It is made or brought up now, or at first use.

    A server that is away is no error here: a service that needs no metadata for its work must be
    able to start. Raises `SettingInvalid` for a database that will never let us in,
    `AuditPlatformError` for a store of a newer version.
    """
    opening = _Opening(database, ca_file)
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: _connect(_Connection, database, ca_file, STATEMENT_SECONDS),
        pool_size=POOL_SIZE,
        max_overflow=POOL_MORE,
        pool_timeout=CONNECT_SECONDS,
        pool_pre_ping=True,  # a restarted server has forgotten the connections that we hold
    )
    store = SqlMetadata(engine, _shown(database), _REMEDY, ready=lambda: opening.demand(engine))
    try:
        opening.demand(engine)
    except MetadataUnavailable as e:
        _log.warning("started without the metadata store: %s", e)
    except BaseException:
        store.close()
        raise
    return store


class _Opening:
    """Brings the store up once in this process."""

    def __init__(self, database: str, ca_file: Path | None) -> None:
        self._database = database
        self._ca_file = ca_file
        self._alone = threading.Lock()
        self._is_up = False

    def demand(self, engine: sa.Engine) -> None:
        """Return when the store is up. Raises as `open_postgres`, and `MetadataUnavailable`."""
        if not self._is_up:
            self._make_sure(engine)

    def _make_sure(self, engine: sa.Engine) -> None:
        with self._alone, self._translated():
            if self._is_up:  # another thread was here first
                return
            with engine.connect() as connection:
                found = is_up(connection)
            if not found:
                self._bring_up()
            self._is_up = True

    def _bring_up(self) -> None:
        """One process at a time; who has waited finds nothing left to do."""
        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=lambda: _connect(_Migrating, self._database, self._ca_file, MIGRATION_SECONDS),
            poolclass=sa.NullPool,
        )
        with engine.begin() as connection:
            # Given back with the transaction, whatever becomes of it or of us.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK_NUMBER)))
            bring_up(connection)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as e:
            for text, wrong in _NEVER.items():
                if text in str(e):
                    raise SettingInvalid(
                        "AUDIT_DATABASE", _shown(self._database), f"another one: {wrong}"
                    ) from e
            raise unavailable(_shown(self._database), e, _REMEDY) from e


def _connect(
    kind: type[_Connection], database: str, ca_file: Path | None, statement_seconds: int
) -> _Connection:
    info = make_conninfo(
        database,
        connect_timeout=CONNECT_SECONDS,
        application_name="audit-platform",
        # The server gives up before we do, so no statement goes on that nobody waits for.
        options=f"-c statement_timeout={statement_seconds}s "
        f"-c idle_in_transaction_session_timeout={statement_seconds}s",
    )
    if ca_file is not None:
        info = make_conninfo(info, sslmode="verify-full", sslrootcert=str(ca_file))
    return kind.connect(info)


def _shown(database: str) -> str:
    """The URL without its password."""
    parts = urlsplit(database)
    address = f"{parts.hostname}:{parts.port}" if parts.port else f"{parts.hostname}"
    user = f"{parts.username}@" if parts.username else ""
    return f"postgresql://{user}{address}{parts.path}"
