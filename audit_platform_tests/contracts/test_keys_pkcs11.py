"""The keys port's contract in a PKCS#11 token, by SoftHSM2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from audit_platform.adapters.pkcs11.keys import TokenKeys
from audit_platform.ports import Keys
from audit_platform_tests.contracts.keys_contract import KeysContract
from audit_platform_tests.tokens import PIN, module, new_token


class TestToken(KeysContract):
    """Keys that stay in a token."""

    @pytest.fixture
    def token(self) -> str:
        """A token of its own for each test."""
        return new_token()

    @pytest.fixture
    def keys(self, token: str) -> Iterator[Keys]:
        """No key yet."""
        opened = TokenKeys(module(), token, PIN)
        yield opened
        opened.close()

    @pytest.fixture
    def opener(self, token: str) -> Callable[[], Keys]:
        """The same token in another OS process: picklable."""
        return partial(TokenKeys, module(), token, PIN)
