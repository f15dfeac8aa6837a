"""PostgreSQL of the stack: one server, and in `full` a standby that follows it.

Belongs here: how they are made, started, asked and stopped; the databases `audit` (metadata) and
`dagster` (its storage). Does not: tables and statements (`adapters/sql/`, `adapters/postgres/`).
Source: PostgreSQL 15's manual, chapters 19, 26 and 27.

PostgreSQL refuses to run as root; root steps down to the user that Debian's package makes.
The standby follows asynchronously: what the primary has confirmed is on its own disk only.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit_platform.errors import StackError
from audit_platform.stack import authority
from audit_platform.stack.model import HOST, Place, Program, Server, Tell

#: Debian 12's. Another major version cannot read this one's folder.
MAJOR: Final = 15
_DEBIAN: Final = Path(f"/usr/lib/postgresql/{MAJOR}/bin")

#: Whom root steps down to.
_USER: Final = "postgres"

#: Of our services: a role that may make databases, so that each test has one of its own.
ROLE: Final = "audit"
DATABASES: Final = ("audit", "dagster")

#: A whole script for psql each; done again, they change nothing but the password.
_ROLE_SCRIPT: Final = """\
SELECT 'CREATE ROLE {role} LOGIN CREATEDB'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}')\\gexec
ALTER ROLE {role} PASSWORD '{password}';
"""
_DATABASE_SCRIPT: Final = """\
SELECT 'CREATE DATABASE {name} OWNER {role}'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{name}')\\gexec
"""

#: Who may come in with TLS on: everybody with a password, and nobody without TLS.
_ONLY_TLS: Final = f"hostssl all all {HOST}/32 scram-sha-256\n"

_ANSWER_SECONDS: Final = 2
_SETTLE_SECONDS: Final = 30
_INITDB_SECONDS: Final = 120


def servers(size: str) -> tuple[Server, ...]:
    """The primary; in `full` also its standby."""
    primary = Primary(archives=size == "full")
    return (primary, Standby()) if size == "full" else (primary,)


@dataclass(frozen=True, slots=True)
class Primary:
    """See `model.Server`. With `archives`, finished segments of the log are copied aside."""

    archives: bool
    name: str = "postgres"
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = (f"postgresql-{MAJOR}",)

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`. It comes from Debian, so nothing is fetched."""
        del cache, tell
        _binary("postgres")

    def prepare(self, place: Place) -> None:
        """See `model.Server`."""
        folder = _own_folder(place, self.name)
        password = _secret(place, "password")
        _secret(place, "role-password")
        archive = folder / "archive"
        archive.mkdir(exist_ok=True)
        _give_away(archive)
        if place.tls:
            authority.prepare(place, self.name)
            (folder / "hba.conf").write_text(_ONLY_TLS)
        data = folder / "data"
        if data.is_dir():
            return
        draft = folder / "data.new"  # a folder that initdb did not finish is begun again
        shutil.rmtree(draft, ignore_errors=True)
        _run(
            [
                _binary("initdb"),
                f"--pgdata={draft}",
                f"--username={_USER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--data-checksums",
                "--wal-segsize=1",  # MB: a segment is archived soon, and an empty one is small
                "--no-instructions",
            ],
            seconds=_INITDB_SECONDS,
        )
        draft.rename(data)

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        folder = place.folder(self.name)
        settings = _common(place, "postgres")
        if place.tls:
            files = authority.certificate_of(place, self.name)
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(files.certificate),
                "ssl_key_file": str(files.key),
                "hba_file": str(folder / "hba.conf"),
            }
        if self.archives:
            to = shlex.quote(f"{folder / 'archive'}") + "/%f"
            # Whole or not at all, and on the disk, before PostgreSQL may forget its own.
            copy = f"test ! -f {to} && cp %p {to}.new && sync {to}.new && mv {to}.new {to}"
            settings |= {
                "archive_mode": "on",
                "archive_timeout": "60s",
                "archive_command": copy,
            }
        return Program(
            (_binary("postgres"), "-D", str(folder / "data"), *_options(settings)),
            user=_uid(),
        )

    def missing(self, place: Place) -> str:
        """See `model.Server`."""
        return _answer(
            place,
            "postgres",
            "SELECT CASE WHEN pg_is_in_recovery() THEN 'it still replays its log' ELSE 'true' END",
        )

    def settle(self, place: Place) -> None:
        """See `model.Server`."""
        password = _secret(place, "role-password").read_text()
        _psql(place, _ROLE_SCRIPT.format(role=ROLE, password=password))
        for name in DATABASES:
            _psql(place, _DATABASE_SCRIPT.format(name=name, role=ROLE))

    def settings(self, place: Place) -> dict[str, str]:
        """See `model.Server`."""
        password = _secret(place, "role-password").read_text()
        address = place.front("postgres")
        return {"AUDIT_DATABASE": f"postgresql://{ROLE}:{password}@{address}/audit"}


