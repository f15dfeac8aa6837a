"""Tenants, devices, credentials and edge keys in a relational store; SQLite when embedded.

Belongs here: the statements, and (in `open_sqlite` only) what SQLite needs. Does not: the tables
(`metadata_tables.py`), changes of the schema (`adapters/migrations/`), evidence (objects).
Source: design section 9 (profiles); the promises are those of `ports.Metadata`.

A secret is `ak_<key id>_<43 characters>`: 256 random bits. It is stored as plain SHA-256: a slow
hash protects short passwords that can be guessed, and nobody guesses 256 bits; ingest checks one
with every request.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from audit_platform.adapters.embedded.metadata_tables import (
    API_KEYS,
    DEVICES,
    EDGE_KEYS,
    HEAD,
    TENANTS,
)
from audit_platform.errors import (
    AuditPlatformError,
    DeviceUnknown,
    KeyUnknown,
    MetadataUnavailable,
    TenantUnknown,
)
from audit_platform.ports import ApiKey, Device, Role, Tenant, UnknownDevices
from audit_platform.record.layout import IDENTIFIER_PATTERN, TENANT_PATTERN

PUBLIC_KEY_BYTES: Final = 32

#: An opener waits this long for another process's write; the longest write here is a migration.
BUSY_TIMEOUT_MS: Final = 10_000

#: What each new SQLite connection is told. FULL: a commit is in the fsynced WAL when it returns.
PRAGMAS: Final[tuple[str, ...]] = (
    f"busy_timeout={BUSY_TIMEOUT_MS}",
    "synchronous=FULL",
    "foreign_keys=ON",
)

_SECRET: Final = re.compile(r"ak_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _api_key(row: sa.Row[Any]) -> ApiKey:
    return ApiKey(row.key_id, row.tenant_id, Role(row.role), row.created_ms, row.revoked_ms)


def _tenant(row: sa.Row[Any]) -> Tenant:
    return Tenant(
        row.tenant_id,
        row.created_ms,
        row.suspended,
        UnknownDevices(row.unknown_devices),
        row.device_changes,
    )


class SqlMetadata:
    """`ports.Metadata` over any SQLAlchemy engine whose database has the revision `HEAD`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """One transaction, committed at the end; all troubles but `IntegrityError` translated."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as e:
            raise _unavailable(self._engine, e) from e

    def add_tenant(self, tenant_id: str, now_ms: int) -> Tenant:
        """See `ports.Metadata`."""
        if not TENANT_PATTERN.fullmatch(tenant_id):
            raise ValueError(
                f"tenant id {tenant_id!r}: wanted 1 to 63 of a-z 0-9 -, "
                "the first and the last a letter or a digit"
            )
        try:
            with self._transaction() as c:
                c.execute(
                    sa.insert(TENANTS).values(
                        tenant_id=tenant_id,
                        created_ms=now_ms,
                        suspended=False,
                        unknown_devices=UnknownDevices.ACCEPT.value,
                        device_changes=0,
                    )
                )
        except IntegrityError:  # it is there: the first one counts
            return self.tenant(tenant_id)
        return Tenant(tenant_id, now_ms, suspended=False)

    def tenant(self, tenant_id: str) -> Tenant:
        """See `ports.Metadata`."""
        with self._transaction() as c:
            return _the_tenant(c, tenant_id)

    def tenants(self) -> list[Tenant]:
        """See `ports.Metadata`."""
        with self._transaction() as c:
            rows = c.execute(sa.select(TENANTS).order_by(TENANTS.c.tenant_id)).all()
        return [_tenant(r) for r in rows]

    def set_suspended(self, tenant_id: str, *, suspended: bool) -> Tenant:
        """See `ports.Metadata`."""
        return self._set(tenant_id, suspended=suspended)

    def set_unknown_devices(self, tenant_id: str, policy: UnknownDevices) -> Tenant:
        """See `ports.Metadata`."""
        return self._set(tenant_id, unknown_devices=policy.value)

    def _set(self, tenant_id: str, **values: object) -> Tenant:
        with self._transaction() as c:
            c.execute(sa.update(TENANTS).where(TENANTS.c.tenant_id == tenant_id).values(**values))
            return _the_tenant(c, tenant_id)

    def enrol_devices(self, tenant_id: str, device_ids: Iterable[str], now_ms: int) -> int:
        """See `ports.Metadata`."""
        wanted = set(device_ids)
        for device_id in sorted(wanted):
            if not IDENTIFIER_PATTERN.fullmatch(device_id):
                raise ValueError(
                    f"device id {device_id!r}: wanted 1 to 128 of A-Z a-z 0-9 . _ : / -"
                )
        ours = DEVICES.c.tenant_id == tenant_id
        with self._transaction() as c:
            _change_devices(c, tenant_id)
            query = sa.select(DEVICES.c.device_id, DEVICES.c.retired_ms).where(ours)
            held = {row.device_id: row.retired_ms for row in c.execute(query)}
            back = [d for d in wanted if held.get(d)]
            if back:
                this = DEVICES.c.device_id == sa.bindparam("one")
                again = sa.update(DEVICES).where(ours, this).values(retired_ms=0)
                c.execute(again, [{"one": device_id} for device_id in back])
            new = [
                {"tenant_id": tenant_id, "device_id": d, "enrolled_ms": now_ms, "retired_ms": 0}
                for d in sorted(wanted - held.keys())
            ]
            if new:
                c.execute(sa.insert(DEVICES), new)
        return len(new) + len(back)

    def retire_device(self, tenant_id: str, device_id: str, now_ms: int) -> Device:
        """See `ports.Metadata`."""
        this = (DEVICES.c.tenant_id == tenant_id, DEVICES.c.device_id == device_id)
        with self._transaction() as c:
            _change_devices(c, tenant_id)
            # 0 means not retired, so a clock that stands at 0 must not leave the device enrolled.
            there = sa.update(DEVICES).where(*this, DEVICES.c.retired_ms == 0)
            c.execute(there.values(retired_ms=max(now_ms, 1)))
            row = c.execute(sa.select(DEVICES).where(*this)).one_or_none()
            if row is None:
                raise DeviceUnknown(tenant_id, device_id)
            return Device(*row)

    def devices(self, tenant_id: str) -> list[Device]:
        """See `ports.Metadata`."""
        query = sa.select(DEVICES).where(DEVICES.c.tenant_id == tenant_id)
        with self._transaction() as c:
            return [Device(*row) for row in c.execute(query.order_by(DEVICES.c.device_id))]

    def add_api_key(self, tenant_id: str, role: Role, now_ms: int) -> tuple[ApiKey, str]:
        """See `ports.Metadata`."""
        key_id = secrets.token_hex(8)
        secret = f"ak_{key_id}_{secrets.token_urlsafe(32)}"
        statement = sa.insert(API_KEYS).values(
            key_id=key_id,
            tenant_id=tenant_id,
            role=role.value,
            secret_sha256=_hash(secret),
            created_ms=now_ms,
            revoked_ms=0,
        )
        try:
            with self._transaction() as c:
                c.execute(statement)
        except IntegrityError as e:
            raise TenantUnknown(tenant_id) from e
        return ApiKey(key_id, tenant_id, role, now_ms, 0), secret

    def api_key_of(self, secret: str) -> ApiKey | None:
        """See `ports.Metadata`."""
        form = _SECRET.fullmatch(secret)
        if form is None:
            return None
        with self._transaction() as c:
            query = sa.select(API_KEYS).where(API_KEYS.c.key_id == form[1])
            row = c.execute(query).one_or_none()
        if row is None or not hmac.compare_digest(row.secret_sha256, _hash(secret)):
            return None
        return None if row.revoked_ms else _api_key(row)

    def api_keys(self) -> list[ApiKey]:
        """See `ports.Metadata`."""
        order = (API_KEYS.c.created_ms, API_KEYS.c.key_id)
        with self._transaction() as c:
            rows = c.execute(sa.select(API_KEYS).order_by(*order)).all()
        return [_api_key(r) for r in rows]

    def revoke_api_key(self, key_id: str, now_ms: int) -> None:
        """See `ports.Metadata`."""
        with self._transaction() as c:
            this = API_KEYS.c.key_id == key_id
            # 0 means good, so a clock that stands at 0 must not leave the key good.
            good = sa.update(API_KEYS).where(this, API_KEYS.c.revoked_ms == 0)
            c.execute(good.values(revoked_ms=max(now_ms, 1)))
            known = c.execute(sa.select(API_KEYS.c.key_id).where(this)).one_or_none()
        if known is None:
            raise KeyUnknown(
                f"no API key {key_id}", remedy="audit-platform apikey list shows their ids"
            )

    def add_edge_key(self, tenant_id: str, public_key: bytes, now_ms: int) -> str:
        """See `ports.Metadata`."""
        if len(public_key) != PUBLIC_KEY_BYTES:
            raise ValueError(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes")
        key_id = hashlib.sha256(public_key).hexdigest()[:16]
        if self.edge_keys(tenant_id).get(key_id) == public_key:
            return key_id
        statement = sa.insert(EDGE_KEYS).values(
            tenant_id=tenant_id, key_id=key_id, public_key=public_key, created_ms=now_ms
        )
        try:
            with self._transaction() as c:
                c.execute(statement)
        except IntegrityError as e:
            if self.edge_keys(tenant_id).get(key_id) != public_key:
                raise TenantUnknown(tenant_id) from e
        return key_id

    def edge_keys(self, tenant_id: str) -> dict[str, bytes]:
        """See `ports.Metadata`."""
        order = (EDGE_KEYS.c.created_ms, EDGE_KEYS.c.key_id)
        query = sa.select(EDGE_KEYS).where(EDGE_KEYS.c.tenant_id == tenant_id).order_by(*order)
        with self._transaction() as c:
            rows = c.execute(query).all()
        return {r.key_id: r.public_key for r in rows}


def _the_tenant(c: sa.Connection, tenant_id: str) -> Tenant:
    row = c.execute(sa.select(TENANTS).where(TENANTS.c.tenant_id == tenant_id)).one_or_none()
    if row is None:
        raise TenantUnknown(tenant_id)
    return _tenant(row)


def _change_devices(c: sa.Connection, tenant_id: str) -> None:
    """Count a change. As the transaction's first statement, it lets in one changer at a time."""
    count = sa.update(TENANTS).where(TENANTS.c.tenant_id == tenant_id)
    if not c.execute(count.values(device_changes=TENANTS.c.device_changes + 1)).rowcount:
        raise TenantUnknown(tenant_id)


