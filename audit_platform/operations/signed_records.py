"""Small signed records in the store: claimed once, read only where one of our keys signed.

Belongs here: the way between a form and the store. Does not: what they say (`record/`).
Source: design section 2 (one commit pattern).
"""

from __future__ import annotations

from typing import Any

from audit_platform.errors import RecordMalformed, StoreUnavailable
from audit_platform.operations.claims import claim, read_claim
from audit_platform.ports import Platform
from audit_platform.record import signing
from audit_platform.record.signed import Form


def claim_signed(platform: Platform, form: Form, key: str, said: dict[str, Any]) -> dict[str, Any]:
    """Claim a record; what the one says that stands: ours, or an earlier one's.

    Durable on return. Raises `StoreUnavailable`, `KeyUnknown`, and `RecordMalformed` where bytes
    that none of our keys signed stand under the name.
    """
    key_id, signature = platform.keys.sign("manifest", form.statement(said))
    claim(platform.objects, key, form.file(said, key_id, signature), platform.clock.now_ms())
    standing = read_signed(platform, form, key)
    if standing is None:
        raise StoreUnavailable(f"{key} was claimed and cannot be read", remedy="try again")
    return standing


def read_signed(platform: Platform, form: Form, key: str) -> dict[str, Any] | None:
    """What the record under a name says; None for none.

    Raises `RecordMalformed` where it is not in our form or not signed by one of our keys.
    """
    claimed = read_claim(platform.objects, key)
    if claimed is None:
        return None
    found = form.parse(key, claimed.data)
    known = {k.key_id: k.public_key for k in platform.keys.public_keys()}
    statement = form.statement(found.said)
    if found.key_id not in known or not signing.verify(
        known[found.key_id], found.signature, statement
    ):
        raise RecordMalformed(key, "signature", "not signed by one of our keys")
    return found.said