@dataclass(frozen=True, slots=True)
class Standby:
    """See `model.Server`. Follows the primary's stream, or its archive where that is behind."""

    name: str = "postgres-standby"
    needs: tuple[str, ...] = ("postgres",)
    packages: tuple[str, ...] = (f"postgresql-{MAJOR}",)

    def fetch(self, cache: Path, tell: Tell) -> None:
        """See `model.Server`."""
        del cache, tell
        _binary("pg_basebackup")

    def prepare(self, place: Place) -> None:
        """See `model.Server`. The copy itself needs the primary: `program` begins with it."""
        _own_folder(place, self.name)

    def program(self, place: Place) -> Program:
        """See `model.Server`."""
        folder = place.folder(self.name)
        data, draft = shlex.quote(str(folder / "data")), shlex.quote(str(folder / "data.new"))
        archive = shlex.quote(str(place.folder("postgres") / "archive"))
        primary = f"host={HOST} port={place.port('postgres')} user={_USER}"
        settings = _common(place, self.name) | {
            "primary_conninfo": f"{primary} application_name=standby",
            "restore_command": f"cp {archive}/%f %p",
        }
        copy = shlex.join(
            [
                _binary("pg_basebackup"),
                "--checkpoint=fast",
                "--wal-method=stream",
                f"--dbname={primary}",
                "--write-recovery-conf",
            ]
        )
        start = shlex.join([_binary("postgres"), *_options(settings)])
        script = (
            f"test -d {data} || {{ rm -rf {draft} && {copy} --pgdata={draft} && "
            f"mv {draft} {data}; }} && exec {start} -D {data}"
        )
        return Program(
            ("/bin/sh", "-c", script),
            {"PGPASSWORD": _secret(place, "password").read_text()},
            user=_uid(),
        )

    def missing(self, place: Place) -> str:
        """See `model.Server`."""
        return _answer(
            place,
            self.name,
            "SELECT CASE WHEN NOT pg_is_in_recovery() THEN 'it is no standby any more' "
            "WHEN EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') "
            "THEN 'true' ELSE 'it does not follow the primary' END",
        )

    def settle(self, place: Place) -> None:
        """See `model.Server`."""

    def settings(self, place: Place) -> dict[str, str]:
        """See `model.Server`."""
        del place
        return {}


def _common(place: Place, name: str) -> dict[str, str]:
    """What both are told. Durable as by default: fsync and synchronous_commit stay on."""
    return {
        "listen_addresses": HOST,
        "port": str(place.port(name)),
        "unix_socket_directories": "",
        "shared_buffers": "32MB",
        "max_connections": "150",  # ten services with 5 each, Dagster's own, tests
        "min_wal_size": "8MB",
        "max_wal_size": "64MB",
        "wal_level": "replica",
        "hot_standby": "on",
    }


def _options(settings: dict[str, str]) -> list[str]:
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


# ------------------------------------------------------------------------------- its own user


def _binary(name: str) -> str:
    found = _DEBIAN / name
    if not found.exists():
        raise StackError(
            f"there is no {found}",
            remedy=f"apt-get install --no-install-recommends postgresql-{MAJOR}",
        )
    return str(found)


def _uid() -> int | None:
    """Whom the server runs as, or None for ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_USER).pw_uid
    except KeyError as e:
        raise StackError(
            f"there is no user {_USER}, and PostgreSQL does not run as root",
            remedy=f"apt-get install postgresql-{MAJOR} makes it; or start the stack as a user",
        ) from e


def _give_away(path: Path) -> None:
    """Make it the server's own."""
    if (uid := _uid()) is not None:
        os.chown(path, uid, pwd.getpwuid(uid).pw_gid)


def _own_folder(place: Place, name: str) -> Path:
    folder = place.folder(name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    _give_away(folder)
    return folder


def _secret(place: Place, name: str) -> Path:
    """A file with a random password, made once; its owner is the server (initdb reads one)."""
    path = place.folder("postgres") / name
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_hex(16))
        _give_away(path)
    return path


def _run(argv: list[str], *, seconds: int) -> None:
    """Run a program as the server's user. Raises `StackError` with what it said."""
    uid = _uid()
    try:
        done = subprocess.run(  # noqa: S603 - a program of PostgreSQL, arguments of ours
            argv,
            cwd="/",
            user=uid,
            group=None if uid is None else pwd.getpwuid(uid).pw_gid,
            extra_groups=None if uid is None else (),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise StackError(f"{argv[0]} took longer than {seconds} s", remedy="try again") from e
    if done.returncode:
        raise StackError(
            f"{argv[0]}: {done.stderr.strip()[-500:]}",
            remedy=f"the user {_USER} must be able to enter the stack's folder and all above it",
        )


# ----------------------------------------------------------------------------------- asking it


def _ask(place: Place, name: str, script: str, *, seconds: int) -> subprocess.CompletedProcess[str]:
    """What psql made of it. Raises `subprocess.TimeoutExpired`."""
    target = f"host={HOST} port={place.port(name)} user={_USER} dbname=postgres connect_timeout=2"
    return subprocess.run(  # noqa: S603 - a program of PostgreSQL, arguments of ours
        [_binary("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", target],
        cwd="/",
        env={
            "PGPASSWORD": _secret(place, "password").read_text(),
            "LC_ALL": "C",
            **(
                {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(place.ca_file)}
                if place.tls
                else {}
            ),
        },
        input=script,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _answer(place: Place, name: str, question: str) -> str:
    """Nothing when the answer is `true`, else what is wrong."""
    try:
        done = _ask(place, name, question, seconds=_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {_ANSWER_SECONDS} s"
    said = (done.stdout or done.stderr).strip()
    return "" if done.returncode == 0 and said == "true" else said[-200:]


def _psql(place: Place, script: str) -> None:
    try:
        done = _ask(place, "postgres", script, seconds=_SETTLE_SECONDS)
    except subprocess.TimeoutExpired as e:
        raise StackError(
            f"postgres took longer than {_SETTLE_SECONDS} s", remedy="audit-platform stack logs"
        ) from e
    if done.returncode:
        raise StackError(f"postgres: {done.stderr.strip()[-500:]}", remedy="see its log")
