"""versitygw: the object store of the small stack, and the secondary store of the full one.

Belongs here: how it is had, started, asked and given its identities. Does not: what the platform
asks of it (`adapters/s3/`), the secrets (`s3_access.py`).

Bodies are plain files under `data`, older versions under `versions`, locks and checksums in their
extended attributes: a broken bit can be made by hand, and a full disk answers 507.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import urllib3

from audit_platform.adapters.s3.bucket import make_bucket
from audit_platform.errors import StackError
from audit_platform.stack import authority
from audit_platform.stack.golang import GoProgram
from audit_platform.stack.model import Place, Program, Server, Tell
from audit_platform.stack.s3_access import (
    BUCKET,
    KEEPER,
    OWNER,
    READER,
    WRITER,
    Access,
    access,
)

NAME: Final = "versitygw"

GO: Final = GoProgram(
    name=NAME,
    module="github.com/versity/versitygw",
    version="v1.8.0",
    sum="h1:au+wI+aybno/STsQiSm35Uu6Q6iK5MWReQxgO6SEMFc=",
    package="./cmd/versitygw",
)

#: A path that no bucket can have.
_HEALTH: Final = "/-health"

#: An identity is made in milliseconds; a machine that does much else may take seconds.
_ADMIN_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Versitygw:
    """One versitygw. `second` says that it is the secondary store."""

    second: bool = False
    name: str = NAME
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def fetch(self, cache: Path, tell: Tell) -> None:
        """Build it from its Go module if it is not there."""
        GO.fetch(cache, tell)

    def prepare(self, place: Place) -> None:
        """Make its folders and the stack's secrets."""
        access(place)
        for part in ("data", "versions", "iam"):
            (place.folder(NAME) / part).mkdir(parents=True, exist_ok=True)
        authority.prepare(place, NAME)

    def program(self, place: Place) -> Program:
        """The gateway over its own folders."""
        folder = place.folder(NAME).absolute()
        options = ["--port", place.address(NAME), "--health", _HEALTH, "--keep-alive", "--quiet"]
        if place.tls:
            files = authority.certificate_of(place, NAME)
            options += ["--cert", str(files.certificate), "--key", str(files.key)]
        return Program(
            argv=(
                str(GO.path(place.cache)),
                *options,
                *("--iam-dir", str(folder / "iam")),
                *("posix", "--versioning-dir", str(folder / "versions"), str(folder / "data")),
            ),
            environment={
                "ROOT_ACCESS_KEY": OWNER,
                "ROOT_SECRET_KEY": access(place).owner,
            },
        )

    def missing(self, place: Place) -> str:
        """Nothing once its health page answers."""
        return unanswered(f"{place.url(place.address(NAME))}{_HEALTH}", place.ca_file)

    def settle(self, place: Place) -> None:
        """Make the identities and the bucket. Raises `StackError`, `StoreUnavailable`."""
        known = access(place)
        for name, secret in (
            (WRITER, known.writer),
            (READER, known.reader),
            (KEEPER, known.keeper),
        ):
            self._add_user(place, known, name, secret)
        endpoint = known.endpoint(place.address(NAME), ca_file=place.ca_file)
        names = {"writer": [WRITER], "reader": [READER], "keeper": [KEEPER]}
        make_bucket(endpoint, names=names)

    def settings(self, place: Place) -> dict[str, str]:
        """The store's address; as the primary one also who a service is."""
        url = place.url(place.front(NAME))
        if self.second:
            return {"AUDIT_S3_SECOND": url}
        return primary_settings(place, url)

    def _add_user(self, place: Place, known: Access, name: str, secret: str) -> None:
        admin = ("admin", "--endpoint-url", place.url(place.address(NAME)))
        make = ("create-user", "--access", name, "--role", "user")
        try:
            done = subprocess.run(  # noqa: S603 - a fixed list of arguments, no shell
                [str(GO.path(place.cache)), *admin, *make, "--secret", secret],
                env={
                    "ADMIN_ACCESS_KEY": OWNER,
                    "ADMIN_SECRET_KEY": known.owner,
                    # Go's own name for the authorities that it believes.
                    **({"SSL_CERT_FILE": str(place.ca_file)} if place.tls else {}),
                },
                check=False,
                capture_output=True,
                text=True,
                timeout=_ADMIN_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise StackError(f"{NAME} cannot be given {name}: {e}", remedy="try again") from e
        if done.returncode and "XAdminUserExists" not in done.stderr:
            raise StackError(
                f"{NAME} does not take the identity {name}: {done.stderr.strip()}",
                remedy=f"`audit-platform stack logs {NAME}`; `stack wipe` begins anew",
            )


def primary_settings(place: Place, url: str) -> dict[str, str]:
    """The settings of the store that a service writes to, as the writer."""
    return {
        "AUDIT_S3": url,
        "AUDIT_S3_BUCKET": BUCKET,
        "AUDIT_S3_ACCESS_KEY": WRITER,
        "AUDIT_S3_SECRET_KEY": access(place).writer,
    }


def unanswered(url: str, ca_file: Path | None = None) -> str:
    """Nothing if a URL answers 200 within 2 s, else what it does."""
    authorities = None if ca_file is None else str(ca_file)
    with urllib3.PoolManager(retries=False, ca_certs=authorities) as http:
        try:
            answer = http.request("GET", url, timeout=2.0)
        except urllib3.exceptions.HTTPError as e:
            return f"no answer yet ({type(e).__name__})"
    return "" if answer.status == 200 else f"answers {answer.status}"  # noqa: PLR2004 - HTTP's own


def servers(size: str) -> list[Server]:
    """versitygw: the one store of `small`, the second of `full`."""
    return [Versitygw(second=size == "full")]
