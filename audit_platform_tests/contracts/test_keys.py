"""The keys port's contract, over every adapter that there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.keys import FileKeys
from audit_platform.ports import Keys
from audit_platform_tests.contracts.keys_contract import KeysContract


class TestFiles(KeysContract):
    """The embedded profile's keys."""

    @pytest.fixture
    def keys(self, tmp_path: Path) -> Keys:
        """No key yet."""
        return FileKeys(tmp_path / "keys")

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Callable[[], Keys]:
        """The same keys in another OS process: picklable."""
        return partial(FileKeys, tmp_path / "keys")


class TestFilesOpenedAgain(KeysContract):
    """The same, where every call finds only what the calls before have left on disk."""

    @pytest.fixture
    def keys(self, tmp_path: Path) -> Keys:
        """Forgets everything between calls."""
        return _Forgetful(tmp_path / "keys")

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Callable[[], Keys]:
        """The same keys in another OS process: picklable."""
        return partial(_Forgetful, tmp_path / "keys")


class _Forgetful(FileKeys):
    def __getattribute__(self, name: str) -> object:
        if name in ("sign", "public_keys", "new", "revoke", "new_data_key", "open_data_key"):
            root: Path = object.__getattribute__(self, "_root")
            return getattr(FileKeys(root), name)
        return object.__getattribute__(self, name)
