"""Tenants by code location: which of them this process is for, and what its assets are called.

Dagster advises at most 100,000 partitions an asset; tenants by days come near it. So tenants are
divided into groups, a code location each, with assets and partitions of their own. What there is
once for all tenants is in the first group. Belongs here: that division. Does not: the locations
(`locations.py`, `audit-platform locations`). Source: design section 11.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from audit_platform.ports import Platform, Tenant


@dataclass(frozen=True, slots=True)
class TenantGroup:
    """Group `number` (from 1) of `of`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "TenantGroup":
        """`2/3`, as AUDIT_TENANT_GROUP has it: the settings have checked its form."""
        number, _, of = text.partition("/")
        return cls(int(number), int(of))

    @property
    def has_the_house(self) -> bool:
        """Whether what exists once for all tenants is here."""
        return self.number == 1

    def name(self, plain: str) -> str:
        """The group's own name for an asset or a set of partitions.

        It says how many groups there are: a tenant that another number moves begins anew there.
        """
        return plain if self.of == 1 else f"{plain}_{self.number}of{self.of}"

    def has(self, tenant_id: str) -> bool:
        """Whether a tenant is here. By its name alone, so it is in one group and stays there."""
        digest = hashlib.sha256(tenant_id.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number - 1

    def tenants(self, platform: Platform) -> Sequence[Tenant]:
        """The tenants that are here."""
        return [t for t in platform.metadata.tenants() if self.has(t.tenant_id)]

    def require(self, tenant_id: str) -> None:
        """Raise `dg.Failure` for a tenant whose days are another location's partitions."""
        if self.has(tenant_id):
            return
        other = next(n for n in range(1, self.of + 1) if TenantGroup(n, self.of).has(tenant_id))
        raise dg.Failure(
            f"tenant {tenant_id} is in group {other} of {self.of}, this is group {self.number}",
            metadata={"remedy": "launch the job of that code location"},
            allow_retries=False,
        )
