"""What every `ports.Metadata` keeps. Subclass it; give the fixtures `metadata` and `opener`.

Not here: how a store keeps it (`audit_platform_tests/adapters/`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from operator import methodcaller

import pytest

from audit_platform.errors import DeviceUnknown, KeyUnknown, TenantUnknown
from audit_platform.ports import ApiKey, Device, Metadata, Role, Tenant, UnknownDevices
from audit_platform_tests.actor import actor
from audit_platform_tests.contracts.log_contract import run_processes

NOW = 1_772_323_200_000
EACH = 12  # changes of one process


def change_all(ready: Barrier, opener: Callable[[], Metadata], who: str) -> None:
    """In a process of its own: make what both make, and what only this one makes."""
    store = opener()
    ready.wait()
    for n in range(EACH):
        store.add_tenant("shared", NOW + n)
        store.add_tenant(f"{who}-{n}", NOW)
        store.enrol_devices("shared", [f"pump-{n}", f"{who}/pump-{n}"], NOW + n)
        store.add_edge_key("shared", bytes([n]) * 32, NOW)
        key, _ = store.add_api_key("shared", Role.EDGE, NOW + n)
        store.revoke_api_key(key.key_id, NOW + n)
        store.retire_device("shared", f"pump-{n}", NOW + n)
        store.set_suspended(f"{who}-{n}", suspended=True)


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

    # --------------------------------------------------------------------------------- tenants

    def test_a_tenant_is_suspended_and_goes_on_and_keeps_all_else(self, metadata: Metadata) -> None:
        added = metadata.add_tenant("north", NOW)
        metadata.add_tenant("south", NOW)
        _, secret = metadata.add_api_key("north", Role.EDGE, NOW)
        for _ in range(2):  # idempotent
            suspended = metadata.set_suspended("north", suspended=True)
            assert suspended == Tenant("north", NOW, suspended=True)
        assert metadata.tenant("north") == metadata.add_tenant("north", NOW + 1) == suspended
        assert [t.suspended for t in metadata.tenants()] == [True, False]
        assert metadata.api_key_of(secret) is not None
        assert metadata.set_suspended("north", suspended=False) == added

    def test_a_tenant_accepts_unknown_devices_until_told_otherwise(
        self, metadata: Metadata
    ) -> None:
        added = metadata.add_tenant("north", NOW)
        assert added.unknown_devices is UnknownDevices.ACCEPT
        for policy in (UnknownDevices.DEAD_LETTER, UnknownDevices.ACCEPT):
            changed = metadata.set_unknown_devices("north", policy)
            assert changed.unknown_devices is policy
            assert metadata.tenants() == [metadata.tenant("north")] == [changed]

    def test_what_is_done_to_a_tenant_needs_the_tenant(self, metadata: Metadata) -> None:
        metadata.add_tenant("south", NOW)
        for act in (
            lambda: metadata.tenant("north"),
            lambda: metadata.set_suspended("north", suspended=True),
            lambda: metadata.set_unknown_devices("north", UnknownDevices.DEAD_LETTER),
            lambda: metadata.enrol_devices("north", ["pump-1"], NOW),
            lambda: metadata.retire_device("north", "pump-1", NOW),
        ):
            with pytest.raises(TenantUnknown) as caught:
                act()
            assert caught.value.tenant_id == "north"
        assert metadata.tenants() == [Tenant("south", NOW, suspended=False)]
        assert metadata.devices("north") == []

    # --------------------------------------------------------------------------------- devices

    def test_devices_are_enrolled_together_and_listed_by_id(self, metadata: Metadata) -> None:
        metadata.add_tenant("north", NOW)
        metadata.add_tenant("south", NOW)
        assert metadata.enrol_devices("north", ["pump-2", "pump-1", "pump-2"], NOW) == 2
        assert metadata.enrol_devices("north", ["pump-1", "pump-3"], NOW + 5) == 1
        assert metadata.enrol_devices("south", ["pump-1"], NOW + 6) == 1
        assert metadata.devices("north") == [
            Device("north", "pump-1", NOW, 0),
            Device("north", "pump-2", NOW, 0),
            Device("north", "pump-3", NOW + 5, 0),
        ]
        assert metadata.devices("south") == [Device("south", "pump-1", NOW + 6, 0)]

    def test_many_devices_are_enrolled_at_once(self, metadata: Metadata) -> None:
        metadata.add_tenant("north", NOW)
        names = [f"ward-{n % 40}/bed:{n}" for n in range(5000)]
        assert metadata.enrol_devices("north", iter(names), NOW) == 5000
        assert {d.device_id for d in metadata.devices("north")} == set(names)

    def test_a_retired_device_stays_listed_and_can_be_enrolled_again(
        self, metadata: Metadata
    ) -> None:
        metadata.add_tenant("north", NOW)
        metadata.enrol_devices("north", ["pump-1", "pump-2"], NOW)
        retired = metadata.retire_device("north", "pump-1", NOW + 7)
        assert retired == Device("north", "pump-1", NOW, NOW + 7)
        assert metadata.retire_device("north", "pump-1", NOW + 9) == retired  # the first counts
        assert metadata.devices("north") == [retired, Device("north", "pump-2", NOW, 0)]
        assert metadata.enrol_devices("north", ["pump-1", "pump-2"], NOW + 10) == 1
        assert metadata.devices("north")[0] == Device("north", "pump-1", NOW, 0)

    def test_a_retirement_at_time_zero_counts(self, metadata: Metadata) -> None:
        metadata.add_tenant("north", 0)
        metadata.enrol_devices("north", ["pump-1"], 0)
        assert metadata.retire_device("north", "pump-1", 0).retired_ms > 0

    def test_every_change_of_the_devices_is_counted(self, metadata: Metadata) -> None:
        metadata.add_tenant("north", NOW)
        metadata.add_tenant("south", NOW)
        seen = [metadata.tenant("north").device_changes]
        metadata.enrol_devices("north", ["pump-1"], NOW)
        seen.append(metadata.tenant("north").device_changes)
        metadata.retire_device("north", "pump-1", NOW)
        seen.append(metadata.tenant("north").device_changes)
        metadata.enrol_devices("north", ["pump-1"], NOW)
        seen.append(metadata.tenant("north").device_changes)
        metadata.set_suspended("north", suspended=True)
        assert metadata.tenant("north").device_changes == seen[-1]
        assert seen == sorted(set(seen))
        assert metadata.tenant("south").device_changes == 0

    @pytest.mark.parametrize("device_id", ["", "a b", "a" * 129, "pump\n", "pümp", '"'])
    def test_a_malformed_device_id_is_refused_with_all_that_came_with_it(
        self, metadata: Metadata, device_id: str
    ) -> None:
        metadata.add_tenant("north", NOW)
        with pytest.raises(ValueError, match="device id"):
            metadata.enrol_devices("north", ["pump-1", device_id], NOW)
        assert metadata.devices("north") == []

    def test_a_device_that_is_not_enrolled_cannot_be_retired(self, metadata: Metadata) -> None:
        metadata.add_tenant("north", NOW)
        metadata.add_tenant("south", NOW)
        metadata.enrol_devices("south", ["pump-1"], NOW)
        with pytest.raises(DeviceUnknown, match="pump-1"):
            metadata.retire_device("north", "pump-1", NOW)
        assert metadata.devices("south") == [Device("south", "pump-1", NOW, 0)]

    # ------------------------------------------------------------------------------- processes

    def test_two_processes_change_one_store_at_once_and_lose_nothing(
        self, metadata: Metadata, opener: Callable[[], Metadata]
    ) -> None:
        run_processes([(change_all, (opener, who)) for who in ("one", "two")])
        own = {f"{who}-{n}" for who in ("one", "two") for n in range(EACH)}
        assert {t.tenant_id for t in metadata.tenants()} == own | {"shared"}
        assert {t.tenant_id for t in metadata.tenants() if t.suspended} == own
        assert metadata.tenant("shared").device_changes == 2 * 2 * EACH
        assert len(metadata.edge_keys("shared")) == EACH
        keys = metadata.api_keys()
        assert len(keys) == 2 * EACH
        assert all(k.revoked_ms for k in keys)
        devices = {d.device_id: d for d in metadata.devices("shared")}
        assert len(devices) == 3 * EACH
        # What the other enrolled again after we had retired it, it retired itself.
        retired = {name for name, device in devices.items() if device.retired_ms}
        assert retired == {f"pump-{n}" for n in range(EACH)}

    def test_a_process_frozen_and_thawed_sees_what_was_changed_meanwhile(
        self, metadata: Metadata, opener: Callable[[], Metadata]
    ) -> None:
        metadata.add_tenant("north", NOW)
        key, secret = metadata.add_api_key("north", Role.EDGE, NOW)
        metadata.enrol_devices("north", ["pump-1"], NOW)
        with actor(opener) as process:
            assert process.ask(methodcaller("api_key_of", secret)) == key
            assert process.ask(methodcaller("tenant", "north")) == metadata.tenant("north")
            process.freeze()
            metadata.revoke_api_key(key.key_id, NOW + 1)
            metadata.retire_device("north", "pump-1", NOW + 1)
            suspended = metadata.set_suspended("north", suspended=True)
            process.thaw()
            assert process.ask(methodcaller("api_key_of", secret)) is None
            assert process.ask(methodcaller("tenant", "north")) == suspended
            assert process.ask(methodcaller("devices", "north")) == metadata.devices("north")
            # It may still write, and undoes nothing by it.
            process.ask(methodcaller("add_tenant", "north", NOW + 2))
            process.ask(methodcaller("revoke_api_key", key.key_id, NOW + 2))
            process.ask(methodcaller("retire_device", "north", "pump-1", NOW + 2))
        assert metadata.tenant("north").suspended
        assert [k.revoked_ms for k in metadata.api_keys()] == [NOW + 1]
        assert [d.retired_ms for d in metadata.devices("north")] == [NOW + 1]

    # ------------------------------------------------------------------------------- edge keys

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
