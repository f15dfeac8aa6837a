"""Keys in a token beyond their contract: nothing leaves it, wrong settings, the whole platform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass

from audit_platform.adapters.pkcs11 import keys as token_keys
from audit_platform.adapters.pkcs11.keys import TokenKeys
from audit_platform.errors import KeysUnavailable, SettingInvalid
from audit_platform.settings import Settings
from audit_platform.wiring import open_keys, open_platform
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.contracts.keys_contract import is_signed
from audit_platform_tests.tokens import PIN, module, new_token


def settings(home: Path, token: str, **more: str) -> Settings:
    named = {
        "AUDIT_HOME": str(home),
        "AUDIT_PKCS11_MODULE": str(module()),
        "AUDIT_PKCS11_TOKEN": token,
        "AUDIT_PKCS11_PIN": PIN,
    }
    return Settings.from_environment(named | more)


def test_no_private_value_can_be_read_out_of_the_token() -> None:
    keys = TokenKeys(module(), new_token(), PIN)
    keys.new("manifest", START_MS)
    keys.new_data_key()
    with keys._open("looking") as session:
        held: list[Any] = []
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY):
            held += list(session.get_objects({Attribute.CLASS: kind}))
        assert len(held) == 2
        for found in held:
            assert found[Attribute.SENSITIVE] is True
            assert found[Attribute.EXTRACTABLE] is False
            with pytest.raises(pkcs11.exceptions.PKCS11Error):
                found[Attribute.VALUE]
    keys.close()


def test_who_has_no_pin_sees_no_key_and_can_add_none() -> None:
    token = new_token()
    keys = TokenKeys(module(), token, PIN)
    keys.new("manifest", START_MS)
    keys.close()
    with pkcs11.lib(str(module())).get_token(token_label=token).open(rw=True) as stranger:
        data = {Attribute.CLASS: ObjectClass.DATA}
        assert list(stranger.get_objects(data)) == []
        with pytest.raises(pkcs11.exceptions.PKCS11Error):
            token_keys._add(stranger, token_keys._KEY, {"number": 9})


def test_a_pair_that_no_list_names_means_nothing() -> None:
    token = new_token()
    keys = TokenKeys(module(), token, PIN)
    with keys._open("dying") as session:
        curve = session.create_domain_parameters(
            pkcs11.KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: token_keys._ED25519}, local=True
        )
        curve.generate_keypair(
            mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="manifest"
        )
    assert keys.public_keys() == []
    keys.close()


def test_wrong_settings_are_refused_by_name_and_never_show_the_pin(tmp_path: Path) -> None:
    token = new_token()
    for name, value in (
        ("AUDIT_PKCS11_MODULE", str(tmp_path / "none.so")),
        ("AUDIT_PKCS11_TOKEN", "nobody"),
        ("AUDIT_PKCS11_PIN", "0000-wrong"),
    ):
        keys = open_keys(settings(tmp_path, token, **{name: value}))
        with pytest.raises(SettingInvalid, match=name) as caught:
            keys.public_keys()
        assert "0000-wrong" not in str(caught.value)
        assert PIN not in str(caught.value)


def test_a_wrong_pin_is_tried_once_for_a_token_locks_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = TokenKeys(module(), new_token(), "0000-wrong")
    with pytest.raises(SettingInvalid):
        keys.public_keys()
    # Whatever it would say now, it is not asked.
    monkeypatch.setattr(keys, "_enter", lambda: pytest.fail("it was asked again"))
    with pytest.raises(SettingInvalid):
        keys.sign("manifest", b"day")


# The library's search, begun on a dead session, complains once more when it is thrown away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_session_that_was_lost_is_opened_again(tmp_path: Path) -> None:
    keys = TokenKeys(module(), new_token(), PIN)
    key = keys.new("manifest", START_MS)
    keys._session.close()  # as a token does that was pulled out
    with pytest.raises(KeysUnavailable) as caught:
        keys.sign("manifest", b"day")
    assert caught.value.remedy
    assert keys.sign("manifest", b"day")[0] == key.key_id
    keys.close()


def test_the_platform_signs_by_the_token_and_has_no_key_file(tmp_path: Path) -> None:
    given = settings(tmp_path / "home", new_token())
    platform = open_platform(given)
    made = platform.keys.new("manifest", START_MS)
    platform.close()
    again = open_keys(given)
    [key] = again.public_keys()
    key_id, signature = again.sign("manifest", b"day")
    assert key_id == made.key_id == key.key_id
    assert is_signed(key, signature, b"day")
    assert not given.keys_folder.exists()