def _unavailable(engine: sa.Engine, cause: Exception) -> MetadataUnavailable:
    return MetadataUnavailable(
        f"the metadata store {engine.url} does not answer: {cause}",
        remedy="check that its disk is writable and not full, then try again",
    )


# ------------------------------------------------------------------------- SQLite, and only here


def open_sqlite(path: Path) -> SqlMetadata:
    """Open the store in this file, making it or bringing it up as needed; safe from many processes.

    Raises `MetadataUnavailable`, and `AuditPlatformError` for a store of a newer version.
    """
    engine = sa.create_engine(f"sqlite:///{path}")
    sa.event.listen(engine, "connect", _set_up_connection)
    sa.event.listen(engine, "begin", _begin)
    try:
        _make_folder(path.parent)
        with _alone(path):
            _demand_wal(engine)
            bring_up(engine)
    except AuditPlatformError:
        engine.dispose()
        raise
    except (SQLAlchemyError, sqlite3.Error, OSError) as e:
        engine.dispose()
        raise _unavailable(engine, e) from e
    return SqlMetadata(engine)


def bring_up(engine: sa.Engine) -> None:
    """Apply the revisions that the database lacks, in one transaction; the caller holds a lock."""
    with engine.begin() as connection:
        found = None
        if sa.inspect(connection).has_table("alembic_version"):
            found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if found == HEAD:
            return
        if found is not None and found > HEAD:
            raise AuditPlatformError(
                f"the metadata store has revision {found}, this program knows {HEAD}",
                remedy="run the newer version of audit-platform that brought it there",
            )
        from alembic import command  # noqa: PLC0415 - only a store that is behind pays for it
        from alembic.config import Config  # noqa: PLC0415 - the same

        config = Config()
        config.set_main_option("script_location", "audit_platform.adapters:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _set_up_connection(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    # By itself the driver begins only before INSERT and the like: DDL would stand alone, and a
    # migration could be cut in half.
    connection.exec_driver_sql("BEGIN")


def _demand_wal(engine: sa.Engine) -> None:
    """Readers and one writer side by side. The mode is kept in the file itself."""
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        answer = cursor.fetchone()
        cursor.close()
    finally:
        raw.close()
    if answer != ("wal",):
        raise MetadataUnavailable(
            f"SQLite cannot use its write-ahead log here (journal mode {answer})",
            remedy="put AUDIT_HOME on a local disk, not on a network file system",
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Only one process at a time opens: switching to WAL ignores SQLite's own waiting."""
    with path.with_name(path.name + ".opening").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file closes
        yield


def _make_folder(folder: Path) -> None:
    """Make a folder whose name survives a power cut, and those above it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    # Also when it was there: another process may have made it a moment ago, and not yet got here.
    above = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(above)
    finally:
        os.close(above)
