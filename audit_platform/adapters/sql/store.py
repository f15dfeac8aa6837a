"""Tenants, devices, credentials and edge keys in a relational store, whichever it is.

Belongs here: the statements, and how a database's troubles become the port's. Does not: the tables
(`tables.py`), changes of the schema (`revisions.py`), what one database needs (`embedded/`,
`postgres/`), evidence (objects).
Source: design section 9 (profiles); the promises are those of `ports.Metadata`.

A secret is `ak_<key id>_<43 characters>`: 256 random bits. It is stored as plain SHA-256: a slow
hash protects short passwords that can be guessed, and nobody guesses 256 bits; ingest checks one
with every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from audit_platform.adapters.sql.tables import (
    API_KEYS,
    DEVICES,
    EDGE_KEYS,
    TENANTS,
)
from audit_platform.errors import (
    DeviceUnknown,
    KeyUnknown,
    MetadataUnavailable,
    TenantUnknown,
)
from audit_platform.ports import ApiKey, Device, Role, Tenant, UnknownDevices
from audit_platform.record.layout import IDENTIFIER_PATTERN, TENANT_PATTERN

PUBLIC_KEY_BYTES: Final = 32

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
    """`ports.Metadata` over any SQLAlchemy engine whose database has the revision `HEAD`.

    `name` and `remedy` stand in what is raised when it does not answer. `ready` is called before
    each transaction: it returns once the revision is there, or raises.
    """

    def __init__(
        self,
        engine: sa.Engine,
        name: str,
        remedy: str,
        *,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._name = name
        self._remedy = remedy
        self._ready = ready

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """One transaction, committed at the end; all troubles but `IntegrityError` translated."""
        self._ready()
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as e:
            raise unavailable(self._name, e, self._remedy) from e

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
            rows = c.execute(sa.select(TENANTS)).all()
        # Sorted here: databases differ in what order text has.
        return sorted((_tenant(r) for r in rows), key=attrgetter("tenant_id"))

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
            found = [Device(*row) for row in c.execute(query)]
        return sorted(found, key=attrgetter("device_id"))

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


def unavailable(name: str, cause: Exception, remedy: str) -> MetadataUnavailable:
    """What is raised when a store does not answer. `name` must hold no password."""
    return MetadataUnavailable(f"the metadata store {name} does not answer: {cause}", remedy=remedy)
