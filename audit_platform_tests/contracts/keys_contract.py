"""What every `ports.Keys` keeps. Subclass it and give the fixtures `keys` and `opener`.

Not here: how a store keeps it (`audit_platform_tests/adapters/`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from operator import methodcaller

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from audit_platform.errors import KeyUnknown
from audit_platform.ports import Keys, PublicKey
from audit_platform_tests.actor import ActorError, actor
from audit_platform_tests.contracts.log_contract import run_processes

NOW = 1_772_323_200_000


def is_signed(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether the signature is good, by the library itself and nothing of ours."""
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def make_keys(ready: Barrier, opener: Callable[[], Keys], number: int) -> None:
    """In a process of its own: make five keys."""
    store = opener()
    ready.wait()
    for n in range(5):
        store.new("manifest", NOW + number * 100 + n)


class KeysContract:
    """The promises of the port, one test each."""

    def test_a_new_store_has_no_key_and_signs_nothing(self, keys: Keys) -> None:
        assert keys.public_keys() == []
        with pytest.raises(KeyUnknown) as caught:
            keys.sign("manifest", b"day")
        assert "audit-platform keys" in caught.value.remedy

    def test_a_new_key_signs_and_its_id_is_the_hash_of_its_public_value(self, keys: Keys) -> None:
        key = keys.new("manifest", NOW)
        assert key.key_id == hashlib.sha256(key.public_key).hexdigest()[:16]
        assert key == PublicKey(key.key_id, key.public_key, "manifest", NOW, 0, active=True)
        key_id, signature = keys.sign("manifest", b"day")
        assert key_id == key.key_id
        assert len(signature) == 64
        assert is_signed(key, signature, b"day")
        assert not is_signed(key, signature, b"another day")

    def test_purposes_are_kept_apart(self, keys: Keys) -> None:
        manifest = keys.new("manifest", NOW)
        with pytest.raises(KeyUnknown):
            keys.sign("edge", b"chain")
        edge = keys.new("edge", NOW)
        assert keys.sign("edge", b"chain")[0] == edge.key_id
        assert keys.sign("manifest", b"day")[0] == manifest.key_id

    def test_another_purpose_is_refused(self, keys: Keys) -> None:
        with pytest.raises(ValueError, match="manifest, edge"):
            keys.new("manifests", NOW)
        assert keys.public_keys() == []

    def test_rotation_signs_with_the_new_key_and_the_old_one_stays_good(self, keys: Keys) -> None:
        old = keys.new("manifest", NOW)
        edge = keys.new("edge", NOW)
        _, signature = keys.sign("manifest", b"day")
        new = keys.new("manifest", NOW + 5)
        listed = keys.public_keys()
        assert [k.key_id for k in listed] == [old.key_id, edge.key_id, new.key_id]
        assert [k.active for k in listed] == [False, True, True]
        assert keys.sign("manifest", b"day")[0] == new.key_id
        assert listed[0].revoked_ms == 0
        assert is_signed(listed[0], signature, b"day")

    def test_a_revoked_key_stays_listed_and_signs_nothing(self, keys: Keys) -> None:
        key = keys.new("manifest", NOW)
        revoked = keys.revoke(key.key_id, NOW + 7)
        assert (revoked.revoked_ms, revoked.active) == (NOW + 7, False)
        assert keys.revoke(key.key_id, NOW + 9) == revoked  # the first revocation counts
        assert keys.public_keys() == [revoked]
        with pytest.raises(KeyUnknown):
            keys.sign("manifest", b"day")

    def test_revoking_an_old_key_leaves_the_active_one(self, keys: Keys) -> None:
        old = keys.new("manifest", NOW)
        new = keys.new("manifest", NOW + 1)
        keys.revoke(old.key_id, NOW + 2)
        assert keys.sign("manifest", b"day")[0] == new.key_id

    def test_a_revocation_at_time_zero_counts(self, keys: Keys) -> None:
        key = keys.new("edge", 0)
        assert keys.revoke(key.key_id, 0).revoked_ms > 0

    def test_revoking_an_unknown_key_is_an_error(self, keys: Keys) -> None:
        keys.new("manifest", NOW)
        with pytest.raises(KeyUnknown, match="0123456789abcdef"):
            keys.revoke("0123456789abcdef", NOW)

    def test_a_data_key_comes_back_from_its_wrapped_form(self, keys: Keys) -> None:
        first, second = keys.new_data_key(), keys.new_data_key()
        assert len(first.secret) == len(second.secret) == 32
        assert first.secret != second.secret
        assert first.secret not in first.wrapped
        assert keys.open_data_key(first.wrapped) == first.secret
        assert keys.open_data_key(second.wrapped) == second.secret

    def test_any_other_bytes_are_no_data_key(self, keys: Keys) -> None:
        with pytest.raises(KeyUnknown):
            keys.open_data_key(b"no key was made yet")
        wrapped = keys.new_data_key().wrapped
        for at in range(len(wrapped)):
            changed = wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :]
            with pytest.raises(KeyUnknown):
                keys.open_data_key(changed)
        for other in (b"", wrapped[:-1], wrapped[:-8], wrapped + b"x", wrapped * 2):
            with pytest.raises(KeyUnknown):
                keys.open_data_key(other)

    def test_data_keys_are_no_signing_keys(self, keys: Keys) -> None:
        keys.new_data_key()
        assert keys.public_keys() == []

    # ------------------------------------------------------------------------------- processes

    def test_two_processes_make_keys_at_once_and_all_are_listed(
        self, keys: Keys, opener: Callable[[], Keys]
    ) -> None:
        run_processes([(make_keys, (opener, number)) for number in range(2)])
        listed = keys.public_keys()
        assert sorted(k.created_ms for k in listed) == sorted(
            NOW + number * 100 + n for number in range(2) for n in range(5)
        )
        assert len({k.key_id for k in listed}) == 10
        (active,) = (k for k in listed if k.active)
        assert active == listed[-1]
        assert keys.sign("manifest", b"day")[0] == active.key_id

    def test_a_process_frozen_while_a_key_is_revoked_does_not_sign_with_it_when_thawed(
        self, keys: Keys, opener: Callable[[], Keys]
    ) -> None:
        old = keys.new("manifest", NOW)
        with actor(opener) as process:
            assert process.ask(methodcaller("sign", "manifest", b"day"))[0] == old.key_id
            process.freeze()
            revoked = keys.revoke(old.key_id, NOW + 1)
            process.thaw()
            with pytest.raises(ActorError) as caught:
                process.ask(methodcaller("sign", "manifest", b"day"))
            assert caught.value.name == KeyUnknown.__name__
            process.freeze()
            new = keys.new("manifest", NOW + 2)
            process.thaw()
            assert process.ask(methodcaller("sign", "manifest", b"day"))[0] == new.key_id
            # It may still write, and undoes nothing by it.
            assert process.ask(methodcaller("revoke", old.key_id, NOW + 3)) == revoked
        assert keys.public_keys() == [revoked, new]
