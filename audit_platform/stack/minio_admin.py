"""MinIO's administration: identities and their policies, by the signed calls of its own client.

Belongs here: the three calls that the stack needs and the envelope that one of them wants. Does
not: rights (`adapters/s3/bucket.py`), the servers (`minio.py`). Source: `madmin-go`, `encrypt.go`
and `user-commands.go`; the envelope is the DARE format of `secure-io/sio-go`.
"""

from __future__ import annotations

import json
import os
from typing import Final
from urllib.parse import urlencode

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from audit_platform.adapters.s3.bucket import identity_policy
from audit_platform.adapters.s3.client import Endpoint
from audit_platform.adapters.s3.signed import request
from audit_platform.errors import StackError

_API: Final = "/minio/admin/v3"

#: The envelope's cost of guessing, its cipher and its sizes are the server's, not ours to choose.
_ARGON2_MEMORY_KIB: Final = 64 * 1024
_ARGON2_AES_GCM: Final = b"\x00"
_FRAGMENT_BYTES: Final = 16_384

_OK: Final = 200


def sealed_for_admin(secret: str, data: bytes) -> bytes:
    """`data` as only who knows the administrator's secret can read it. At most one fragment."""
    if len(data) > _FRAGMENT_BYTES:
        raise ValueError("more than one fragment")
    salt, nonce = os.urandom(32), os.urandom(8)
    key = Argon2id(
        salt=salt, length=32, iterations=1, lanes=4, memory_cost=_ARGON2_MEMORY_KIB
    ).derive(secret.encode())
    cipher = AESGCM(key)
    # Every fragment is bound to the tag of an empty one with number 0; 0x80 marks the last.
    tag = cipher.encrypt(nonce + bytes(4), b"", b"")
    last = cipher.encrypt(nonce + (1).to_bytes(4, "little"), data, b"\x80" + tag)
    return salt + _ARGON2_AES_GCM + nonce + last


def add_identity(admin: Endpoint, name: str, secret: str, kind: str) -> None:
    """Make (or make again) an identity of one of the kinds of rights, for the admin's bucket.

    Raises `StackError`, `StoreUnavailable`.
    """
    user = json.dumps({"secretKey": secret, "status": "enabled"}).encode()
    body = sealed_for_admin(admin.secret_key, user)
    _call(admin, "add-user", {"accessKey": name}, body)
    policy = f"{admin.bucket}-{kind}"
    _call(admin, "add-canned-policy", {"name": policy}, identity_policy(admin.bucket, kind))
    about = {"policyName": policy, "userOrGroup": name, "isGroup": "false"}
    _call(admin, "set-user-or-group-policy", about)


def _call(admin: Endpoint, what: str, about: dict[str, str], body: bytes = b"") -> None:
    status, answer = request(admin, "PUT", f"{_API}/{what}?{urlencode(about)}", body)
    if status != _OK:
        raise StackError(
            f"MinIO refuses {what}: {status} {answer[:300].decode(errors='replace')}",
            remedy="`audit-platform stack logs minio-1`; `stack wipe` begins anew",
        )
