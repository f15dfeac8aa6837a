"""Keys over power cuts: every key told of, and every key that signed, is there and can be used.

Also that each fsync is needed: with any one left out, the same check finds something lost.
`test_keys.py` asks the same of the real system calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from audit_platform.adapters.embedded.files import FsyncSite
from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.errors import KeyUnknown
from audit_platform.ports import DataKey, PublicKey
from audit_platform_tests.adapters.lives import broken_promises
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.powercut import PowerCutFiles

ROOT: Final = Path("/srv/audit/keys")
SITES: Final = [s for s in FsyncSite if s.startswith("key_")]


class KeysScript:
    """Makes, rotates and revokes keys; a second process lists and signs."""

    def __init__(self) -> None:
        self.told: dict[str, PublicKey] = {}
        self.wrapped: list[DataKey] = []

    def run(self, files: PowerCutFiles) -> None:
        """See `Script.run`."""
        keys = FileKeys(ROOT, files)
        # First: making the wrapping key fsyncs the folder, which would stand in for other fsyncs.
        self.wrapped.append(keys.new_data_key())
        first = self._tell(keys.new("manifest", START_MS))
        self._tell(keys.new("edge", START_MS))
        self._sign(keys)
        self._tell(keys.new("manifest", START_MS + 1))
        self._sign(keys)
        self._tell(keys.revoke(first.key_id, START_MS + 2))

    def look(self, files: PowerCutFiles) -> None:
        """See `Script.look`."""
        keys = FileKeys(ROOT, files)
        for key in keys.public_keys():
            self._tell(key)
        self._sign(keys)
        self.wrapped.append(keys.new_data_key())

    def broken(self, files: PowerCutFiles) -> list[str]:
        """See `Script.broken`."""
        keys = FileKeys(ROOT, files)
        held = {k.key_id: k for k in keys.public_keys()}
        broken = [f"lost {k}" for k in self.told if k not in held]
        broken += [
            f"not revoked any more: {k}"
            for k, told in self.told.items()
            if told.revoked_ms and k in held and not held[k].revoked_ms
        ]
        for data_key in self.wrapped:
            try:
                if keys.open_data_key(data_key.wrapped) != data_key.secret:
                    broken.append("a data key opens as another")
            except KeyUnknown as e:
                broken.append(f"a data key does not open: {e}")
        self._sign(keys)  # raises for an active key without its private value
        keys.new("manifest", START_MS + 9)
        return broken

    def _tell(self, key: PublicKey) -> PublicKey:
        self.told[key.key_id] = key
        return key

    def _sign(self, keys: FileKeys) -> None:
        for purpose in {k.purpose for k in keys.public_keys() if k.active}:
            key_id, signature = keys.sign(purpose, b"day")
            assert len(signature) == 64
            assert key_id in {k.key_id for k in keys.public_keys()}


def test_every_key_told_of_survives_every_end() -> None:
    assert list(broken_promises(KeysScript, seeds=(None, 1, 2))) == []


@pytest.mark.parametrize("site", SITES)
def test_without_any_one_fsync_a_key_is_lost(site: FsyncSite) -> None:
    assert next(broken_promises(KeysScript, omit=[site]), None) is not None


def test_the_script_comes_to_every_fsync_of_keys() -> None:
    files = PowerCutFiles()
    script = KeysScript()
    script.run(files)
    script.look(files)
    assert files.synced == set(SITES)
