"""Devices of a tenant, and what happens to events of devices that are not among them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add two columns and a table. Tenants that are there accept every device, as they did."""
    for column in (
        sa.Column("unknown_devices", sa.String(16), nullable=False, server_default="accept"),
        sa.Column("device_changes", sa.BigInteger, nullable=False, server_default="0"),
    ):
        op.add_column("tenants", column)
    op.create_table(
        "devices",
        sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), nullable=False),
        sa.Column("device_id", sa.String(128), nullable=False),
        sa.Column("enrolled_ms", sa.BigInteger, nullable=False),
        sa.Column("retired_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "device_id"),
    )
