"""The tables of the relational store, as the code uses them.

Belongs here: tables and their columns. Does not: statements (`store.py`), changes of the schema
(`migrations/`; a test holds both equal).
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

#: The newest revision in `migrations/versions/`. A store that has it is opened without
#: importing Alembic (a second of CPU on a small machine).
HEAD: Final = "0002"

TABLES: Final = sa.MetaData()

TENANTS: Final = sa.Table(
    "tenants",
    TABLES,
    sa.Column("tenant_id", sa.String(63), primary_key=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("suspended", sa.Boolean, nullable=False),
    sa.Column("unknown_devices", sa.String(16), nullable=False),
    sa.Column("device_changes", sa.BigInteger, nullable=False),
)

API_KEYS: Final = sa.Table(
    "api_keys",
    TABLES,
    sa.Column("key_id", sa.String(16), primary_key=True),
    sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_ms", sa.BigInteger, nullable=False),
)

EDGE_KEYS: Final = sa.Table(
    "edge_keys",
    TABLES,
    sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), primary_key=True),
    sa.Column("key_id", sa.String(16), primary_key=True),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

DEVICES: Final = sa.Table(
    "devices",
    TABLES,
    sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), primary_key=True),
    sa.Column("device_id", sa.String(128), primary_key=True),
    sa.Column("enrolled_ms", sa.BigInteger, nullable=False),
    sa.Column("retired_ms", sa.BigInteger, nullable=False),
)
