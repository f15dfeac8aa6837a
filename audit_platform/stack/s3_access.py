"""Who may reach the object stores of a stack: one set of identities for all of its stores.

Belongs here: making and keeping the secrets. Does not: what each identity may (`adapters/s3/
bucket.py`), how a store is told of it (`versitygw.py`, `minio.py`). The primary and the secondary
store know the same identities: services have one key for both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from audit_platform.adapters.s3.client import Endpoint
from audit_platform.stack.model import Place

#: The bucket of a stack.
BUCKET: Final = "audit"

#: The identities: the store's own owner, the services that write, those that only read, and
#: Dagster's jobs, which also hold and let go.
OWNER: Final = "audit-owner"
WRITER: Final = "audit-writer"
READER: Final = "audit-reader"
KEEPER: Final = "audit-keeper"


@dataclass(frozen=True, slots=True)
class Access:
    """The secrets of the identities."""

    owner: str
    writer: str
    reader: str

    @property
    def keeper(self) -> str:
        """Made of the owner's: who has that one may do everything anyway."""
        return hashlib.sha256(f"keeper {self.owner}".encode()).hexdigest()[:40]

    def endpoint(self, address: str, name: str = OWNER, *, ca_file: Path | None = None) -> Endpoint:
        """A store at host:port, as one of them; with `ca_file` it speaks TLS."""
        secrets_of = {
            OWNER: self.owner,
            WRITER: self.writer,
            READER: self.reader,
            KEEPER: self.keeper,
        }
        scheme = "http" if ca_file is None else "https"
        return Endpoint(f"{scheme}://{address}", BUCKET, name, secrets_of[name], ca_file)


def access(place: Place) -> Access:
    """The secrets of this stack; made by who asks first."""
    target = place.home / "s3.json"
    place.home.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        made = Access(*(secrets.token_hex(20) for _ in range(3)))
        draft = place.home / f".s3-{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(made), file)
        with contextlib.suppress(FileExistsError):  # another server's preparation was first
            os.link(draft, target)
        draft.unlink()
    return Access(**json.loads(target.read_text()))


def keeper_settings(place: Place) -> dict[str, str]:
    """What Dagster's processes are given instead of the services' own identity."""
    return {"AUDIT_S3_ACCESS_KEY": KEEPER, "AUDIT_S3_SECRET_KEY": access(place).keeper}
