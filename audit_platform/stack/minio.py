"""MinIO in six nodes, four of data and two of parity: the primary store of the full stack.

Belongs here: how it is had, started, asked and given its identities. Does not: what the platform
asks of it (`adapters/s3/`), the secrets (`s3_access.py`), its administration (`minio_admin.py`).

MinIO is AGPL: a program that we start and talk to, never linked, never shipped. One drive a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from audit_platform.adapters.s3.bucket import make_bucket
from audit_platform.adapters.s3.client import Endpoint
from audit_platform.adapters.s3.signed import request
from audit_platform.errors import StoreUnavailable
from audit_platform.stack.golang import GoProgram
from audit_platform.stack.minio_admin import add_identity
from audit_platform.stack.model import Place, Program, Server, Tell
from audit_platform.stack.s3_access import KEEPER, OWNER, READER, WRITER, access
from audit_platform.stack.versitygw import primary_settings, unanswered

NODES: Final = 6

GO: Final = GoProgram(
    name="minio",
    module="github.com/minio/minio",
    version="v0.0.0-20260212201848-7aac2a2c5b7c",
    sum="h1:/qdoYujxF5MBLDMVLeiYJ/7fBa1HikX39Dvzb9Ji8pA=",
    package=".",
)

#: Where the first node proves that writes work: the cluster's health page says so too early.
_PROOF_BUCKET: Final = "stack-ready"

#: Together under what the health question may take.
_PROOF_SECONDS: Final = 0.9

_OK: Final = 200
_CONFLICT: Final = 409


def node(number: int) -> str:
    """The name of a node, from 1."""
    return f"minio-{number}"


@dataclass(frozen=True, slots=True)
class MinioNode:
    """One node. The first one stands for all of them: bucket, identities, settings."""

    number: int
    nodes: int = NODES
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """minio-1 to minio-6."""
        return node(self.number)

    def fetch(self, cache: Path, tell: Tell) -> None:
        """Build it from its Go module if it is not there."""
        GO.fetch(cache, tell)

    def prepare(self, place: Place) -> None:
        """Make its drive and the stack's secrets."""
        access(place)
        _drive(place, self.number).mkdir(parents=True, exist_ok=True)

    def program(self, place: Place) -> Program:
        """The node, told of all of them in the same order."""
        address = place.address(self.name)
        if self.nodes == 1:
            drives = [str(_drive(place, 1))]
        else:
            numbers = range(1, self.nodes + 1)
            drives = [f"http://{place.address(node(n))}{_drive(place, n)}" for n in numbers]
        options = ("server", "--address", address, "--quiet")
        return Program(
            argv=(str(GO.path(place.cache)), *options, *drives),
            environment={
                "MINIO_ROOT_USER": OWNER,
                "MINIO_ROOT_PASSWORD": access(place).owner,
                # Without it a node may wait for ever to find out which of the six it is.
                "_MINIO_SERVER_LOCAL": address,
                "MINIO_CI_CD": "1",  # several drives of one disk, and the system's own
                "MINIO_STORAGE_CLASS_STANDARD": "EC:2" if self.nodes == NODES else "EC:0",
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
                "MINIO_PROMETHEUS_AUTH_TYPE": "public",
                "GOMEMLIMIT": "400MiB",
            },
        )

    def missing(self, place: Place) -> str:
        """Nothing once the node lives; of the first one: once a real write works."""
        absent = unanswered(f"http://{place.address(self.name)}/minio/health/live")
        if absent or self.number > 1:
            return absent
        try:
            return self._proof(replace(self._owner(place), bucket=_PROOF_BUCKET))
        except StoreUnavailable as e:
            return e.reason

    def settle(self, place: Place) -> None:
        """Make identities and bucket, once for all. Raises `StackError`, `StoreUnavailable`."""
        if self.number > 1:
            return
        known, owner = access(place), self._owner(place)
        make_bucket(owner)
        add_identity(owner, WRITER, known.writer, "writer")
        add_identity(owner, READER, known.reader, "reader")
        add_identity(owner, KEEPER, known.keeper, "keeper")

    def settings(self, place: Place) -> dict[str, str]:
        """The first node's address, and who a service is."""
        return (
            primary_settings(place, f"http://{place.front(self.name)}") if self.number == 1 else {}
        )

    def _owner(self, place: Place) -> Endpoint:
        return access(place).endpoint(place.address(self.name))

    def _proof(self, owner: Endpoint) -> str:
        for path, good in (("", (_OK, _CONFLICT)), ("/proof", (_OK,))):
            status, _ = request(owner, "PUT", f"/{owner.bucket}{path}", b"", seconds=_PROOF_SECONDS)
            if status not in good:
                return f"a write is answered {status}"
        return ""


def _drive(place: Place, number: int) -> Path:
    return (place.folder(node(number)) / "drive").absolute()


def servers(size: str) -> Sequence[Server]:
    """The six nodes of `full`; `small` has none."""
    return [MinioNode(n) for n in range(1, NODES + 1)] if size == "full" else []
