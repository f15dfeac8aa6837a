"""What every `ports.Metadata` keeps. Subclass it and give the fixture `metadata`.

Not here: how a store keeps it (`audit_platform_tests/adapters/`).
"""

from __future__ import annotations

import hashlib

import pytest

from audit_platform.errors import KeyUnknown, TenantUnknown
from audit_platform.ports import ApiKey, Metadata, Role, Tenant

NOW = 1_772_323_200_000


class MetadataContract:
    """The promises of the port, one test each."""

    def test_a_new_store_is_empty(self, metadata: Metadata) -> None:
        assert metadata.tenants() == []
        assert metadata.api_keys() == []
        assert metadata.edge_keys("north") == {}

    def test_tenants_are_listed_by_id(self, metadata: Metadata) -> None:
        for tenant_id in ("south", "north", "9-east"):
            added = metadata.add_tenant(tenant_id, NOW)
            assert added == Tenant(tenant_id, NOW, suspended=False)
        assert [t.tenant_id for t in metadata.tenants()] == ["9-east", "north", "south"]

    def test_a_tenant_added_again_is_the_one_that_is_there(self, metadata: Metadata) -> None:
        first = metadata.add_tenant("north", NOW)
        assert metadata.add_tenant("north", NOW + 5) == first
        assert metadata.tenants() == [first]

    @pytest.mark.parametrize("tenant_id", ["", "North", "-a", "a-", "a_b", "a" * 64, "a\n", "ü"])
    def test_a_malformed_tenant_id_is_refused(self, metadata: Metadata, tenant_id: str) -> None:
        with pytest.raises(ValueError, match="tenant id"):
            metadata.add_tenant(tenant_id, NOW)
        assert metadata.tenants() == []

    def test_the_longest_tenant_id_is_kept_whole(self, metadata: Metadata) -> None:
        assert metadata.add_tenant("a" * 63, NOW).tenant_id == "a" * 63
        assert metadata.tenants()[0].tenant_id == "a" * 63

    @pytest.mark.parametrize("role", list(Role))
    def test_a_secret_opens_exactly_its_own_credential(
        self, metadata: Metadata, role: Role
    ) -> None:
        metadata.add_tenant("north", NOW)
        key, secret = metadata.add_api_key("north", role, NOW)
        other, other_secret = metadata.add_api_key("north", role, NOW + 1)
        assert key == ApiKey(key.key_id, "north", role, NOW, 0)
        assert secret != other_secret
        assert metadata.api_key_of(secret) == key
        assert metadata.api_key_of(other_secret) == other
        assert metadata.api_keys() == [key, other]

    def test_anything_but_the_whole_secret_opens_nothing(self, metadata: Metadata) -> None:
        metadata.add_tenant("north", NOW)
        key, secret = metadata.add_api_key("north", Role.EDGE, NOW)
        _, other = metadata.add_api_key("north", Role.EDGE, NOW)
        changed = secret[:-1] + ("A" if secret[-1] != "A" else "B")
        swapped = secret[:20] + other[20:]
        for wrong in ("", "x", key.key_id, f"ak_{key.key_id}_", secret[:-1], secret + "A", changed):
            assert metadata.api_key_of(wrong) is None
        assert metadata.api_key_of(swapped) is None
        assert metadata.api_key_of("ä\x00☃" * 20) is None
        assert metadata.api_key_of(secret + "\n") is None

    def test_a_credential_needs_its_tenant(self, metadata: Metadata) -> None:
        with pytest.raises(TenantUnknown) as caught:
            metadata.add_api_key("north", Role.EDGE, NOW)
        assert caught.value.tenant_id == "north"
        assert metadata.api_keys() == []

    def test_a_revoked_credential_opens_nothing_and_stays_listed(self, metadata: Metadata) -> None:
        metadata.add_tenant("north", NOW)
        key, secret = metadata.add_api_key("north", Role.AUDITOR, NOW)
        metadata.revoke_api_key(key.key_id, NOW + 7)
        metadata.revoke_api_key(key.key_id, NOW + 9)  # idempotent: the first time counts
        assert metadata.api_key_of(secret) is None
        assert metadata.api_keys() == [ApiKey(key.key_id, "north", Role.AUDITOR, NOW, NOW + 7)]

    def test_a_revocation_at_time_zero_counts(self, metadata: Metadata) -> None:
        metadata.add_tenant("north", 0)
        key, secret = metadata.add_api_key("north", Role.EDGE, 0)
        metadata.revoke_api_key(key.key_id, 0)
        assert metadata.api_key_of(secret) is None

    def test_revoking_an_unknown_credential_is_an_error(self, metadata: Metadata) -> None:
        with pytest.raises(KeyUnknown, match="0123456789abcdef"):
            metadata.revoke_api_key("0123456789abcdef", NOW)

    def test_edge_keys_are_kept_by_tenant(self, metadata: Metadata) -> None:
        metadata.add_tenant("north", NOW)
        metadata.add_tenant("south", NOW)
        one, two = bytes(range(32)), bytes(range(1, 33))
        key_id = metadata.add_edge_key("north", one, NOW)
        assert key_id == hashlib.sha256(one).hexdigest()[:16]
        assert metadata.add_edge_key("north", one, NOW + 1) == key_id
        second = metadata.add_edge_key("north", two, NOW + 2)
        assert list(metadata.edge_keys("north").items()) == [(key_id, one), (second, two)]
        assert metadata.edge_keys("south") == {}
        assert metadata.add_edge_key("south", one, NOW) == key_id

    def test_an_edge_key_needs_its_tenant_and_32_bytes(self, metadata: Metadata) -> None:
        with pytest.raises(TenantUnknown):
            metadata.add_edge_key("north", bytes(32), NOW)
        metadata.add_tenant("north", NOW)
        for size in (0, 31, 33, 64):
            with pytest.raises(ValueError, match="32 bytes"):
                metadata.add_edge_key("north", bytes(size), NOW)
        assert metadata.edge_keys("north") == {}
